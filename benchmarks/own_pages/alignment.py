"""Alignment: photographs a second of each detector, and what it finds in larger scenes and behind masks and glasses.

Run as `python -m benchmarks alignment --photographs my_photographs --detectors mtcnn yunet.onnx`; without photographs
the embedded drawn faces are aligned, which both detectors find less often. Processor time is counted, of one core. The
rows of the second table are the photographs as they are; pasted into drawn backgrounds at random scale, rotation and
place; and behind a drawn mask, sunglasses, and both. Masks lie where the first detector sees the face.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from datasets.conversion.encoding import Encoding, encode
from datasets.faces.images import decode_image, read_image
from datasets.photos.aligned import ALIGNED, LOOKS, Aligned, align_face
from datasets.photos.detection import Detector
from datasets.photos.given_points import GivenPoints
from datasets.photos.sources import Photographs
from datasets.synthetic.prepare import render_identities
from models.detectors import DEFAULT, open_detector
from transforms import OCCLUDER_FAMILIES, align, fit_similarity, occlude

PHOTOGRAPHS = 100
SIDE = 250  # of a photograph of LFW, whose speed is the goal
GOALS = {DEFAULT: 12}
GOAL_OF_A_FILE = 100

Image = NDArray[np.uint8]

SPEED = Table(
    "alignment_speed",
    (
        Column("decoded, aligned and encoded", "what", width=36),
        Column("time", "time_ratio", "{:.1f}x"),
        Column("photographs/s", "per_second", "{:,.0f}"),
        Column("goal", "goal", ">= {}"),
    ),
)
CONDITIONS = Table(
    "alignment_conditions",
    (
        Column("detector", "detector", width=22),
        Column("photographs", "what", width=26),
        Column("aligned", "aligned", "{:.0%}"),
        Column("at the first look", "at_once", "{:.0%}"),
        Column("points off, eye distances", "off", "{:.3f}"),
        Column("residual, median", "residual", "{:.1f}"),
        Column("95 %", "residual_95", "{:.1f}"),
        Column("ms", "milliseconds", "{:.1f}"),
    ),
)


class Scene(NamedTuple):
    """A photograph, and the matrix [2, 3] from the one that it was made of."""

    image: Image
    matrix: NDArray[np.float64]


def load(folder: str | None, number: int) -> list[Image]:
    """Return so many photographs of a folder, evenly spread, or drawn faces in even backgrounds."""
    if folder is None:
        drawn = render_identities("alignment benchmark", number, 1)[0]
        return [cv2.copyMakeBorder(face, 40, 40, 50, 50, cv2.BORDER_REPLICATE) for face in drawn]
    photographs = Photographs(Path(folder))
    places = np.unique(np.linspace(0, len(photographs) - 1, number).astype(int)).tolist()
    return [read_image(photographs.names[place]) for place in places]


def pasted(image: Image, rng: np.random.Generator) -> Scene:
    """Return a photograph in a drawn background of 640 x 480 to 1280 x 960, at half to three times its size."""
    width = int(rng.integers(640, 1281))
    height = width * 3 // 4
    limit = 0.7 * height / max(image.shape[:2])
    factor, angle = min(rng.uniform(0.5, 3.0), limit), rng.uniform(-np.pi / 6, np.pi / 6)
    rotation = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = factor * max(image.shape[:2]) * 0.7
    at = [rng.uniform(min(reach, side / 2), max(side - reach, side / 2)) for side in (width, height)]
    center = np.array([image.shape[1], image.shape[0]]) / 2
    matrix = np.concatenate([rotation, (at - rotation @ center)[:, None]], axis=1)
    coarse = rng.integers(30, 226, (6, 8, 3)).astype(np.uint8)
    canvas = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    return Scene(_put(image, canvas, matrix, np.full(image.shape[:2], 255, np.uint8)), matrix)


def behind(names: tuple[str, ...], image: Image, points: NDArray[np.float64], rng: np.random.Generator) -> Scene:
    """Return a photograph whose face, at five points, is behind one occluder of each name."""
    matrix = fit_similarity(points)
    scene = image
    for name in names:
        view = occlude(align.warp(scene, matrix), rng, OCCLUDER_FAMILIES[name])
        hidden = np.where(view.visibility == 0, 255, 0).astype(np.uint8)
        scene = _put(view.image, scene.copy(), np.asarray(cv2.invertAffineTransform(matrix), np.float64), hidden)
    return Scene(scene, np.eye(2, 3))


def measure_conditions(
    images: list[Image], detectors: dict[str, Detector], make: Callable[[int, Image], Scene], what: str
) -> Iterator[Row]:
    """Yield what each detector finds in one kind of scene, against its own points in the photographs as they are."""
    scenes = [make(number, image) for number, image in enumerate(images)]
    for name, detector in detectors.items():
        usual = [align_face(image, detector) for image in images]
        start = time.process_time()
        found = [align_face(scene.image, detector) for scene in scenes]
        spent = (time.process_time() - start) / len(images)
        off = [_off(a, b, scene) for a, b, scene in zip(usual, found, scenes, strict=True)]
        kept = [one for one in found if one.status == ALIGNED]
        residuals = [one.residual for one in kept] or [float("nan")]
        yield {
            "detector": name,
            "what": what,
            "aligned": len(kept) / len(images),
            "at_once": sum(one.look == LOOKS[0].name for one in kept) / len(images),
            "off": float(np.median([value for value in off if value is not None] or [float("nan")])),
            "residual": float(np.median(residuals)),
            "residual_95": float(np.percentile(residuals, 95)),
            "milliseconds": spent * 1e3,
        }


def measure_speed(images: list[Image], detectors: dict[str, Detector], repeats: int) -> Iterator[Row]:
    """Yield the photographs a second of each detector, from a JPEG to the PNG of its crop, and without one."""
    size = (SIDE, SIDE)
    files = [encode(np.asarray(cv2.resize(image, size), np.uint8), Encoding("jpeg")) for image in images]
    whole = np.eye(2, 3) * 112 / SIDE

    def without(image: Image) -> Image | None:
        return align.warp(image, whole)

    ways: dict[str, Callable[[Image], Image | None]] = {"without a detector": without}
    for name, detector in detectors.items():
        ways[name] = lambda image, detector=detector: align_face(image, detector).crop  # type: ignore[misc]
    seconds = {
        name: statistics.median(_seconds(files, way) for _ in range(repeats)) / len(files) for name, way in ways.items()
    }
    base = seconds["without a detector"]
    for name, spent in seconds.items():
        goal = GOALS.get(name, GOAL_OF_A_FILE) if name in detectors else None
        yield {"what": name, "time_ratio": spent / base, "per_second": 1 / spent, "goal": goal}


def _seconds(files: list[bytes], crop_of: Callable[[Image], Image | None]) -> float:
    start = time.process_time()
    for data in files:
        crop = crop_of(decode_image(data, "benchmark"))
        if crop is not None:
            encode(crop, Encoding())
    return time.process_time() - start


def _off(usual: Aligned, found: Aligned, scene: Scene) -> float | None:
    """Return how far the points are from where they were, in distances of the eyes; None where one has none."""
    if usual.points is None or found.status != ALIGNED or found.points is None:
        return None
    expected = align.moved(usual.points, scene.matrix)
    eyes = float(np.linalg.norm(expected[1] - expected[0]))
    return float(np.linalg.norm(found.points - expected, axis=1).mean()) / eyes


def _put(image: Image, canvas: Image, matrix: NDArray[np.float64], mask: Image) -> Image:
    """Return a canvas with an image in it where its mask is."""
    size = (canvas.shape[1], canvas.shape[0])
    there = cv2.warpAffine(mask, matrix, size) > 127
    canvas[there] = cv2.warpAffine(image, matrix, size)[there]
    return canvas


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    cv2.setNumThreads(1)
    images = load(args.photographs, scaled(PHOTOGRAPHS, args.scale, least=2))
    detectors: dict[str, Detector] = {}
    for word in args.detectors:
        detector = open_detector(word)
        if isinstance(detector, GivenPoints):
            raise ValueError(f"--detectors: {word} is a table of points, which finds nothing")
        detectors[word if word == DEFAULT else Path(word).stem] = detector
    for row in measure_speed(images, detectors, args.repeats):
        yield SPEED, row
    first = next(iter(detectors.values()))
    seen = [align_face(image, first) for image in images]
    images = [image for image, one in zip(images, seen, strict=True) if one.points is not None]
    points = [one.points for one in seen if one.points is not None]
    makers: dict[str, Callable[[int, Image], Scene]] = {
        "as they are": lambda _, image: Scene(image, np.eye(2, 3)),
        "in larger scenes": lambda number, image: pasted(image, np.random.default_rng(number)),
    }
    for what, names in (("mask", ("mask",)), ("sunglasses", ("eyes",)), ("mask and sunglasses", ("mask", "eyes"))):
        makers[what] = lambda number, image, names=names: behind(  # type: ignore[misc]
            names, image, points[number], np.random.default_rng(number)
        )
    for what, make in makers.items():
        for row in measure_conditions(images, detectors, make, what):
            yield CONDITIONS, row


BENCHMARK = Benchmark((SPEED, CONDITIONS), _measure)
