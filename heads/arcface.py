"""ArcFace: a margin on the angle."""

from __future__ import annotations

from torch import Tensor

from .margin_head import MarginHead


class ArcFace(MarginHead):
    """True class: s * cos(theta + m), the angle clamped to [eps, pi - eps]; every other class: s * cos(theta).

    Reference: Deng, Guo, Xue, Zafeiriou, "ArcFace", CVPR 2019, arXiv:1801.07698, Eq. 3.
    """

    can_split = True
    eps = 1e-4

    def __init__(self, embedding_size: int, num_classes: int, m: float = 0.5, s: float = 64.0) -> None:
        super().__init__(embedding_size, num_classes, m, s)

    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + m); the norms have no part in it."""
        return self.add_angle(cosine, self.effective_margin())
