"""CosFace: a margin on the cosine."""

from __future__ import annotations

from torch import Tensor

from .margin_head import MarginHead


class CosFace(MarginHead):
    """True class: s * (cos(theta) - m); every other class: s * cos(theta).

    Reference: Wang et al., "CosFace", CVPR 2018, arXiv:1801.09414, Eq. 4.
    """

    can_split = True
    eps = 1e-4

    def __init__(self, embedding_size: int, num_classes: int, m: float = 0.4, s: float = 64.0) -> None:
        super().__init__(embedding_size, num_classes, m, s)

    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta) - m; the norms have no part in it."""
        return cosine - self.effective_margin()
