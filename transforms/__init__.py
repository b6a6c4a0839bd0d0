"""What happens to an image between its file and the network: occlusion, augmentation, and the way to a tensor."""

import os

# Asked once, when OpenCV is imported, by this package or by `datasets`: what has more pixels is not decoded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
# Its lines on damaged files name none; ours do.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

from transforms.align import fit_similarity, template_points
from transforms.augment import crop_with_padding, flip, grayscale, low_resolution, mirror, photometric
from transforms.degradation import Degradation, Degraded, FirstOrder, difficulty, shrinking_alone
from transforms.detection.augment import DetectionSample, DetectionTransform
from transforms.detection.faces import ATTRIBUTES, FaceBoxes, face_boxes
from transforms.landmarks import IMAGE_SIZE, TEMPLATE
from transforms.occluders import OCCLUDER_FAMILIES, OCCLUDERS, occlude, occlude_all
from transforms.second_order import SecondOrder
from transforms.tensor import to_image, to_tensor, visibility_map
from transforms.training import TrainingTransform
from transforms.view import Occluder, View

DEGRADATIONS: dict[str, type[Degradation]] = {"first_order": FirstOrder, "second_order": SecondOrder}

__all__ = [
    "ATTRIBUTES",
    "DEGRADATIONS",
    "IMAGE_SIZE",
    "OCCLUDERS",
    "OCCLUDER_FAMILIES",
    "TEMPLATE",
    "Degradation",
    "Degraded",
    "DetectionSample",
    "DetectionTransform",
    "FaceBoxes",
    "FirstOrder",
    "Occluder",
    "SecondOrder",
    "TrainingTransform",
    "View",
    "crop_with_padding",
    "difficulty",
    "face_boxes",
    "fit_similarity",
    "flip",
    "grayscale",
    "low_resolution",
    "mirror",
    "occlude",
    "occlude_all",
    "photometric",
    "shrinking_alone",
    "template_points",
    "to_image",
    "to_tensor",
    "visibility_map",
]
