"""The terms of a recognizer's loss: one table says what each is and what it weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import heads
import losses
import nets
import qaconv
from config import Config
from datasets import Sample
from ops import at_least_float32, gather, gather_with_gradient, own_rank, unit_map, world_size
from tasks.recognition.class_bits import class_bits
from tasks.recognition.merging import MergedPeople, Side
from transforms import visibility_map


class Images(NamedTuple):
    """One side of a score matrix."""

    maps: Tensor  # [B, C, h, w], unit length over C
    visibility: Tensor | None  # [B, 1, h, w] in [0, 1], 1 = visible
    labels: Tensor  # [B] int64, people of the data set, or of all where some are merged
    dataset_ids: Tensor  # [B] int64


class Columns(NamedTuple):
    """What the losses have to know of a gallery; both None where it is the batch itself, of one data set."""

    gallery_labels: Tensor | None
    is_self: Tensor | None  # or of two data sets: whether such two are one person is not known


class MatchedBatch(NamedTuple):
    """The one score matrix that a batch's matching losses read, [B, G], and what they have to know of its columns.

    Rows are the images of this rank, columns likewise, or where pairs cross ranks the images of all ranks.
    """

    scores: Tensor
    labels: Tensor  # [B] int64, of the rows
    columns: Columns
    mean: Callable[[Tensor], Tensor]  # of values [B], over the rows that have a positive and a negative


def pairs_cross_ranks(config: Config) -> bool:
    """Return whether the matcher's pairs are formed across ranks: asked for, or part of --check_mode."""
    return config.cross_rank_pairs or config.check_mode


def score_batch(
    matcher: qaconv.QAConv,
    config: Config,
    images: Images,
    several_sets: bool = False,
    merged: MergedPeople | None = None,
) -> MatchedBatch:
    """Return the scores of a batch with itself, or with the images of all ranks: all must then call it together.

    Then the mean of a loss over the ranks is that of the global batch, also where they differ in how many rows have a
    positive and a negative, and the gradients that DDP averages are its gradients; the matcher's norms take the moments
    of the global batch. (Those of the backbone stay each rank's own.)

    Of two images of different data sets nothing is concluded, but for people who are known to be `merged`.
    """
    across_ranks = pairs_cross_ranks(config) and world_size() > 1
    gallery = _of_all_ranks(images) if across_ranks else images
    columns = _columns(images, gallery, several_sets, merged) if across_ranks or several_sets else Columns(None, None)
    scores = matcher(images.maps, gallery.maps, images.visibility, gallery.visibility, across_ranks)
    return MatchedBatch(scores, images.labels, columns, _row_mean(images.labels, columns, across_ranks))


def _of_all_ranks(images: Images) -> Images:
    # Cells travel with their channels together, as the net lays them out and the matcher reads them: no copies.
    maps = gather_with_gradient(images.maps.movedim(1, -1)).movedim(-1, 1)
    visibility = None if images.visibility is None else gather_with_gradient(images.visibility)
    return Images(maps, visibility, gather(images.labels), gather(images.dataset_ids))


def _columns(images: Images, gallery: Images, several_sets: bool, merged: MergedPeople | None) -> Columns:
    """Return the columns of a gallery in which the images come again, behind those of the ranks before."""
    first = own_rank() * len(images.labels) if len(gallery.labels) > len(images.labels) else 0
    places = torch.arange(len(gallery.labels), device=images.labels.device)
    apart = places == (first + places[: len(images.labels), None])
    if merged is not None:
        apart |= ~merged.known(Side(images.labels, images.dataset_ids), Side(gallery.labels, gallery.dataset_ids))
    elif several_sets:
        apart |= images.dataset_ids[:, None] != gallery.dataset_ids
    return Columns(gallery.labels, apart)


def _row_mean(labels: Tensor, columns: Columns, across_ranks: bool) -> partial[Tensor]:
    """Return values [B] -> their mean over the rows that have a positive and a negative; see `mean_over_valid`."""
    valid = losses.valid_rows(labels, *columns)
    if not across_ranks:
        return partial(losses.mean_over_valid, valid=valid)
    counts = gather(valid.sum()[None])
    return partial(losses.mean_over_valid, valid=valid, num_valid=counts.sum().clamp_min(1).double() / len(counts))


class Judges(NamedTuple):
    """What judges a batch.

    Attributes:
        heads: margin heads by the name of their data set, in the order of their numbers; their `margin_scale` is that
            of the step.
        matcher: None without one.
        merged: people who are in several data sets; None: nothing is known of that.
    """

    heads: Mapping[str, heads.Head]
    matcher: qaconv.QAConv | None
    merged: MergedPeople | None = None


class Forward:
    """One batch on its way through the networks: what the terms are made from.

    Args:
        config: options of the run.
        judges: of it.
        features: of the batch.
        visibility: predicted, as `nets.see` returns it; None without an occlusion head.
        batch: what the features are of.
        step: number of updates before it.
    Attributes:
        values: what the terms measure on their way, scalars by name.
    """

    def __init__(
        self,
        config: Config,
        judges: Judges,
        features: nets.Features,
        visibility: Tensor | None,
        batch: Sample,
        step: int,
    ) -> None:
        self.config, self.heads, self._judges = config, judges.heads, judges
        self.features, self.visibility, self.batch, self.step = features, visibility, batch, step
        self.values: dict[str, Tensor] = {}

    @property
    def matcher(self) -> qaconv.QAConv:
        """The local matcher, which must be there."""
        assert self._judges.matcher is not None
        return self._judges.matcher

    @cached_property
    def images(self) -> Images:
        """What the matcher reads."""
        visibility = self.visibility
        if visibility is not None:
            visibility = nets.pooled(visibility, self.features.feature_map)
            if not self.config.visibility_gradient:
                # The matching losses would rather hide hard cells than see them: they may read the map, not bend it.
                visibility = visibility.detach()
        labels, merged = self.batch.label, self._judges.merged
        dataset_ids = self.batch.dataset_id.to(labels.device)
        people = labels if merged is None else merged.people(labels, dataset_ids)
        return Images(unit_map(self.features.feature_map), visibility, people, dataset_ids)

    @cached_property
    def matched(self) -> MatchedBatch:
        """The batch matched with itself, once for all the terms that read it."""
        pairs = score_batch(self.matcher, self.config, self.images, len(self.heads) > 1, self._judges.merged)
        accuracy = losses.pairwise_accuracy(pairs.scores.detach(), pairs.labels, *pairs.columns)
        self.values["train_pairwise_acc"] = pairs.mean(accuracy)
        return pairs

    def unread(self) -> Tensor:
        """Return 0, with a gradient of 0 for embeddings and heads: DDP waits for one where no loss reads them."""
        parameters = (parameter for head in self.heads.values() for parameter in head.parameters())
        return 0.0 * torch.stack([self.features.embedding.sum(), *(parameter.sum() for parameter in parameters)]).sum()


class Term(NamedTuple):
    """One term of the loss; with weight 0 it is not computed."""

    name: str
    weight: Callable[[Config], float]
    loss: Callable[[Forward], Tensor | None]  # unweighted, a scalar; None: this batch has none


def _head(forward: Forward) -> Tensor:
    """Return the loss of the only head; of several the sum of each set's mean times the weight of the set."""
    if len(forward.heads) == 1:
        (head,) = forward.heads.values()
        found = head.loss(forward.features, forward.batch.label, forward.step)
        forward.values["train_head_acc"] = found.accuracy
        return found.loss
    features, batch, device = forward.features, forward.batch, forward.features.embedding.device
    rows = [(batch.dataset_id == number).nonzero()[:, 0].to(device) for number in range(len(forward.heads))]
    counts = torch.tensor([len(of_set) for of_set in rows], device=device)
    # All heads take part in every step. A set's mean is over the images of all ranks, of which DDP takes the mean.
    scales = world_size() * counts / gather(counts[None]).sum(0).clamp_min(1)
    losses, total = [], scales.new_zeros(())
    for (name, head), of_set, scale in zip(forward.heads.items(), rows, scales, strict=True):
        part = features._replace(embedding=features.embedding[of_set], norm=features.norm[of_set])
        found = head.loss(part, batch.label[of_set], forward.step)
        losses.append(head.set_weight * scale * found.loss)
        forward.values[f"train_head_loss/{name}"] = (scale * found.loss).detach()
        forward.values[f"train_head_acc/{name}"] = accuracy = scale * found.accuracy
        total = total + head.set_weight * accuracy
    forward.values["train_head_acc"] = total
    return torch.stack(losses).sum()


def _pairwise(forward: Forward) -> Tensor:
    loss, pairs = losses.PAIRWISE_REDUCTIONS[forward.config.pairwise_reduction], forward.matched
    return pairs.mean(loss(pairs.scores, pairs.labels, *pairs.columns))


def _triplet(forward: Forward) -> Tensor:
    pairs, margin = forward.matched, forward.config.triplet_margin
    return pairs.mean(losses.triplet_loss(pairs.scores, pairs.labels, margin, *pairs.columns))


def _class(forward: Forward) -> Tensor:
    maps, visibility, labels, _ = forward.images
    logits = forward.matcher.class_logits(maps, labels, visibility)
    return F.cross_entropy(logits, torch.zeros_like(labels))


def _occlusion(forward: Forward) -> Tensor | None:
    visibility, mask = forward.visibility, forward.batch.visibility
    if visibility is None or mask is None:
        return None
    loss = losses.OCCLUSION_LOSSES[forward.config.occlusion_loss]
    return loss(visibility, visibility_map(mask, *visibility.shape[-2:]))


def class_weight(config: Config) -> float:
    """Return the weight of the class embeddings' loss; 0: there are none, or nothing trains them."""
    within = config.triplet_weight if config.class_weight is None else config.class_weight
    return config.qaconv_loss_weight * within if config.class_embeddings else 0.0


TERMS = (
    Term("head", lambda c: c.adaface_loss_weight, _head),
    Term("pairwise", lambda c: c.qaconv_loss_weight, _pairwise),
    Term("triplet", lambda c: c.qaconv_loss_weight * c.triplet_weight, _triplet),
    Term("class", class_weight, _class),
    Term("occlusion", lambda c: c.occlusion_loss_weight, _occlusion),
)


def weighted_losses(forward: Forward) -> dict[str, tuple[float, Tensor]]:
    """Return weight and unweighted loss of the terms that have a weight, by name."""
    found = {}
    for term in TERMS:
        weight = term.weight(forward.config)
        loss = term.loss(forward) if weight else None
        if loss is not None:
            found[term.name] = (weight, loss)
    if "head" not in found:
        name, (weight, loss) = next(iter(found.items()))
        found[name] = (weight, loss + forward.unread())
    return found


def feature_statistics(forward: Forward, weighted: dict[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
    """Return each weighted term's gradient norm at the feature map, how long the features are, and what heads know."""
    feature_map, values = forward.features.feature_map, {}
    for name, (weight, loss) in weighted.items():
        if feature_map.requires_grad and loss.requires_grad:  # not where --freeze cuts between them
            gradient = torch.autograd.grad(weight * loss, feature_map, retain_graph=True, allow_unused=True)[0]
            if gradient is not None:
                values[f"map_grad/{name}"] = gradient.norm()
    values["embedding_norm"] = forward.features.norm.mean()
    values["map_norm"] = at_least_float32(feature_map).norm(dim=1).mean()
    batch = forward.batch
    return values | class_bits(forward.heads, forward.features.embedding, batch.label, batch.dataset_id)
