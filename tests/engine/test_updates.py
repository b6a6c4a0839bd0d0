"""Gradients between the backward pass and the update, dense and sparse."""

import pytest
import torch
from torch import nn

from engine.updates import clip_gradients, gradient_norms, mean_over_ranks


def parameters():
    """A dense parameter and an embedding whose row 1 was looked up twice, both with gradients."""
    dense = nn.Parameter(torch.zeros(2))
    embedding = nn.Embedding(4, 3, sparse=True)
    (2 * embedding(torch.tensor([1, 3, 1]))).sum().backward()
    embedding.weight.grad = mean_over_ranks(embedding.weight.grad)
    dense.grad = torch.tensor([3.0, 4.0])
    return [dense, embedding.weight]


def test_the_norm_counts_every_number_of_sparse_gradients():
    # Row 1 gets 2 twice, which add up to 4; row 3 gets 2.
    assert gradient_norms(parameters()).tolist() == pytest.approx([5.0, (3 * 16 + 3 * 4) ** 0.5])


@pytest.mark.parametrize("max_norm", [1.0, 100.0])
def test_clipping_scales_all_gradients_alike_and_only_when_they_are_too_long(max_norm):
    clipped, untouched = parameters(), parameters()
    norm = gradient_norms(clipped).norm()
    clip_gradients(clipped, max_norm, norm)
    factor = min(1.0, max_norm / norm.item())
    for parameter, before in zip(clipped, untouched, strict=True):
        torch.testing.assert_close(parameter.grad.to_dense(), factor * before.grad.to_dense())
    assert gradient_norms(clipped).norm().item() == pytest.approx(min(max_norm, norm.item()))
