"""Supervision of predicted visibility by true masks."""

from torch import Tensor

from ops import at_least_float32


def occlusion_loss(visibility: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of predicted visibility.

    Args:
        visibility: [B, 1, h, w] floating in [0, 1], 1 = visible.
        target: [B, 1, h, w] floating in [0, 1], the area average of the true masks; constant.
    Returns:
        Scalar float32 under any autocast (float64 where either is); 0, with gradient 0, for an empty batch.
    Raises:
        ValueError: if the shapes are not equal or not [B, 1, h, w].
        TypeError: if either is not floating.
    """
    if visibility.shape != target.shape or visibility.ndim != 4 or visibility.shape[1] != 1:
        raise ValueError(
            f"occlusion_loss: visibility and target must both be [B, 1, h, w], got {list(visibility.shape)} and "
            f"{list(target.shape)}; average the masks over the cells of the map first."
        )
    if not (visibility.is_floating_point() and target.is_floating_point()):
        raise TypeError(
            f"occlusion_loss: visibility and target must be floating, got {visibility.dtype} and {target.dtype}; "
            "average the masks over the cells of the map first."
        )
    error = at_least_float32(visibility) - at_least_float32(target.detach())
    return error.square().sum() / max(1, error.numel())
