"""Rows of all ranks with and without a gradient, and the least precision."""

import pytest
import torch
from gloo_ranks import on_ranks
from torch import distributed

from ops import at_least_float32, gather, gather_with_gradient, own_rank, world_size

ROWS, WIDTH = 2, 3


def values_of(rank):
    return torch.randn(ROWS, WIDTH, 2, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def weights_of(rank, num_ranks):
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(num_ranks * ROWS, WIDTH, 2, generator=generator, dtype=torch.float64)


def gathered(scale):
    rank, num_ranks = own_rank(), world_size()
    # As a transposed view: neither the rows nor their gradient lie as a collective wants them.
    values = values_of(rank).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    rows = gather_with_gradient(values, scale)
    (weights_of(rank, num_ranks) * rows).sum().backward()
    return {"rows": rows.detach(), "plain": gather(values), "gradient": values.grad, "ranks": distributed.get_rank()}


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_the_gradient_of_a_ranks_rows_is_the_sum_over_the_ranks(num_ranks):
    expected = torch.cat([values_of(rank) for rank in range(num_ranks)])
    gradient = torch.stack([weights_of(rank, num_ranks) for rank in range(num_ranks)]).sum(0)
    for rank, found in enumerate(on_ranks(num_ranks, gathered, 2.5)):
        assert found["ranks"] == rank
        assert torch.equal(found["rows"], expected) and torch.equal(found["plain"], expected)
        torch.testing.assert_close(found["gradient"], 2.5 * gradient.chunk(num_ranks)[rank])


def test_without_a_process_group_a_gather_is_the_rows_themselves():
    values = values_of(0).requires_grad_()
    assert (own_rank(), world_size()) == (0, 1)
    assert torch.equal(gather(values), values) and not gather(values).requires_grad
    gather_with_gradient(values).square().sum().backward()
    torch.testing.assert_close(values.grad, 2 * values.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.float32])
def test_what_is_less_becomes_float32(dtype):
    values = torch.tensor([0.0, 1.0, 1.0]).to(dtype)
    assert at_least_float32(values).dtype == torch.float32
    assert at_least_float32(values).tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_and_float64_stay_the_same_tensors(dtype):
    values = torch.zeros(2, dtype=dtype)
    assert at_least_float32(values) is values
