"""From the best matches of the cells to one score per pair: the published norms and linear layer, or a weighted mean.

Legend of the shape suffixes: L groups, P probe maps, G gallery maps; a direction has A maps that look, K cells, and B
maps that are looked at.
"""

# ruff: noqa: N803, N806  (shape suffixes are capitals)

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from qaconv.correlation import Maxima
from qaconv.occlusion import Cells
from qaconv.statistics import Moments, moments, moments_of_ranks, update_running_statistics

# Weight of the co-visible cells below which a direction's mean fades to 0 instead of dividing by nothing.
_LEAST_WEIGHT = 1e-6

# What the norms normalize with: their running statistics, the moments of this process's batch, or those of all ranks'.
MomentsOf = Literal["running", "batch", "ranks"]


class PublishedLayers(NamedTuple):
    """The parameters of QAConv v1.3."""

    bn: nn.BatchNorm2d  # one channel, over all best matches
    fc: nn.Linear  # [1, K], over the cells of one direction
    logit_bn: nn.BatchNorm1d  # one channel, over all scores


def _weighted_sum(weight_LAK: Tensor, values_LAKB: Tensor) -> Tensor:
    return (weight_LAK.unsqueeze(2) @ values_LAKB).squeeze(2)


def _num_matched(probe: Cells, gallery: Cells) -> Tensor:
    """Return how many best matches exist over all pairs, both directions, as a float64 scalar."""
    if probe.maps.hidden is None or gallery.maps.hidden is None:
        (num_groups, num_probe, num_cells), num_gallery = probe.maps.features.shape[:3], gallery.maps.features.shape[1]
        count = 2 * num_groups * num_probe * num_gallery * num_cells
        return torch.full((), count, dtype=torch.float64, device=probe.maps.features.device)
    num_seen_LP, num_seen_LG = ((~hidden).sum(dim=2).double() for hidden in (probe.maps.hidden, gallery.maps.hidden))
    by_probe = num_seen_LP.sum(dim=1) * (num_seen_LG > 0).sum(dim=1)
    by_gallery = num_seen_LG.sum(dim=1) * (num_seen_LP > 0).sum(dim=1)
    return (by_probe + by_gallery).sum()


def _match_moments(maxima: Maxima, probe: Cells, gallery: Cells) -> Moments:
    count = _num_matched(probe, gallery)
    if maxima.gallery is maxima.probe:
        return moments((maxima.probe,), count / 2, copies=2)
    return moments((maxima.probe, maxima.gallery), count)


def _running(norm: nn.BatchNorm1d | nn.BatchNorm2d, like: Tensor) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.to(like.dtype), norm.running_var.to(like.dtype)


def _published_half(
    best_LAKB: Tensor, looking: Cells, looked_at: Cells, layers: PublishedLayers, mean: Tensor, variance: Tensor
) -> Tensor:
    """Return fc(bn(best)) [L, A, B], the sum over visible cells scaled up to all K.

    Norm and layer are affine, so they are folded around the one product of weights and matches: with g = gamma /
    sqrt(var + eps), sum_k w_k (g (x_k - mean) + beta) + b = g (w . x - mean sum w) + beta sum w + b.
    """
    weight = layers.fc.weight.to(best_LAKB.dtype).view(1, 1, -1)
    total = weight.sum(dim=2, keepdim=True)
    if looked_at.maps.hidden is not None and looking.visibility is not None:
        # The clamp only spares maps without any visible cell from 0 / 0.
        visible_sum = looking.visibility.sum(dim=2, keepdim=True).clamp_min(_LEAST_WEIGHT)
        weight = weight * looking.visibility * (weight.shape[2] / visible_sum)
        has_match = (~looked_at.maps.hidden).any(dim=2)[:, None, :]
        total = weight.sum(dim=2, keepdim=True) * has_match
    gain = layers.bn.weight * torch.rsqrt(variance + layers.bn.eps)
    return gain * (_weighted_sum(weight, best_LAKB) - mean * total) + layers.bn.bias * total + layers.fc.bias


def published_scores(
    maxima: Maxima, probe: Cells, gallery: Cells, layers: PublishedLayers, moments_of: MomentsOf
) -> Tensor:
    """Return the scores [L, P, G] of QAConv v1.3; the two directions are added, so fc's bias counts twice.

    With "masking" the statistics are those of the matches that exist, each direction is renormalized by its visible
    cells, and a direction without any match is fc's bias alone.
    With the moments of a batch, of this process or of all ranks, the running statistics of the norms move.
    """
    mean, variance = _running(layers.bn, maxima.probe)
    if moments_of != "running":
        own_matches = _match_moments(maxima, probe, gallery)
        mean, variance, _ = moments_of_ranks(own_matches) if moments_of == "ranks" else own_matches
    scores = _published_half(maxima.probe, probe, gallery, layers, mean, variance)
    scores = scores + _published_half(maxima.gallery, gallery, probe, layers, mean, variance).transpose(1, 2)
    mean, variance = _running(layers.logit_bn, scores)
    if moments_of != "running":
        variance, mean = torch.var_mean(scores, correction=0)
        own_scores = Moments(mean, variance, torch.full((), scores.numel(), dtype=torch.float64, device=scores.device))
        update_running_statistics([(layers.bn, own_matches), (layers.logit_bn, own_scores)])
        mean, variance, _ = moments_of_ranks(own_scores) if moments_of == "ranks" else own_scores
    gain = layers.logit_bn.weight * torch.rsqrt(variance + layers.logit_bn.eps)
    return (scores - mean) * gain + layers.logit_bn.bias


def _mean_cosine(
    best_LAKB: Tensor, cell_LAKB: Tensor | None, looking: Cells, looked_at: Cells, cell_weight: Tensor
) -> Tensor:
    weight = cell_weight.to(best_LAKB.dtype).view(1, 1, -1)
    if looking.visibility is None or looked_at.visibility is None:
        return _weighted_sum(weight, best_LAKB) / weight.sum(dim=2, keepdim=True)
    assert cell_LAKB is not None
    seen_weight = weight * looking.visibility
    seen_LB = looked_at.visibility.transpose(1, 2).unsqueeze(1).expand(cell_LAKB.shape)
    matched = seen_LB.gather(2, cell_LAKB.long())
    total = _weighted_sum(seen_weight, matched).clamp_min(_LEAST_WEIGHT)
    if looking.weighs_sum:
        return _weighted_sum(seen_weight, best_LAKB * matched) / total
    return _weighted_sum(weight, best_LAKB) / total  # the scaled correlation carries both visibilities already


def weighted_scores(maxima: Maxima, probe: Cells, gallery: Cells, cell_weight: Tensor) -> Tensor:
    """Return the mean over both directions of the co-visibility weighted mean cosine, [L, P, G] in [-1, 1].

    With r*(s) the gallery cell that probe cell s matches best, and a positive weight w per cell, the probe's half is

        sum_s w_s v_p(s) v_g(r*(s)) S(s, r*(s))  /  sum_s w_s v_p(s) v_g(r*(s))

    and the gallery's the same with the roles exchanged: a match counts as far as both its ends are seen. "none" has
    v = 1; "masking" has v = 0 below the threshold; "scaling" chooses r* by the scaled correlation. A half with
    nothing co-visible is 0.
    """
    probe_mean = _mean_cosine(maxima.probe, maxima.probe_cell, probe, gallery, cell_weight)
    if maxima.gallery is maxima.probe:
        return (probe_mean + probe_mean.transpose(1, 2)) / 2
    gallery_mean = _mean_cosine(maxima.gallery, maxima.gallery_cell, gallery, probe, cell_weight)
    return (probe_mean + gallery_mean.transpose(1, 2)) / 2
