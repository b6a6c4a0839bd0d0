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
    build_modulator,
    build_occlusion_head,
    describe,
    merge_adapters,
)
from models.fronts import Front, open_front
from models.gallery import Candidate, Found, Gallery
from models.loading import DamagedCheckpointError, load
from models.pictures import AS_GIVEN, Aligner
from models.quantization.cost import Cost, cost_of
from models.quantization.quantize import Quantization, quantize
from models.quantization.stored import save as save_quantized
from models.split_pairs import Plan

__all__ = [
    "AS_GIVEN", "Aligner", "Alignment", "Answer", "Calibration", "Candidate", "Cost", "DamagedCheckpointError",
    "DetectorChoice", "EmbedJob", "Embeddings", "Encoder", "FaceModel", "FaceScores", "Found", "Front", "Gallery",
    "Impostors", "NoFaceError", "Plan", "Point", "Quantization", "align_photograph", "aligner", "build_backbone",
    "build_matcher", "build_modulator", "build_occlusion_head", "calibrate", "cost_of", "describe", "embed", "load",
    "merge_adapters", "open_detector", "open_front", "quantize", "read_embeddings", "save_quantized",
]  # fmt: skip
