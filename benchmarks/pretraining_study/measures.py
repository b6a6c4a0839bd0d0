"""What is measured on the scores: accuracies and their paired differences, with intervals over people and seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.pretraining_study.scores import Scores
from cli.pairs.image_sets import ImageSet
from evaluation import Draws, Interval, Resampling, accuracy_measure, average, summarize
from evaluation.protocols.bootstrap import draw_all
from evaluation.protocols.measured import mean_draws
from evaluation.run import NUM_RESAMPLES, folds_of

Arm = Sequence[Mapping[str, Draws]]  # a seed each: by set, the accuracy and that of each resample of people


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


def over_seeds(arm: Arm, names: Sequence[str] = ()) -> Interval:
    """Return the mean over sets and seeds with its 95 % interval, of people and, where there are several, of seeds.

    Args:
        arm: of the seeds.
        names: of the sets; none: all.
    """
    return summarize(average([mean_draws([one[name] for one in arm]) for name in names or arm[0]]))


def minus(first: Arm, second: Arm) -> Arm:
    """Return the difference, seed by seed, set by set and resample by resample."""
    return [
        {name: Draws(a[name].estimate - b[name].estimate, a[name].values - b[name].values) for name in a}
        for a, b in zip(first, second, strict=True)
    ]


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
