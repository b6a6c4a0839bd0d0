"""Pseudo-identities from neighbours: which rules join images, and what became of the edges."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.clustering.best import Neighbours
from datasets.clustering.graph import capped_union, jaccard, mutual_edges


class JoiningRules(NamedTuple):
    """When two images are joined.

    Attributes:
        mutual_k: each must be among so many nearest of the other.
        threshold: least cosine.
        max_size: images of a cluster at most; None: no cap. A guard, not a tool: above the largest plausible identity.
        jaccard: least share of both closed neighbourhoods that they have in common; 0: none.
    """

    mutual_k: int = 5
    threshold: float = 0.60
    max_size: int | None = 300
    jaccard: float = 0.0


class PseudoIdentities(NamedTuple):
    """Clusters of N images, and what became of the edges.

    Attributes:
        clusters: int64 [N], numbered by their lowest member; -1 = alone.
        num_mutual: edges between mutual neighbours.
        num_unshared: of them, those dropped because the neighbourhoods differ.
        num_refused: of the others, those that would have made a cluster above the cap.
    """

    clusters: NDArray[np.int64]
    num_mutual: int
    num_unshared: int
    num_refused: int

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Images of each cluster, int64 [C]."""
        return np.bincount(self.clusters[self.clusters >= 0])

    def counts(self) -> dict[str, int | float]:
        """Return images, clusters and edges in numbers, by name; `coverage` is the share of images in a cluster."""
        sizes, num_images = self.sizes, len(self.clusters)
        return {
            "num_images": num_images,
            "num_clusters": len(sizes),
            "num_clustered": int(sizes.sum()),
            "coverage": float(sizes.sum() / max(1, num_images)),
            "largest_cluster": int(sizes.max(initial=0)),
            "num_mutual_edges": self.num_mutual,
            "num_unshared_edges": self.num_unshared,
            "num_refused_edges": self.num_refused,
        }


def pseudo_identities(found: Neighbours, rules: JoiningRules) -> PseudoIdentities:
    """Return the clusters of images whose neighbours are known."""
    pairs, similarities = mutual_edges(found.indices, found.similarities, rules.mutual_k, rules.threshold)
    num_mutual = len(pairs)
    if rules.jaccard > 0:
        kept = jaccard(found.indices, pairs) >= rules.jaccard
        pairs, similarities = pairs[kept], similarities[kept]
    joined = capped_union(pairs, similarities, len(found.indices), rules.max_size)
    return PseudoIdentities(joined.labels, num_mutual, num_mutual - len(pairs), joined.num_refused)
