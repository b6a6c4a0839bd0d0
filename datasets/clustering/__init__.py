"""Pseudo-identities: neighbours of embeddings, the clusters that mutual ones make, and pairs of images from them."""

from datasets.clustering.best import Neighbours
from datasets.clustering.graph import Edges, Union, capped_union, clusters, jaccard, mutual_edges
from datasets.clustering.identities import JoiningRules, PseudoIdentities, pseudo_identities
from datasets.clustering.nearest import METHODS, SearchSettings, edge_recall, merge_neighbours, neighbours
from datasets.clustering.pseudo_pairs import pseudo_pairs
from datasets.clustering.visits import search_figures

__all__ = [
    "METHODS",
    "Edges",
    "JoiningRules",
    "Neighbours",
    "PseudoIdentities",
    "SearchSettings",
    "Union",
    "capped_union",
    "clusters",
    "edge_recall",
    "jaccard",
    "merge_neighbours",
    "mutual_edges",
    "neighbours",
    "pseudo_identities",
    "pseudo_pairs",
    "search_figures",
]
