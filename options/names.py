"""The names that options choose from, and the ranges of numbers; nothing that they stand for is imported here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ARCHS = (
    "ir_tiny", "ir_18", "ir_34", "ir_50", "ir_101", "ir_se_18", "ir_se_34", "ir_se_50", "ir_se_101", "mobilefacenet",
    "edgeface_xxs", "edgeface_xs", "edgeface_xs_gamma_06", "edgeface_s_gamma_05", "edgeface_base",
    "insightface_r18", "insightface_r34", "insightface_r50", "insightface_r100", "insightface_r200",
)  # fmt: skip
DETECTORS = (
    "retinaface_mnet025", "featherface", "featherface_v1", "featherface_eca_cbam", "featherface_v2",
)  # fmt: skip
# One line registers a margin head, a pairwise loss or a source of training images: what the flag calls it, and where
# it is.
HEADS = {
    "adaface": "heads.adaface:AdaFace",
    "arcface": "heads.arcface:ArcFace",
    "cosface": "heads.cosface:CosFace",
    "curricularface": "heads.curricularface:CurricularFace",
    "magface": "heads.magface:MagFace",
    "subcenter_arcface": "heads.subcenter_arcface:SubcenterArcFace",
}
CLASS_MEANS = "class_means"
HEAD_STARTS = ("random", CLASS_MEANS)
OCCLUSION_HEADS = ("plain", "fine", "pyramid")
OCCLUSION_LOSSES = {
    "mse": "losses.recognition:occlusion_loss",
    "bce": "losses.recognition:occlusion_cross_entropy",
    "dice": "losses.recognition:occlusion_dice",
}
PAIRWISE_REDUCTIONS = {
    "ranking": "losses.recognition:ranking_pairwise_loss",
    "balanced": "losses.recognition:balanced_pairwise_loss",
    "mean": "losses.recognition:mean_pairwise_loss",
    "row_sum": "losses.recognition:pairwise_matching_loss",
}
PAIRS = "pairs"
SOURCES = {
    "folder": "datasets.faces.image_folder:ImageFolderDataset",
    "records": "datasets.records.dataset:RecordDataset",
    "arrays": "datasets.arrays.dataset:ArrayDataset",
    PAIRS: "datasets.paired.dataset:PairedFaces",
}
VIEWS = ("lr", "hr", "both")
DEGRADATIONS = ("first_order", "second_order")
SPLIT_HEADS = ("adaface", "arcface", "cosface")  # those that --partial_fc_rate can split over ranks
OPTIMIZERS = ("sgd", "adamw")
LR_SCHEDULES = ("multistep", "cosine", "onecycle")
EPOCH_UNITS = ("images", "identities")
DIVISIONS = ("random", "stratified")  # into training and held-out people; runs before the second state none
NO_CURRICULUM = "none"
TOLD_CURRICULA = ("visible", "norm", "loss")  # by what --difficulty tells; others are measured
CURRICULA = (NO_CURRICULUM, "resolution", "contrast", *TOLD_CURRICULA)
SAMPLERS = ("pk", "graph", "shuffle")
QACONV_SCORES = ("bn_fc", "weighted")
OCCLUSION_METHODS = ("none", "scaling", "masking")
SCORE_NORMALIZATIONS = ("visibility", "none")
CLUSTER_METHODS = ("auto", "exact", "lists", "faiss")
COVARIATES = ("quality", "visible", "resolution", "dataset")  # of a modulator
MAP_DTYPES = ("float32", "float16", "int8")
OCCLUDERS = ("surgical", "cloth", "respirator", "niqab", "scarf", "sunglasses", "cap", "fringe", "hand", "block")
ALIGNMENTS = ("auto", "yes", "no")
ALIGN_HELP = "whether a folder of people is aligned first; auto: if a sample of it shows photographs"
FINDER_HELP = (
    "what finds faces: mtcnn, which is embedded; yunet, once `fetch yunet` got it; a file of it; weights of a"
    " RetinaFace or FeatherFace (.pth, .pt, .ckpt, .safetensors)"
)
DETECTOR_HELP = f"{FINDER_HELP}; or points in a table"
COLOR_SPACES = ("rgb", "bgr")
ENCODERS = ("query", "key")
ENCODER_HELP = "of a pretraining's checkpoint, which of the two; else query"
BACKENDS = ("ddp", "dp", "ddp2")
WANDB_MODES = ("online", "offline", "disabled")
IMAGES_PER_IDENTITY = 4  # in a batch: the K of the PK sampler
ONLY_DATASET = "0"  # the name of a data set that has none, because it is the only one
AUTO = "auto"
NO_METRIC = "none"  # of --monitor: nothing is chosen
TEST_RUN_BATCHES = 50  # of an epoch with --test_run
MS1MV2_SUBSET = "assets/ms1mv2_train_subset_index.txt"

COUNT = "[1, inf)"
POSITIVE = "(0, inf)"
NOT_NEGATIVE = "[0, inf)"
SHARE = "[0, 1]"
SEEDS = "[0, 4294967295]"


def registered(place: str) -> Any:
    """Return what "package.module:name" stands for."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
