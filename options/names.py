"""The names that options choose from, and the ranges of numbers; a test compares the names with the registries."""

from __future__ import annotations

ARCHS = (
    "ir_tiny", "ir_18", "ir_34", "ir_50", "ir_101", "ir_se_18", "ir_se_34", "ir_se_50", "ir_se_101", "mobilefacenet",
)  # fmt: skip
SPLIT_HEADS = ("adaface", "arcface", "cosface")  # those that --partial_fc_rate can split over ranks
HEADS = (*SPLIT_HEADS, "curricularface", "magface", "subcenter_arcface")
OPTIMIZERS = ("sgd", "adamw")
LR_SCHEDULES = ("multistep", "cosine")
EPOCH_UNITS = ("images", "identities")
SAMPLERS = ("pk", "graph")
QACONV_SCORES = ("bn_fc", "weighted")
OCCLUSION_METHODS = ("none", "scaling", "masking")
PAIRWISE_REDUCTIONS = ("ranking", "balanced", "mean", "row_sum")
MAP_DTYPES = ("float32", "float16", "int8")
OCCLUDERS = ("surgical", "cloth", "respirator", "niqab", "scarf", "sunglasses", "cap", "fringe", "hand", "block")
COLOR_SPACES = ("rgb", "bgr")
BACKENDS = ("ddp", "dp", "ddp2")
WANDB_MODES = ("online", "offline", "disabled")
IMAGES_PER_IDENTITY = 4  # in a batch: the K of the PK sampler
AUTO = "auto"
TEST_RUN_BATCHES = 50  # of an epoch with --test_run
MS1MV2_SUBSET = "assets/ms1mv2_train_subset_index.txt"

COUNT = "[1, inf)"
POSITIVE = "(0, inf)"
NOT_NEGATIVE = "[0, inf)"
SHARE = "[0, 1]"
SEEDS = "[0, 4294967295]"
