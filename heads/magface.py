"""MagFace: a margin that grows with the length of the features, and a term that rewards length."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .margin_head import MarginHead

MANY = 0.5  # share of the norms outside of the bounds from which on it is said


class MagFace(MarginHead):
    """True class: s * cos(theta + m(a)), with a the norm clamped to [l_a, u_a]; every other class: s * cos(theta).

    m(a) rises linearly from 9/16 of m at l_a = 10 to m at u_a = 110: from 0.45 to 0.8, the authors' values. The loss
    has the term lambda_g * mean(a / u_a^2 + 1 / a). Margin and term are trained through the norms, which get no
    gradient out of the bounds. The angle with the margin is clamped to [eps, pi - eps], as in ArcFace; the authors'
    code treats angles beyond pi otherwise.

    Args:
        m: the margin at u_a; `margin_scale` acts on both ends.
        lambda_g: weight of the term; at least 0.
    Reference: Meng, Zhao, Huang, Zhou, "MagFace: A Universal Representation for Face Recognition and Quality
        Assessment", CVPR 2021, arXiv:2103.06627, Sec. 3.
    """

    options = ("m", "s", "lambda_g")
    norm_gradient = True
    reads_norms = True
    eps = 1e-4
    bounds: ClassVar[tuple[float, float]] = (10.0, 110.0)
    least_share: ClassVar[float] = 0.45 / 0.8

    def __init__(
        self, embedding_size: int, num_classes: int, m: float = 0.8, s: float = 64.0, lambda_g: float = 35.0
    ) -> None:
        super().__init__(embedding_size, num_classes, m, s)
        if not lambda_g >= 0:
            raise ValueError(f"MagFace: lambda_g must be at least 0, got {lambda_g}")
        self.lambda_g = lambda_g

    def start_from(self, norms: Tensor) -> str:
        """Say whether the norms [N, 1] are in the bounds, which stay: they, m and lambda_g belong together.

        Outside of them the margin is the same for all images and the norms get no gradient, so that they do not come
        back by themselves: the head is ArcFace then. Of what a loaded net gives nothing is scaled to fit.

        Raises:
            ValueError: as `Head.start_from` says.
        """
        super().start_from(norms)
        least, most = self.bounds
        outside = ((norms < least) | (norms > most)).double().mean().item()
        if outside < MANY:
            return ""
        return (
            f"{outside:.0%} of them are outside of MagFace's bounds [{least:g}, {most:g}], where its margin follows no"
            " norm and trains none; take --head adaface or arcface with this net"
        )

    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + m(a))."""
        least, most = self.bounds
        place = (norms.clamp(least, most) - least) / (most - least)
        return self.add_angle(cosine, self.effective_margin() * (self.least_share + (1 - self.least_share) * place))

    def extra_loss(self, norms: Tensor) -> Tensor:
        """Return lambda_g * mean(a / u_a^2 + 1 / a), least at a = u_a."""
        a = norms.to(torch.promote_types(norms.dtype, torch.float32)).clamp(*self.bounds)
        return self.lambda_g * (a / self.bounds[1] ** 2 + 1 / a).mean()
