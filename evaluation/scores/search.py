"""The best matches of probes in a gallery, over blocks of the gallery, and pairs short-listed by their embeddings.

Scores are embedding cosines, or a matcher's. A matcher costs thousands of times as much as a cosine, so the embeddings
may choose what it sees: the short list.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.protocols.checks import BoolArray
from evaluation.scores.descriptions import FaceDescriptions
from evaluation.scores.neighbours import sorting_keys
from evaluation.scores.scoring import (
    BLOCK_SIZE,
    Match,
    Progress,
    blocks_of,
    cosines,
    mean_over_views,
    read_block,
    score_all_pairs,
    unwatched,
)
from evaluation.scores.triangle import pair_places, square_rows

_EMBEDDING_BLOCK = 2048  # images on a side of a block of cosines: with their keys 48 MiB
_LAST_INDEX = 2**32 - 1  # that fits below a sorting key


class Hits(NamedTuple):
    """The gallery images found for each of P probes, best first; of equal scores the lower index comes first."""

    indices: Tensor  # [P, k] int64, places in the gallery
    scores: Tensor  # [P, k] float32


class ShortlistedScores(NamedTuple):
    """Scores of all unordered pairs, of which the matcher saw some."""

    scores: dict[str, NDArray[np.float32]]  # "adaface", "qaconv" -> [N * (N - 1) / 2]
    matched: BoolArray  # [N * (N - 1) / 2], which ones it saw


def merge_hits(parts: Sequence[Hits], top_k: int) -> Hits:
    """Return the best top_k of what was found in parts of a gallery, whatever their order.

    Args:
        parts: for the same P probes; indices are places in the whole gallery, below 2^32, no place twice for a probe.
        top_k: at least 0; as many as there are where there are fewer.
    """
    indices, scores = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    keys = sorting_keys(scores) + (_LAST_INDEX - indices)
    places = keys.topk(min(top_k, keys.shape[1]), dim=1).indices
    return Hits(indices.gather(1, places), scores.gather(1, places))


def search(
    probe: FaceDescriptions,
    gallery: FaceDescriptions | None,
    top_k: int,
    match: Match | None = None,
    shortlist: int | None = None,
    block_size: int | None = None,
    progress: Progress = unwatched,
) -> Hits:
    """Return the top_k gallery images with the best scores for each probe.

    Blocks of the gallery are read, restored and scored one after the other, each once; apart from the result no more
    than a block of either side and of scores is held. The block size changes scores by rounding at most.

    Args:
        probe: descriptions of P images.
        gallery: of G images; None: search the probes among themselves, where no image finds itself.
        top_k: at least 1; where there are fewer images to find, all of them are.
        match: maps [P, ...], [G, ...] and their visibilities -> scores [P, G]; None: score by embedding cosine.
        shortlist: match only the `shortlist` best images of each probe by embedding; None: all.
        block_size: images on a side of a block; None: 128 to match, 2048 for cosines.
        progress: told of each block or, with a short list, of each probe.
    Returns:
        Hits on the embeddings' device, k = min(top_k, number of images to find).
    Raises:
        ValueError: if top_k, shortlist or block_size is below 1, shortlist is less than top_k or comes without match,
            or a score is not finite.
    """
    _check_search(top_k, match, shortlist, block_size)
    listed = probe if gallery is None else gallery
    num_candidates = max(0, listed.num_images - (gallery is None))
    if match is None or shortlist is None or shortlist >= num_candidates:
        return _scan(probe, gallery, min(top_k, num_candidates), match, block_size, progress)
    chosen = _scan(probe, gallery, shortlist, None, block_size, unwatched).indices
    hits = [
        merge_hits([_match_one(probe[place : place + 1], listed, chosen[place], match, block_size)], top_k)
        for place in progress(range(probe.num_images))
    ]
    return _stack(hits, probe, top_k)


def score_shortlisted_pairs(
    descriptions: FaceDescriptions,
    match: Match,
    shortlist: int,
    block_size: int = BLOCK_SIZE,
    others: FaceDescriptions | None = None,
    progress: Progress = unwatched,
) -> ShortlistedScores:
    """Return the scores of `score_all_pairs`, where match sees a pair only if the embeddings find it near.

    It does where one image of the pair is among the `shortlist` best of the other by their cosine (of equal ones, the
    lower place). Every other pair gets the lowest score that was matched, so that the embeddings decide between them.

    Args:
        descriptions, match, others: as for `score_all_pairs`.
        shortlist: at least 1.
        block_size: images that are matched with one at a time.
        progress: told of each image.
    Raises:
        ValueError: if shortlist is below 1, there are fewer than two images, or a score is not finite.
    """
    if shortlist < 1:
        raise ValueError(f"score_shortlisted_pairs: shortlist must be at least 1, got {shortlist}.")
    others = descriptions if others is None else others
    cosine = score_all_pairs(descriptions, None, _EMBEDDING_BLOCK, others)["adaface"]
    matched = _near_pairs(cosine, descriptions.num_images, shortlist)
    scores = np.empty_like(cosine)
    for image in progress(range(descriptions.num_images - 1)):
        # The pairs (image, image + 1), (image, image + 2), ... lie side by side.
        start, stop = pair_places(image, np.array([image + 1, descriptions.num_images]), descriptions.num_images)
        near = np.flatnonzero(matched[start:stop])
        if not len(near):
            continue
        seconds = torch.from_numpy(near + image + 1)
        hits = _match_one(descriptions[image : image + 1], others, seconds, match, block_size)
        scores[start + near] = hits.scores[0].cpu().numpy()
    scores[~matched] = scores[matched].min()
    return ShortlistedScores({"adaface": cosine, "qaconv": scores}, matched)


def _near_pairs(cosine: NDArray[np.float32], num_images: int, shortlist: int) -> BoolArray:
    """Return in which pairs, by place, one image is among the shortlist best of the other."""
    near = np.zeros(len(cosine), dtype=bool)
    for images, rows in square_rows(cosine, np.arange(num_images), num_images):
        hits = _as_hits(torch.from_numpy(rows), torch.arange(num_images))
        own, best = images[:, None], merge_hits([hits], min(shortlist, num_images - 1)).indices.numpy()
        near[pair_places(np.minimum(own, best), np.maximum(own, best), num_images)] = True
    return near


def _scan(
    probe: FaceDescriptions,
    gallery: FaceDescriptions | None,
    num_hits: int,
    match: Match | None,
    block_size: int | None,
    progress: Progress,
) -> Hits:
    """Return the best num_hits of all blocks; the gallery is the outer loop, for it may be large and on disk."""
    block_size = block_size or (_EMBEDDING_BLOCK if match is None else BLOCK_SIZE)
    searched = probe if gallery is None else gallery
    blocks = blocks_of(probe.num_images, block_size)
    found = [_no_hits(probe[rows]) for rows in blocks]
    for columns in progress(blocks_of(searched.num_images, block_size)):
        second = read_block(searched, columns, match)
        places = torch.arange(columns.start, columns.stop, device=second.embedding.device)
        for number, rows in enumerate(blocks):
            is_diagonal = gallery is None and rows == columns
            first = second if is_diagonal else read_block(probe, rows, match)
            scores = cosines(first, second) if match is None else mean_over_views(match, first, second)
            _check_finite(scores, places)
            if is_diagonal:
                scores.fill_diagonal_(-torch.inf)  # never among the best: there are num_hits others
            found[number] = merge_hits([found[number], _as_hits(scores, places)], num_hits)
    return _stack(found, probe, num_hits)


def _match_one(
    probe: FaceDescriptions, gallery: FaceDescriptions, places: Tensor, match: Match, block_size: int | None
) -> Hits:
    """Return the scores of one probe with the gallery's images at places [N], in the order of the places.

    One probe's cells against those of a block are one matrix product; pair by pair there would be one for each.
    """
    first = probe.restored()
    ordered = places.sort().values  # reads a file in its order
    parts = [_no_hits(probe)]
    for block in ordered.split(block_size or BLOCK_SIZE):
        scores = mean_over_views(match, first, gallery[block].restored())
        _check_finite(scores, block)
        parts.append(_as_hits(scores, block))
    return Hits(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))


def _as_hits(scores: Tensor, places: Tensor) -> Hits:
    """Return scores [P, N] of images at places [N] as hits."""
    return Hits(places.to(scores.device).expand_as(scores), scores)


def _check_finite(scores: Tensor, places: Tensor) -> None:
    if not scores.isfinite().all():
        row, column = (~scores.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"search: scores must be finite, got {scores[row, column]:g} with gallery image {int(places[column])};"
            " the network's weights or running statistics are not finite."
        )


def _no_hits(probe: FaceDescriptions) -> Hits:
    like = probe.embedding
    return Hits(like.new_empty(probe.num_images, 0, dtype=torch.int64), like.new_empty(probe.num_images, 0))


def _stack(parts: Sequence[Hits], probe: FaceDescriptions, num_hits: int) -> Hits:
    """Return the hits of parts of the probes as those of all."""
    if not parts:
        none = torch.empty(0, num_hits, device=probe.embedding.device)
        return Hits(none.long(), none)
    return Hits(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _check_search(top_k: int, match: Match | None, shortlist: int | None, block_size: int | None) -> None:
    for name, number in (("top_k", top_k), ("shortlist", shortlist), ("block_size", block_size)):
        if number is not None and number < 1:
            raise ValueError(f"search: {name} must be at least 1, got {number}.")
    if shortlist is not None and match is None:
        raise ValueError("search: a shortlist is for match, which is None; leave one out or give the other.")
    if shortlist is not None and shortlist < top_k:
        raise ValueError(f"search: shortlist must be at least top_k, got {shortlist} and {top_k}.")
