"""Synthetic photographs written out: images, labels in two forms, rendered once into the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from datasets.cache_folder import cache_folder
from datasets.checksums import write_checksums
from datasets.detection.coco_json import write_coco
from datasets.detection.label_text import write_label_txt
from datasets.detection.labels import LabeledPhoto
from datasets.parallel import ordered_results
from datasets.progress import tracked
from datasets.synthetic.prepare import Room, cached_set, stream_rng
from datasets.synthetic.renderer import RENDERER_VERSION
from datasets.synthetic.scenes import SCENES_VERSION, render_scene
from system.cores import usable_cores

SPLITS: Final = ("train", "val")
_LEAST_BYTES_A_PIXEL = 0.08
_A_TASK = 16  # scenes that a process draws at a time, so that it meets the same heads again

README = """Synthetic photographs drawn by maskwise (datasets/synthetic/scenes.py). They show nobody.
<split>/images/*.jpg; <split>/label.txt in the form of RetinaFace's labels of WIDER FACE, without the faces that nobody
could see; <split>/faces.json in COCO's form, with all of them, how much of each is hidden and by what it is covered.
No person of a split is in another one or in any other synthetic set.
"""


@dataclass(frozen=True)
class SceneSpec:
    """What is rendered; equal specs (and renderers) share one folder of the cache.

    Attributes:
        num_train, num_val: scenes of each split, >= 1.
        size: side of a scene in pixels, >= 64.
        seed: of everything, >= 0.
    Raises:
        ValueError: if a number is out of its range.
    """

    num_train: int = 3000
    num_val: int = 300
    size: int = 320
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_val) < 1 or self.size < 64 or self.seed < 0:
            raise ValueError(f"SceneSpec: num_train and num_val must be >= 1, size >= 64 and seed >= 0, got {self}")

    @property
    def digest(self) -> str:
        """Name of this content: 12 hex digits of the spec and the versions of both renderers."""
        content = json.dumps({"renderer": RENDERER_VERSION, "scenes": SCENES_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def prepare_scenes(
    root: Path | None = None, spec: SceneSpec | None = None, jobs: int | None = None, progress: bool = True
) -> Path:
    """Return the folder with the spec's scenes, rendering them first where the cache does not hold them.

    `<root>/scenes-<digest>` holds for each of `train` and `val` images/*.jpg, label.txt and faces.json (see README),
    whose paths begin at the split's folder; and README.txt, spec.json and checksums.json. It appears complete or not
    at all, and is rendered again if it is damaged.

    Args:
        root: the cache; None is `cache_folder()`.
        spec: what to render; None is the default SceneSpec.
        jobs: processes, None for one a core. The result does not depend on it.
        progress: whether to show a progress bar.
    Raises:
        OSError: if the cache cannot be written.
        ValueError: if the disk has no room for so many.
    """
    chosen = spec or SceneSpec()
    number = chosen.num_train + chosen.num_val
    room = Room(int(number * chosen.size**2 * _LEAST_BYTES_A_PIXEL), f"{number} scenes of {chosen.size} pixels")
    fill: Callable[[Path], None] = partial(_render_all, chosen, jobs or usable_cores(), progress)
    return cached_set(root or cache_folder(), f"scenes-{chosen.digest}", fill, room)


def _render_all(spec: SceneSpec, jobs: int, progress: bool, folder: Path) -> None:
    for split, number in zip(SPLITS, (spec.num_train, spec.num_val), strict=True):
        (folder / split / "images").mkdir(parents=True)
        tasks = [range(first, min(first + _A_TASK, number)) for first in range(0, number, _A_TASK)]
        with ordered_results(partial(_write_images, spec, split, folder), tasks, jobs) as results:
            shown = tracked(results, f"Rendering scenes to {split}", len(tasks), hidden=not progress, transient=True)
            photos = [photo for several in shown for photo in several]
        write_label_txt(folder / split / "label.txt", [photo.take(~photo.faces.ignored) for photo in photos])
        write_coco(folder / split / "faces.json", photos)
    (folder / "README.txt").write_text(README, encoding="utf-8")
    versions = {"renderer_version": RENDERER_VERSION, "scenes_version": SCENES_VERSION}
    description = {"kind": "synthetic scenes", **versions, **asdict(spec)}
    (folder / "spec.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder)


def _write_images(spec: SceneSpec, split: str, folder: Path, indices: Sequence[int]) -> list[LabeledPhoto]:
    """Write some scenes as JPEG files and return their labels."""
    labeled = []
    for index in indices:
        scene = render_scene(spec.seed, index, split, spec.size)
        name = f"images/{index:06d}.jpg"
        quality = int(stream_rng(spec.seed, f"scenes-{split}", 4, index).integers(60, 96))
        bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        written, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert written, "OpenCV could not encode an 8-bit image"
        (folder / split / name).write_bytes(data.tobytes())
        places = np.arange(len(scene.occluders))
        labeled.append(LabeledPhoto(name, scene.faces, places, (spec.size, spec.size), scene.occluders))
    return labeled
