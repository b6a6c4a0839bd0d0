"""Figures of several detectors on the same photographs, their intervals, and the page that shows them."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from detected_scenes import scenes
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import Found, Truth, coco_ap, find_faces
from evaluation.detection.precision import precision_curve, precision_measure
from evaluation.detection.summary import DetectedFaces, DetectorFaces, LabeledFaces, compare_detectors
from evaluation.report.detection.page import build_detection_page
from evaluation.report.detection.photographs import DrawnPhoto
from evaluation.report.detection.text import detection_table

WORDS = ("none", "mask", "")


def with_points(found, shift=0.0):
    """Return detections with points at fixed places of their boxes, moved to the right by a share of the width."""
    places = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) + np.array([shift, 0])
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    return DetectedFaces(found, found.boxes[:, None, :2] + places * sides[:, None])


def photographs(seed):
    """Return labeled faces, and a detector whose detections in use are those above 0.5."""
    truths, found = scenes(seed)
    rng = np.random.default_rng(seed)
    faces = [
        LabeledFaces(truth, with_points(Found(truth.boxes, truth.boxes[:, 0])).points, rng.random(len(truth.boxes)),
                     [WORDS[k] for k in rng.integers(0, 3, len(truth.boxes))])
        for truth in truths
    ]  # fmt: skip
    every = [with_points(one) for one in found]
    return faces, DetectorFaces(every, [one.above(0.5) for one in every])


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_a_weight_of_a_photograph_is_so_many_copies_of_it(seed):
    truths, found = scenes(seed, num_images=6)
    rng = np.random.default_rng(seed)
    found = [Found(one.boxes, rng.random(len(one.scores))) for one in found]  # copies alone tie
    weights = rng.integers(0, 3, (3, 6)).astype(float)
    measured = precision_measure(truths, found, 5)(np.concatenate([np.ones((1, 6)), weights]))
    for row, values in zip(np.concatenate([np.ones((1, 6)), weights]), measured, strict=True):
        copies = np.repeat(np.arange(6), row.astype(int))
        wanted = coco_ap([truths[k] for k in copies], [found[k] for k in copies], 5)
        assert values == pytest.approx([wanted.ap, wanted.ap_50], abs=1e-12, nan_ok=True)


def test_the_curve_counts_what_lies_above_each_score():
    truths, found = scenes(4)
    curve = precision_curve(truths, found, 0.5, 100)
    num_faces = sum((~truth.ignored).sum() for truth in truths)
    assert len(curve.recall) and (np.diff(curve.scores) <= 0).all()
    # A score at which the next hit scores less: everything down to it is counted.
    last = [k for k in range(len(curve.scores)) if k + 1 == len(curve.scores) or curve.scores[k + 1] < curve.scores[k]]
    for k in last:
        hits = sum(
            (find_faces(t, f, 0.5, curve.scores[k])[~t.ignored] >= 0).sum() for t, f in zip(truths, found, strict=True)
        )
        assert curve.recall[k] == hits / num_faces
        judged = round((k + 1) / curve.precision[k])
        assert curve.mistakes[k] == pytest.approx((judged - k - 1) / len(truths))


def test_figures_of_a_detector_are_those_of_loops_over_its_photographs():
    faces, detector = photographs(7)
    perfect = DetectorFaces(
        *[[with_points(Found(f.truth.boxes, np.ones(len(f.truth.boxes))), shift=0.04) for f in faces]] * 2
    )
    results = compare_detectors(faces, {"some": detector, "perfect": perfect}, num_resamples=50)
    json.dumps(results, allow_nan=False)
    truths = [one.truth for one in faces]
    wanted = coco_ap(truths, [one.found for one in detector.every])
    some, best = results["detectors"].values()
    assert some["ap"]["estimate"] == pytest.approx(wanted.ap) and some["ap_50"]["estimate"] == pytest.approx(
        wanted.ap_50
    )
    counted = found = hidden_faces = 0
    for one, used in zip(faces, detector.used, strict=True):
        finder = find_faces(one.truth, used.found)
        counted += int((~one.truth.ignored).sum())
        found += int((finder[~one.truth.ignored] >= 0).sum())
        hidden_faces += int((~one.truth.ignored & (one.hidden >= 0.5) & (one.hidden < 0.75)).sum())
    assert results["num_faces"] == counted and some["recall"]["estimate"] == pytest.approx(found / counted)
    (group,) = (group for group in some["by_hidden"] if group["name"] == "0.5 to 0.75")
    assert group["num_faces"] == hidden_faces and 0.5 <= group["middle"] < 0.75
    assert {group["name"] for group in some["by_occluder"]} == {"none", "mask", "not known"}
    assert sum(group["num_found"] for group in some["by_size"]) == found
    # All is found, nothing is a mistake, ignored faces neither; points lie 0.04 widths off, the eyes 0.4 widths apart.
    assert best["ap"]["estimate"] == best["recall"]["estimate"] == 1 and best["num_mistakes"] == 0
    assert best["points"]["found"]["median"] == pytest.approx(0.1) and best["points"]["found"]["num_faces"] == counted
    assert best["points"]["common"]["num_faces"] == some["points"]["found"]["num_faces"] == found
    assert best["ap"]["lower"] == 1 and some["ap"]["lower"] < some["ap"]["estimate"] < some["ap"]["upper"]
    (pair,) = results["differences"]
    assert (pair["first"], pair["second"]) == ("some", "perfect")
    assert pair["ap"]["estimate"] == pytest.approx(some["ap"]["estimate"] - 1) and pair["ap"]["upper"] < 0
    # Against one that never errs the paired difference varies as the figure itself.
    assert pair["ap"]["lower"] == pytest.approx(some["ap"]["lower"] - 1)


def test_photographs_without_a_face_that_counts_are_refused():
    empty = LabeledFaces(Truth(np.array([[0.0, 0, 9, 9]]), np.array([True])), np.zeros((1, 5, 2)), np.zeros(1), [""])
    nothing = [DetectedFaces(Found(np.empty((0, 4)), np.empty(0)), np.empty((0, 5, 2)))]
    with pytest.raises(ValueError, match="no face counts"):
        compare_detectors([empty], {"a": DetectorFaces(nothing, nothing)})


class Parts(HTMLParser):
    """Elements of a page with an even end each, their classes counted."""

    def __init__(self, text):
        super().__init__()
        self.open, self.classes, self.tables = [], [], 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tables += tag == "table"
        self.classes += [dict(attrs).get("class") or ""]
        if tag not in ("meta", "br", "input", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_every_figure_and_draws_what_was_missed():
    faces, detector = photographs(3)
    evil = '<script>alert("x")</script>\x1b[31m'
    results = compare_detectors(faces, {evil: detector, "b|c": detector}, num_resamples=20)
    results["wider"] = {name: {"easy": 0.5, "hard": 0.25} for name in results["detectors"]}
    results["protocol"] = {"test size": "the photographs' own size", evil: evil}
    place = max(range(len(faces)), key=lambda k: len(faces[k].truth.boxes))
    photo = DrawnPhoto(evil, b"\xff\xd8\xff", (400, 400), faces[place], detector.used[place])
    page = build_detection_page(results, {evil: [photo]})
    assert "<script>alert" not in page and "\x1b" not in page and html.escape("<script>alert") in page
    parts = Parts(page)
    truth, used = faces[place].truth, detector.used[place].found
    lost = int(((find_faces(truth, used) < 0) & ~truth.ignored).sum())
    assert parts.classes.count("box missed") == lost + 1  # and once in the legend
    assert parts.classes.count("box face") + lost == int((~truth.ignored).sum()) + 1
    assert parts.classes.count("box mistake") + parts.classes.count("box detection") == len(used.scores) + 2
    pointers = re.findall(r'<data value="([^"]*)" data-from="([^"]*)"', page)
    for value, pointer in pointers:
        found = results
        for key in html.unescape(pointer).split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found.get(key, found.get(evil))
        assert json.loads(value) == found
    assert len(pointers) > 50 and parts.tables == 8
    table = detection_table(results)
    columns = [line.count("|") for line in table.splitlines() if line.startswith("| b/c ")]
    assert (
        columns == [8, 4] and "| 0.5 to 0.75 " in table and "50.00" in table and "tested at: the photographs'" in table
    )
