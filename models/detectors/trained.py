"""Detectors that are trained: RetinaFace and FeatherFace from their public files, and checkpoints of this project.

Deng et al., "RetinaFace", 2019, arXiv:1905.00641; Kim et al., "FeatherFace", Electronics 14(3) 517, 2025.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from datasets.photos.detection import Detection, Image, check_image
from models.detectors.found import OVERLAP, fill_up, found_faces
from nets import DETECTORS, WeightFile, detector_input, load_detector, read_state_dict
from ops import boxes
from transforms import to_tensor

THRESHOLD = 0.5  # of the public demonstrations; evaluations take 0.02

_LEVELS, _SIZES = len(boxes.STEPS), len(boxes.MIN_SIZES[0])


class TrainedDetector:
    """A detector from a file of weights that `nets.load_detector` reads.

    An image is looked at in the size that it has: who asks brings photographs to a size first, see
    `datasets.photos.views`. On one thread of a processor: on several the last bits differ, and what is found must not
    depend on how many processes share the work.

    Args:
        path: a RetinaFace or FeatherFace .pth, whose priors are `ops.boxes`' usual ones, or a checkpoint of ours, which
            states its own.
        overlap: intersection over union above which the surer of two boxes suppresses the other.
    Attributes:
        name: kind and checksum.
        network: in eval mode.
        min_sizes: sides of its priors, for each level.
        threshold: the usual one.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names the file, if it holds no detector, or priors that no network of ours has.
    """

    threshold = THRESHOLD

    def __init__(self, path: Path, overlap: float = OVERLAP) -> None:
        self.network = load_detector(path)
        self.min_sizes = _min_sizes(read_state_dict(path))
        self._overlap = overlap
        kind = next(
            (name for name, form in DETECTORS.items() if form == self.network.form), f"{path.name}, unnamed form"
        )
        with path.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        self.name = f"{kind} (sha256 {checksum[:8]})"

    @torch.inference_mode()
    def detect(self, image: Image, threshold: float | None = None) -> list[Detection]:
        """Return the faces in an image, see `Detector`."""
        check_image(image)
        pixels = torch.from_numpy(image.copy())[None]  # a copy: torch takes no negative strides
        given = fill_up(detector_input(to_tensor(pixels)))
        height, width = given.shape[2:]
        priors = boxes.priors(height, width, self.min_sizes)
        with _one_thread():
            least = self.threshold if threshold is None else threshold
            (found,) = found_faces(self.network(given), priors, height, width, least, self._overlap)
        # The network's pixels are edges, those of a detection centers.
        corners, points = (each.double().numpy() - 0.5 for each in (found.boxes, found.points))
        return [Detection(*face) for face in zip(corners, found.scores.tolist(), points, strict=True)]


def _min_sizes(file: WeightFile) -> tuple[tuple[float, ...], ...]:
    """Return the sides of the priors that a file states, the usual ones where it states none.

    Raises:
        ValueError: one line that names the file, if they are of other levels than our networks have.
    """
    parameters = file.metadata.get("hyper_parameters")
    if not isinstance(parameters, dict) or "min_sizes" not in parameters:
        return boxes.MIN_SIZES
    sizes, steps = parameters["min_sizes"], parameters.get("steps")
    if not _is_grid(sizes) or steps != list(boxes.STEPS):
        raise ValueError(
            f"{file.path}: its priors are not {_SIZES} sides for each of the steps {list(boxes.STEPS)}, those of the "
            "network; was it written by another version?"
        )
    return tuple(tuple(map(float, level)) for level in sizes)


def _is_grid(sizes: object) -> bool:
    """Return whether this is a list of lists of sides, as many as there are priors in a cell of each level."""
    if not isinstance(sizes, list) or len(sizes) != _LEVELS:
        return False
    flat = [side for level in sizes if isinstance(level, list) and len(level) == _SIZES for side in level]
    return len(flat) == _LEVELS * _SIZES and all(type(side) in (int, float) and 0 < side < math.inf for side in flat)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
