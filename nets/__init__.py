"""Backbones, the occlusion head, and reading weights."""

from .backbone import Backbone
from .features import Features
from .occlusion_head import OcclusionHead
from .registry import MODELS, build_model
from .weight_file import WeightFile, read_state_dict
from .weights import infer_arch, infer_embedding_size, load_weights

__all__ = [
    "MODELS",
    "Backbone",
    "Features",
    "OcclusionHead",
    "WeightFile",
    "build_model",
    "infer_arch",
    "infer_embedding_size",
    "load_weights",
    "read_state_dict",
]
