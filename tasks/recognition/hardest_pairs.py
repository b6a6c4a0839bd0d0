"""The pairs that a model gets most wrong: chosen by their scores, looked at once more, and kept as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import models
import transforms
from config import Config, EvaluationConfig
from datasets import Benchmark, PairDataset
from evaluation import Description
from evaluation.protocols.hardest import hardest
from evaluation.report.results import Results
from evaluation.run import CONDITIONS, PairSource, SetResults
from qaconv import QAConv, mutual_cells
from system.files import atomic_write

NUM_PAIRS = 6  # of a kind under a condition
MAX_MATCHES = 8  # of a pair, those with the highest cosines
PICTURES = "pairs"  # folder beside results.json
_QUALITY = 90


class Look(NamedTuple):
    """How pairs of a set are looked at once more.

    Attributes:
        images: (source, condition, places of K pairs) -> uint8 [K, 2, H, W, 3] RGB, as they were scored.
        describe: images floating [B, 3, H, W] in [-1, 1], RGB, on the device -> their description.
        matcher: None: cells are not matched.
        device: of the networks.
        names: (source, place of a pair) -> the names of both files; None where they have none.
    """

    images: Callable[[Any, str, Sequence[int]], NDArray[np.uint8]]
    describe: Callable[[Tensor], Description]
    matcher: QAConv | None
    device: torch.device
    names: Callable[[Any, int], list[str] | None] = lambda source, place: None


def look_again(
    model: models.FaceModel, options: EvaluationConfig, occlude: Callable[[Any, Any, EvaluationConfig], Any]
) -> Look:
    """Return how pairs of an evaluation are looked at once more.

    Args:
        model: on its device.
        options: of the evaluation.
        occlude: images, the keys of their occluders, options -> the images occluded.
    """

    def images(source: Any, condition: str, places: Sequence[int]) -> NDArray[np.uint8]:
        sides = [np.array(source.images[side[list(places)]]) for side in (source.pairs.first, source.pairs.second)]
        hidden = () if condition == "clean" else (0, 1) if options.occlude == "both" else (1,)
        for side in hidden:
            members = (source.pairs.first, source.pairs.second)[side][list(places)]
            sides[side] = occlude(sides[side], [source.keys[member] for member in members.tolist()], options)
        return np.stack(sides, axis=1)

    def names(source: Any, place: int) -> list[str] | None:
        members = (int(source.pairs.first[place]), int(source.pairs.second[place]))
        return ["/".join(Path(source.paths[member]).parts[-2:]) for member in members] if source.paths else None

    return Look(images, model.describe, model.matcher, model.device, names)


def look_at_test(model: Any, sets: Sequence[Benchmark], config: Config) -> Look:
    """Return how pairs of a run's last evaluation are looked at once more.

    Args:
        model: the recognizer.
        sets: its benchmarks, in order.
        config: options of the run.
    """
    pairs = PairDataset(sets, config.val_occlusion, config.seed)
    starts = dict(zip((each.name for each in sets), np.cumsum([0, *map(len, sets)]).tolist(), strict=False))

    def images(source: Any, condition: str, places: Sequence[int]) -> NDArray[np.uint8]:
        second = 1 + CONDITIONS.index(condition)
        return np.stack([pairs[starts[source.name] + place].images[[0, second]] for place in places])

    return Look(images, model.describe, model.matcher, model.device)


def add_hardest(
    folder: Path, report: Results, sources: Sequence[PairSource], results: SetResults, look: Look, anonymous: bool
) -> None:
    """Add the hardest pairs of each set and condition to a result dictionary, and write their pictures into `pairs/`.

    The method is the combined one, where there is one. Pictures of an evaluation before are removed.

    Args:
        folder: of the report; made where it is missing.
        report: of `build_results`; gets `hardest`.
        sources, results: what it was built of.
        look: how pairs are looked at. Mode and gradients are the caller's.
        anonymous: keep neither pictures nor names.
    Raises:
        OSError: if a picture cannot be written.
    """
    pictures = folder / PICTURES
    for path in pictures.glob("[0-9]*.jpg"):
        path.unlink()
    for source in sources:
        found = {}
        for condition, methods in results[source.name].items():
            method = "combined" if "combined" in methods else next(iter(methods))
            of_kind = hardest(methods[method].scores, source.issame, NUM_PAIRS)
            entries = {kind: _look_at(source, condition, places, look) for kind, places in of_kind.items()}
            for entry, pair in (each for pairs in entries.values() for each in pairs):
                entry["score"] = float(methods[method].scores[entry["place"]])
                entry["names"] = None if anonymous else look.names(source, entry["place"])
                entry["picture"] = None if anonymous else _write(pictures, pair)
            found[condition] = {"method": method, **{kind: [e for e, _ in pairs] for kind, pairs in entries.items()}}
        report["benchmarks"][source.name]["hardest"] = found


def _look_at(
    source: PairSource, condition: str, places: Sequence[int], look: Look
) -> list[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Return what the network says of pairs, visibility and matched cells, and their images [2, H, W, 3]."""
    images = look.images(source, condition, places)
    described = look.describe(transforms.to_tensor(torch.from_numpy(images).to(look.device).flatten(0, 1)))
    maps, seen = described.local_map, described.visibility
    cells = None
    if look.matcher is not None:
        visibilities = () if seen is None else (seen[::2], seen[1::2])
        cells = look.matcher.best_cells(maps[::2], maps[1::2], *visibilities)
    shown = None if seen is None else np.asarray(seen.double().cpu())[:, 0].round(3)
    return [
        (
            {
                "place": place,
                "cells": list(maps.shape[2:]),
                "visibility": None if shown is None else shown[2 * pair : 2 * pair + 2].tolist(),
                "matches": None if cells is None else _matches(*(side[pair] for side in cells)),
            },
            images[pair],
        )
        for pair, place in enumerate(places)
    ]


def _matches(of_a: Tensor, of_b: Tensor, cosines: Tensor) -> list[tuple[int, int, float]]:
    return [(a, b, round(cosine, 4)) for a, b, cosine in mutual_cells(of_a, of_b, cosines, MAX_MATCHES)]


def _write(folder: Path, pair: NDArray[np.uint8]) -> str:
    """Write both images side by side under the next number, and return the file's name from the report's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{sum(1 for _ in folder.glob('[0-9]*.jpg')):03d}.jpg"
    content = cv2.imencode(".jpg", np.concatenate([*pair], axis=1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    with atomic_write(folder / name, "wb") as stream:
        stream.write(content.tobytes())
    return f"{folder.name}/{name}"
