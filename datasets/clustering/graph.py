"""From neighbours to clusters: mutual edges, the filter of shared neighbourhoods, and union with a cap on the size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.floating]

_EDGES_AT_ONCE = 2**15


class Edges(NamedTuple):
    """Undirected edges between images.

    Attributes:
        pairs: int64 [E, 2], the lower image first, sorted.
        similarities: [E] cosines, in the floating type that was given.
    """

    pairs: Int64Array
    similarities: FloatArray


class Union(NamedTuple):
    """What became of the edges.

    Attributes:
        labels: int64 [N], clusters of two images or more numbered by their lowest member; -1 = alone.
        num_refused: edges that would have joined two clusters into one above the cap.
    """

    labels: Int64Array
    num_refused: int


def mutual_edges(neighbours: Int64Array, similarities: FloatArray, mutual_k: int, threshold: float) -> Edges:
    """Return the edges between images that are among each other's nearest.

    j in N_k(i) and i in N_k(j) with k = mutual_k, cosine >= threshold, i != j by index. Neighbours that were searched
    above the threshold only give the same edges as all neighbours.

    Args:
        neighbours: int64 [N, K], best first; -1 where there is none.
        similarities: floating [N, K] cosines.
        mutual_k: in [1, K].
        threshold: least cosine, inclusive; compared in the type of the similarities.
    Raises:
        ValueError: if shapes disagree, mutual_k is out of range, or a neighbour is no image.
    """
    if neighbours.ndim != 2 or neighbours.shape != similarities.shape:
        raise ValueError(
            "mutual_edges: neighbours and similarities must both be [N, K], got"
            f" {list(neighbours.shape)} and {list(similarities.shape)}"
        )
    num, width = neighbours.shape
    if not 1 <= mutual_k <= width:
        raise ValueError(
            f"mutual_edges: mutual_k must be in [1, {width}], the neighbours that are there; got {mutual_k}"
        )
    if neighbours.size and not -1 <= neighbours.min() <= neighbours.max() < num:
        raise ValueError(f"mutual_edges: neighbours must be in [-1, {num}); another data set's?")
    near, cosines = neighbours[:, :mutual_k], similarities[:, :mutual_k]
    image, place = np.nonzero((cosines >= similarities.dtype.type(threshold)) & (near >= 0))
    other, cosine = near[image, place].astype(np.int64), cosines[image, place]
    is_other = image != other
    image, other, cosine = image[is_other], other[is_other], cosine[is_other]
    key = np.minimum(image, other) * num + np.maximum(image, other)
    # Of the two directions of an edge the lower image's comes first, and its cosine counts.
    order = np.lexsort((image, key))
    key = key[order]
    is_first_of_two = np.zeros(len(key), bool)
    is_first_of_two[:-1] = key[:-1] == key[1:]
    kept = key[is_first_of_two]
    return Edges(np.stack([kept // max(num, 1), kept % max(num, 1)], axis=1), cosine[order][is_first_of_two])


def jaccard(neighbours: Int64Array, edges: Int64Array) -> NDArray[np.float64]:
    """Return for each edge how much of both closed neighbourhoods is shared: |A and B| / |A or B|, float64 [E].

    Args:
        neighbours: int64 [N, K]; -1 where there is none. The closed neighbourhood of an image is these and itself.
        edges: int64 [E, 2].
    """
    shares = np.empty(len(edges))
    for start in range(0, len(edges), _EDGES_AT_ONCE):
        part = edges[start : start + _EDGES_AT_ONCE]
        first, second = (np.concatenate([neighbours[ends], ends[:, None]], axis=1) for ends in part.T)
        sizes = (first >= 0).sum(axis=1) + (second >= 0).sum(axis=1)
        is_same = (first[:, :, None] == second[:, None, :]) & (first >= 0)[:, :, None]
        shared = is_same.sum(axis=(1, 2))
        shares[start : start + _EDGES_AT_ONCE] = shared / (sizes - shared)
    return shares


def clusters(edges: Int64Array, similarities: FloatArray, num_images: int, max_size: int | None = None) -> Int64Array:
    """Return the cluster of each image, int64 [N]; see `capped_union`."""
    return capped_union(edges, similarities, num_images, max_size).labels


def capped_union(edges: Int64Array, similarities: FloatArray, num_images: int, max_size: int | None = None) -> Union:
    """Join images along edges, the best first; two clusters are joined only if they fit under the cap together.

    The order is that of (cosine descending, lower image, higher image). Without a cap these are connected components.
    A component above the cap is never dropped: it becomes several clusters.

    Args:
        edges: int64 [E, 2].
        similarities: floating [E], not NaN.
        num_images: N.
        max_size: images of a cluster at most, >= 2; None: no cap.
    Raises:
        ValueError: if shapes disagree, an edge leads out of the images, or max_size is below 2.
    """
    _check(edges, similarities, num_images, max_size)
    if not len(edges):
        return Union(np.full(num_images, -1, np.int64), 0)
    ones = np.ones(len(edges), bool)
    graph = sparse.coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(num_images, num_images))
    component = sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)
    sizes = np.bincount(component)
    if max_size is None or sizes.max() <= max_size:
        return Union(_numbered(component), 0)
    # Inside a component under the cap nothing is ever refused, so that only the others need the loop.
    is_large = sizes[component[edges[:, 0]]] > max_size
    parents, num_refused = _join(edges[is_large], similarities[is_large], num_images, max_size)
    in_large = sizes[component] > max_size
    component[in_large] = len(sizes) + parents[in_large]
    return Union(_numbered(component), num_refused)


def _join(edges: Int64Array, similarities: FloatArray, num_images: int, max_size: int) -> tuple[Int64Array, int]:
    """Return the root of each image after union from the best edge down, and the number of edges refused."""
    order = np.lexsort((edges.max(axis=1), edges.min(axis=1), -similarities))
    parents, sizes = list(range(num_images)), [1] * num_images
    num_refused = 0

    def root(image: int) -> int:
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image

    for first, second in edges[order].tolist():
        first, second = root(first), root(second)
        if first == second:
            continue
        if sizes[first] + sizes[second] > max_size:
            num_refused += 1
            continue
        if sizes[first] < sizes[second]:
            first, second = second, first
        parents[second] = first
        sizes[first] += sizes[second]
    return np.array([root(image) for image in range(num_images)], np.int64), num_refused


def _numbered(groups: Int64Array) -> Int64Array:
    """Return groups of two or more numbered by their lowest member, -1 for the others."""
    _, first, inverse, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    is_cluster = counts >= 2
    numbers = np.full(len(counts), -1, np.int64)
    members = np.flatnonzero(is_cluster)
    numbers[members[np.argsort(first[members])]] = np.arange(len(members))
    return numbers[inverse]


def _check(edges: Int64Array, similarities: FloatArray, num_images: int, max_size: int | None) -> None:
    if edges.ndim != 2 or edges.shape[1] != 2 or similarities.shape != (len(edges),):
        raise ValueError(
            "clusters: edges must be [E, 2] and similarities [E], got"
            f" {list(edges.shape)} and {list(similarities.shape)}"
        )
    if len(edges) and not 0 <= edges.min() <= edges.max() < num_images:
        raise ValueError(f"clusters: edges must lie in [0, {num_images}), got {edges.min()} to {edges.max()}")
    if max_size is not None and max_size < 2:
        raise ValueError(f"clusters: max_size must be at least 2, got {max_size}")
    if np.isnan(similarities).any():
        raise ValueError("clusters: similarities must be numbers, got NaN")
