"""From images to scores: description with flip test-time augmentation, then scores of chosen or of all pairs.

The network and the matcher come as callables. Mode, gradients and device are the caller's: put modules into eval mode
and call under torch.inference_mode().
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from evaluation.checks import IntArray

FlipFusion: TypeAlias = Literal["score", "map"]
FLIP_FUSION: FlipFusion = "score"

MatchPairs: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]  # maps and visibilities -> [N]
Match: TypeAlias = MatchPairs  # the same arguments -> [P, G]


class Description(NamedTuple):
    """What a network says of B images; the maps are unit length over C."""

    embedding: Tensor  # [B, D] unit
    norm: Tensor  # [B, 1], length before normalising
    local_map: Tensor  # [B, C, h, w]
    visibility: Tensor | None  # [B, 1, h, w] in [0, 1], 1 = visible


Describe: TypeAlias = Callable[[Tensor], Description]


class LocalView(NamedTuple):
    """Local map [B, C, h, w] and visibility [B, 1, h, w] of one view of each image."""

    local_map: Tensor
    visibility: Tensor | None


@dataclass(frozen=True)
class FaceDescriptions:
    """Descriptions of B images after flip augmentation; index it with a slice or an int tensor to choose images.

    Attributes:
        embedding: [B, D] float32, unit.
        views: one LocalView where maps were fused, or those of image and mirror image, whose scores are to be averaged.
    """

    embedding: Tensor
    views: tuple[LocalView, ...]

    @property
    def num_images(self) -> int:
        """Number of images described."""
        return self.embedding.shape[0]

    def __getitem__(self, index: slice | Tensor) -> "FaceDescriptions":
        views = (
            LocalView(v.local_map[index], None if v.visibility is None else v.visibility[index]) for v in self.views
        )
        return FaceDescriptions(self.embedding[index], tuple(views))


def describe_with_flip(
    describe: Describe, images: Tensor, flip_fusion: FlipFusion = FLIP_FUSION, map_dtype: torch.dtype = torch.float32
) -> FaceDescriptions:
    """Describe images [B, 3, H, W] together with their mirror images.

    Embeddings are fused by their norms: the sum of both unnormalised features, renormalised. Maps are kept for both
    ("score": the scores of image against image and of mirror against mirror are averaged later), or fused ("map": the
    mirror's map is mirrored back along its width, averaged with the image's and renormalised over channels; visibility
    is averaged). The two differ: stride-2 convolutions sample from the left, so a map mirrored back is shifted by
    nearly a cell.

    Args:
        describe: images -> Description.
        images: as describe wants them.
        flip_fusion: "score" or "map".
        map_dtype: dtype in which maps and visibilities are held; float16 halves their memory.
    Raises:
        ValueError: on an unknown flip_fusion.
    """
    if flip_fusion not in ("score", "map"):
        raise ValueError(f'describe_with_flip: flip_fusion must be "score" or "map", got {flip_fusion!r}.')
    image, mirror = describe(images), describe(images.flip(-1))
    features = image.embedding.float() * image.norm.float() + mirror.embedding.float() * mirror.norm.float()
    views = tuple(LocalView(d.local_map, d.visibility) for d in (image, mirror))
    if flip_fusion == "map":
        views = (_fuse_mirrored(*views),)
    return FaceDescriptions(F.normalize(features, dim=1), tuple(_cast(view, map_dtype) for view in views))


def describe_batches(
    describe: Describe,
    batches: Iterable[Tensor],
    flip_fusion: FlipFusion = FLIP_FUSION,
    map_dtype: torch.dtype = torch.float32,
) -> FaceDescriptions:
    """Describe batches of images one after another and return all as one; see `describe_with_flip`."""
    parts = [describe_with_flip(describe, images, flip_fusion, map_dtype) for images in batches]
    if not parts:
        raise ValueError("describe_batches: at least one batch of images is needed, got none.")
    views = (_concatenate_views(views) for views in zip(*(part.views for part in parts), strict=True))
    return FaceDescriptions(torch.cat([part.embedding for part in parts]), tuple(views))


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
        scores["qaconv"] = _mean_over_views(match_pairs, first, second)
    return scores


def score_pair_list(
    descriptions: FaceDescriptions,
    pairs: ArrayLike,
    match_pairs: MatchPairs | None = None,
    batch_size: int = 256,
    others: FaceDescriptions | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Return scores float32 [M] of the listed pairs, as `score_pairs`, in blocks of batch_size pairs.

    Args:
        descriptions: of B images.
        pairs: int [M, 2], places in descriptions.
        others: descriptions of other versions of the same B images, for the second place of each pair.
    Raises:
        ValueError: if pairs has another shape, leaves [0, B), or pairs an image with itself (which would score as
            genuine).
    """
    places = _check_pairs(pairs, descriptions.num_images)
    others = descriptions if others is None else others
    blocks: list[dict[str, Tensor]] = []
    for block in places.split(batch_size):
        first, second = block.to(descriptions.embedding.device).unbind(1)
        blocks.append(score_pairs(descriptions[first], others[second], match_pairs))
    return {name: torch.cat([block[name] for block in blocks]).cpu().numpy() for name in blocks[0]}


def unordered_pairs(num_images: int) -> IntArray:
    """Return all pairs i < j of images, int64 [N * (N - 1) / 2, 2], in the order of `score_all_pairs`."""
    return np.stack(np.triu_indices(num_images, 1), axis=1).astype(np.int64)


def score_all_pairs(
    descriptions: FaceDescriptions,
    match: Match | None = None,
    block_size: int = 64,
    others: FaceDescriptions | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Return scores float32 [N * (N - 1) / 2] of every unordered pair i < j, in the order of np.triu_indices(N, 1).

    Blocks of block_size x block_size pairs above the diagonal are scored one by one, so that apart from the result no
    more than a block is held. Each pair is scored once, as (i, j), and never an image against itself.

    Args:
        descriptions: of N >= 2 images.
        match: maps [P, ...], [G, ...] and their visibilities -> scores [P, G]; None leaves "qaconv" out.
        block_size: images on a side of a block.
        others: descriptions of other versions (occluded, say) of the same images, for the second one of each pair.
    Raises:
        ValueError: if there are fewer than two images.
    """
    num_images = descriptions.num_images
    if num_images < 2:
        raise ValueError(f"score_all_pairs: at least two images are needed, got {num_images}.")
    others = descriptions if others is None else others
    num_pairs = num_images * (num_images - 1) // 2
    names = ["adaface"] if match is None else ["adaface", "qaconv"]
    result = {name: np.empty(num_pairs, dtype=np.float32) for name in names}
    for rows, columns in _blocks_above_diagonal(num_images, block_size):
        above, places = _triangle_places(rows, columns, num_images)
        for name, block in _score_block(descriptions[rows], others[columns], match).items():
            result[name][places] = block.cpu().numpy()[above]
    return result


def _score_block(rows: FaceDescriptions, columns: FaceDescriptions, match: Match | None) -> dict[str, Tensor]:
    with torch.autocast(rows.embedding.device.type, enabled=False):  # bf16 would leave three digits of a cosine
        scores = {"adaface": rows.embedding @ columns.embedding.T}
    if match is not None:
        scores["qaconv"] = _mean_over_views(match, rows, columns)
    return scores


def _blocks_above_diagonal(num_images: int, block_size: int) -> Iterator[tuple[slice, slice]]:
    starts = range(0, num_images, block_size)
    for row in starts:
        for column in starts:
            if column >= row:
                yield slice(row, min(row + block_size, num_images)), slice(column, min(column + block_size, num_images))


def _triangle_places(rows: slice, columns: slice, num_images: int) -> tuple[NDArray[np.bool_], IntArray]:
    """Return which cells [P, G] of a block lie above the diagonal, and their places among all unordered pairs."""
    i, j = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)[None, :]
    above = i < j
    # Row i follows i rows of num_images - 1, num_images - 2, ... pairs and begins with j = i + 1.
    return above, (i * num_images - i * (i + 1) // 2 + j - i - 1)[above]


def _mean_over_views(match: MatchPairs | Match, first: FaceDescriptions, second: FaceDescriptions) -> Tensor:
    scores = [
        match(a.local_map, b.local_map, a.visibility, b.visibility).float()
        for a, b in zip(map(_as_float32, first.views), map(_as_float32, second.views), strict=True)
    ]
    return torch.stack(scores).mean(0)


def _fuse_mirrored(image: LocalView, mirror: LocalView) -> LocalView:
    local_map = F.normalize(image.local_map.float() + mirror.local_map.float().flip(-1), dim=1)
    if image.visibility is None or mirror.visibility is None:
        return LocalView(local_map, None)
    return LocalView(local_map, (image.visibility + mirror.visibility.flip(-1)) / 2)


def _cast(view: LocalView, dtype: torch.dtype) -> LocalView:
    return LocalView(view.local_map.to(dtype), None if view.visibility is None else view.visibility.to(dtype))


def _as_float32(view: LocalView) -> LocalView:
    return _cast(view, torch.float32)


def _concatenate_views(views: Sequence[LocalView]) -> LocalView:
    visibilities = [view.visibility for view in views if view.visibility is not None]
    return LocalView(torch.cat([view.local_map for view in views]), torch.cat(visibilities) if visibilities else None)


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
