"""How many parameters each architecture has, and centers each head, written down apart from the code that builds it."""

from __future__ import annotations

# Of backbones with embeddings of 512 numbers, and of detectors. Buffers are not counted.
PARAMETERS = {
    "ir_18": 24_020_352,
    "ir_34": 34_134_080,
    "ir_50": 43_585_600,
    "ir_101": 65_150_912,
    "ir_se_18": 24_107_392,
    "ir_se_34": 34_291_264,
    "ir_se_50": 43_808_320,
    "ir_se_101": 65_523_136,
    "ir_tiny": 3_894_112,
    "mobilefacenet": 1_200_512,
    "edgeface_xxs": 1_244_744,
    "edgeface_xs": 2_242_620,
    "edgeface_xs_gamma_06": 1_770_492,
    "edgeface_s_gamma_05": 3_652_520,
    "edgeface_base": 18_225_812,
    "insightface_r18": 24_025_600,
    "insightface_r34": 34_139_328,
    "insightface_r50": 43_590_848,
    "insightface_r100": 65_156_160,
    "insightface_r200": 118_833_920,
    "retinaface_mnet025": 426_608,
    "featherface": 592_371,
    "featherface_v1": 489_015,
    "featherface_eca_cbam": 476_345,
    "featherface_v2": 254_472,
}
CENTERS = {"subcenter_arcface": 3}  # of a class, of the heads that have several
EMBEDDING_SIZE = 512  # as in most publications
