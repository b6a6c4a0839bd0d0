"""Is this the same person, and who is it? Answers in words, with what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from models import portraits
from models.calibration import Calibration, Point
from models.pictures import AS_GIVEN, Aligner, Face
from models.portraits import Crops, Portraits, Scores
from models.rates import percent
from qaconv import mutual_cells
from system.terminal import printable

if TYPE_CHECKING:
    from models.face_model import FaceModel

NUM_DRAWN = 40  # synthetic people of a rank: 780 pairs
_NUM_GIVEN = 64  # people of a given set


class Impostors(NamedTuple):
    """Scores of pairs of different people, to rank a score among."""

    scores: Scores
    source: str  # whose they are, in words

    @classmethod
    def of(cls, model: FaceModel, folder: str | Path | None = None, aligner: Aligner = AS_GIVEN) -> Impostors:
        """Score all pairs of people, one photograph of each.

        Args:
            model: whose scores they are.
            folder: people, of whom at most 64 are taken; without folders of people every photograph counts as another
                person. None: 40 drawn faces, which are nobody's and may be easier to tell apart than photographs.
            aligner: how a photograph becomes a crop.
        Raises:
            ValueError, OSError: if the folder cannot be read, or holds fewer than two people.
        """
        crops, source = _drawn_crops() if folder is None else _given_crops(folder, aligner)
        faces = portraits.describe_portraits(model, crops).faces
        pairs = np.stack(np.triu_indices(len(crops), 1), axis=1)
        return cls(portraits.score_listed(model, faces, pairs), source)


class Rank(NamedTuple):
    """How many of the impostor pairs score below a pair."""

    below: int
    pairs: int
    source: str


@dataclass(frozen=True)
class Answer:
    """What is known of two faces; `str` says it in words.

    Attributes:
        same: whether they show one person; None: not calibrated, so nobody knows.
        score: its name.
        value: the score; larger is more alike.
        point: the threshold with its measured FAR and TAR; None: not calibrated.
        rank: among impostors; None where there is a threshold.
        condition: "clean" or "masked", as which the faces were compared.
        visible: share of either face that is visible, or None.
        notes: what else one should know.
    """

    same: bool | None
    score: str
    value: float
    point: Point | None
    rank: Rank | None
    condition: str
    visible: tuple[float | None, float | None]
    notes: tuple[str, ...] = ()

    @property
    def threshold(self) -> float | None:
        """From which score on faces are taken to show one person."""
        return None if self.point is None else self.point.threshold

    def __str__(self) -> str:
        verdict = self._uncalibrated() if self.point is None else self._calibrated(self.point)
        return "\n".join([*verdict, describe_visible(self.visible), *self.notes])

    def _calibrated(self, point: Point) -> list[str]:
        verdict = "the same person" if self.same else "not the same person"
        sign = ">=" if self.same else "<"
        different = f"of different people ({self.condition}) {point.found_far} are accepted at this threshold"
        right = "not known" if point.tar is None else str(point.tar)
        return [
            f"{verdict}: score {self.score} {self.value:.4f} {sign} threshold {point.threshold:.4f}",
            f"chosen for a false-accept rate of {percent(point.far)}; of pairs {different}, 95 % interval over people",
            f"of pairs of the same person accepted: {right}",
        ]

    def _uncalibrated(self) -> list[str]:
        assert self.rank is not None
        below, pairs, source = self.rank
        return [
            f"uncalibrated: score {self.score} {self.value:.4f} is above {below} of {pairs} pairs of different people"
            f" ({source})",
            "no threshold is known for this model and photographs like these: this is neither a yes nor a no",
        ]


class Candidate(NamedTuple):
    """A person of the gallery and the score of the probe with the person's template."""

    name: str
    score: float


@dataclass(frozen=True)
class Found:
    """Whom a probe shows; `str` says it in words.

    Attributes:
        candidates: best first.
        known: whether the best one is taken to be the person; None: the gallery cannot tell.
        score: name of the score.
        threshold: from which score on somebody is known; None: there is none.
        margin: score of the best less that of the second; None: there is one person.
        visible: share of the probe's face that is visible, or None.
        notes: what the threshold rests on, and what else one should know.
    """

    candidates: tuple[Candidate, ...]
    known: bool | None
    score: str
    threshold: float | None
    margin: float | None
    visible: float | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        best = self.candidates[0]
        verdict = {True: best.name, False: "unknown", None: f"uncalibrated; nearest is {best.name}"}[self.known]
        limit = "no threshold" if self.threshold is None else f"threshold {self.threshold:.4f}"
        margin = "" if self.margin is None else f"; {self.margin:.4f} above the second best"
        lines = [f"{verdict}: score {self.score} {best.score:.4f}, {limit}{margin}"]
        lines += [f"{rank}. {name} {score:.4f}" for rank, (name, score) in enumerate(self.candidates, start=1)]
        return "\n".join(printable(line) for line in [*lines, describe_visible([self.visible]), *self.notes])


def describe_visible(visible: Sequence[float | None]) -> str:
    """Return the visible shares of faces in words."""
    shares = ["not known" if share is None else f"{100 * share:.0f} %" for share in visible]
    return f"visible share of the face{'s' if len(shares) > 1 else ''}: {', '.join(shares)}"


def shares_of(faces: Portraits) -> list[float | None]:
    """Return the visible share of each face, None where the model does not tell."""
    return [None] * faces.faces.num_images if faces.visible is None else faces.visible.tolist()


def verify(
    model: FaceModel,
    pair: tuple[Face, Face],
    calibration: Calibration | None = None,
    score: str | None = None,
    far: float | None = None,
    impostors: Impostors | None = None,
    aligner: Aligner = AS_GIVEN,
) -> Answer:
    """Say whether two photographs show one person; see `FaceModel.verify`."""
    name = portraits.choose_score(model, score)
    if calibration is None and far is not None:
        raise ValueError("verify: a FAR needs a calibration, which knows thresholds; leave far out, or calibrate")
    if calibration is not None:
        calibration.origin.refuse_other(portraits.origin_of(model, aligner), "the calibration")
    crops = np.stack([aligner.crop(face) for face in pair])
    faces = portraits.describe_portraits(model, crops)
    value = float(portraits.score_listed(model, faces.faces, np.array([[0, 1]]))[name][0])
    first, second = shares_of(faces)
    notes = (*_notes(crops), *map(printable, aligner.remarked(pair)))
    if calibration is None:
        rank = _rank(value, name, Impostors.of(model) if impostors is None else impostors)
        return Answer(None, name, value, None, rank, "clean", (first, second), notes)
    condition = calibration.condition((first, second))
    point = calibration.point(name, condition, far)
    notes = (_rates_passed(calibration, point, value), *notes)
    return Answer(value >= point.threshold, name, value, point, None, condition, (first, second), notes)


def _rates_passed(calibration: Calibration, chosen: Point, value: float) -> str:
    """Say at which of the rates calibrated a score is accepted: how near a yes or a no is."""
    same = [point for point in calibration.points if point[:2] == chosen[:2]]
    passed = [point.far for point in same if value >= point.threshold]
    if passed:
        return f"{percent(min(passed))} is the lowest of the rates calibrated at which this score is accepted"
    return f"this score is accepted at none of the rates calibrated, up to {percent(max(point.far for point in same))}"


def _rank(value: float, name: str, impostors: Impostors) -> Rank:
    scores = impostors.scores[name]
    return Rank(int((scores < value).sum()), len(scores), impostors.source)


def _notes(crops: Crops) -> tuple[str, ...]:
    if np.array_equal(crops[0], crops[1]):
        return ("both are the same picture, pixel by pixel: the score says nothing of a person",)
    return ()


def _drawn_crops() -> tuple[Crops, str]:
    from datasets.synthetic.prepare import render_identities

    return render_identities("answers", NUM_DRAWN, 1)[0], f"{NUM_DRAWN} drawn faces, which show nobody"


def _given_crops(folder: str | Path, aligner: Aligner) -> tuple[Crops, str]:
    people = portraits.find_people(folder)
    firsts = np.unique(people.labels, return_index=True)[1]
    chosen = np.sort(np.random.default_rng(0).permutation(firsts)[:_NUM_GIVEN])
    crops, _, failures = portraits.read_crops([people.paths[place] for place in chosen.tolist()], aligner)
    if len(crops) < 2:
        reason = f"; {failures[0]}" if failures else ""
        raise ValueError(f"{folder}: {len(crops)} people that can be compared, two or more are needed{reason}")
    who = "people" if people.labelled else "photographs, each taken for another person,"
    return crops, printable(f"{len(crops)} {who} of {Path(folder).resolve().name}", 200)


class CellMatch(NamedTuple):
    """Two cells that are each other's best match: row and column in either map, and their cosine."""

    first: tuple[int, int]
    second: tuple[int, int]
    cosine: float


@torch.inference_mode()
def best_cells(model: FaceModel, faces: Portraits, count: int = 8) -> list[CellMatch]:
    """Return the cells of two faces that the matcher pairs both ways, best first; none without a matcher.

    Args:
        faces: of two images; their own maps are matched, not those of their mirror images.
        count: at most so many.
    """
    if model.matcher is None:
        return []
    view = faces.faces.restored().views[0]
    sides = [
        (view.local_map[place, None], None if view.visibility is None else view.visibility[place, None])
        for place in (0, 1)
    ]
    (first, seen_first), (second, seen_second) = sides
    there, here, cosines = (found[0] for found in model.matcher.best_cells(first, second, seen_first, seen_second))
    width = first.shape[3]
    return [
        CellMatch(divmod(cell, width), divmod(other, width), cosine)
        for cell, other, cosine in mutual_cells(there, here, cosines, count)
    ]
