"""Thresholds at a false-accept rate (FAR), from people that the user knows, with what the data can and cannot say.

People are split in two. A threshold is chosen on the pairs of the one half alone; its FAR and TAR are counted on the
other half, whose people have no part in it. An interval resamples people, because pairs that share a face move
together; the exact interval of Clopper and Pearson, which takes pairs to be independent, stands beside it as a check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.counted import counted
from datasets.progress import tracked
from models import portraits
from models.calibration_rules import RULES
from models.pictures import AS_GIVEN, Aligner
from models.portraits import Origin, Portraits, Scores
from models.rates import Rate
from models.split_pairs import USUAL, Plan, SplitPairs, draw_pairs, listed_pairs, split_people
from ops import first_fault
from system.files import write_text
from system.terminal import printable
from transforms import OCCLUDER_FAMILIES, occlude_all

if TYPE_CHECKING:
    from models.face_model import FaceModel

SCHEMA = 1
CONDITIONS = ("clean", "masked")
USUAL_FAR = 1e-3  # of an answer that asks for none
_MAX_BYTES = 2**24


class Point(NamedTuple):
    """A threshold and what it did on people that had no part in choosing it; accepted when score >= threshold."""

    score: str
    condition: str
    far: float  # asked for
    threshold: float
    found_far: Rate
    tar: Rate | None  # None: nobody of that half has two photographs


@dataclass(frozen=True)
class Calibration:
    """Thresholds of one model on one alignment, as `calibrate` finds them.

    Attributes:
        origin: of the scores; others are refused.
        data: SHA-256 of the crops and labels.
        source: name of the data, for people.
        num_people: of the half that chose thresholds, and of the half that tested them.
        covered_below: visible share below which a face counts as masked; None: the model does not tell them apart.
        points: by score, condition and FAR.
        unresolved: FARs that the pairs are too few for.
        notes: what the data cannot say, in words.
    """

    origin: Origin
    data: str
    source: str
    num_people: tuple[int, int]
    covered_below: float | None
    points: tuple[Point, ...]
    unresolved: tuple[float, ...]
    notes: tuple[str, ...]

    def point(self, score: str, condition: str, far: float | None = None) -> Point:
        """Return the threshold of a score under a condition for a FAR; None: the one nearest to 1e-3.

        Raises:
            ValueError: if there is none.
        """
        found = [point for point in self.points if (point.score, point.condition) == (score, condition)]
        if not found:
            raise ValueError(f"the calibration has no threshold of score {score!r} for {condition} faces; make it anew")
        if far is None:
            return min(found, key=lambda point: abs(math.log(point.far / USUAL_FAR)))
        chosen = next((point for point in found if math.isclose(point.far, far)), None)
        if chosen is None:
            known = ", ".join(f"{point.far:g}" for point in found)
            raise ValueError(f"the calibration has no threshold for a FAR of {far:g}; it has {known}")
        return chosen

    def condition(self, visible: Sequence[float | None]) -> str:
        """Return whether two faces are compared as "clean" or as "masked" ones, by their visible shares."""
        seen = [share for share in visible if share is not None]
        is_covered = self.covered_below is not None and any(share < self.covered_below for share in seen)
        return "masked" if is_covered else "clean"

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration in primitives, for JSON."""
        points = [
            point._asdict()
            | {"found_far": point.found_far._asdict(), "tar": None if point.tar is None else point.tar._asdict()}
            for point in self.points
        ]
        fields = {name: getattr(self, name) for name in ("data", "source", "covered_below")}
        lists = {name: list(getattr(self, name)) for name in ("num_people", "unresolved", "notes")}
        return {"schema": SCHEMA, "origin": self.origin._asdict(), **fields, **lists, "points": points}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Rebuild what `to_dict` gave; the values may come from anywhere.

        Raises:
            ValueError: if they are not as `to_dict` writes them; one line with the place.
        """
        if fault := first_fault(RULES, values, "calibration"):
            raise ValueError(fault)
        fields = {name: values[name] for name in ("data", "source", "covered_below")}
        lists: dict[str, Any] = {name: tuple(values[name]) for name in ("num_people", "unresolved", "notes")}
        points = tuple(_point(point) for point in values["points"])
        return cls(origin=Origin(**values["origin"]), points=points, **fields, **lists)

    def save(self, path: str | Path) -> None:
        """Write JSON; an older file stays whole until the new one is.

        Raises:
            OSError: if it cannot be written.
        """
        write_text(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote; nothing in the file is believed unchecked.

        Raises:
            ValueError, OSError: one line that names the file.
        """
        from datasets.faces.paths import open_regular

        with open_regular(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
        try:
            if len(data) > _MAX_BYTES:
                raise ValueError(f"longer than {_MAX_BYTES} bytes")
            return cls.from_dict(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: no calibration that can be used ({' '.join(str(error).split())[:300]})"
            ) from error


def beside(model_path: str | Path) -> Path:
    """Return the file beside a model in which its calibration is kept."""
    return Path(model_path).with_suffix(".calibration.json")


def calibrate(
    model: FaceModel,
    folder: str | Path,
    pairs: str | Path | None = None,
    plan: Plan = USUAL,
    aligner: Aligner = AS_GIVEN,
) -> Calibration:
    """Find thresholds for the FARs of a plan, for every score of the model, clean and behind drawn masks.

    Under "masked" the second photograph of each pair is behind a mask. Photographs that cannot be read are left out and
    counted in the notes. A folder without a folder for each person is taken to show each person once.

    Args:
        folder: `<folder>/<person>/<image>`, at least four people.
        pairs: a list of pairs of its images, see `datasets.read_pairs`; None: all pairs, up to the plan's limit.
        plan: which FARs, how many pairs, and the seed.
        aligner: how a photograph becomes a crop.
    Raises:
        ValueError, OSError: one line, if the data cannot be read or hold too little to find any threshold.
    """
    people = portraits.find_people(folder)
    crops, places, failures = portraits.read_crops(tracked(people.paths, "Reading photographs"), aligner)
    labels = people.labels[places]
    in_fit = split_people(labels, plan.seed)
    if pairs is None:
        listed, left_out = draw_pairs(labels, in_fit, plan), 0
    else:
        listed, left_out = listed_pairs(Path(folder), Path(pairs), places, in_fit)
    split = SplitPairs(labels[listed], in_fit[listed[:, 0]], plan)
    if not (resolved := split.resolved(plan.fars)):
        raise ValueError(
            f"{folder}: {split.num_impostors} pairs of different people in a half resolve none of the FARs asked for,"
            f" {', '.join(f'{far:g}' for far in plan.fars)}; give more people or photographs, or higher rates"
        )
    clean = portraits.describe_portraits(model, crops, bar="Describing faces")
    draws = (np.random.default_rng([plan.seed, place]) for place in range(len(crops)))
    hidden = occlude_all(crops, draws, OCCLUDER_FAMILIES["mask"])[0]
    masked = portraits.describe_portraits(model, hidden, bar="Describing faces behind masks")
    scored = {
        condition: _score_halves(model, clean, others, listed, in_fit)
        for condition, others in tracked([*zip(CONDITIONS, (clean, masked), strict=True)], "Scoring pairs")
    }
    remarks = aligner.remarked(people.paths)
    notes = _notes(people, failures, remarks, left_out, split, covered := _covered_below(clean, masked, in_fit))
    return Calibration(
        origin=portraits.origin_of(model, aligner),
        data=portraits.crops_checksum(crops, labels),
        source=printable(Path(folder).resolve().name, 100),
        num_people=(len(np.unique(labels[in_fit])), len(np.unique(labels[~in_fit]))),
        covered_below=covered,
        points=tuple(_points(scored, split, resolved, portraits.scores_of(model))),
        unresolved=tuple(far for far in plan.fars if far not in resolved),
        notes=tuple(notes),
    )


def _score_halves(
    model: FaceModel, clean: Portraits, others: Portraits, pairs: NDArray[np.int64], in_fit: NDArray[np.bool_]
) -> Scores:
    """Return the scores of pairs, the second photograph from others, half by half: no pair crosses them."""
    scores = {name: np.empty(len(pairs)) for name in portraits.scores_of(model)}
    for half in (in_fit, ~in_fit):
        chosen = half[pairs[:, 0]]
        for name, values in portraits.score_listed(model, clean.faces, pairs[chosen], others.faces).items():
            scores[name][chosen] = values
    return scores


def _points(
    scored: Mapping[str, Scores], split: SplitPairs, fars: Sequence[float], names: Sequence[str]
) -> Iterator[Point]:
    cases = [*product(names, scored, fars)]
    for name, condition, far in tracked(cases, "Testing thresholds"):
        yield Point(name, condition, far, *split.test(scored[condition][name], far))


def _covered_below(clean: Portraits, masked: Portraits, in_fit: NDArray[np.bool_]) -> float | None:
    """Return the visible share halfway between clean and masked faces; None where they do not differ."""
    if clean.visible is None or masked.visible is None:
        return None
    free, covered = (float(np.median(faces.cpu().numpy()[in_fit])) for faces in (clean.visible, masked.visible))
    return (free + covered) / 2 if covered < free else None


def _notes(
    people: portraits.People,
    failures: Sequence[str],
    remarks: Sequence[str],
    left_out: int,
    split: SplitPairs,
    covered: float | None,
) -> Iterator[str]:
    number = split.num_impostors
    yield f"{number} impostor pairs of a half: no FAR below {1 / number:.2g} can be seen"
    if not people.labelled:
        yield (
            "no folders of people: every photograph counts as another person; who is there twice makes thresholds"
            " too strict"
        )
    if not split.test_genuine.any():
        yield "nobody in the half that tests has two photographs: how many right people are accepted is not known"
    if failures:
        yield printable(
            f"{len(failures)} of {len(people.paths)} photographs are left out; the first: {failures[0]}", 500
        )
    if remarks:
        yield printable(f"several faces in {counted(len(remarks), 'photograph')}; the first: {remarks[0]}", 500)
    if left_out:
        yield f"{left_out} listed pairs are left out: their people are in different halves, or a photograph is"
    if covered is None:
        yield "the model does not tell masked faces from clean ones: every answer uses the thresholds of clean ones"


def _point(values: Mapping[str, Any]) -> Point:
    rates = {name: None if values[name] is None else Rate(**values[name]) for name in ("found_far", "tar")}
    return Point(**{**values, **rates})
