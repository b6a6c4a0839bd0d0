"""Calibrations: people of the two halves never meet, the file is believed in nothing, and gaps are said."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from portraits import load_model, write_people

import models
from models import Aligner, Calibration, Plan, calibrate
from models.calibration import beside
from models.pictures import read_face
from models.split_pairs import SplitPairs, draw_pairs, split_people

PLAN = Plan(fars=(0.5, 0.1, 1e-3), num_draws=100)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def calibration(model, people):
    return calibrate(model, people, plan=PLAN)


@given(st.lists(st.integers(0, 9), min_size=8, max_size=40), st.integers(0, 5))
def test_nobody_is_in_both_halves_and_no_pair_crosses_them(numbers, seed):
    labels = np.array(numbers)
    if len(set(numbers)) < 4:
        with pytest.raises(ValueError, match="too few to calibrate"):
            split_people(labels, seed)
        return
    in_fit = split_people(labels, seed)
    assert not set(labels[in_fit]) & set(labels[~in_fit])
    assert abs(len(set(labels[in_fit])) - len(set(labels[~in_fit]))) <= 1
    several = [person for person in set(numbers) if numbers.count(person) > 1]
    chosen = sum(person in set(labels[in_fit]) for person in several)
    assert abs(2 * chosen - len(several)) <= 1
    for limit in (4, 10_000):
        pairs = draw_pairs(labels, in_fit, Plan(max_pairs=limit))
        assert (in_fit[pairs[:, 0]] == in_fit[pairs[:, 1]]).all()
        assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
        assert all((in_fit[pairs[:, 0]] == half).sum() <= limit for half in (True, False))
    first, second = np.triu_indices(len(labels), 1)
    assert len(pairs) == (in_fit[first] == in_fit[second]).sum()


def test_pairs_of_many_photographs_are_drawn():
    labels = np.repeat(np.arange(200), 2)
    in_fit = split_people(labels, 0)
    pairs = draw_pairs(labels, in_fit, Plan(max_pairs=300))
    assert len(pairs) == 600 and len(np.unique(pairs, axis=0)) == 600
    issame = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    assert issame.sum() == 200  # all genuine ones of either half


def split_scores():
    rng = np.random.default_rng(0)
    people = np.array([(p, q) for p in range(12) for q in range(p, 12) if (p < 6) == (q < 6)])
    issame = people[:, 0] == people[:, 1]
    return people, people[:, 0] < 6, rng.normal(issame * 2.0, 1.0)


def test_a_threshold_knows_nothing_of_the_people_who_test_it():
    # A planted leak, a threshold of the tested half, would move with these scores.
    people, in_fit, scores = split_scores()
    split = SplitPairs(people, in_fit, PLAN)
    threshold, far, tar = split.test(scores, 0.2)
    others = np.where(in_fit, scores, scores + 10)
    assert split.test(others, 0.2)[0] == threshold
    assert split.test(others, 0.2)[1].value == 1.0
    issame = people[:, 0] == people[:, 1]
    assert threshold == sorted(scores[in_fit & ~issame])[-3]  # 3 of 15
    assert far.value == (scores[~in_fit & ~issame] >= threshold).mean()
    assert tar.value == (scores[~in_fit & issame] >= threshold).mean()


def test_rates_that_either_half_cannot_show_are_not_resolved():
    people, in_fit, _ = split_scores()
    split = SplitPairs(people, in_fit, PLAN)
    assert split.num_impostors == 15
    assert split.resolved([0.1, 1 / 15, 0.06]) == [0.1, 1 / 15]


def test_it_has_a_threshold_for_each_score_condition_and_resolved_rate(calibration):
    keys = [(point.score, point.condition, point.far) for point in calibration.points]
    scores, conditions = ("fused", "adaface", "qaconv"), ("clean", "masked")
    assert sorted(keys) == sorted((s, c, far) for s in scores for c in conditions for far in (0.5, 0.1))
    assert calibration.unresolved == (1e-3,)
    assert calibration.num_people == (4, 4)
    assert any("24 impostor pairs of a half: no FAR below 0.042" in note for note in calibration.notes)
    for point in calibration.points:
        assert point.found_far.pairs == 24 and point.tar is not None and point.tar.pairs == 4
        assert point.found_far.lower <= point.found_far.value <= point.found_far.upper


def test_its_scores_are_those_of_compare(model, people, calibration):
    labels = np.repeat(np.arange(8), 2)
    in_fit = split_people(labels, 0)
    paths = [people / f"p{label}" / f"{image}.png" for label in range(8) for image in (0, 1)]
    impostors = [
        model.compare(paths[i], paths[j]).combined
        for i in range(16)
        for j in range(i + 1, 16)
        if in_fit[i] and in_fit[j] and labels[i] != labels[j]
    ]
    expected = sorted(impostors)[-2]  # 2 of 24 are at most a tenth
    assert calibration.point("fused", "clean", 0.1).threshold == pytest.approx(expected, abs=1e-4)


def test_the_same_data_and_seed_give_the_same_file(model, people, calibration, tmp_path):
    calibrate(model, people, plan=PLAN).save(tmp_path / "a.json")
    calibration.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert Calibration.load(tmp_path / "a.json") == calibration


def test_points_are_looked_up_by_rate_and_without_one_near_a_thousandth(calibration):
    assert calibration.point("adaface", "clean").far == 0.1
    assert calibration.point("adaface", "masked", 0.5).condition == "masked"
    with pytest.raises(ValueError, match=r"no threshold for a FAR of 0\.01; it has 0\.5, 0\.1"):
        calibration.point("adaface", "clean", 0.01)


def test_one_photograph_of_each_person_leaves_tar_unknown_and_says_so(model, people, tmp_path):
    for number in range(6):
        (tmp_path / f"p{number}").mkdir()
        (tmp_path / f"p{number}" / "a.png").write_bytes((people / f"p{number}" / "0.png").read_bytes())
    found = calibrate(model, tmp_path, plan=Plan(fars=(0.5,), num_draws=100))
    assert all(point.tar is None for point in found.points) and found.points
    assert any("how many right people are accepted is not known" in note for note in found.notes)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_photographs_without_labels_count_as_people_and_it_says_so(model, people, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes((people / f"p{number}" / "0.png").read_bytes())
    found = calibrate(model, tmp_path, plan=Plan(fars=(1.0,), num_draws=100))
    assert found.num_people == (2, 2)
    assert any("every photograph counts as another person" in note for note in found.notes)


def test_two_photographs_are_too_few_and_it_says_what_is_needed(model, people, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes((people / f"p{number}" / "0.png").read_bytes())
    with pytest.raises(ValueError, match="2 people are too few to calibrate: two choose a threshold and two others"):
        calibrate(model, tmp_path)


def test_what_cannot_be_read_is_left_out_and_counted(model, people, tmp_path):
    copy = write_people(tmp_path / "people", num=6)
    (copy / "p0" / "0.png").write_bytes(b"no image")
    cv2.imwrite(str(copy / "p1" / "0.png"), np.zeros((1, 1, 3), np.uint8))
    found = calibrate(model, copy, plan=PLAN)
    assert any("2 of 12 photographs are left out; the first:" in note for note in found.notes)


def test_listed_pairs_are_used_within_the_halves(model, people, tmp_path):
    lines = [f"p{a}/0.png p{b}/1.png {int(a == b)}" for a in range(8) for b in range(8)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    found = calibrate(model, people, tmp_path / "pairs.txt", Plan(fars=(0.5,), num_draws=100))
    assert found.points[0].found_far.pairs == 12 and found.points[0].tar.pairs == 4
    assert any("32 listed pairs are left out" in note for note in found.notes)
    (tmp_path / "wrong.txt").write_text("\n".join([*lines[1:], "p0/0.png p0/1.png 0"]))
    with pytest.raises(ValueError, match="contradicts the folders"):
        calibrate(model, people, tmp_path / "wrong.txt")


def test_a_model_without_matcher_is_calibrated_by_its_embedding(people, tmp_path):
    options = {"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "occlusion_method": "none"}
    alone = load_model(tmp_path / "a.ckpt", **options)
    found = calibrate(alone, people, plan=PLAN)
    assert {point.score for point in found.points} == {"adaface"}
    assert found.covered_below is None and found.condition((0.1, 0.9)) == "clean"


def test_faces_below_the_visible_share_between_clean_and_masked_are_masked(calibration):
    known = replace(calibration, covered_below=0.7)
    assert known.condition((0.69, 1.0)) == known.condition((1.0, 0.69)) == known.condition((None, 0.1)) == "masked"
    assert known.condition((0.7, None)) == known.condition((None, None)) == "clean"


def test_other_weights_templates_and_detectors_are_refused(calibration, people, tmp_path):
    face = people / "p0" / "0.png"
    other = load_model(tmp_path / "other.ckpt", embedding_size=8)
    with pytest.raises(ValueError, match="the calibration belongs to other weights"):
        other.verify(face, face, calibration)


@pytest.mark.parametrize("aligner", [Aligner(read_face, "arcface"), Aligner(read_face, detector="yunet")])
def test_another_alignment_is_refused(model, calibration, people, aligner):
    face = people / "p0" / "0.png"
    with pytest.raises(ValueError, match=r"the calibration was made with the (template|detector)"):
        model.verify(face, face, calibration, aligner=aligner)


def changed(values, *path, to):
    copy = json.loads(json.dumps(values))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return copy


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema",), 2, "another version"),
        (("schema",), True, "another version"),
        (("origin", "model"), "0" * 63, "SHA-256"),
        (("data",), 7, "SHA-256"),
        (("points",), {}, "list"),
        (("points", 0, "threshold"), math.nan, "finite"),
        (("points", 0, "threshold"), "high", "float expected"),
        (("points", 0, "far"), 0, "above 0"),
        (("points", 0, "far"), 1.5, "share"),
        (("points", 0, "score"), "other", "one of fused"),
        (("points", 0, "found_far", "accepted"), 99, "contradict"),
        (("points", 0, "found_far", "upper"), 2.0, "share"),
        (("points", 0, "tar"), 3, "dict"),
        (("num_people",), [1], "2 members"),
        (("covered_below",), -1.0, "share"),
        (("notes",), [1], "str"),
        (("extra",), 1, "unexpected"),
    ],
)
def test_a_file_with_something_wrong_is_refused_in_one_line(calibration, tmp_path, path, value, words):
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(changed(calibration.to_dict(), *path, to=value)))
    with pytest.raises(ValueError, match=r"changed\.json: no calibration") as raised:
        Calibration.load(file)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe\x00", b"null", b'{"schema": 1}'])
def test_a_file_that_is_no_calibration_is_refused_in_one_line(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.json: no calibration") as raised:
        Calibration.load(file)
    assert "\n" not in str(raised.value)


def test_it_is_kept_beside_the_model():
    assert beside("run/last.ckpt").as_posix() == "run/last.calibration.json"
    assert models.calibrate is calibrate
