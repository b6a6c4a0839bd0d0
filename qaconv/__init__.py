"""Query-adaptive convolution: the local matcher of feature maps, with occlusion weighting."""

from qaconv.matcher import SCORES, QAConv, mutual_cells
from qaconv.occlusion import OCCLUSION_METHODS

__all__ = ["OCCLUSION_METHODS", "SCORES", "QAConv", "mutual_cells"]
