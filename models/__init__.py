"""Networks that are ready to use: torch alone, no training."""

from models.face_model import FaceModel, FaceScores, build_matcher, build_occlusion_head, describe
from models.loading import DamagedCheckpointError, load

__all__ = [
    "DamagedCheckpointError", "FaceModel", "FaceScores", "build_matcher", "build_occlusion_head", "describe", "load",
]  # fmt: skip
