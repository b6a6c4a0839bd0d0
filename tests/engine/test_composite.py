"""One optimizer of several: rows of sparse gradients, shards, and what all of them have in common."""

import pytest
import torch
from torch import nn

from engine.composite import CompositeOptimizer, ShardSGD, SparseSGD
from engine.optim import SchedulePlan, build_optimizer, build_scheduler

NO = torch.tensor(False)


def parameters():
    """A dense parameter and an embedding whose row 1 was looked up twice, both with gradients."""
    dense, embedding = nn.Parameter(torch.zeros(2)), nn.Embedding(4, 3, sparse=True)
    (2 * embedding(torch.tensor([1, 3, 1]))).sum().backward()
    dense.grad = torch.tensor([3.0, 4.0])
    return dense, embedding.weight


def composite(dense, sparse, name="sgd", lr=0.1):
    """An optimizer of both, the second one's rows moved by a part."""
    whole = build_optimizer(name, [{"params": [dense, sparse], "weight_decay": 0.5}], lr=lr, momentum=0.9)
    made = CompositeOptimizer(whole, [SparseSGD(sparse, seed=0)])
    for part in made.parts:
        part.reduce()
    return made


def test_the_norm_counts_every_number_of_sparse_gradients():
    dense, sparse = parameters()
    norms, whole = composite(dense, sparse).gradient_norms([("dense", dense), ("sparse", sparse)])
    # Row 1 gets 2 twice, which add up to 4; row 3 gets 2.
    assert [float(norm) for norm in norms.values()] == pytest.approx([5.0, (3 * 16 + 3 * 4) ** 0.5])
    assert float(whole) == pytest.approx((25 + 60) ** 0.5)


@pytest.mark.parametrize("max_norm", [1.0, 100.0])
def test_clipping_scales_all_gradients_alike_and_only_when_they_are_too_long(max_norm):
    (dense, sparse), before = parameters(), [p.grad.to_dense().clone() for p in parameters()]
    made = composite(dense, sparse)
    _, norm = made.gradient_norms([("dense", dense), ("sparse", sparse)])
    made.clip(max_norm, norm)
    factor = min(1.0, max_norm / norm.item())
    torch.testing.assert_close([p.grad.to_dense() for p in (dense, sparse)], [factor * g for g in before])


def test_a_part_follows_the_group_of_its_own_matrix():
    dense, sparse = parameters()
    groups = [
        {"params": [dense], "weight_decay": 0.5},
        {"params": [sparse], "weight_decay": 0.25, "lr_factor": 3.0},
    ]
    made = CompositeOptimizer(build_optimizer("sgd", groups, lr=0.1, momentum=0.0), [SparseSGD(sparse, seed=0)])
    made.load_state_dict(made.state_dict())  # which makes other groups
    made.param_groups[1]["lr"] = 0.2
    made.parts[0].reduce()
    before = sparse.detach().clone()
    made.step()
    torch.testing.assert_close(sparse.detach()[1], before[1] - 0.2 * (4.0 + 0.25 * before[1]))
    assert torch.equal(sparse.detach()[0], before[0])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_parts_follow_the_schedule_of_the_whole_and_leave_it_nothing_to_move(name):
    dense, sparse = parameters()
    made = composite(dense, sparse, name, lr=2.0)
    scheduler = build_scheduler(made, "multistep", SchedulePlan(10, warmup_steps=4))
    for rate in (0.5, 1.0):
        before, sparse.grad = sparse.detach().clone(), torch.sparse_coo_tensor([[1]], torch.ones(1, 3), (4, 3))
        made.parts[0].reduce()
        made.step()
        scheduler.step()
        expected = before.clone()
        expected[1] -= rate * (1.0 + 0.5 * before[1])
        torch.testing.assert_close(sparse.detach(), expected)
        assert sparse.grad is None
    assert sparse not in made.state and dense in made.state


def test_its_state_is_that_of_the_whole_and_comes_back():
    made, other = composite(*parameters()), composite(*parameters())
    made.step()
    other.load_state_dict(made.state_dict())
    plain = build_optimizer("sgd", [{"params": [*parameters()], "weight_decay": 0.5}], lr=0.1, momentum=0.9)
    assert made.state_dict()["param_groups"] == plain.state_dict()["param_groups"]
    dense = other.param_groups[0]["params"][0]
    dense.grad = torch.ones(2)
    before = dense.detach().clone()
    other.step()
    momentum = 0.9 * torch.tensor([3.0, 4.0]) + 1.0 + 0.5 * before
    torch.testing.assert_close(dense.detach(), before - 0.1 * momentum)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("last", [True, False])
def test_what_is_loaded_lies_in_memory_as_the_parameters_do(name, last):
    def made(layout):
        generator = torch.Generator().manual_seed(0)
        weight, gradient = (torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=layout) for _ in range(2))
        weight = nn.Parameter(weight)
        weight.grad = gradient
        return weight, CompositeOptimizer(build_optimizer(name, [{"params": [weight]}], lr=0.1, momentum=0.9))

    layouts = [torch.channels_last, torch.contiguous_format]
    (_, before), (weight, after) = (made(layout) for layout in (layouts if last else layouts[::-1]))
    before.step()
    after.load_state_dict(before.state_dict())
    (saved,), (loaded,) = before.state.values(), after.state.values()
    large = [key for key, value in saved.items() if torch.is_tensor(value) and value.ndim == 4]
    assert large and all(torch.equal(loaded[key], saved[key]) for key in large)
    assert all(loaded[key].stride() == weight.stride() != saved[key].stride() for key in large)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_refused_step_changes_nothing_and_drops_the_gradients_of_the_parts(name):
    dense, sparse = parameters()
    shard = nn.Parameter(torch.ones(3, 2))
    shard.grad = torch.full((3, 2), torch.nan)
    whole = build_optimizer(name, [{"params": [dense, sparse, shard]}], lr=0.1, momentum=0.9)
    made = CompositeOptimizer(whole, [SparseSGD(sparse, seed=0), ShardSGD(shard)])
    for part in made.parts:
        part.reduce()
    before = [p.detach().clone() for p in (dense, sparse, shard)]
    made.step(accepted=NO)
    assert all(torch.equal(p, b) for p, b in zip((dense, sparse, shard), before, strict=True))
    assert sparse.grad is None and shard.grad is None


def test_a_fused_optimizer_keeps_no_momentum_of_what_a_part_moves():
    dense, sparse = parameters()
    whole = build_optimizer("sgd", [{"params": [dense, sparse]}], lr=0.1, momentum=0.9, fused=True)
    saved = whole.state_dict()  # as checkpoints of GPUs had it
    made = CompositeOptimizer(whole, [SparseSGD(sparse, seed=0)])
    assert sparse not in made.state and dense in made.state
    made.load_state_dict(saved)
    assert sparse not in made.state and dense in made.state


# ---------------------------------------------------------------- rows


def rows_with_gradient(dtype):
    weight = nn.Parameter(torch.full((5, 2000), 0.125, dtype=dtype))
    weight.grad_dtype = torch.float32
    weight.grad = torch.sparse_coo_tensor([[3, 1, 3]], torch.ones(3, 2000), weight.shape)
    return weight


def sparse_step(weight, **options):
    optimizer = SparseSGD(weight, seed=0, **options)
    optimizer.reduce()
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sparse_step_decays_and_moves_the_rows_of_its_gradient_alone(dtype):
    weight = rows_with_gradient(dtype)
    sparse_step(weight, lr=0.1, weight_decay=0.5).step()
    means = weight.detach().double().mean(dim=1)
    expected = torch.tensor([0.125, 0.125 - 0.1 * 1.0625, 0.125, 0.125 - 0.1 * 2.0625, 0.125], dtype=torch.float64)
    torch.testing.assert_close(means, expected, atol=1e-5, rtol=0)


def test_steps_below_a_digit_of_float16_move_its_mean_and_draw_by_their_number():
    # Half a digit of float16 at 0.125 is 6e-5: to the nearest number every step of 1e-6 would be lost.
    ends = []
    for numbers in (range(50), range(50), range(1, 51)):
        weight = rows_with_gradient(torch.float16)
        gradient = weight.grad.coalesce()
        for number in numbers:
            weight.grad = gradient.clone()
            sparse_step(weight, lr=1e-6).step(number=number)
        ends.append(weight.detach())
    moved = 0.125 - ends[0].double().mean(dim=1)
    torch.testing.assert_close(moved[[1, 3]], torch.tensor([5e-5, 1e-4], dtype=torch.float64), atol=1e-5, rtol=0)
    assert (moved[[0, 2, 4]] == 0).all()
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sparse_step_that_is_not_accepted_changes_nothing(dtype):
    weight = rows_with_gradient(dtype)
    before = weight.detach().clone()
    weight.grad = weight.grad * torch.nan
    sparse_step(weight, lr=0.1, weight_decay=0.5).step(accepted=NO)
    assert torch.equal(weight, before)
