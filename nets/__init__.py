"""Backbones, the occlusion heads, detectors, and reading weights."""

from .backbone import Backbone, Features
from .detectors import (
    DETECTORS,
    Detections,
    Detector,
    DetectorForm,
    build_detector,
    detector_input,
    load_detector,
)
from .files.weight_file import WeightFile, check_is_file, read_content, read_state_dict
from .front import FRONTS, front_of
from .lora import LoraForm, add_lora, is_adapter, lora_parameters, merge_lora, merged_state, set_quality
from .modulator import COVARIATES, Modulator, join_covariates
from .occlusion import AnyOcclusionHead, FineOcclusionHead, OcclusionHead, PyramidOcclusionHead, pooled, see
from .quality import image_quality
from .registry import MODELS, build_model
from .weights import ENCODERS, backbone_state, infer_arch, infer_embedding_size, load_weights, nearest_arch, plain_state

__all__ = [
    "COVARIATES",
    "DETECTORS",
    "ENCODERS",
    "FRONTS",
    "MODELS",
    "AnyOcclusionHead",
    "Backbone",
    "Detections",
    "Detector",
    "DetectorForm",
    "Features",
    "FineOcclusionHead",
    "LoraForm",
    "Modulator",
    "OcclusionHead",
    "PyramidOcclusionHead",
    "WeightFile",
    "add_lora",
    "backbone_state",
    "build_detector",
    "build_model",
    "check_is_file",
    "detector_input",
    "front_of",
    "image_quality",
    "infer_arch",
    "infer_embedding_size",
    "is_adapter",
    "join_covariates",
    "load_detector",
    "load_weights",
    "lora_parameters",
    "merge_lora",
    "merged_state",
    "nearest_arch",
    "plain_state",
    "pooled",
    "read_content",
    "read_state_dict",
    "see",
    "set_quality",
]
