"""A gallery of people in which a face is looked up, kept in one file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.progress import tracked
from evaluation import FaceDescriptions
from evaluation.scores.comparable import Sides
from evaluation.scores.scoring import mean_over_views
from models import gallery_file, portraits
from models.answers import Candidate, Found, shares_of
from models.calibration import Calibration
from models.pictures import AS_GIVEN, Aligner, Face
from models.portraits import Crops, Origin, Scores
from models.rates import percent, threshold_at
from models.templates import Templates, concatenate, merge, pool, put
from system.terminal import printable

if TYPE_CHECKING:
    from models.face_model import FaceModel

SHORTLIST = 50  # people that the embeddings leave to the matcher
FPIR = 0.01  # share of strangers that an answer may take for somebody
NUM_STRANGERS = 300  # people of a gallery that are looked up among the others
_PHOTOGRAPHS_AT_ONCE = 256
_SAVE_EVERY = 120.0  # seconds between two saves of a gallery that grows, and at least ten times as long as one takes


class Enrolled(NamedTuple):
    """What `enrol` and `add` did: numbers of people and photographs, and why photographs were left out."""

    people: int  # new ones
    photographs: int  # new ones
    known: int  # photographs that were there already
    failures: tuple[str, ...]


class Gallery:
    """People by name, each with one template pooled from all photographs (see `models.templates`).

    Args:
        model: whose scores decide; galleries of other weights are refused.
        aligner: how a photograph becomes a crop; another template or detector is refused.
        map_dtype: how local maps are held, "float16" or "int8", which halves them.
    Attributes:
        names: of the people.
        photographs: names of the photographs.
    """

    def __init__(self, model: FaceModel, aligner: Aligner = AS_GIVEN, map_dtype: str = "float16") -> None:
        self._model, self._aligner, self._map_dtype = model, aligner, map_dtype
        self._origin = portraits.origin_of(model, aligner)
        self.names: list[str] = []
        self.photographs: list[str] = []
        self._templates: Templates | None = None
        self._digests = np.empty((0, gallery_file.DIGEST_BYTES), np.uint8)
        self._owners = np.empty(0, np.int64)
        self._strangers: Scores = {}

    def __len__(self) -> int:
        return len(self.names)

    # ---------------------------------------------------------------- people come and go

    def enrol(self, folder: str | Path, save_to: str | Path | None = None) -> Enrolled:
        """Add the photographs in `<folder>/<person>/<image>` that are not there yet; known people gain by them.

        Without folders of people every photograph is a person, named after its file. What cannot be read is left out
        and told; this gallery does not change if an error is raised.

        Args:
            folder: the people.
            save_to: file in which what is done is kept every few minutes, at the end, and where the work is interrupted
                (KeyboardInterrupt): the gallery that is loaded from it goes on. None: nothing is kept.
        Raises:
            ValueError, OSError: if the folder cannot be read, or no photograph in it, or the file cannot be written.
        """
        return self._add_all(portraits.find_people(folder), None if save_to is None else Path(save_to))

    def add(self, name: str, photographs: Sequence[Face]) -> Enrolled:
        """Add photographs of a person, a new or a known one.

        Raises:
            TypeError, ValueError: if the name is empty, or none or one of the photographs cannot be read.
        """
        if not name or not photographs:
            raise ValueError("Gallery.add: a name and at least one photograph are needed.")
        crops = np.stack([self._aligner.crop(face) for face in photographs])
        titles = [_title(Path(face)) if isinstance(face, str | Path) else "a picture" for face in photographs]
        before = len(self), len(self.photographs)
        clashes = self._extend(crops, [name] * len(crops), titles)
        added = len(self.photographs) - before[1]
        return Enrolled(len(self) - before[0], added, len(photographs) - added - len(clashes), tuple(clashes))

    def remove(self, name: str) -> None:
        """Take a person out, with all photographs.

        Raises:
            ValueError: if there is nobody of that name.
        """
        if name not in self.names:
            raise ValueError(f"the gallery has nobody of the name {printable(name, 100)!r}")
        assert self._templates is not None
        place = self.names.index(name)
        stay = self._owners != place
        self._templates = self._templates.rows(np.delete(np.arange(len(self)), place)) if len(self) > 1 else None
        self.names = [other for other in self.names if other != name]
        self.photographs = [title for title, is_kept in zip(self.photographs, stay, strict=True) if is_kept]
        self._digests = self._digests[stay]
        self._owners = self._owners[stay] - (self._owners[stay] > place)
        self._strangers = {}

    def _add_all(self, people: portraits.People, save_to: Path | None) -> Enrolled:
        before, num_crops = (len(self), len(self.photographs)), 0
        failures: list[str] = []
        clashes: list[str] = []
        staged, due = self, time.monotonic() + _SAVE_EVERY
        shown = iter(tracked(people.paths, "Enrolling photographs"))
        try:
            for start in range(0, len(people.paths), _PHOTOGRAPHS_AT_ONCE):
                stop = min(start + _PHOTOGRAPHS_AT_ONCE, len(people.paths))
                crops, places, faults = portraits.read_crops(islice(shown, stop - start), self._aligner)
                failures += faults
                num_crops += len(crops)
                if len(crops):
                    owners = [people.names[label] for label in people.labels[start + places].tolist()]
                    grown = staged._copy()
                    clashes += grown._extend(
                        crops, owners, [_title(people.paths[start + at]) for at in places.tolist()]
                    )
                    staged = grown  # an interruption leaves whole blocks
                if save_to is not None and time.monotonic() >= due:
                    due = staged._keep(save_to)
        except KeyboardInterrupt:
            if save_to is not None:
                staged._keep(save_to)
            raise
        if not num_crops:
            raise ValueError(f"no photograph can be enrolled; the first: {failures[0]}")
        self.__dict__.update(staged.__dict__)
        if save_to is not None:
            self._keep(save_to)
        added = len(self.photographs) - before[1]
        known = num_crops - added - len(clashes)
        return Enrolled(len(self) - before[0], added, known, (*failures, *clashes))

    def _keep(self, path: Path) -> float:
        """Save the gallery, if anybody is in it, without what can be computed later; return when to save it again."""
        begun = time.monotonic()
        if self._templates is not None:
            self._write(path, self._templates, {})
        now = time.monotonic()
        return now + max(_SAVE_EVERY, 10 * (now - begun))

    def _copy(self) -> Gallery:
        """Return a gallery that grows apart from this one; arrays are never changed in place."""
        other = object.__new__(Gallery)
        other.__dict__.update(self.__dict__)
        other.names, other.photographs = list(self.names), list(self.photographs)
        return other

    def _extend(self, crops: Crops, owners: Sequence[str], titles: Sequence[str]) -> list[str]:
        """Add crops, some of which may be there: pool them by person, merge with who is there, append who is not.

        Returns:
            Why crops are left out that are there as another person's.
        """
        digests = np.stack([gallery_file.digest(crop) for crop in crops])
        new = gallery_file.first_seen(digests, self._digests)
        holders = {row.tobytes(): self.names[owner] for row, owner in zip(self._digests, self._owners, strict=True)}
        holders |= {digests[place].tobytes(): owners[place] for place in new}
        clashes = [
            f"{title}: the same picture is there as a photograph of {holders[row.tobytes()]}, not of {owner}"
            for row, owner, title in zip(digests, owners, titles, strict=True)
            if holders[row.tobytes()] != owner
        ]
        if not new:
            return clashes
        names = list(dict.fromkeys(owners[place] for place in new))
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers[owners[place]] for place in new])
        described = portraits.describe_portraits(self._model, crops[new])
        self._put(names, pool(described, labels, self._map_dtype))
        places = {name: place for place, name in enumerate(self.names)}
        self.photographs += [printable(titles[place], 300) for place in new]
        self._digests = np.concatenate([self._digests, digests[new]])
        self._owners = np.append(self._owners, [places[owners[place]] for place in new])
        self._strangers = {}
        return clashes

    def _put(self, names: Sequence[str], rows: Templates) -> None:
        places = {name: place for place, name in enumerate(self.names)}
        known = np.array([number for number, name in enumerate(names) if name in places], np.int64)
        fresh = np.array([number for number, name in enumerate(names) if name not in places], np.int64)
        if len(known):
            assert self._templates is not None
            at = np.array([places[names[number]] for number in known.tolist()])
            self._templates = put(self._templates, at, merge(self._templates.rows(at), rows.rows(known)))
        if len(fresh):
            parts = [] if self._templates is None else [self._templates]
            self._templates = concatenate([*parts, rows.rows(fresh)])
            self.names += [names[number] for number in fresh.tolist()]

    # ---------------------------------------------------------------- the file

    def save(self, path: str | Path) -> None:
        """Write the gallery; an older file stays whole until the new one is.

        Raises:
            ValueError: if the gallery is empty. OSError: if it cannot be written.
        """
        if self._templates is None:
            raise ValueError("the gallery is empty: there is nothing to save")
        self._write(Path(path), self._templates, self.strangers())

    def _write(self, path: Path, templates: Templates, strangers: Scores) -> None:
        header = {
            "origin": self._origin._asdict(),
            "map_dtype": self._map_dtype,
            "names": self.names,
            "photographs": self.photographs,
            "strangers": {name: values.tolist() for name, values in strangers.items()},
        }
        gallery_file.write(path, gallery_file.Content(header, templates, self._digests, self._owners))

    @staticmethod
    def origin_of(path: str | Path) -> Origin:
        """Return with which weights, template and detector a gallery was made, without reading the rest.

        Raises:
            ValueError, OSError: one line that names the file.
        """
        return Origin(**gallery_file.read_header(Path(path))["origin"])

    @classmethod
    def load(cls, path: str | Path, model: FaceModel, aligner: Aligner = AS_GIVEN) -> Gallery:
        """Read a gallery that was made with this model and aligner; its maps stay on the disk until they are matched.

        Raises:
            ValueError, OSError: one line that names the file: it is none, damaged, or of other weights, another
                template or detector.
        """
        shape = None if model.matcher is None else model.model.map_shape
        has_visibility = model.occlusion_head is not None
        content = gallery_file.read(Path(path), model.model.embedding_size, shape, has_visibility)
        gallery = cls(model, aligner, content.header["map_dtype"])
        Origin(**content.header["origin"]).refuse_other(gallery._origin, f"{path}: the gallery")
        gallery.names, gallery.photographs = content.header["names"], content.header["photographs"]
        gallery._templates = content.templates if len(gallery) else None
        gallery._digests, gallery._owners = content.digests, content.owners
        gallery._strangers = {name: np.array(values) for name, values in content.header["strangers"].items()}
        return gallery

    # ---------------------------------------------------------------- who is it?

    def identify(
        self,
        probe: Face,
        k: int = 5,
        score: str | None = None,
        fpir: float = FPIR,
        calibration: Calibration | None = None,
    ) -> Found:
        """Look a face up.

        The embeddings choose a short list of 50, which the matcher sees. The best one is known if the score reaches the
        open-set threshold: that of the calibration for a FAR of at most fpir / people, where it has one; else the one
        that a share `fpir` of the gallery's own people reach when they are looked up among the others, as strangers.

        Args:
            probe: a path, uint8 [112, 112, 3] RGB, or a PIL image of that size.
            k: how many candidates, at least 1; at most those of the short list.
            score: "fused", "adaface" or "qaconv"; None: fused where the model has it, else adaface.
            fpir: share of strangers that may be taken for somebody, in (0, 1).
            calibration: of this model, see `models.calibrate`.
        Raises:
            TypeError, ValueError: one line: if the gallery is empty, the probe cannot be read, or an argument is wrong.
        """
        if self._templates is None:
            raise ValueError("the gallery is empty: there is nobody to find; enrol people first")
        if k < 1 or not 0 < fpir < 1:
            raise ValueError(f"identify: k must be at least 1 and fpir in (0, 1), got {k} and {fpir:g}.")
        name = portraits.choose_score(self._model, score)
        if calibration is not None:
            calibration.origin.refuse_other(self._origin, "the calibration")
        crop = self._aligner.crop(probe)
        faces = portraits.describe_portraits(self._model, crop[None])
        (visible,) = shares_of(faces)
        rows, scores = self._score(faces.faces, matched=name != "adaface")
        values = scores[name]
        order = np.argsort(-values, kind="stable")[:k]
        candidates = tuple(Candidate(self.names[rows[place]], float(values[place])) for place in order.tolist())
        second = np.sort(values)[-2] if len(values) > 1 else None
        threshold, notes = self._threshold(name, fpir, calibration, visible)
        return Found(
            candidates=candidates,
            known=None if threshold is None else candidates[0].score >= threshold,
            score=name,
            threshold=threshold,
            margin=None if second is None else candidates[0].score - float(second),
            visible=visible,
            notes=(*notes, *self._own(crop), *self._aligner.remarked([probe])),
        )

    @torch.inference_mode()
    def _score(
        self, probe: FaceDescriptions, matched: bool, without: int | None = None
    ) -> tuple[NDArray[np.int64], Scores]:
        """Return the people on a probe's short list and its scores with them; unmatched, the embedding's alone."""
        assert self._templates is not None
        cosines = self._templates.embedding @ probe.embedding[0].cpu().numpy()
        if without is not None:
            cosines[without] = -np.inf
        number = min(SHORTLIST, len(cosines) - (without is not None))
        rows = np.sort(np.argpartition(-cosines, number - 1)[:number])
        found: dict[str, NDArray] = {"adaface": cosines[rows]}
        listed = self._templates.describe(rows)
        if matched and self._model.matcher is not None:
            # Templates lie on the CPU, those that are looked up among the others too.
            there = (FaceDescriptions(s.embedding.to(self._model.device), s.views).restored() for s in (probe, listed))
            found["qaconv"] = mean_over_views(self._model.matcher, *there)[0].cpu().numpy()
        pairs = np.stack([np.zeros(number, np.int64), np.arange(number)], axis=1)
        return rows, portraits.with_fused(self._model, found, Sides(probe, listed, pairs))

    def strangers(self) -> Scores:
        """Return the best score of each of up to 300 people, looked up among the others; none with fewer than two.

        Nobody finds the own template: this is what strangers reach in this gallery, with photographs like its own.
        """
        if self._strangers or self._templates is None or len(self) < 2:
            return self._strangers
        chosen = np.random.default_rng(0).permutation(len(self))[:NUM_STRANGERS]
        best: dict[str, list[float]] = {name: [] for name in portraits.scores_of(self._model)}
        for place in tracked(chosen.tolist(), "Looking people up as strangers", transient=True):
            probe = self._templates.describe(np.array([place]))
            for name, values in self._score(probe, matched=True, without=place)[1].items():
                best[name].append(float(values.max()))
        self._strangers = {name: np.sort(values) for name, values in best.items()}
        return self._strangers

    def _threshold(
        self, name: str, fpir: float, calibration: Calibration | None, visible: float | None
    ) -> tuple[float | None, tuple[str, ...]]:
        """Return the open-set threshold, None if there is none, and what it rests on."""
        if calibration is not None:
            condition = calibration.condition([visible])
            fitting = [
                point
                for point in calibration.points
                if (point.score, point.condition) == (name, condition) and point.far <= fpir / len(self)
            ]
            if fitting:
                point = max(fitting, key=lambda each: each.far)
                return point.threshold, (
                    f"threshold of the calibration ({condition}) for a FAR of {point.far:g}: at most"
                    f" {percent(point.far * len(self))} of strangers are taken for one of {len(self)} people",
                )
        strangers = self.strangers().get(name)
        if strangers is None:
            return None, ("a gallery of one person has no strangers: how high they score is not known",)
        return _threshold_of(strangers, fpir, calibration is not None)

    def _own(self, crop: NDArray[np.uint8]) -> Iterator[str]:
        same = np.flatnonzero((self._digests == gallery_file.digest(crop)).all(1)).tolist()
        for place in same[:1]:
            yield (
                f"the probe is a photograph of the gallery itself ({self.photographs[place]} of"
                f" {self.names[self._owners[place]]}): finding it says nothing"
            )


def _threshold_of(strangers: NDArray[np.float64], fpir: float, was_calibrated: bool) -> tuple[float, tuple[str, ...]]:
    number = len(strangers)
    first = f"the calibration has no FAR as low as {percent(fpir)} / people; " if was_calibrated else ""
    whose = f"{number} people of the gallery, each looked up among the others as a stranger"
    if fpir * number < 1:
        note = f"{first}threshold above what all {whose}, reach: they are too few to tell what {percent(fpir)} reach"
        return float(np.nextafter(strangers.max(), np.inf)), (note,)
    return threshold_at(strangers, fpir), (f"{first}threshold that {percent(fpir)} of {whose}, reach",)


def _title(path: Path) -> str:
    return "/".join(path.parts[-2:])
