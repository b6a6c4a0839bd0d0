"""The matcher's losses in a training step: over the pairs of this rank's images, or with those of all ranks."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import losses
import qaconv
from config import Config
from ops import gather, gather_with_gradient, rank_and_ranks
from tasks.recognition.sharded_head import megabytes


class Images(NamedTuple):
    """One side of a score matrix."""

    maps: Tensor  # [B, C, h, w], unit length over C
    visibility: Tensor | None  # [B, 1, h, w] in [0, 1], 1 = visible
    labels: Tensor  # [B] int64


class Columns(NamedTuple):
    """What the losses have to know of a gallery; both None where it is the batch itself."""

    gallery_labels: Tensor | None
    is_self: Tensor | None


def matching_terms(matcher: qaconv.QAConv, config: Config, images: Images) -> tuple[dict[str, Tensor], Tensor]:
    """Return the losses over the one score matrix of the batch, and the pair accuracy.

    Rows are the images of this rank, columns likewise, or with `config.pairs_cross_ranks` the images of all ranks: all
    ranks must call it together. Then the mean of a loss over the ranks is that of the global batch, also where they
    differ in how many rows have a positive and a negative, and the gradients that DDP averages are its gradients; the
    matcher's norms take the moments of the global batch. (Those of the backbone stay each rank's own.)

    With `config.triplet_weight` 0 nothing trains the class maps: they are not matched, have no gradient, and are
    therefore not decayed either.
    """
    if not config.visibility_gradient and images.visibility is not None:
        # The matching losses would rather hide hard cells than see them: they may read the map, not bend it.
        images = images._replace(visibility=images.visibility.detach())
    across_ranks = config.pairs_cross_ranks and rank_and_ranks()[1] > 1
    gallery = _of_all_ranks(images) if across_ranks else images
    columns = _columns(gallery.labels) if across_ranks else Columns(None, None)
    scores = matcher(images.maps, gallery.maps, images.visibility, gallery.visibility, across_ranks)
    mean = _row_mean(images.labels, columns, across_ranks)
    pairwise = losses.PAIRWISE_REDUCTIONS[config.pairwise_reduction]
    terms = {
        "pairwise": mean(pairwise(scores, images.labels, *columns)),
        "triplet": mean(losses.triplet_loss(scores, images.labels, config.triplet_margin, *columns)),
    }
    if config.class_embeddings and config.triplet_weight > 0:  # it shares the weight of the ranking loss
        class_logits = matcher.class_logits(images.maps, images.labels, images.visibility)
        terms["class"] = F.cross_entropy(class_logits, torch.zeros_like(images.labels))
    return terms, mean(losses.pairwise_accuracy(scores.detach(), images.labels, *columns))


def _of_all_ranks(images: Images) -> Images:
    # Cells travel with their channels together, as the net lays them out and the matcher reads them: no copies.
    maps = gather_with_gradient(images.maps.movedim(1, -1)).movedim(-1, 1)
    visibility = None if images.visibility is None else gather_with_gradient(images.visibility)
    return Images(maps, visibility, gather(images.labels))


def _columns(labels: Tensor) -> Columns:
    """Return the columns of a gallery of all ranks, in which this rank's own images come again."""
    rank, num_ranks = rank_and_ranks()
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device).chunk(num_ranks)[rank]
    return Columns(labels, itself)


def _row_mean(labels: Tensor, columns: Columns, across_ranks: bool) -> partial[Tensor]:
    """Return values [B] -> their mean over the rows that have a positive and a negative; see `mean_over_valid`."""
    valid = losses.valid_rows(labels, *columns)
    if not across_ranks:
        return partial(losses.mean_over_valid, valid=valid)
    counts = gather(valid.sum()[None])
    return partial(losses.mean_over_valid, valid=valid, num_valid=counts.sum().clamp_min(1).double() / len(counts))


def plan_pairs(matcher: qaconv.QAConv, config: Config, num_ranks: int) -> list[str]:
    """Return a line about what pairs across ranks cost a rank in a step; none where they are off."""
    if not config.pairs_cross_ranks or num_ranks == 1:
        return []
    num_gallery, number = config.batch_size, 8 if config.check_mode else 4
    num_probes = num_gallery // num_ranks
    channels, height, width = matcher.map_shape
    num_cells = height * width
    map_bytes, pair_products = number * channels * num_cells, matcher.matched_channels * num_cells**2
    others = megabytes((num_gallery - num_probes) * map_bytes)
    # A best match, its gradient twice on the way back, its index: for the cells of either side of a pair.
    matches = megabytes(2 * num_probes * num_gallery * num_cells * (3 * number + 1))
    return [
        f"pairs across {num_ranks} ranks: {num_probes} x {num_gallery} on each instead of {num_probes} x {num_probes} "
        f"(multiplications {num_probes * num_gallery * pair_products / 1e9:,.1f}e9 instead of "
        f"{num_probes * (num_probes + 1) / 2 * pair_products / 1e9:,.1f}e9), maps of other ranks received {others} and "
        f"their gradient sent {others} a step; all maps and their gradient {megabytes(2 * num_gallery * map_bytes)}, "
        f"best matches {matches}"
    ]
