"""What is measured on the scores: accuracies on resamples of people; and what runs tell of their refreshes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pretraining_study.scores import Scores
from cli.pairs.image_sets import ImageSet
from evaluation import Draws, Resampling, accuracy_measure
from evaluation.protocols.bootstrap import draw_all
from evaluation.run import NUM_RESAMPLES, folds_of


def accuracies(scores: Scores, sources: Sequence[ImageSet]) -> dict[str, Draws]:
    """Return the accuracy of each set with its draws: the same people for all scores, so that they can be subtracted.

    Thresholds are chosen on the other folds, anew in each resample.
    """
    found = {}
    for place, source in enumerate(sources):
        assert source.identities is not None
        measure = accuracy_measure(folds_of(source))(scores[source.name], source.issame)
        people = Resampling(source.identities.reshape(-1, 2), NUM_RESAMPLES, place)
        found[source.name] = draw_all(["accuracy"], [measure], source.issame, people)["accuracy"]
    return found


def refreshes(folder: Path) -> list[dict[str, float | None]]:
    """Return what a run tells of each time that it guessed identities, in the order of the epochs."""
    rows = []
    for path in sorted((folder / "clusters").glob("epoch_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        quality = content["quality"]["single"]
        rows.append(
            {name: content[name] for name in ("epoch", "num_clusters", "coverage", "edge_recall")}
            | {name: quality[name] for name in ("precision", "recall", "bcubed_f")}
        )
    return rows
