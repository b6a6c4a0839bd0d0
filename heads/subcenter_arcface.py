"""Sub-center ArcFace: several weights a class, of which the nearest counts."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from .margin_head import MarginHead


class SubcenterArcFace(MarginHead):
    """ArcFace on the greatest of the cosines with a class's K sub-centers: noisy images find one of their own.

    Attributes:
        kernel: [embedding_size, num_classes * K]; the K sub-centers of a class lie side by side.
    Reference: Deng, Guo, Liu, Gong, Zafeiriou, "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
        Faces", ECCV 2020, Sec. 3; K = 3.
    """

    options = ("m", "s", "num_centers")
    num_centers = 3
    eps = 1e-4

    def __init__(
        self, embedding_size: int, num_classes: int, m: float = 0.5, s: float = 64.0, num_centers: int = 3
    ) -> None:
        super().__init__(embedding_size, num_classes, m, s, num_centers)

    def add_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + m); the norms have no part in it."""
        return self.add_angle(cosine, self.effective_margin())

    def class_cosines(self, embeddings: Tensor, kernel: Tensor) -> Tensor:
        """Return the greatest cosine of each class's sub-centers, [B, num_classes]."""
        cosine = super().class_cosines(embeddings, kernel)
        return cosine.unflatten(1, (-1, self.num_centers)).amax(2)

    def class_weights(self) -> Tensor:
        """Return the mean of each class's unit sub-centers, [D, num_classes]."""
        return functional.normalize(self.kernel.detach(), dim=0).unflatten(1, (-1, self.num_centers)).mean(2)
