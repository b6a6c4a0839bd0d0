"""What the margin heads share: class weights, the cosine, the checks. A head adds its margin."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .head import Embedded, Head, HeadLoss

CENTER_SPREAD = 0.1  # between the weights of a class that begin at its mean


def unit_means(means: Tensor, shape: tuple[int, int], name: str) -> Tensor:
    """Return the directions of class means, zero where a mean is zero.

    Raises:
        ValueError: if the shape is another or a number is not finite.
    """
    if means.shape != shape:
        raise ValueError(f"{name}.start_from_means: means must be {[*shape]}, a class a row, got {[*means.shape]}")
    if not means.isfinite().all():
        raise ValueError(f"{name}.start_from_means: means must be finite; see what the loaded net gives")
    return functional.normalize(means, dim=1)


class MarginHead(Head):
    """Scaled cosines between embeddings and class weights, with a margin on each sample's true class.

    A head gives `add_margin`. One that does more overrides `class_cosines` (several weights a class), `reweigh`
    (negatives) or `extra_loss` (a term beside the cross entropy), and cannot be split over ranks.

    Attributes:
        kernel: [embedding_size, num_classes], a class per column; columns are normalized in `forward`.
        margin_scale: factor in [0, 1] on m, for ramping the margin up in early training. It belongs to the schedule,
            not to the model: it is not saved, and 1 gives exactly the published formula.
    """

    options: ClassVar[tuple[str, ...]] = ("m", "s")
    can_split: ClassVar[bool] = False  # whether PartialFC can hold it: it adds a margin, and nothing else
    norm_gradient: ClassVar[bool] = False  # whether the margin's dependence on the norms is trained
    num_centers: int = 1  # weights of a class, side by side in the kernel
    eps: ClassVar[float]

    def __init__(self, embedding_size: int, num_classes: int, m: float, s: float, num_centers: int = 1) -> None:
        super().__init__()
        sizes = {"embedding_size": embedding_size, "num_classes": num_classes, "num_centers": num_centers}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 1, got {value}")
        if not m >= 0:
            raise ValueError(f"{type(self).__name__}: m must be at least 0, got {m}")
        if not s > 0:
            raise ValueError(f"{type(self).__name__}: s must be positive, got {s}")
        self.m = m
        self.s = s
        self.margin_scale = 1.0
        self.num_centers = num_centers
        directions = torch.empty(embedding_size, num_classes * num_centers).uniform_(-1, 1)
        self.kernel = nn.Parameter(functional.normalize(directions, dim=0))

    def forward(self, embeddings: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """Return s * cosine for every class, with the head's margin at the true one.

        Cosines are clamped to [-1 + eps, 1 - eps].

        Args:
            embeddings: [B, embedding_size] floating, unit L2 norm along D (the caller's duty, not checked).
            norms: [B, 1] floating, L2 norms before normalizing.
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
            cosine = self.class_cosines(embeddings.to(dtype), self.kernel.to(dtype))
            cosine = cosine.clamp(-1 + self.eps, 1 - self.eps)
            index, norms = labels[:, None], (norms if self.norm_gradient else norms.detach()).to(dtype)
            true = cosine.gather(1, index)
            if self.training:
                self.follow(norms)
                self.follow_cosines(true)
            target = self.add_margin(true, norms)
            return self.reweigh(cosine, target).scatter(1, index, target) * self.s

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return s * cosine for every class, without margin: what the head thinks of images, whoever they show.

        Args:
            embeddings: [B, embedding_size] floating, unit L2 norm along D.
        Returns:
            [B, num_classes], at least float32 under any autocast.
        """
        dtype = torch.promote_types(torch.promote_types(embeddings.dtype, self.kernel.dtype), torch.float32)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.s * self.class_cosines(embeddings.to(dtype), self.kernel.to(dtype))

    def loss(self, features: Embedded, labels: Tensor, step: int) -> HeadLoss:
        """Return cross entropy, the extra loss included, and accuracy of this rank's batch; the step does not matter.

        Of an empty batch both are 0: a data set of several may have no image in this rank's batch.

        Raises:
            ValueError, TypeError: as `forward` says.
        """
        logits = self(features.embedding, features.norm, labels)
        if not len(labels):
            return HeadLoss(logits.sum(), logits.new_zeros(()))  # 0, with a gradient of 0
        loss, extra = functional.cross_entropy(logits, labels), self.extra_loss(features.norm)
        return HeadLoss(loss if extra is None else loss + extra, (logits.argmax(1) == labels).float().mean())

    def start_from(self, norms: Tensor) -> str:
        """Check the norms [N, 1]; there is nothing that starts from them.

        Raises:
            ValueError: as `Head.start_from` says.
        """
        if norms.ndim != 2 or norms.shape[1] != 1 or len(norms) < 2:
            raise ValueError(f"{type(self).__name__}.start_from: norms must be [N, 1], N >= 2, got {[*norms.shape]}")
        if not norms.isfinite().all():
            raise ValueError(f"{type(self).__name__}.start_from: norms must be finite; see what the loaded net gives")
        return ""

    @torch.no_grad()
    def start_from_means(self, means: Tensor) -> None:
        """Let each class's weight begin as its mean embedding; of several weights, near it.

        Centers that are the same would stay so, as they would share every gradient: each keeps a tenth of the direction
        that was drawn for it.

        Raises:
            ValueError: as `Head.start_from_means` says.
        """
        size, count = self.kernel.shape[0], self.kernel.shape[1] // self.num_centers
        means = unit_means(means, (count, size), type(self).__name__).to(self.kernel)
        centers = means.T.repeat_interleave(self.num_centers, dim=1)
        has_images = centers.any(dim=0)
        if self.num_centers > 1:
            centers = functional.normalize(centers + CENTER_SPREAD * functional.normalize(self.kernel, dim=0), dim=0)
        self.kernel.copy_(torch.where(has_images, centers, self.kernel))

    def class_weights(self) -> Tensor:
        """Return the kernel, without gradient."""
        return self.kernel.detach()

    def class_cosines(self, embeddings: Tensor, kernel: Tensor) -> Tensor:
        """Return the cosines [B, num_classes] of unit embeddings [B, D] with the classes."""
        return embeddings @ functional.normalize(kernel, dim=0)

    def reweigh(self, cosine: Tensor, target: Tensor) -> Tensor:
        """Return the cosines [B, num_classes], changed where a head reweights negatives.

        Args:
            cosine: [B, num_classes], clamped. What is returned for the true classes is not used.
            target: [B, 1], the true classes' cosines with the margin.
        """
        return cosine

    def extra_loss(self, norms: Tensor) -> Tensor | None:
        """Return a scalar term that a head adds to the cross entropy, from the norms [B, 1]; None: there is none."""
        return None

    def follow(self, norms: Tensor) -> None:
        """Take the norms [B, 1] of this rank's batch into the running statistics, where a margin has any."""

    def follow_cosines(self, cosine: Tensor) -> None:
        """Take the true classes' cosines [B, 1], without margin, likewise."""

    @abstractmethod
    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return the true classes' cosines with the margin, [B, 1], from clamped cosines and norms [B, 1].

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
