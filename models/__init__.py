"""Networks that are ready to use: torch alone, no training."""

from models.alignment import NoFaceError, align_photograph
from models.detectors import DetectorChoice, open_detector
from models.face_model import FaceModel, FaceScores, build_matcher, build_occlusion_head, describe
from models.loading import DamagedCheckpointError, load

__all__ = [
    "DamagedCheckpointError", "DetectorChoice", "FaceModel", "FaceScores", "NoFaceError", "align_photograph",
    "build_matcher", "build_occlusion_head", "describe", "load", "open_detector",
]  # fmt: skip
