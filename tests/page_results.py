"""Results for tests of the report's page, and the page as a parser sees it."""

import json
from html.parser import HTMLParser

import cv2
import numpy as np

from evaluation import Resampling, evaluate_pairs, stratified_folds
from evaluation.report.results import PROTOCOL_FACTS, SCHEMA, to_primitive

WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}
DIFFERENCE = "combined minus embedding, accuracy, clean"


def entries(seed=0, num_pairs=60, methods=("adaface", "qaconv"), gap=2.0):
    """Return the entries of pairs, half of them genuine, with intervals and a FAR that they do not resolve."""
    rng = np.random.default_rng(seed)
    issame = np.arange(num_pairs) % 2 == 0
    scores = {name: rng.normal(size=num_pairs) + gap * issame for name in methods}
    weights = {name: WEIGHTS[name] for name in methods}
    results = evaluate_pairs(scores, issame, weights, stratified_folds(issame))
    return {name: result.to_dict(Resampling(None, 20, 0), (0.1, 1e-6)) for name, result in results.items()}


def hard_pair(number, name="person"):
    """Return a hardest pair with a picture and names."""
    seen = np.ones((2, 7, 7))
    seen[1, 4:] = 0.25
    return {
        **{"place": number, "score": 0.125 * number, "names": [f"{name}/{number}.png", f"{name}/x.png"]},
        **{"picture": f"pairs/{number:03d}.jpg", "cells": [7, 7], "visibility": seen.tolist()},
        "matches": [[0, 8, 0.5], [3, 4, 0.75]],
    }


def build(name="lfw", *, person="person", methods=("adaface", "qaconv"), num_pairs=60, seed=0, **facts):
    """Return results of one set, as they are read from results.json."""
    by_kind = {kind: [hard_pair(2 * number + place, person) for number in range(2)] for place, kind in
               enumerate(("genuine", "impostor"))}  # fmt: skip
    conditions = {c: entries(seed + place, num_pairs, methods) for place, c in enumerate(("clean", "occluded"))}
    benchmark = {
        **{"checksum": f"of {name}", "conditions": conditions},
        "hardest": {"clean": {"method": next(reversed(conditions["clean"])), **by_kind}},
    }
    protocol = {fact: f"the {fact}" for fact in PROTOCOL_FACTS} | {"fusion_weights": WEIGHTS, "unreadable": [person]}
    return json.loads(json.dumps(to_primitive({
        **{"schema": SCHEMA, "synthetic": True, "missing": ["calfw"], "protocol": protocol | facts},
        "benchmarks": {name: benchmark},
        "comparisons": {DIFFERENCE: {"estimate": 0.0215, "lower": -0.004, "upper": 0.034, "num_resamples": 9}},
    }), allow_nan=False))  # fmt: skip


def write_report_of(folder, results):
    """Write results.json and the pictures that it names."""
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    for number in range(4):
        cv2.imwrite(str(folder / "pairs" / f"{number:03d}.jpg"), np.full((112, 224, 3), 40 * number, np.uint8))
    return folder


def at(results, pointer):
    """Return what stands at a JSON pointer."""
    value = results
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


class Page(HTMLParser):
    """A page taken apart.

    Attributes:
        tags: (name, {attribute: value}) of every start tag, in order.
        figures: (JSON pointer, form, value, text) of every number that says where it stands.
        scripts: what the script elements hold, by their type.
        words: all text between tags, without scripts and style.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.figures, self.scripts, self.words = [], [], {}, ""
        self._inside = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs))
        assert len(dict(attrs)) == len(attrs)

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        tag, attributes = self._inside or (None, {})
        if tag == "script":
            self.scripts[attributes.get("type")] = data
        elif tag != "style":
            self.words += f" {data}"
        if tag == "data":
            self.figures.append((attributes["data-from"], attributes["data-form"], attributes["value"], data))

    @property
    def structure(self):
        """The tags and the names of their attributes."""
        return [(tag, *attributes) for tag, attributes in self.tags]
