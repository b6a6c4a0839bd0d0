"""Gradients between the backward pass and the update, dense and sparse."""

import pytest
import torch
from torch import nn

from updates import NonFiniteError, UpdateGuard, clip_gradients, gradient_norm, mean_over_ranks


def parameters():
    """A dense parameter and an embedding whose row 1 was looked up twice, both with gradients."""
    dense = nn.Parameter(torch.zeros(2))
    embedding = nn.Embedding(4, 3, sparse=True)
    (2 * embedding(torch.tensor([1, 3, 1]))).sum().backward()
    embedding.weight.grad = mean_over_ranks(embedding.weight.grad)
    dense.grad = torch.tensor([3.0, 4.0])
    return [dense, embedding.weight]


def test_the_norm_counts_every_number_of_sparse_gradients():
    found = gradient_norm(parameters())
    # Row 1 gets 2 twice, which add up to 4; row 3 gets 2.
    assert found.item() == pytest.approx((9 + 16 + 3 * 16 + 3 * 4) ** 0.5)


@pytest.mark.parametrize("max_norm", [1.0, 100.0])
def test_clipping_scales_all_gradients_alike_and_only_when_they_are_too_long(max_norm):
    clipped, untouched = parameters(), parameters()
    norm = gradient_norm(clipped)
    clip_gradients(clipped, max_norm, norm)
    factor = min(1.0, max_norm / norm.item())
    for parameter, before in zip(clipped, untouched, strict=True):
        torch.testing.assert_close(parameter.grad.to_dense(), factor * before.grad.to_dense())
    assert gradient_norm(clipped).item() == pytest.approx(min(max_norm, norm.item()))


def guarded(on_nonfinite):
    """A guard watching a module whose running mean is then spoilt."""
    guard, norm = UpdateGuard(on_nonfinite), nn.BatchNorm1d(2)
    guard.watch(norm)
    norm.running_mean.fill_(torch.nan)
    return guard, norm


TERMS = {"head": torch.tensor(1.0), "pairwise": torch.tensor(torch.inf), "occlusion": torch.tensor(torch.nan)}


def test_a_bad_loss_names_its_terms_and_the_step():
    with pytest.raises(NonFiniteError, match="step 7: loss term pairwise, occlusion is not finite; lower --lr"):
        guarded("stop")[0].accepts_loss(torch.tensor(torch.nan), TERMS, 7)


def test_a_total_that_overflows_on_its_own_is_named():
    with pytest.raises(NonFiniteError, match="the sum of the loss terms"):
        guarded("stop")[0].accepts_loss(torch.tensor(torch.inf), {"head": torch.tensor(1e38)}, 1)


def test_a_bad_loss_refuses_the_next_update_only_and_puts_the_statistics_back():
    guard, norm = guarded("skip")
    assert not guard.accepts_loss(torch.tensor(torch.nan), TERMS, 1)
    named = dict(zip(("dense", "sparse"), parameters(), strict=True))
    assert not guard.accepts_gradient(named, torch.tensor(1.0), 1, scaled=False)
    assert [p.grad for p in named.values()] == [None, None]
    assert norm.running_mean.tolist() == [0, 0]
    named = dict(zip(("dense", "sparse"), parameters(), strict=True))
    assert guard.accepts_loss(torch.tensor(1.0), {"head": torch.tensor(1.0)}, 2)
    assert guard.accepts_gradient(named, torch.tensor(1.0), 2, scaled=False)
    assert guard.skipped == 1


def test_accumulated_batches_with_several_bad_losses_are_one_skipped_step():
    guard, norm = guarded("skip")
    for _ in range(3):
        guard.accepts_loss(torch.tensor(torch.nan), TERMS, 1)
        guard.watch(norm)
        assert norm.running_mean.tolist() == [0, 0]  # the next batch of the step must not start from a NaN
        norm.running_mean.fill_(torch.nan)
    guard.accepts_gradient({}, torch.tensor(1.0), 1, scaled=False)
    assert guard.skipped == 1


@pytest.mark.parametrize("sparse", [False, True])
def test_the_first_bad_gradient_is_named(sparse):
    named = dict(zip(("dense", "sparse"), parameters(), strict=True))
    values = named["sparse"].grad.values() if sparse else named["dense"].grad
    values[-1] = torch.nan
    norm = gradient_norm(list(named.values()))
    with pytest.raises(NonFiniteError, match=f"step 3: gradient of {'sparse' if sparse else 'dense'} is not finite"):
        UpdateGuard("stop").accepts_gradient(named, norm, 3, scaled=False)


def test_gradients_that_overflow_together_are_named_so():
    named = {"dense": parameters()[0]}
    named["dense"].grad.fill_(3e38)
    with pytest.raises(NonFiniteError, match="gradient of all parameters together"):
        UpdateGuard("stop").accepts_gradient(named, gradient_norm(list(named.values())), 3, scaled=False)


def test_an_overflow_under_a_loss_scaler_is_dropped_but_neither_counted_nor_a_reason_to_stop():
    guard, named = UpdateGuard("stop"), {"dense": parameters()[0]}
    assert not guard.accepts_gradient(named, torch.tensor(torch.inf), 1, scaled=True)
    assert named["dense"].grad is None and guard.skipped == 0
