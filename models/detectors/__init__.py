"""Detectors of faces behind one interface: the embedded one, YuNet from a file, points that a user gives."""

from datasets.photos.detection import Detection, Detector
from models.detectors.opening import DEFAULT, DetectorChoice, fetched_file, open_detector

__all__ = ["DEFAULT", "Detection", "Detector", "DetectorChoice", "fetched_file", "open_detector"]
