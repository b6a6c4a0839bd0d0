"""What a trainer asks of a head, whole or split over ranks, and the options of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Embedded(Protocol):
    """A batch as a net describes it: `nets.Features` is one."""

    @property
    def embedding(self) -> Tensor:
        """[B, D] floating, unit L2 norm."""

    @property
    def norm(self) -> Tensor:
        """[B, 1] floating, L2 norms before normalizing."""


class HeadLoss(NamedTuple):
    """Means over a batch, scalars: of this rank's samples, or of all ranks' where the head is split over them."""

    loss: Tensor
    accuracy: Tensor  # share of the samples whose true class came first, among the classes that took part


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What heads can be told; each takes those that its `options` name. None is the published value.

    Args:
        m: margin.
        h: AdaFace's concentration.
        s: scale of the cosines.
        t_alpha: rate at which running statistics follow the batch: AdaFace's of norms, CurricularFace's of cosines.
        lambda_g: weight of MagFace's regularizer.
        num_centers: sub-centers of a class.
    """

    m: float | None = None
    h: float | None = None
    s: float = 64.0
    t_alpha: float = 0.01
    lambda_g: float | None = None
    num_centers: int | None = None


class Head(nn.Module, ABC):
    """A loss over identities, with class weights.

    Attributes:
        margin_scale: factor in [0, 1] on the margin, for ramping it up in early training.
        reads_norms: whether anything of it depends on the norms.
        set_weight: what its mean loss weighs among those of several data sets.
        class_shares: [num_classes] floating, share of each class in the training images; None: not known.
    """

    margin_scale: float
    reads_norms: bool = False
    set_weight: float = 1.0
    class_shares: Tensor | None = None

    @abstractmethod
    def loss(self, features: Embedded, labels: Tensor, step: int) -> HeadLoss:
        """Return loss and accuracy of a batch; with a head that is split, all ranks must call it together.

        Args:
            features: embeddings [B, D] and norms [B, 1].
            labels: [B] int64 in [0, num_classes).
            step: the number of updates before the batch; a head that samples classes draws them by it.
        Raises:
            ValueError, TypeError: if shapes or dtypes disagree.
        """

    @abstractmethod
    def class_weights(self) -> Tensor:
        """Return one direction a class, [D, num_classes], not normalized and without gradient, on the head's device.

        With a head that is split, all ranks must call it together, and each receives all classes.
        """

    @abstractmethod
    def start_from(self, norms: Tensor) -> str:
        """Take the norms that a loaded net gives for the running statistics to start from, where a head has any.

        Args:
            norms: [N, 1] floating, L2 lengths before normalizing, N >= 2: of images of the data, the same on all ranks.
        Returns:
            A few words on what follows from them for this head; "": nothing.
        Raises:
            ValueError: if the shape is another or a norm is not finite.
        """

    @abstractmethod
    def start_from_means(self, means: Tensor) -> None:
        """Let each class's weight begin as the direction of its mean embedding.

        Args:
            means: [num_classes, embedding_size] floating, of any length; a class whose mean is 0, for there is no image
                of it, keeps the direction that was drawn.
        Raises:
            ValueError: if the shape is another or a number is not finite.
        """
