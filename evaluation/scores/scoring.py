"""Scores of chosen or of all pairs of described images.

The matcher comes as a callable. Mode and gradients are the caller's: put modules into eval mode and call under
torch.inference_mode().
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from evaluation.scores.descriptions import FaceDescriptions
from evaluation.scores.triangle import block_places, num_unordered_pairs

T = TypeVar("T")

MatchPairs: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]  # maps and visibilities -> [N]
Match: TypeAlias = MatchPairs  # the same arguments -> [P, G]

BLOCK_SIZE = 128  # images on a side of a block that is matched


class Progress(Protocol):
    """Wraps the steps of a long loop and yields each of them, so that a bar can follow."""

    def __call__(self, steps: Sequence[T], /) -> Iterable[T]:
        """Yield every step once, in order."""


def unwatched(steps: Sequence[T]) -> Iterable[T]:
    """Return the steps: no bar follows them."""
    return steps


def score_pairs(
    first: FaceDescriptions, second: FaceDescriptions, match_pairs: MatchPairs | None = None
) -> dict[str, Tensor]:
    """Return scores [N] float32 of first[i] against second[i].

    Returns:
        "adaface": cosine of the embeddings; with match_pairs also "qaconv": its score, averaged over the views.
    Raises:
        ValueError: if first and second differ in their number of images or of views.
    """
    _check_comparable(first, second)
    if first.num_images != second.num_images:
        raise ValueError(
            f"score_pairs: as many first as second images are needed, got {first.num_images} and {second.num_images}."
        )
    scores = {"adaface": (first.embedding * second.embedding).sum(1)}
    if match_pairs is not None:
        scores["qaconv"] = mean_over_views(match_pairs, first.restored(), second.restored())
    return scores


def score_pair_list(
    descriptions: FaceDescriptions,
    pairs: ArrayLike,
    match_pairs: MatchPairs | None = None,
    batch_size: int = 256,
    others: FaceDescriptions | None = None,
    progress: Progress = unwatched,
) -> dict[str, NDArray[np.float32]]:
    """Return scores float32 [M] of the listed pairs, as `score_pairs`, in blocks of batch_size pairs.

    Args:
        descriptions: of B images.
        pairs: int [M, 2], places in descriptions.
        others: descriptions of other versions of the same B images, for the second place of each pair.
        progress: told of each block.
    Raises:
        ValueError: if pairs has another shape, leaves [0, B), or pairs an image with itself (which would score as
            genuine).
    """
    places = _check_pairs(pairs, descriptions.num_images)
    others = descriptions if others is None else others
    blocks: list[dict[str, Tensor]] = []
    for block in progress(places.split(batch_size)):
        first, second = block.unbind(1)
        blocks.append(score_pairs(descriptions[first], others[second], match_pairs))
    return {name: torch.cat([block[name] for block in blocks]).cpu().numpy() for name in blocks[0]}


def score_all_pairs(
    descriptions: FaceDescriptions,
    match: Match | None = None,
    block_size: int = BLOCK_SIZE,
    others: FaceDescriptions | None = None,
    progress: Progress = unwatched,
) -> dict[str, NDArray[np.float32]]:
    """Return scores float32 [N * (N - 1) / 2] of every unordered pair i < j, in the order of np.triu_indices(N, 1).

    Blocks of block_size x block_size pairs above the diagonal are scored one by one, so that apart from the result no
    more than a block is held. Each pair is scored once, as (i, j), and never an image against itself. A block on the
    diagonal gives match the same tensors for both sides, where one half of the work is enough.

    Args:
        descriptions: of N >= 2 images.
        match: maps [P, ...], [G, ...] and their visibilities -> scores [P, G]; None leaves "qaconv" out.
        block_size: images on a side of a block.
        others: descriptions of other versions (occluded, say) of the same images, for the second one of each pair.
        progress: told of each block.
    Raises:
        ValueError: if there are fewer than two images.
    """
    num_images = descriptions.num_images
    if num_images < 2:
        raise ValueError(f"score_all_pairs: at least two images are needed, got {num_images}.")
    others = descriptions if others is None else others
    names = ["adaface"] if match is None else ["adaface", "qaconv"]
    result = {name: np.empty(num_unordered_pairs(num_images), dtype=np.float32) for name in names}
    for rows, columns in progress(_blocks_above_diagonal(num_images, block_size)):
        if rows == columns:  # each row of blocks begins on the diagonal
            first = read_block(descriptions, rows, match)
        is_self = rows == columns and others is descriptions
        second = first if is_self else read_block(others, columns, match)
        above, places = block_places(rows, columns, num_images)
        for name, block in _score_block(first, second, match).items():
            result[name][places] = block.cpu().numpy()[above]
    return result


def read_block(descriptions: FaceDescriptions, images: slice, match: Match | None) -> FaceDescriptions:
    """Return some images; restored, where there is a match to see their maps."""
    return descriptions[images] if match is None else descriptions[images].restored()


def _score_block(rows: FaceDescriptions, columns: FaceDescriptions, match: Match | None) -> dict[str, Tensor]:
    scores = {"adaface": cosines(rows, columns)}
    if match is not None:
        scores["qaconv"] = mean_over_views(match, rows, columns)
    return scores


def _blocks_above_diagonal(num_images: int, block_size: int) -> list[tuple[slice, slice]]:
    blocks = blocks_of(num_images, block_size)
    return [(rows, columns) for place, rows in enumerate(blocks) for columns in blocks[place:]]


def blocks_of(num_images: int, block_size: int) -> list[slice]:
    """Return the slices that cut num_images images into blocks; the last one may be smaller."""
    starts = range(0, num_images, block_size)
    return [slice(start, min(start + block_size, num_images)) for start in starts]


def cosines(first: FaceDescriptions, second: FaceDescriptions) -> Tensor:
    """Return the cosines [P, G] float32 of all embeddings of two sets, under any autocast."""
    with torch.autocast(first.embedding.device.type, enabled=False):  # bf16 would leave three digits of a cosine
        return first.embedding @ second.embedding.T


def mean_over_views(match: MatchPairs | Match, first: FaceDescriptions, second: FaceDescriptions) -> Tensor:
    """Return match's scores in float32, averaged over the views of restored descriptions."""
    scores = [
        match(a.local_map, b.local_map, a.visibility, b.visibility).float()
        for a, b in zip(first.views, second.views, strict=True)
    ]
    return torch.stack(scores).mean(0)


def _check_comparable(first: FaceDescriptions, second: FaceDescriptions) -> None:
    if len(first.views) != len(second.views):
        raise ValueError(
            f"score_pairs: both sides must have as many views, got {len(first.views)} and {len(second.views)};"
            " describe both with the same flip_fusion."
        )


def _check_pairs(pairs: ArrayLike, num_images: int) -> Tensor:
    array = np.asarray(pairs, dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        raise ValueError(f"score_pair_list: pairs must be [M, 2] with M >= 1, got shape {list(array.shape)}.")
    outside = ((array < 0) | (array >= num_images)).any(1)
    for wrong, reason in (
        (outside, f"places must lie in [0, {num_images})"),
        (array[:, 0] == array[:, 1], "an image is not its own pair"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"score_pair_list: {reason}, got {array[row].tolist()} in row {row}; remove that pair.")
    return torch.from_numpy(array)
