"""AdaFace: a margin that follows image quality, read off the length of the features."""

from __future__ import annotations

import torch
from torch import Tensor

from ops import gather, world_size

from .margin_head import MarginHead

NORM_RANGE = (1e-3, 100.0)


class AdaFace(MarginHead):
    """Quality-adaptive margin.

    With n the norm clamped to [1e-3, 100] and z = clip(h * (n - mean) / (std + eps), -1, 1), the true class gets
    s * (cos(theta - m * z) - m * (1 + z)), every other class s * cos(theta); angles are clamped to [eps, pi - eps].
    Norms are detached: quality steers the margin and receives no gradient. h = 0 is CosFace with margin m.

    State:
        batch_mean, batch_std: [1] float32, mean and unbiased standard deviation of the norms, starting at 20 and 100,
        or, for a net that was trained before, at those of its own norms (`start_from`).
        In training mode they move towards those of the batch at rate t_alpha before they are used; the batch is the
        global one when a process group is initialized, so ranks agree. In eval mode, or with a global batch of one,
        they stay (the authors' code moves them in eval too, and returns NaN for one).
    Reference: Kim, Jain, Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, arXiv:2204.00964,
        Sec. 3.
    """

    options = ("m", "h", "s", "t_alpha")
    can_split = True
    reads_norms = True
    eps = 1e-3
    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        m: float = 0.4,
        h: float = 0.333,
        s: float = 64.0,
        t_alpha: float = 0.01,
    ) -> None:
        super().__init__(embedding_size, num_classes, m, s)
        if not h >= 0:
            raise ValueError(f"AdaFace: h must be at least 0, got {h}")
        if not 0 <= t_alpha <= 1:
            raise ValueError(f"AdaFace: t_alpha must be in [0, 1], got {t_alpha}")
        self.h = h
        self.t_alpha = t_alpha
        self.register_buffer("batch_mean", torch.full((1,), 20.0))
        self.register_buffer("batch_std", torch.full((1,), 100.0))

    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta - m * z) - m * (1 + z)."""
        z = (self.h * (norms.clamp(*NORM_RANGE) - self.batch_mean) / (self.batch_std + self.eps)).clamp(-1, 1)
        m = self.effective_margin()
        return self.add_angle(cosine, -m * z) - (m + m * z)

    @torch.no_grad()
    def start_from(self, norms: Tensor) -> str:
        """Take mean and unbiased standard deviation of the norms [N, 1], clamped as in training.

        From 20 and 100 it takes hundreds of steps at t_alpha = 0.01 to arrive at a net whose norms are 2, and so long
        z is the same negative number for all images: the margin follows no quality.

        Raises:
            ValueError: as `Head.start_from` says.
        """
        super().start_from(norms)
        std, mean = torch.std_mean(norms.double().clamp(*NORM_RANGE))
        self.batch_mean.fill_(mean)
        self.batch_std.fill_(std)
        return f"AdaFace's statistics start at mean {mean:.4g}, standard deviation {std:.4g}"

    @torch.no_grad()
    def follow(self, norms: Tensor) -> None:
        """Move the statistics towards those of the global batch, of which `norms` [B, 1] are this rank's."""
        if world_size() == 1 and len(norms) < 2:
            return
        count, mean, std = _mean_std(norms.clamp(*NORM_RANGE))
        for statistic, value in ((self.batch_mean, mean), (self.batch_std, std)):
            # Without a host that waits for the count: with several data sets a batch may hold few of one.
            statistic.copy_(torch.where(count < 2, statistic, statistic * (1 - self.t_alpha) + self.t_alpha * value))


def _mean_std(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return count, mean and unbiased standard deviation, scalars, of the values [B, 1] of all ranks together.

    Ranks exchange their count, mean and sum of squared deviations, which are then merged: sums of squares would
    cancel when the norms hardly vary.
    """
    mean = values.mean() if len(values) else values.new_zeros(())
    part = torch.stack([torch.full_like(mean, values.numel()), mean, (values - mean).square().sum()])
    counts, means, squares = gather(part[None]).unbind(1)
    mean = (counts * means).sum() / counts.sum()
    squared_deviations = squares.sum() + (counts * (means - mean).square()).sum()
    return counts.sum(), mean, (squared_deviations / (counts.sum() - 1)).sqrt()
