"""What a detector's network says at its priors -> the faces that are in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from nets import Detections
from ops import boxes

OVERLAP = 0.4  # above which the better of two boxes suppresses the other, of the public code


class FoundFaces(NamedTuple):
    """The faces of an image, the surest first.

    Coordinates are pixels, and edges: column i reaches from x = i to i + 1. They may lie beyond the image.

    Attributes:
        boxes: [K, 4] floating, x1 y1 x2 y2.
        scores: [K], probabilities.
        points: [K, 5, 2], x and y: eyes, nose, corners of the mouth; of two the left one first, as the viewer sees it.
    """

    boxes: Tensor
    scores: Tensor
    points: Tensor


def found_faces(
    detections: Detections,
    priors: Tensor,
    height: int,
    width: int,
    threshold: float,
    overlap: float = OVERLAP,
    variances: Sequence[float] = boxes.VARIANCES,
) -> list[FoundFaces]:
    """Return the faces of each image of a batch: decoded, above the threshold, each of them once.

    Of boxes that overlap the surest stays, see `ops.boxes.nms`; of equal scores the one of the lower prior comes first.
    Nothing is limited in number.

    Args:
        detections: of the network in eval mode, [B, P, ...]; computed on in the priors' type.
        priors: [P, 4] of images of this size, as the network was trained with.
        height, width: of the images, in pixels.
        threshold: a face has a score above it.
        overlap: intersection over union, the last pixel counted in, above which a box is suppressed.
        variances: of centers and points, of sizes.
    Raises:
        ValueError: if the priors are not as many as the network has, a number is not finite, or the scores are
            no probabilities.
    """
    loc, conf, landmarks = (each.detach().to(priors) for each in detections)
    if loc.shape[1:] != priors.shape:
        raise ValueError(
            f"found_faces: the network has {loc.shape[1]} priors at {width} x {height}, but {len(priors)} are given"
        )
    if not all(bool(each.isfinite().all()) for each in (loc, conf, landmarks)):
        raise ValueError("found_faces: the network answers with numbers that are not finite; it has diverged")
    if bool(((conf < 0) | (conf > 1)).any()):
        raise ValueError("found_faces: the scores are no probabilities; put the network into eval mode")
    sides = priors.new_tensor([width, height])
    faces = []
    for image in range(len(loc)):
        likely = (conf[image, :, 1] > threshold).nonzero()[:, 0]
        scores = conf[image, likely, 1]
        corners = boxes.decode(loc[image, likely], priors[likely], variances) * sides.repeat(2)
        kept = boxes.nms(corners, scores, overlap)
        decoded = boxes.decode_landmarks(landmarks[image, likely[kept]], priors[likely[kept]], variances)
        faces.append(FoundFaces(corners[kept], scores[kept], decoded.unflatten(-1, (5, 2)) * sides))
    return faces
