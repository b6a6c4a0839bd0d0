"""Face detectors: a forward pass, the loader of their training, WIDER FACE's evaluation.

Run as `python -m benchmarks detector`. One thread, torch's and OpenCV's, and processor time; of forward passes and
loaders the least of all runs. Forward passes are of untrained networks, YuNet's of its file (`--yunet`), decoding and
suppression included. The loader reads JPEG files of 1024 x 768 in this process and makes views of them. The evaluation
reads as many images and detections as WIDER FACE's validation set has for a usual detector; they are drawn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

import nets
from benchmarks.harness.measure import Step, alternate, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from datasets.detection.labels import LabeledPhoto, PhotoLabels
from datasets.detection.photos import DetectionViews, LabeledPhotos, collate_detections
from datasets.sample import SampleKey
from datasets.synthetic.scenes import render_scene
from evaluation import (
    DetectedFaces,
    DetectorFaces,
    Found,
    LabeledFaces,
    Truth,
    WiderTruth,
    compare_detectors,
    read_predictions,
    wider_curves,
)
from models.detectors import open_detector
from transforms.detection.augment import DetectionTransform

HEIGHT, WIDTH = 480, 640
REFERENCE = "retinaface_mnet025"
PHOTO = (1024, 768)
BATCH_SIZE = 8
IMAGES, DETECTIONS, FACES = 3226, 700, 12  # of WIDER FACE's validation set; detections down to a score of 0.02

FORWARD = Table(
    "detector_forward",
    (
        Column("detector, 640 x 480", "what", width=26),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("ms", "milliseconds", "{:.0f}"),
        Column("parameters", "parameters", "{:,}", width=11),
    ),
)
LOADER = Table(
    "detector_loader",
    (
        Column("loader", "what", width=26),
        Column("speed", "speed_ratio", "{:.2f}x"),
        Column("goal", "goal", ">= {:.1f}x"),
        Column("images/s", "images_per_second", "{:,.0f}"),
    ),
)
EVALUATION = Table(
    "detector_evaluation",
    (
        Column("evaluation", "what", width=40),
        Column("CPU seconds", "seconds", "{:.1f}"),
        Column("goal s", "goal", "<= {:.0f}"),
        Column("images", "num_images", "{:,}"),
        Column("detections", "num_detections", "{:,}", width=11),
    ),
)


def measure_forward(repeats: int, scale: float, yunet: str | None) -> Iterator[Row]:
    """Yield the time of an image by each network, over RetinaFace's."""
    side = (scaled(HEIGHT, scale, least=64), scaled(WIDTH, scale, least=64))
    images = torch.rand(1, 3, *side) * 2 - 1
    models = {name: nets.build_detector(name).eval() for name in nets.DETECTORS}
    steps: dict[str, Step] = {
        name: lambda model=model: model(nets.detector_input(images))  # type: ignore[misc]  # mypy infers no default
        for name, model in models.items()
    }
    if yunet is None:
        print("YuNet is left out: --yunet names its file")
    else:
        detector, photo = open_detector(yunet), (images[0].permute(1, 2, 0) * 127.5 + 127.5).byte().numpy()
        steps["YuNet, OpenCV"] = lambda: detector.detect(photo)  # type: ignore[union-attr]  # no table of points
    with torch.inference_mode():
        runs = alternate(steps, repeats, time.process_time)
    least = {name: min(seconds) for name, seconds in runs.items()}  # of a busy machine the quiet moments
    for name, seconds in least.items():
        count = sum(parameter.numel() for parameter in models[name].parameters()) if name in models else None
        row: Row = {"what": name, "time_ratio": ratio(seconds, least[REFERENCE]), "milliseconds": 1000 * seconds}
        yield {**row, "parameters": count, "runs": runs[name]}


def write_photos(folder: Path, number: int) -> LabeledPhotos:
    """Write enlarged scenes with noise as JPEG files of 110 kB, which WIDER FACE's have, and return their faces."""
    photos, rng = [], np.random.default_rng(0)
    for index in range(number):
        scene = render_scene(0, index, "benchmark", 160)
        image = np.asarray(cv2.resize(scene.image[:120], PHOTO, interpolation=cv2.INTER_CUBIC), np.uint8)
        grain = np.asarray(cv2.GaussianBlur(rng.normal(0, 16, image.shape), (0, 0), 1.0))
        noisy = np.clip(image + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 85])
        faces = scene.faces.moved(PHOTO[0] / 160, 0.0).clipped(*PHOTO)
        faces = faces.take(np.all(faces.boxes[:, 2:] > faces.boxes[:, :2], axis=1))
        number_faces = len(faces.boxes)
        photos.append(LabeledPhoto(f"{index}.jpg", faces, np.arange(number_faces), PHOTO, ("",) * number_faces))
    return LabeledPhotos(folder, PhotoLabels(folder / "labels", photos, []))


def epochs_of(photos: LabeledPhotos, size: int) -> Step:
    """Return a step that loads an epoch of views, another one each time."""
    views = DetectionViews(photos, DetectionTransform(size), seed=0)
    epoch = 0

    def step() -> None:
        nonlocal epoch
        epoch += 1
        keys = [SampleKey(0, index, epoch, index, 0) for index in range(len(photos))]
        for _ in DataLoader(views, BATCH_SIZE, sampler=keys, collate_fn=collate_detections):
            pass

    return step


def measure_loader(number: int, repeats: int) -> Iterator[Row]:
    """Yield images a second of bare decoding and of the loader."""
    with tempfile.TemporaryDirectory() as name:
        photos = write_photos(Path(name), number)
        paths = [photos.root / photos.labels(index).name for index in range(number)]

        def decode() -> None:
            for path in paths:
                cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)

        bare = "bare decoding, OpenCV"
        steps: dict[str, Step] = {bare: decode, **{f"views of {size}": epochs_of(photos, size) for size in (320, 640)}}
        runs = {
            what: [number / s for s in seconds]
            for what, seconds in alternate(steps, repeats, time.process_time).items()
        }
    best = {what: max(speeds) for what, speeds in runs.items()}
    for what, speed in best.items():
        row: Row = {"what": what, "speed_ratio": ratio(speed, best[bare]), "images_per_second": speed}
        yield {**row, "goal": None if what == bare else 0.7, "runs": runs[what]}


def drawn_images(number: int, detections: int) -> tuple[WiderTruth, list[np.ndarray]]:
    """Return faces of images, all of which count everywhere, and detections [M, 5], half of them near a face."""
    rng = np.random.default_rng(0)
    names, boxes, found = [], [], []
    for index in range(number):
        faces = np.concatenate([rng.uniform(0, 900, (FACES, 2)), rng.uniform(8, 120, (FACES, 2))], axis=1).round()
        near = faces[rng.integers(0, FACES, detections)] + rng.normal(0, 3, (detections, 4))
        far = np.concatenate([rng.uniform(0, 900, (detections, 2)), rng.uniform(8, 120, (detections, 2))], axis=1)
        rows = np.where(rng.random((detections, 1)) < 0.5, near, far)
        rows[:, 2:] = np.maximum(rows[:, 2:], 1)
        names.append(f"event_{index % 61}/image_{index}")
        boxes.append(faces)
        found.append(np.column_stack([rows, rng.beta(0.4, 3, detections)]))
    counted = [np.ones(FACES, bool)] * number
    return WiderTruth(names, boxes, {subset: counted for subset in ("easy", "medium", "hard")}), found


def measure_evaluation(number: int, detections: int, resamples: int) -> Iterator[Row]:
    """Yield the time of WIDER FACE's figures, reading included, and of a comparison with intervals, each of one run."""
    truth, found = drawn_images(number, detections)
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{image}.txt" for image in truth.names]
        for path, rows in zip(paths, found, strict=True):
            path.parent.mkdir(exist_ok=True)
            # As `write_predictions` has it, but not synced one by one.
            lines = (" ".join(f"{value:.9g}" for value in row) for row in rows.tolist())
            path.write_text("\n".join([path.stem, str(len(rows)), *lines]) + "\n", encoding="utf-8")
        faces, detector = _as_faces(truth, found)
        steps: dict[str, Step] = {
            "easy, medium, hard, reading included": lambda: wider_curves(truth, [read_predictions(p) for p in paths]),
            f"all figures of a comparison, {resamples} resamples": lambda: compare_detectors(
                faces, {"drawn": detector}, num_resamples=resamples
            ),
        }
        for (what, step), goal in zip(steps.items(), (60, None), strict=True):
            start = time.process_time()
            step()
            row: Row = {"what": what, "seconds": time.process_time() - start, "goal": goal, "num_images": number}
            yield {**row, "num_detections": number * detections}


def _as_faces(truth: WiderTruth, found: list[np.ndarray]) -> tuple[list[LabeledFaces], DetectorFaces]:
    faces, every = [], []
    for boxes, rows in zip(truth.boxes, found, strict=True):
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        no_points = np.full((len(boxes), 5, 2), np.nan)
        hidden = np.full(len(boxes), np.nan)
        faces.append(LabeledFaces(Truth(corners, np.zeros(len(boxes), bool)), no_points, hidden, [""] * len(boxes)))
        edges = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        every.append(DetectedFaces(Found(edges, rows[:, 4]), np.full((len(rows), 5, 2), np.nan)))
    return faces, DetectorFaces(every, [one.above(0.5) for one in every])


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for row in measure_forward(args.repeats, args.scale, args.yunet):
        yield FORWARD, row
    for row in measure_loader(scaled(32, args.scale, least=4), args.repeats):
        yield LOADER, row
    number, detections = scaled(IMAGES, args.scale, least=10), scaled(DETECTIONS, args.scale, least=20)
    for row in measure_evaluation(number, detections, scaled(args.resamples, args.scale, least=5)):
        yield EVALUATION, row


BENCHMARK = Benchmark((FORWARD, LOADER, EVALUATION), _measure)
