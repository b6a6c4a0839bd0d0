"""The terms of a recognizer's loss: one table says what each is and what it weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
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
from ops import at_least_float32, gather, gather_with_gradient, unit_map, world_size
from tasks.recognition.class_bits import class_bits
from tasks.recognition.known_images import is_frozen
from tasks.recognition.modulation import Modulation, covariate_loss
from tasks.recognition.paired_nets import Lesson, PairedNets
from tasks.recognition.score_matrix import Images, MatchedBatch, MergedPeople, pairs_cross_ranks, score_batch
from transforms import to_tensor, visibility_map


def low_view(batch: Sample) -> Sample | None:
    """Return the view at a low resolution; None where there is no second view, or one of another kind."""
    return None if batch.second is None or batch.second.side is None else batch.second


def images_of(batch: Sample, enlarge: Callable[[Tensor], Tensor]) -> Tensor:
    """Return images [B, 3, 112, 112] in [-1, 1], or of both views [2B, ...], HR first, LR enlarged."""
    images, low = to_tensor(batch.image), low_view(batch)
    return images if low is None else torch.cat([images, enlarge(low.image)])


def see(
    networks: tuple[nets.Backbone, nets.AnyOcclusionHead | None],
    beside: PairedNets,
    batch: Sample,
    images: Tensor,
    is_logged: bool,
) -> tuple[nets.Features, Tensor | None]:
    """Return the features of a batch and the predicted visibility, as `nets.see` does.

    Of a backbone that is frozen, and has said the same before, what it said: embeddings without maps, which nothing
    reads but what is logged.

    Args:
        networks: the backbone and the occlusion head.
        beside: has what is known.
        batch: pixels, on the device.
        images: the same, as `images_of` gives them.
        is_logged: whether `feature_statistics` follow.
    """
    backbone, occlusion_head = networks
    if beside.known is None or is_logged or not is_frozen(backbone):
        return nets.see(backbone, occlusion_head, images)

    def rows(views: Sequence[Tensor]) -> Tensor:
        second = batch.second and batch.second._replace(image=views[-1])
        shown = images_of(batch._replace(image=views[0], second=second), beside.enlarged)
        return torch.cat(backbone(shown.to(images.dtype))[:2], dim=1)

    low = low_view(batch)
    found = beside.known.look([batch.image] if low is None else [batch.image, low.image], rows)
    return nets.Features(found[:, :-1], found[:, -1:], found.new_empty(len(found), 0, 0, 0)), None


class Judges(NamedTuple):
    """What judges a batch.

    Attributes:
        heads: margin heads by the name of their data set, in the order of their numbers; their `margin_scale` is that
            of the step.
        matcher: None without one.
        merged: people who are in several data sets; None: nothing is known of that.
        lesson: gives what a teacher says of the HR images; called where a loss reads it.
        modulation: of the maps that the matcher reads; None: they stay as they are.
    """

    heads: Mapping[str, heads.Head]
    matcher: qaconv.QAConv | None
    merged: MergedPeople | None = None
    lesson: Callable[[], Lesson] | None = None
    modulation: Modulation | None = None


class Forward:
    """One batch on its way through the networks: what the terms are made from.

    Args:
        config: options of the run.
        judges: of it.
        features: of the batch; where it has a second view of both, [2B, ...], HR first.
        visibility: predicted of the same, as `nets.see` returns it; None without an occlusion head.
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
        self.config, self.heads, self.modulation, self._judges = config, judges.heads, judges.modulation, judges
        self.features, self.visibility, self.batch, self.step = features, visibility, batch, step
        self.values: dict[str, Tensor] = {}

    @property
    def matcher(self) -> qaconv.QAConv:
        """The local matcher, which must be there."""
        assert self._judges.matcher is not None
        return self._judges.matcher

    @property
    def has_views(self) -> bool:
        """Whether the batch has views at a high and at a low resolution."""
        return low_view(self.batch) is not None

    @property
    def hr(self) -> nets.Features:
        """Of the first view."""
        return _rows(self.features, slice(len(self.batch.label)))

    @property
    def lr(self) -> nets.Features:
        """Of the second view; of the only one where there is one."""
        return _rows(self.features, self._low)

    @property
    def _low(self) -> slice:
        return slice(len(self.batch.label) if self.has_views else 0, None)

    @cached_property
    def judged(self) -> Judged:
        """What the margin heads judge."""
        batch, views = self.batch, self.config.head_views
        if not self.has_views:
            return Judged(self.features, batch.label, batch.dataset_id)
        if views == "both":
            return Judged(self.features, batch.label.repeat(2), batch.dataset_id.repeat(2))
        return Judged(self.hr if views == "hr" else self.lr, batch.label, batch.dataset_id)

    @cached_property
    def lesson(self) -> Lesson:
        """What the teacher says of the HR images."""
        assert self._judges.lesson is not None
        return self._judges.lesson()

    @cached_property
    def images(self) -> Images:
        """What the matcher reads: of two views the one at a low resolution."""
        return self._images(self._low)

    def _images(self, rows: slice) -> Images:
        feature_map = self.features.feature_map[rows]
        if self.modulation is not None:
            feature_map = self.modulation.net(feature_map)
        visibility = self.visibility
        if visibility is not None:
            visibility = nets.pooled(visibility[rows], feature_map)
            if not self.config.visibility_gradient:
                # The matching losses would rather hide hard cells than see them: they may read the map, not bend it.
                visibility = visibility.detach()
        labels, merged = self.batch.label, self._judges.merged
        dataset_ids = self.batch.dataset_id.to(labels.device)
        people = labels if merged is None else merged.people(labels, dataset_ids)
        return Images(unit_map(feature_map), visibility, people, dataset_ids)

    @cached_property
    def matched(self) -> MatchedBatch:
        """The batch matched with itself, LR with HR where it has both, once for all the terms that read it."""
        others = self._images(slice(len(self.batch.label))) if self.has_views else None
        pairs = score_batch(self.matcher, self.config, self.images, len(self.heads) > 1, self._judges.merged, others)
        accuracy = losses.pairwise_accuracy(pairs.scores.detach(), pairs.labels, *pairs.columns)
        self.values["train_pairwise_acc"] = pairs.mean(accuracy)
        return pairs

    def unread(self) -> Tensor:
        """Return 0, with a gradient of 0 for embeddings and heads: DDP waits for one where no loss reads them."""
        parameters = (parameter for head in self.heads.values() for parameter in head.parameters())
        return 0.0 * torch.stack([self.features.embedding.sum(), *(parameter.sum() for parameter in parameters)]).sum()


class Judged(NamedTuple):
    """Rows for the margin heads: features, int64 labels and numbers of data sets."""

    features: nets.Features
    labels: Tensor
    dataset_ids: Tensor


def _rows(features: nets.Features, rows: slice | Tensor) -> nets.Features:
    return nets.Features(features.embedding[rows], features.norm[rows], features.feature_map[rows])


class Term(NamedTuple):
    """One term of the loss; with weight 0 it is not computed."""

    name: str
    weight: Callable[[Config], float]
    loss: Callable[[Forward], Tensor | None]  # unweighted, a scalar; None: this batch has none


def _head(forward: Forward) -> Tensor:
    """Return the loss of the only head; of several the sum of each set's mean times the weight of the set."""
    features, labels, dataset_ids = forward.judged
    if len(forward.heads) == 1:
        (head,) = forward.heads.values()
        found = head.loss(features, labels, forward.step)
        forward.values["train_head_acc"] = found.accuracy
        return found.loss
    rows = [(dataset_ids == number).nonzero()[:, 0].to(labels.device) for number in range(len(forward.heads))]
    counts = torch.tensor([len(of_set) for of_set in rows], device=labels.device)
    # All heads take part in every step. A set's mean is over the images of all ranks, of which DDP takes the mean.
    scales = world_size() * counts / gather(counts[None]).sum(0).clamp_min(1)
    losses, total = [], scales.new_zeros(())
    for (name, head), of_set, scale in zip(forward.heads.items(), rows, scales, strict=True):
        part = features._replace(embedding=features.embedding[of_set], norm=features.norm[of_set])
        found = head.loss(part, labels[of_set], forward.step)
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
    loss, target = losses.OCCLUSION_LOSSES[forward.config.occlusion_loss], visibility_map(mask, *visibility.shape[-2:])
    # One occluder is on both views.
    return loss(visibility, target.repeat(2, 1, 1, 1) if forward.has_views else target)


def _teacher(forward: Forward) -> Tensor:
    return losses.paired_cosine(forward.lr.embedding, forward.lesson.embeddings)


def _remember(forward: Forward) -> Tensor:
    return losses.paired_cosine(forward.hr.embedding, forward.lesson.embeddings)


def _relation(forward: Forward) -> Tensor:
    lr, taught = forward.lr.embedding, forward.lesson.embeddings
    if pairs_cross_ranks(forward.config):
        lr, taught = gather_with_gradient(lr), gather(taught)
    return losses.relation_distillation(lr, taught)


def _classifier(forward: Forward) -> Tensor:
    """Return the mean over images of the divergence of what their set's head says and what the teacher's says."""
    lr, ids, temperature = forward.lr.embedding, forward.batch.dataset_id, forward.config.classifier_temperature
    parts = []
    for number, (name, head) in enumerate(forward.heads.items()):
        assert isinstance(head, heads.MarginHead), "a head that is split is refused"
        rows = (ids == number).nonzero()[:, 0].to(lr.device)
        if len(rows):
            taught = head.s * forward.lesson.class_cosines(name)[rows]
            loss = losses.classifier_distillation(head.logits(lr[rows]), taught, temperature)
            parts.append(len(rows) / len(ids) * loss)
    return torch.stack(parts).sum()


def _paired(forward: Forward) -> Tensor:
    hr = forward.hr.embedding
    return losses.paired_cosine(forward.lr.embedding, hr if forward.config.both_gradients else hr.detach())


def _info_nce(forward: Forward) -> Tensor:
    temperature = forward.config.info_nce_temperature
    return _of_each_set(forward, lambda lr, hr, labels: losses.info_nce(lr, hr, temperature, labels))


def _supcon(forward: Forward) -> Tensor:
    temperature = forward.config.info_nce_temperature
    return _of_each_set(forward, lambda lr, hr, labels: losses.supervised_contrastive(lr, hr, labels, temperature))


def _of_each_set(forward: Forward, loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Return the mean over images of a loss within each set: whether people of two sets are one is not known."""
    lr, hr, labels, ids = forward.lr.embedding, forward.hr.embedding, forward.batch.label, forward.batch.dataset_id
    ids = ids.to(labels.device)
    if pairs_cross_ranks(forward.config):
        lr, hr, labels, ids = gather_with_gradient(lr), gather_with_gradient(hr), gather(labels), gather(ids)
    if len(forward.heads) == 1:
        return loss(lr, hr, labels)
    rows = [(ids == number).nonzero()[:, 0] for number in range(len(forward.heads))]
    return torch.stack([len(of) / len(ids) * loss(lr[of], hr[of], labels[of]) for of in rows if len(of)]).sum()


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
    Term("teacher", lambda c: c.teacher_weight, _teacher),
    Term("remember", lambda c: c.remember_weight, _remember),
    Term("relation", lambda c: c.relation_weight, _relation),
    Term("classifier", lambda c: c.classifier_weight, _classifier),
    Term("paired", lambda c: c.paired_weight, _paired),
    Term("info_nce", lambda c: c.info_nce_weight, _info_nce),
    Term("supcon", lambda c: c.supcon_weight, _supcon),
    Term("covariates", lambda c: c.modulator_weight if c.modulator else 0.0, covariate_loss),
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
    if forward.has_views:
        values["paired_cosine"] = (forward.lr.embedding * forward.hr.embedding).sum(dim=1).mean()
    values["embedding_norm"] = forward.features.norm.mean()
    values["map_norm"] = at_least_float32(feature_map).norm(dim=1).mean()
    features, labels, dataset_ids = forward.judged
    return values | class_bits(forward.heads, features.embedding, labels, dataset_ids)
