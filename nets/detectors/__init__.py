"""Networks that detect faces."""

from .deformable import DeformableConv2d, deform_conv2d
from .detector import Detections, Detector, DetectorForm, detector_input
from .registry import DETECTORS, build_detector
from .weights import load_detector

__all__ = [
    "DETECTORS",
    "DeformableConv2d",
    "Detections",
    "Detector",
    "DetectorForm",
    "build_detector",
    "deform_conv2d",
    "detector_input",
    "load_detector",
]
