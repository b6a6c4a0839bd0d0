"""How visibility enters the correlation: one function per occlusion method.

With the cosine S(s, r) of probe cell s and gallery cell r, and visibilities v_p(s), v_g(r) in [0, 1]:

- none: S(s, r).
- scaling: v_p(s) v_g(r) S(s, r) before the max. The weights are separable, so the features are scaled. The product of
  a hidden cell is 0 whatever its features are, but 0 can win a max over negative similarities.
- masking: a cell with v below a threshold is hidden, -inf in every max. A visible one weighs by v in the sum over
  cells, which is renormalized by what is visible: the threshold has no gradient, the weights have. A cell sees far
  beyond its own square of the image, so one that is mostly covered still says something of the face around it.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from qaconv.blocks import Maps

VISIBLE_FROM = 0.5  # unless the matcher is told another threshold


class Cells(NamedTuple):
    """One side of a match with its visibility applied."""

    maps: Maps  # features [L, A, K, C] and, with "masking", hidden [L, A, K]
    visibility: Tensor | None  # [L, A, K] in the features' dtype, 0 where hidden; None: all visible

    @property
    def weighs_sum(self) -> bool:
        """Whether visibility still has to weigh the sum over cells (otherwise the features carry it)."""
        return self.maps.hidden is not None


def _ignore(features: Tensor, visibility: Tensor, visible_from: float) -> Cells:
    return Cells(Maps(features, None), None)


def _scale(features: Tensor, visibility: Tensor, visible_from: float) -> Cells:
    return Cells(Maps(features * visibility[..., None], None), visibility)


def _mask(features: Tensor, visibility: Tensor, visible_from: float) -> Cells:
    hidden = visibility < visible_from
    return Cells(Maps(features, hidden), visibility.masked_fill(hidden, 0))


# (features [L, A, K, C], visibility [L, A, K] in the same dtype, threshold of masking) -> Cells
OCCLUSION_METHODS: dict[str, Callable[[Tensor, Tensor, float], Cells]] = {
    "none": _ignore,
    "scaling": _scale,
    "masking": _mask,
}
