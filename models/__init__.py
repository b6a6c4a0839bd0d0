"""Networks that are ready to use: torch alone, no training."""

from models.face_model import FaceModel, FaceScores, NetworkOptions, describe, unit_map
from models.loading import DamagedCheckpointError, load

__all__ = ["DamagedCheckpointError", "FaceModel", "FaceScores", "NetworkOptions", "describe", "load", "unit_map"]
