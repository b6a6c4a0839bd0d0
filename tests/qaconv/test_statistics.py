"""Moments of the maxima and running statistics over ranks."""

import torch
import torch.distributed as dist
from gloo_ranks import on_ranks
from torch import nn

from qaconv import QAConv
from qaconv import statistics as statistics_module
from qaconv.statistics import Moments, moments, update_running_statistics


def test_moments_and_their_gradient_equal_those_of_the_values_that_count(monkeypatch):
    monkeypatch.setattr(statistics_module, "_PART_SIZE", 7)
    generator = torch.Generator().manual_seed(0)
    values = [3 + torch.randn(2, 3, 4, n, generator=generator, dtype=torch.float64) for n in (2, 5)]
    counts = [torch.rand(value.shape, generator=generator) < 0.7 for value in values]
    values = [value.masked_fill(~chosen, 0).requires_grad_() for value, chosen in zip(values, counts, strict=True)]
    expected = torch.cat([value[chosen] for value, chosen in zip(values, counts, strict=True)])

    found = moments(tuple(values), torch.tensor(float(expected.numel()), dtype=torch.float64))

    torch.testing.assert_close(found.mean, expected.mean())
    torch.testing.assert_close(found.variance, expected.var(correction=0))
    wanted = torch.autograd.grad(2 * expected.mean() + 3 * expected.var(correction=0), values)
    grads = torch.autograd.grad(2 * found.mean + 3 * found.variance, values)
    for grad, want, chosen in zip(grads, wanted, counts, strict=True):
        torch.testing.assert_close(grad[chosen], want[chosen])


def test_running_statistics_move_as_torch_moves_them():
    ours, theirs = nn.BatchNorm1d(1).double(), nn.BatchNorm1d(1).double()
    for seed in range(3):
        values = 2 + torch.randn(11, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        theirs(values)
        count = torch.tensor(11.0, dtype=torch.float64)
        update_running_statistics([(ours, Moments(values.mean(), values.var(correction=0), count))])
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))


def _batch(rank):
    generator = torch.Generator().manual_seed(rank)
    maps = torch.nn.functional.normalize(torch.randn(3 + rank, 4, 2, 2, generator=generator), dim=1)
    return maps, torch.rand(3 + rank, 1, 2, 2, generator=generator)


def _train_on_one_rank():
    torch.manual_seed(0)
    matcher = QAConv(4, 2, 2, "masking").train()
    maps, visibility = _batch(dist.get_rank())
    scores = matcher(maps, maps, visibility, visibility)
    return {"state": matcher.state_dict(), "scores": scores.detach()}


def test_ranks_agree_on_running_statistics_of_all_their_pairs():
    ranks = on_ranks(2, _train_on_one_rank)
    torch.testing.assert_close(ranks[0]["state"], ranks[1]["state"], rtol=0, atol=0)
    expected = _expected_running_statistics([rank["scores"] for rank in ranks])
    for name, value in expected.items():
        torch.testing.assert_close(ranks[0]["state"][name], value, msg=name)


def _expected_running_statistics(scores):
    """The statistics of both ranks' matches and raw scores taken together, by plain formulas."""
    matches, logits = [], []
    for rank in range(2):
        torch.manual_seed(0)
        matcher = QAConv(4, 2, 2, "masking").train()
        maps, visibility = _batch(rank)
        torch.testing.assert_close(matcher(maps, maps, visibility, visibility), scores[rank])
        seen = (visibility >= 0.5).flatten(1)
        sim = torch.einsum("pcs,gcr->pgsr", maps.flatten(2), maps.flatten(2))
        sim = sim.masked_fill(~seen[:, None, :, None], -torch.inf).masked_fill(~seen[None, :, None, :], -torch.inf)
        best = torch.cat([sim.amax(3).flatten(), sim.amax(2).flatten()])
        matches.append(best[best.isfinite()])
        # One training step from (0, 1) moves a running mean by a tenth of the batch's.
        logits.append((10 * matcher.logit_bn.running_mean, matcher.logit_bn.running_var, scores[rank].numel()))
    values = torch.cat(matches)
    total = sum(count for *_, count in logits)
    mean = sum(count * mean for mean, _, count in logits) / total
    within = sum(10 * (var - 0.9) * (count - 1) + count * (m - mean) ** 2 for m, var, count in logits)
    return {
        "bn.running_mean": 0.1 * values.mean().view(1),
        "bn.running_var": 0.9 + 0.1 * values.var().view(1),
        "logit_bn.running_mean": 0.1 * mean,
        "logit_bn.running_var": 0.9 + 0.1 * within / (total - 1),
    }
