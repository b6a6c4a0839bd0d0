"""CurricularFace: an angular margin, and hard negatives that weigh more as training goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from ops import gather

from .margin_head import MarginHead


class CurricularFace(MarginHead):
    """True class: s * cos(theta + m), as in ArcFace; a hard negative: s * cos(theta_j) * (t + cos(theta_j)).

    A negative is hard where cos(theta_j) > cos(theta + m); an easy one stays s * cos(theta_j). The angle with the
    margin is clamped to [eps, pi - eps]; the authors' code goes on with cos(theta) - m * sin(m) beyond pi.

    State:
        t: [1] float32, the running mean of the true classes' cosines, starting at 0. In training mode it moves towards
            the mean of the batch at rate t_alpha before it is used; the batch is the global one when a process group is
            initialized, so ranks agree. In eval mode it stays. It receives no gradient. 0.01 is the rate
            of the authors' code.
    Reference: Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition", CVPR 2020,
        arXiv:2004.00288, Sec. 3.
    """

    options = ("m", "s", "t_alpha")
    eps = 1e-4
    t: Tensor

    def __init__(
        self, embedding_size: int, num_classes: int, m: float = 0.5, s: float = 64.0, t_alpha: float = 0.01
    ) -> None:
        super().__init__(embedding_size, num_classes, m, s)
        if not 0 <= t_alpha <= 1:
            raise ValueError(f"CurricularFace: t_alpha must be in [0, 1], got {t_alpha}")
        self.t_alpha = t_alpha
        self.register_buffer("t", torch.zeros(1))

    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + m); the norms have no part in it."""
        return self.add_angle(cosine, self.effective_margin())

    def reweigh(self, cosine: Tensor, target: Tensor) -> Tensor:
        """Return cos * (t + cos) where it is above the true class's cosine with the margin."""
        return torch.where(cosine > target, cosine * (self.t + cosine), cosine)

    @torch.no_grad()
    def follow_cosines(self, cosine: Tensor) -> None:
        """Move t towards the mean over the global batch, of which `cosine` [B, 1] is this rank's part."""
        sums, counts = gather(torch.stack([cosine.sum(), cosine.new_tensor(cosine.numel())])[None]).unbind(1)
        moved = (1 - self.t_alpha) * self.t + self.t_alpha * sums.sum() / counts.sum()
        self.t.copy_(torch.where(counts.sum() > 0, moved, self.t))
