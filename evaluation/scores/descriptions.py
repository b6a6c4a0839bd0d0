"""What a network says of images, with flip test-time augmentation, held compactly.

The network comes as a callable. Mode, gradients and device are the caller's: put modules into eval mode and call under
torch.inference_mode().
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.scores.map_store import MAP_DTYPES, allocate, allocate_maps, compact_maps, restore_maps

FlipFusion: TypeAlias = Literal["score", "map"]
FLIP_FUSION: FlipFusion = "score"
OptionalTensor = TypeVar("OptionalTensor", Tensor, Tensor | None)


class Description(NamedTuple):
    """What a network says of B images; the maps are unit length over C."""

    embedding: Tensor  # [B, D] unit
    norm: Tensor  # [B, 1], length before normalizing
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
        embedding: [B, D] float32, unit, on the device where scores are to be computed.
        views: one LocalView where maps were fused, those of image and mirror image whose scores are to be averaged, or
            none. Maps are as `scores.map_store` holds them; maps and visibilities may be on another device than
            the embeddings, or in a file.
    """

    embedding: Tensor
    views: tuple[LocalView, ...]

    @property
    def num_images(self) -> int:
        """Number of images described."""
        return self.embedding.shape[0]

    def __getitem__(self, index: slice | Tensor) -> "FaceDescriptions":
        views = (LocalView(_pick(v.local_map, index), _pick(v.visibility, index)) for v in self.views)
        return FaceDescriptions(_pick(self.embedding, index), tuple(views))

    def restored(self) -> "FaceDescriptions":
        """Return the same with maps and visibilities in float32, on the embeddings' device."""
        device = self.embedding.device
        views = (
            LocalView(
                restore_maps(view.local_map.to(device)),
                None if view.visibility is None else view.visibility.to(device).float(),
            )
            for view in self.views
        )
        return FaceDescriptions(self.embedding, tuple(views))


def describe_with_flip(describe: Describe, images: Tensor, flip_fusion: FlipFusion = FLIP_FUSION) -> FaceDescriptions:
    """Describe images [B, 3, H, W] together with their mirror images.

    Embeddings are fused by their norms: the sum of both unnormalized features, renormalized. Maps are kept for both
    ("score": the scores of image against image and of mirror against mirror are averaged later), or fused ("map": the
    mirror's map is mirrored back along its width, averaged with the image's and renormalized over channels; visibility
    is averaged). The two differ: stride-2 convolutions sample from the left, so a map mirrored back is shifted by
    nearly a cell.

    Args:
        describe: images -> Description.
        images: as describe wants them.
        flip_fusion: "score" or "map".
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
    return FaceDescriptions(F.normalize(features, dim=1), views).restored()


def describe_batches(
    describe: Describe,
    batches: Iterable[Tensor],
    num_images: int,
    flip_fusion: FlipFusion = FLIP_FUSION,
    map_dtype: torch.dtype | None = torch.float32,
    folder: Path | None = None,
) -> FaceDescriptions:
    """Describe batches of images one after another and return all as one; see `describe_with_flip`.

    Memory beyond the result is a few copies of one batch: the descriptions are written where they stay.

    Args:
        describe, flip_fusion: as for `describe_with_flip`.
        batches: of num_images images in all.
        num_images: at least 1.
        map_dtype: how maps are held, one of `map_store.MAP_DTYPES`; None: neither maps nor visibilities are, there is
            no matcher to see them.
        folder: keep maps and visibilities in files there, which are gone with the result; None: in the memory of the
            device that describes. Embeddings are always in memory.
    Raises:
        ValueError: on another number of images, or an unknown map_dtype.
        OSError: if the folder cannot be written or has not enough space.
    """
    if map_dtype is not None and map_dtype not in MAP_DTYPES.values():
        raise ValueError(f"describe_batches: map_dtype must be one of {', '.join(MAP_DTYPES)}, got {map_dtype}.")
    held, described = None, 0
    for images in batches:
        part = describe_with_flip(describe, images, flip_fusion)
        held = _allocate_for(part, num_images, map_dtype, folder) if held is None else held
        if described + part.num_images <= num_images:
            _write(held[described : described + part.num_images], part)
        described += part.num_images
    if held is None or described != num_images:
        raise ValueError(f"describe_batches: num_images must be that of the batches, got {num_images} and {described}.")
    return held


def _fuse_mirrored(image: LocalView, mirror: LocalView) -> LocalView:
    local_map = F.normalize(image.local_map.float() + mirror.local_map.float().flip(-1), dim=1)
    if image.visibility is None or mirror.visibility is None:
        return LocalView(local_map, None)
    return LocalView(local_map, (image.visibility + mirror.visibility.flip(-1)) / 2)


def _pick(tensor: OptionalTensor, index: slice | Tensor) -> OptionalTensor:
    if tensor is None:
        return tensor
    return tensor[index.to(tensor.device) if isinstance(index, Tensor) else index]


def _allocate_for(
    part: FaceDescriptions, num_images: int, map_dtype: torch.dtype | None, folder: Path | None
) -> FaceDescriptions:
    embedding = part.embedding.new_empty(num_images, part.embedding.shape[1])
    if map_dtype is None:
        return FaceDescriptions(embedding, ())
    views = []
    for view in part.views:
        maps, visibility = view
        local_map = allocate_maps((num_images, *maps.shape[1:]), map_dtype, maps.device, folder)
        if visibility is not None:
            visibility = allocate((num_images, *visibility.shape[1:]), torch.float32, maps.device, folder)
        views.append(LocalView(local_map, visibility))
    return FaceDescriptions(embedding, tuple(views))


def _write(target: FaceDescriptions, part: FaceDescriptions) -> None:
    """Write part into the memory that target shows."""
    target.embedding.copy_(part.embedding)
    for held, view in zip(target.views, part.views, strict=False):  # no views are held where no maps are wanted
        held.local_map.copy_(compact_maps(view.local_map, held.local_map.dtype))
        if held.visibility is not None and view.visibility is not None:
            held.visibility.copy_(view.visibility)
