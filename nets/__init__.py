"""Backbones, the occlusion head, and reading weights."""

from .backbone import Backbone, Features, FineOcclusionHead, OcclusionHead, see
from .registry import MODELS, build_model
from .weight_file import WeightFile, check_is_file, read_content, read_state_dict
from .weights import ENCODERS, backbone_state, infer_arch, infer_embedding_size, load_weights

__all__ = [
    "ENCODERS",
    "MODELS",
    "Backbone",
    "Features",
    "FineOcclusionHead",
    "OcclusionHead",
    "WeightFile",
    "backbone_state",
    "build_model",
    "check_is_file",
    "infer_arch",
    "infer_embedding_size",
    "load_weights",
    "read_content",
    "read_state_dict",
    "see",
]
