"""The one evaluator: what it says of its sources, and of several drawings of occluders."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

from evaluation import stratified_folds
from evaluation.run import OverDraws, build_results, compare, evaluate, warnings_of

WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}


class Source(NamedTuple):
    """Pairs of people, without images."""

    name: str
    issame: np.ndarray
    identities: np.ndarray | None
    folds: np.ndarray | None = None

    def checksum(self):
        return "-"


def make_source(of_genuine, num_impostors=60, known=True):
    """Return a source of which person p has of_genuine[p] genuine pairs."""
    people = np.repeat(np.arange(len(of_genuine)), of_genuine)
    first = np.concatenate([people, np.arange(num_impostors) % len(of_genuine)])
    second = np.concatenate([people, (np.arange(num_impostors) + 1) % len(of_genuine)])
    issame = first == second
    identities = np.stack([first, second], axis=1).ravel() if known else None
    return Source("mine", issame, identities, stratified_folds(issame, 5))


def scores_of(source, seed=0):
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=source.issame.size) + source.issame).astype(np.float32) for name in WEIGHTS}


@pytest.mark.parametrize(("of_genuine", "share"), [((30, 10, 10), "60 %"), ((20, 10, 10), None), ((7, 6), "54 %")])
def test_a_person_with_most_of_the_genuine_pairs_is_warned_of(of_genuine, share):
    source = make_source(of_genuine)
    found = warnings_of([source, make_source(of_genuine, known=False)])
    expected = f"mine: one person holds {share} of the {sum(of_genuine)} genuine pairs, {len(of_genuine)} have any"
    assert [text.partition(";")[0] for text in found] == ([] if share is None else [expected])
    results = evaluate([source], {"mine": {"clean": scores_of(source)}}, WEIGHTS)
    assert build_results([source], results, {})["warnings"] == found


def test_of_several_draws_the_occluded_figures_are_means_and_clean_ones_stay():
    source = make_source((30, 20, 25), 80)
    first = evaluate([source], {"mine": {"clean": scores_of(source), "occluded": scores_of(source, 1)}}, WEIGHTS)
    others = [evaluate([source], {"mine": {"occluded": scores_of(source, seed)}}, WEIGHTS) for seed in (2, 3)]
    asked = []

    def again(number):
        asked.append(number)
        return others[number]

    drawn = OverDraws(first, [partial(again, number) for number in range(2)])
    report, one = build_results([source], drawn, {}), build_results([source], first, {})
    assert asked == [0, 1]
    conditions = report["benchmarks"]["mine"]["conditions"]
    assert conditions["clean"] == one["benchmarks"]["mine"]["conditions"]["clean"]
    accuracies = [results["mine"]["occluded"]["combined"].accuracy for results in (first, *others)]
    assert conditions["occluded"]["combined"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert conditions["occluded"]["combined"]["occlusion_draws"]["num"] == 3
    mean, alone = (compare([source], results) for results in (drawn, first))
    assert mean["combined minus embedding, accuracy, clean"] == alone["combined minus embedding, accuracy, clean"]
    of_embedding = [results["mine"]["occluded"]["adaface"].accuracy for results in (first, *others)]
    assert mean["combined minus embedding, accuracy, occluded"]["estimate"] == pytest.approx(
        np.mean(accuracies) - np.mean(of_embedding)
    )
