"""Templates: several images and video frames of a person as one feature, the protocol of IJB-B and IJB-C."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.protocols.checks import IntArray

_PAIRS_AT_ONCE = 2**16  # IJB-C has 15.7 million pairs of 512 numbers


def pool_templates(
    features: ArrayLike,
    templates: ArrayLike,
    medias: ArrayLike,
    detector_scores: ArrayLike | None = None,
    keep_norm: bool = False,
) -> tuple[IntArray, NDArray[np.floating]]:
    """Return one unit feature per template: the sum over its media of the mean over the images of each.

    A video of many frames so weighs as much as one photograph.

    Args:
        features: [N, D] floating, of images; where mirror images take part, those are added before.
        templates: int [N], the template that an image belongs to.
        medias: int [N], the photograph or video that it comes from; counted within a template.
        detector_scores: [N] floating, weights of the images (D1 of the published script); None: all weigh the same.
        keep_norm: whether an image's feature keeps its length, which tells its quality (N1); else all are made unit.
    Returns:
        (ids int64 [T] of the templates, ascending; features [T, D] unit, float64 or float32 as the input).
    Raises:
        ValueError: on disagreeing shapes, features that are not finite, or a template whose sum has no length.
    Reference: Whitelam et al., "IARPA Janus Benchmark-B Face Dataset", CVPR Workshops 2017; Maze et al., "IARPA Janus
    Benchmark - C", ICB 2018; the flags are those of InsightFace's evaluation.
    """
    values, template_of_image, media_of_image = _check_images(features, templates, medias)
    if not keep_norm:
        values = _unit(values, "pool_templates: image")
    if detector_scores is not None:
        weights = np.asarray(detector_scores, dtype=values.dtype)
        if weights.shape != (len(values),) or not np.isfinite(weights).all():
            raise ValueError(f"pool_templates: detector_scores must be [{len(values)}] finite, got {weights.shape}.")
        values = values * weights[:, None]
    order = np.lexsort((media_of_image, template_of_image))
    ordered = np.stack([template_of_image[order], media_of_image[order]])
    media_starts = np.flatnonzero(np.append(True, (ordered[:, 1:] != ordered[:, :-1]).any(0)))
    sizes = np.diff(np.append(media_starts, len(order)))
    media_means = np.add.reduceat(values[order], media_starts, axis=0) / sizes[:, None].astype(values.dtype)
    ids, template_starts = np.unique(ordered[0, media_starts], return_index=True)
    return ids, _unit(np.add.reduceat(media_means, template_starts, axis=0), "pool_templates: template", ids)


def score_templates(ids: ArrayLike, features: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.floating]:
    """Return the cosine of each pair of templates, [P], in the precision of the features.

    Args:
        ids, features: of `pool_templates`.
        first, second: int [P], ids of templates.
    Raises:
        ValueError: on disagreeing shapes, or a pair of a template that is not there; names the first.
    """
    known, values = np.asarray(ids), np.asarray(features)
    sides = np.stack([np.asarray(first), np.asarray(second)])
    places = np.searchsorted(known, sides).clip(max=len(known) - 1)
    missing = known[places] != sides
    if missing.any():
        side, pair = np.argwhere(missing)[0]
        raise ValueError(f"score_templates: pair {pair} names template {sides[side, pair]}, which has no image.")
    scores = np.empty(sides.shape[1], dtype=values.dtype)
    for start in range(0, scores.size, _PAIRS_AT_ONCE):
        block = places[:, start : start + _PAIRS_AT_ONCE]
        scores[start : start + _PAIRS_AT_ONCE] = np.einsum("nd,nd->n", values[block[0]], values[block[1]])
    return scores


def _check_images(
    features: ArrayLike, templates: ArrayLike, medias: ArrayLike
) -> tuple[NDArray[np.floating], IntArray, IntArray]:
    values = np.asarray(features)
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    numbers = [np.asarray(side) for side in (templates, medias)]
    if values.ndim != 2 or not len(values) or any(side.shape != (len(values),) for side in numbers):
        raise ValueError(
            "pool_templates: features must be [N, D], N >= 1, with templates and medias [N], got"
            f" {list(values.shape)}, {list(numbers[0].shape)}, {list(numbers[1].shape)}."
        )
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ValueError(f"pool_templates: features must be finite, those of image {row} are not.")
    return values, numbers[0].astype(np.int64), numbers[1].astype(np.int64)


def _unit(values: NDArray[np.floating], what: str, names: IntArray | None = None) -> NDArray[np.floating]:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not norms.all():
        place = int(np.argmin(norms))
        raise ValueError(f"{what} {place if names is None else names[place]} has a feature of length 0.")
    return values / norms
