"""How far apart two answers of a network to the same images are, in what its users go by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.checking.subject import DETECTOR, Subject
from ops.boxes import decode, decode_landmarks, iou, priors

SUREST = 20  # priors of an image whose boxes and points are compared


class Limits(NamedTuple):
    """How far answers may lie apart.

    Attributes:
        cosine: least one of an image's two embeddings.
        score: largest difference of a detector's score of a face, at any prior.
        overlap: least intersection over union of a detector's two boxes at the surest priors of an image.
        points: largest distance there of a point, as a share of the box's side.
    """

    cosine: float
    score: float
    overlap: float
    points: float


# Three published detectors moved by at most 0.030, 0.982 and 0.012 in bfloat16 (8 bits), and 0.007, 0.997 and 0.003 in
# float16 (11 bits): three times as much is more than rounding.
HALF = {torch.bfloat16: Limits(0.99, 0.1, 0.95, 0.04), torch.float16: Limits(0.999, 0.02, 0.99, 0.01)}
DEVICE = Limits(0.9999, 0.02, 0.99, 0.01)  # a GPU may round to TF32, whose numbers have the 11 bits of float16


class Measure(NamedTuple):
    """What was measured, its value and its limit; `is_least`: the value must not be below it, else not above."""

    name: str
    value: float
    limit: float
    is_least: bool

    @property
    def is_within(self) -> bool:
        """Whether the limit is kept; False for NaN."""
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} {self.value:.5f}"


def measure(
    subject: Subject, first: Mapping[str, Tensor], second: Mapping[str, Tensor], limits: Limits
) -> list[Measure]:
    """Return how far two answers to the subject's images, as `outputs_of` gives them, lie apart."""
    pairs = {name: (first[name].float(), second[name].float()) for name in first}
    if subject.kind != DETECTOR:
        cosine = functional.cosine_similarity(*pairs["embedding"])
        return [Measure("least cosine", float(cosine.min()), limits.cosine, True)]
    return list(_of_detector(pairs, (subject.images.shape[-2], subject.images.shape[-1]), limits))


def _of_detector(
    pairs: Mapping[str, tuple[Tensor, Tensor]], size: tuple[int, int], limits: Limits
) -> Iterator[Measure]:
    scores = [conf[..., 1] for conf in pairs["conf"]]
    yield Measure("largest difference of a score", float((scores[0] - scores[1]).abs().max()), limits.score, False)
    rows = scores[0].topk(min(SUREST, scores[0].shape[1]), dim=1).indices[..., None]
    at = priors(*size)
    boxes, points = (
        [decoder(each, at).gather(1, rows.expand(-1, -1, each.shape[-1])) for each in pairs[name]]
        for name, decoder in (("loc", decode), ("landmarks", decode_landmarks))
    )
    shared = iou(boxes[0], boxes[1]).diagonal(dim1=-2, dim2=-1)
    yield Measure("least overlap of a box", float(shared.min()), limits.overlap, True)
    sides = (boxes[0][..., 2:] - boxes[0][..., :2]).prod(-1).sqrt()
    moved = torch.linalg.vector_norm((points[0] - points[1]).unflatten(-1, (-1, 2)), dim=-1).amax(-1)
    yield Measure("farthest a point moved, in sides of its box", float((moved / sides).max()), limits.points, False)
