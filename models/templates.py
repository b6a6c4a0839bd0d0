"""One template a person: the photographs of a person pooled by their quality, as a gallery holds them.

With the norm n of a photograph (the longer the embedding was, the better the picture, by AdaFace's reading), its
visible share s and the visibility v(c) of its cell c:

- embedding: the sum of n s e over the photographs, at unit length. A covered photograph counts for less.
- local map: in each cell the sum of n v(c) m(c), at unit length. So a photograph with a mask adds the eyes and leaves
  the mouth to those without one.
- visibility: the largest v(c). A cell is visible if one photograph shows it.

A template of one photograph is its description. The lengths of the sums are kept, so that photographs which come later
are pooled as if they had been there, but for the rounding of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evaluation import FaceDescriptions, LocalView
from evaluation.scores.map_store import compact_maps, restore_maps
from models.portraits import Portraits

MAP_DTYPES = {"float16": torch.float16, "int8": torch.int8}


@dataclass(frozen=True, eq=False)
class View:
    """Local maps of G people: maps float16 or int8 [G, h, w, C], lengths float32 [G, h, w] and visibility likewise."""

    maps: NDArray[np.generic]
    lengths: NDArray[np.float32]
    visibility: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Templates:
    """Templates of G people.

    Attributes:
        embedding: float32 [G, D], unit.
        length: float32 [G], of the sums that they come from.
        views: of the photographs and of their mirror images; none without a matcher.
    """

    embedding: NDArray[np.float32]
    length: NDArray[np.float32]
    views: tuple[View, ...]

    def __len__(self) -> int:
        return len(self.embedding)

    def rows(self, chosen: NDArray[np.int64]) -> Templates:
        """Return some people, copied: maps may lie in a file."""
        views = (
            View(
                np.array(view.maps[chosen]),
                view.lengths[chosen],
                None if view.visibility is None else view.visibility[chosen],
            )
            for view in self.views
        )
        return Templates(self.embedding[chosen], self.length[chosen], tuple(views))

    def describe(self, chosen: NDArray[np.int64]) -> FaceDescriptions:
        """Return some people as descriptions to be matched, in float32."""
        rows = self.rows(chosen)
        views = (
            LocalView(_restored(view), None if view.visibility is None else torch.from_numpy(view.visibility[:, None]))
            for view in rows.views
        )
        return FaceDescriptions(torch.from_numpy(rows.embedding), tuple(views))


def _restored(view: View) -> Tensor:
    return restore_maps(torch.from_numpy(view.maps).permute(0, 3, 1, 2))


def pool(portraits: Portraits, people: NDArray[np.int64], map_dtype: str) -> Templates:
    """Return the templates of G people.

    Args:
        portraits: N photographs.
        people: int64 [N], whom each shows; every number from 0 to G - 1 comes.
        map_dtype: key of MAP_DTYPES.
    """
    norm = portraits.norm.cpu()
    share = torch.ones_like(norm) if portraits.visible is None else portraits.visible.cpu()
    places = torch.from_numpy(people)
    embedding, length = _unit_sum(portraits.faces.embedding.cpu(), norm * share, places)
    views = (_pool_view(view, norm, places, MAP_DTYPES[map_dtype]) for view in portraits.faces.views)
    return Templates(embedding.numpy(), length[:, 0].numpy(), tuple(views))


def _pool_view(view: LocalView, norm: Tensor, people: Tensor, dtype: torch.dtype) -> View:
    maps, seen = view.local_map.cpu(), None if view.visibility is None else view.visibility.cpu()
    weight = norm[:, None, None, None] * (torch.ones_like(maps[:, :1]) if seen is None else seen)
    unit, length = _unit_sum(maps, weight, people)
    visibility = None
    if seen is not None:
        each = people[:, None, None].expand_as(seen[:, 0])
        visibility = torch.zeros_like(length[:, 0]).scatter_reduce(0, each, seen[:, 0], "amax").numpy()
    return View(_compact(unit, dtype), length[:, 0].numpy(), visibility)


def _unit_sum(values: Tensor, weights: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted sums by person at unit length along dim 1, and their lengths there, [G, 1, ...]."""
    weights = weights.reshape(len(weights), 1, *weights.shape[2:])
    total = values.new_zeros(int(people.max()) + 1, *values.shape[1:]).index_add(0, people, values * weights)
    length = torch.linalg.vector_norm(total, dim=1, keepdim=True)
    return F.normalize(total, dim=1), length


def _compact(unit: Tensor, dtype: torch.dtype) -> NDArray[np.generic]:
    return compact_maps(unit, dtype).permute(0, 2, 3, 1).contiguous().numpy()


def merge(old: Templates, new: Templates) -> Templates:
    """Return the templates of the photographs of both together, person by person."""
    embedding, length = _merged(old.embedding, old.length, new.embedding, new.length)
    views = tuple(map(_merge_view, old.views, new.views))
    return Templates(embedding.numpy(), length.numpy(), views)


def _merge_view(old: View, new: View) -> View:
    dtype = torch.from_numpy(old.maps[:0]).dtype
    maps = (_restored(view).permute(0, 2, 3, 1).numpy() for view in (old, new))
    first, second = maps
    unit, length = _merged(first, old.lengths, second, new.lengths)
    seen = None
    if old.visibility is not None and new.visibility is not None:
        seen = np.maximum(old.visibility, new.visibility)
    return View(_compact(unit.permute(0, 3, 1, 2), dtype), length.numpy(), seen)


def _merged(
    first: NDArray[np.float32], a: NDArray[np.float32], second: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[Tensor, Tensor]:
    total = torch.from_numpy(first * a[..., None] + second * b[..., None])
    return F.normalize(total, dim=-1), torch.linalg.vector_norm(total, dim=-1)


def concatenate(parts: Sequence[Templates]) -> Templates:
    """Return the people of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    views = (
        View(
            np.concatenate([view.maps for view in same]),
            np.concatenate([view.lengths for view in same]),
            None if same[0].visibility is None else np.concatenate([view.visibility for view in same]),
        )
        for same in zip(*(part.views for part in parts), strict=True)
    )
    embedding = np.concatenate([part.embedding for part in parts])
    return Templates(embedding, np.concatenate([part.length for part in parts]), tuple(views))


def put(templates: Templates, places: NDArray[np.int64], rows: Templates) -> Templates:
    """Return templates with the people at places replaced by rows."""

    def changed(values: NDArray, replacing: NDArray) -> NDArray:
        values = np.array(values)
        values[places] = replacing
        return values

    views = (
        replace(
            view,
            maps=changed(view.maps, row.maps),
            lengths=changed(view.lengths, row.lengths),
            visibility=None
            if view.visibility is None or row.visibility is None
            else changed(view.visibility, row.visibility),
        )
        for view, row in zip(templates.views, rows.views, strict=True)
    )
    embedding = changed(templates.embedding, rows.embedding)
    return Templates(embedding, changed(templates.length, rows.length), tuple(views))
