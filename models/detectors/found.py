"""What a detector's network says at its priors -> the faces that are in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from nets import Detections
from ops import boxes

STRIDE = 32  # pixels between the cells of the coarsest map
MOST = 5000  # as public code has it
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


def fill_up(images: Tensor) -> Tensor:
    """Return a network's input with sides that are multiples of 32: filled to the right and below with its mean color.

    Networks are trained on such sides. Where a map has an odd side, FeatherFace's pyramid shrinks it from another cell
    on, since TensorFlow's padding depends on the side: points are then off by up to a fifth of the distance between
    the eyes. The priors and the sides that `found_faces` takes are those of the filled image; pixels stay the same.

    Args:
        images: [B, 3, H, W] as `nets.detector_input` gives them.
    """
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % STRIDE, 0, -height % STRIDE))


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
    The surest MOST boxes of an image are looked at: a network that has learned nothing yet finds faces at all priors.

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
        if len(likely) > MOST:
            order = conf[image, likely, 1].argsort(descending=True, stable=True)
            likely = likely[order[:MOST].sort().values]
        scores = conf[image, likely, 1]
        corners = boxes.decode(loc[image, likely], priors[likely], variances) * sides.repeat(2)
        kept = boxes.nms(corners, scores, overlap)
        decoded = boxes.decode_landmarks(landmarks[image, likely[kept]], priors[likely[kept]], variances)
        faces.append(FoundFaces(corners[kept], scores[kept], decoded.unflatten(-1, (5, 2)) * sides))
    return faces
