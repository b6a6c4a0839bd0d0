"""The faces of a photograph: boxes, five points, and what is known of each; moved, mirrored and cut with the pixels.

Coordinates are edges: column i of the pixels reaches from x = i to i + 1, so scaling an image scales its coordinates.
Points of `transforms.TEMPLATE` and of `transforms.align` are in the other convention, with pixel centers on integers:
0.5 less.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

#: Columns of `FaceBoxes.attributes`, as WIDER FACE numbers them: blur 0 clear, 1 some, 2 heavy; expression 0 typical, 1
#: exaggerated; illumination 0 normal, 1 extreme; occlusion 0 none, 1 partial, 2 heavy; pose 0 typical, 1 atypical.
ATTRIBUTES: Final = ("blur", "expression", "illumination", "occlusion", "pose")
#: Order of the five points in the mirror image: eyes and corners of the mouth change places.
MIRRORED_POINTS: Final = (1, 0, 2, 4, 3)


class FaceBoxes(NamedTuple):
    """The faces of one image.

    Attributes:
        boxes: float32 [N, 4], x1 y1 x2 y2 in pixels, edges.
        points: float32 [N, 5, 2], x and y of left eye, right eye, nose, left and right mouth corner as the viewer sees
            them; NaN where one is not labeled.
        ignored: bool [N], faces that count as nothing: not to be found, no mistake to find.
        attributes: int8 [N, 5], columns as in ATTRIBUTES; -1 where nothing is known.
        hidden: float32 [N], share of the face in [0, 1] that cannot be seen in the photograph, whatever a view cuts
            off; NaN where it is not known.
    """

    boxes: Floats
    points: Floats
    ignored: Bools
    attributes: NDArray[np.int8]
    hidden: Floats

    def take(self, chosen: NDArray[np.int64] | Bools) -> FaceBoxes:
        """Return some of the faces, by place or by flag."""
        return FaceBoxes(
            self.boxes[chosen],
            self.points[chosen],
            self.ignored[chosen],
            self.attributes[chosen],
            self.hidden[chosen],
        )

    def moved(self, scale: ArrayLike, shift: ArrayLike) -> FaceBoxes:
        """Return the faces at `scale` * (x, y) + `shift`, each a number or [2]."""
        factor, offset = np.asarray(scale, np.float64), np.asarray(shift, np.float64)
        boxes = (self.boxes.reshape(-1, 2, 2) * factor + offset).astype(np.float32)
        points = self.points * factor + offset
        return self._replace(boxes=boxes.reshape(-1, 4), points=points.astype(np.float32))

    def mirrored(self, width: float) -> FaceBoxes:
        """Return the faces of the mirror image of an image of that width."""
        boxes = self.boxes[:, [2, 1, 0, 3]].copy()
        boxes[:, [0, 2]] = width - boxes[:, [0, 2]]
        points = self.points[:, MIRRORED_POINTS].copy()
        points[..., 0] = width - points[..., 0]
        return self._replace(boxes=boxes, points=points)

    def clipped(self, width: float, height: float) -> FaceBoxes:
        """Return the faces with boxes cut at the border of the image; points stay where they are."""
        boxes = np.clip(self.boxes, 0, np.array([width, height, width, height], np.float32))
        return self._replace(boxes=boxes)


def face_boxes(
    boxes: ArrayLike,
    points: ArrayLike | None = None,
    ignored: ArrayLike | None = None,
    attributes: ArrayLike | None = None,
    hidden: ArrayLike | None = None,
) -> FaceBoxes:
    """Return faces of what is known of them; the rest is unknown, and nobody is ignored.

    Args:
        boxes: [N, 4]; the other arguments as the attributes of FaceBoxes, None where nothing is known.
    Raises:
        ValueError: if a shape is wrong.
    """
    array = np.asarray(boxes, np.float32).reshape(-1, 4)
    number = len(array)

    def filled(values: ArrayLike | None, shape: tuple[int, ...], nothing: float) -> NDArray[np.float32]:
        full = np.full(shape, nothing, np.float32) if values is None else np.asarray(values, np.float32)
        return full.reshape(shape)

    return FaceBoxes(
        array,
        filled(points, (number, 5, 2), np.nan),
        filled(ignored, (number,), 0).astype(bool),
        filled(attributes, (number, len(ATTRIBUTES)), -1).astype(np.int8),
        filled(hidden, (number,), np.nan),
    )


def centers(boxes: Floats) -> Floats:
    """Return the centers of boxes, float32 [N, 2]."""
    return (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
