"""What the margin heads share: class weights, the cosine, the checks. A head adds its margin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class MarginHead(nn.Module, ABC):
    """Scaled cosines between embeddings and class weights, with a margin on each sample's true class.

    Attributes:
        kernel: [embedding_size, num_classes], a class per column; columns are normalised in `forward`.
        margin_scale: factor in [0, 1] on m, for ramping the margin up in early training. It belongs to the schedule,
            not to the model: it is not saved, and 1 gives exactly the published formula.
    """

    options: ClassVar[tuple[str, ...]] = ("m", "s")
    eps: ClassVar[float]

    def __init__(self, embedding_size: int, num_classes: int, m: float, s: float) -> None:
        super().__init__()
        for name, value in {"embedding_size": embedding_size, "num_classes": num_classes}.items():
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 1, got {value}")
        if not m >= 0:
            raise ValueError(f"{type(self).__name__}: m must be at least 0, got {m}")
        if not s > 0:
            raise ValueError(f"{type(self).__name__}: s must be positive, got {s}")
        self.m = m
        self.s = s
        self.margin_scale = 1.0
        directions = torch.empty(embedding_size, num_classes).uniform_(-1, 1)
        self.kernel = nn.Parameter(functional.normalize(directions, dim=0))

    def forward(self, embeddings: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """Return s * cosine for every class, with the head's margin at the true one.

        Cosines are clamped to [-1 + eps, 1 - eps].

        Args:
            embeddings: [B, embedding_size] floating, unit L2 norm along D (the caller's duty, not checked).
            norms: [B, 1] floating, L2 norms before normalising.
            labels: [B] int64 in [0, num_classes). The range is checked when the data module is built.
        Returns:
            [B, num_classes] float32 under any autocast; float64 where embeddings or kernel are.
        Raises:
            ValueError: if shapes disagree. norms of shape [B] are refused: they could broadcast over classes.
            TypeError: if labels are not int64 or embeddings not floating.
        """
        self.check(embeddings, norms, labels, self.kernel.shape[0])
        dtype = torch.promote_types(torch.promote_types(embeddings.dtype, self.kernel.dtype), torch.float32)
        # Without this, autocast would run the product in half precision: too coarse for acos near 1.
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = embeddings.to(dtype) @ functional.normalize(self.kernel.to(dtype), dim=0)
            cosine = cosine.clamp(-1 + self.eps, 1 - self.eps)
            index, norms = labels[:, None], norms.detach().to(dtype)
            if self.training:
                self.follow(norms)
            target = self.add_margin(cosine.gather(1, index), norms)
            return cosine.scatter(1, index, target) * self.s

    def follow(self, norms: Tensor) -> None:
        """Take the norms [B, 1] of this rank's batch into the running statistics, where a margin has any."""

    @abstractmethod
    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return the true classes' cosines with the margin, [B, 1], from clamped cosines and detached norms [B, 1].

        Row by row, and without any change of state: the rows may be those of several ranks.
        """

    def effective_margin(self) -> float:
        """Return m as ramped by `margin_scale`."""
        return self.m * self.margin_scale

    def add_angle(self, cosine: Tensor, angle: float | Tensor) -> Tensor:
        """Return cos(acos(cosine) + angle), the sum of angles clamped to [eps, pi - eps]."""
        return (cosine.acos() + angle).clamp(self.eps, torch.pi - self.eps).cos()

    def check(self, embeddings: Tensor, norms: Tensor, labels: Tensor, size: int) -> None:
        """Refuse what `forward` does not take; `size` is the length of an embedding.

        Raises:
            ValueError, TypeError: as `forward` says.
        """
        place = f"{type(self).__name__}.forward"
        if not embeddings.is_floating_point():
            raise TypeError(f"{place}: embeddings must be floating, got {embeddings.dtype}")
        if labels.dtype != torch.int64:
            raise TypeError(f"{place}: labels must be int64, got {labels.dtype}; convert with labels.long()")
        if embeddings.ndim != 2 or embeddings.shape[1] != size:
            raise ValueError(f"{place}: embeddings must be [B, {size}], got {list(embeddings.shape)}")
        batch = embeddings.shape[0]
        if norms.shape != (batch, 1):
            raise ValueError(
                f"{place}: norms must be [B, 1] to match embeddings {list(embeddings.shape)}, got {list(norms.shape)}; "
                "pass Features.norm as the net returns it"
            )
        if labels.shape != (batch,):
            raise ValueError(
                f"{place}: labels must be [B] to match embeddings {list(embeddings.shape)}, got {list(labels.shape)}"
            )
