"""Networks that are ready to use: torch alone, no training."""

from models.alignment import Alignment, NoFaceError, align_photograph, aligner
from models.answers import Answer, Impostors
from models.calibration import Calibration, Point, calibrate
from models.detectors import DetectorChoice, open_detector
from models.embedding.embed import EmbedJob, Encoder, embed
from models.embedding.folder import Embeddings, read_embeddings
from models.face_model import (
    FaceModel,
    FaceScores,
    build_backbone,
    build_matcher,
    build_occlusion_head,
    describe,
    merge_adapters,
)
from models.fronts import Front, open_front
from models.gallery import Candidate, Found, Gallery
from models.loading import DamagedCheckpointError, load
from models.pictures import AS_GIVEN, Aligner
from models.split_pairs import Plan

__all__ = [
    "AS_GIVEN", "Aligner", "Alignment", "Answer", "Calibration", "Candidate", "DamagedCheckpointError",
    "DetectorChoice", "EmbedJob", "Embeddings", "Encoder", "FaceModel", "FaceScores", "Found", "Front", "Gallery",
    "Impostors", "NoFaceError", "Plan", "Point", "align_photograph", "aligner", "build_backbone", "build_matcher",
    "build_occlusion_head", "calibrate", "describe", "embed", "load", "merge_adapters", "open_detector", "open_front",
    "read_embeddings",
]  # fmt: skip
