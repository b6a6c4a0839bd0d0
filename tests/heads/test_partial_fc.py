"""The sharded head: the dense one on any number of ranks, and what sampling leaves alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import heads
from engine.composite import ShardSGD
from heads.partial_fc import num_sampled, shard_bounds, shard_bytes

SIZE, CLASSES = 8, 41


def build(name="adaface", rate=1.0, num_classes=CLASSES, **options):
    return heads.PartialFC(heads.build_head(name, SIZE, 1, t_alpha=0.1), num_classes, rate, **options)


def batch(count, seed=0, num_classes=CLASSES):
    """Return unit embeddings, norms and labels."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = functional.normalize(torch.randn(count, SIZE, generator=generator), dim=1)
    norms = 5 + 30 * torch.rand(count, 1, generator=generator)
    return embeddings, norms, torch.randint(num_classes, (count,), generator=generator)


def dense_twin(sharded, name="adaface"):
    """Return the dense head with the same weights."""
    dense = heads.build_head(name, SIZE, CLASSES, t_alpha=0.1)
    dense.load_state_dict(sharded.gather_dense_state())
    return dense


@pytest.mark.parametrize("name", [name for name, head in heads.HEADS.items() if head.can_split])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_accuracy_and_gradients_are_those_of_the_dense_head(name, dtype):
    sharded = build(name)
    dense = dense_twin(sharded, name).to(dtype)
    sharded.to(dtype)
    embeddings, norms, labels = batch(12)
    # Two embeddings lie on class weights, their own and another's: their cosines are clamped.
    embeddings[0] = functional.normalize(sharded.weight[labels[0]].detach(), dim=0)
    embeddings[1] = functional.normalize(sharded.weight[(labels[1] + 1) % CLASSES].detach(), dim=0)
    inputs = [embeddings.to(dtype).clone().requires_grad_() for _ in range(2)]
    for head in (sharded, dense):
        head.margin_scale = 0.7
    found = sharded(inputs[0], norms, labels)
    logits = dense(inputs[1], norms, labels)
    loss = functional.cross_entropy(logits, labels)
    found.loss.backward()
    loss.backward()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found.loss, loss, **tolerance)
    assert found.accuracy.item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **tolerance)
    torch.testing.assert_close(sharded.weight.grad, dense.kernel.grad.T, **tolerance)


def test_the_loss_is_float32_under_autocast():
    sharded = build()
    expected = sharded.eval()(*batch(12)).loss
    with torch.autocast("cpu", torch.bfloat16):
        found = sharded(*batch(12)).loss
    assert found.dtype == torch.float32 and torch.equal(found, expected)


# ---------------------------------------------------------------- sampling


def rows_of_gradient(sharded):
    return sharded.weight.grad.coalesce().indices()[0].tolist()


def sampled_rows(sharded, labels, step):
    """Return the classes that get a gradient in a step."""
    embeddings, norms, _ = batch(len(labels))
    sharded(embeddings, norms, labels, step).loss.backward()
    rows = rows_of_gradient(sharded)
    sharded.weight.grad = None
    return rows


def test_the_true_classes_are_always_sampled_and_the_number_of_classes_never_changes():
    sharded = build(rate=0.3)
    for step in range(50):
        labels = batch(9, seed=step)[2]
        rows = sampled_rows(sharded, labels, step)
        assert len(rows) == len(set(rows)) == 13
        assert set(labels.tolist()) <= set(rows)


def test_the_others_are_drawn_evenly_and_follow_seed_and_step():
    sharded = build(rate=0.3)
    labels = torch.tensor([3, 3, 5])
    draws = [sampled_rows(sharded, labels, step) for step in range(300)]
    assert draws[7] == sampled_rows(sharded, labels, 7) and draws[7] != draws[8]
    assert draws[7] == sampled_rows(build(rate=0.3), labels, 7) != sampled_rows(build(rate=0.3, seed=1), labels, 7)
    counts = torch.bincount(torch.tensor(draws).flatten(), minlength=CLASSES)
    others = [c for c in range(CLASSES) if c not in (3, 5)]
    assert counts[[3, 5]].tolist() == [300, 300]
    expected = 300 * (13 - 2) / len(others)  # 85, standard deviation 7.8
    assert all(abs(counts[c] - expected) < 4.5 * 7.8 for c in others)


def test_the_loss_is_that_of_a_dense_head_with_the_sampled_classes_alone():
    sharded = build("cosface", rate=0.3)
    embeddings, norms, labels = batch(6)
    rows = sampled_rows(sharded, labels, 4)
    small = heads.build_head("cosface", SIZE, len(rows))
    small.kernel.data.copy_(sharded.weight[rows].T)
    numbers = torch.tensor([rows.index(label) for label in labels.tolist()])
    expected = functional.cross_entropy(small(embeddings, norms, numbers), numbers)
    torch.testing.assert_close(sharded(embeddings, norms, labels, 4).loss, expected)


def test_classes_not_sampled_keep_weight_and_momentum_to_the_bit():
    sharded = build(rate=0.3)
    sgd = ShardSGD(sharded.weight, lr=0.1, momentum=0.9, weight_decay=0.5)
    for step in range(20):
        weight = sharded.weight.detach().clone()
        momentum = torch.zeros_like(weight) if sgd.momentum is None else sgd.momentum.clone()
        for part in range(2):  # accumulated batches of one step have different true classes
            sharded(*batch(6, seed=2 * step + part), step).loss.backward()
        rows = set(rows_of_gradient(sharded))
        sgd.step()
        assert sharded.weight.grad is None
        others = [c for c in range(CLASSES) if c not in rows]
        assert len(others) > 20
        assert torch.equal(sharded.weight[others], weight[others])
        assert torch.equal(sgd.momentum[others], momentum[others])
        assert (sharded.weight[sorted(rows)] != weight[sorted(rows)]).any(dim=1).all()


def test_a_step_on_sampled_rows_is_that_of_torch_on_them():
    sharded = build(rate=0.3)
    rows = sampled_rows(sharded, batch(6)[2], 0)
    twin = nn.Parameter(sharded.weight[rows].detach().clone())
    optimizer = torch.optim.SGD([twin], lr=0.1, momentum=0.9, weight_decay=0.5)
    sgd = ShardSGD(sharded.weight, lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(5):
        sharded(*batch(6), 0).loss.backward()
        twin.grad = sharded.weight.grad.coalesce().values().clone()
        optimizer.step()
        sgd.step()
        torch.testing.assert_close(sharded.weight[rows], twin, rtol=0, atol=1e-6)


def test_a_batch_with_more_classes_than_promised_gives_no_number():
    sharded = build(rate=0.05, max_positives=2)
    embeddings, norms, _ = batch(4)
    assert sharded(embeddings, norms, torch.tensor([1, 1, 9, 9])).loss.isfinite()
    assert sharded(embeddings, norms, torch.tensor([1, 4, 9, 12])).loss.isnan()


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize(("num_classes", "num_ranks"), [(1, 1), (10, 4), (85_742, 8), (10_000_000_000, 7), (5, 5)])
def test_shards_follow_each_other_and_differ_by_one_class_at_most(num_classes, num_ranks):
    bounds = [shard_bounds(num_classes, rank, num_ranks) for rank in range(num_ranks)]
    assert [stop for _, stop in bounds[:-1]] == [start for start, _ in bounds[1:]]
    assert bounds[0][0] == 0 and bounds[-1][1] == num_classes
    sizes = {stop - start for start, stop in bounds}
    assert max(sizes) - min(sizes) <= 1


def test_fewer_classes_than_ranks_are_refused():
    with pytest.raises(ValueError, match="3 classes cannot be split over 4 ranks; use fewer ranks"):
        shard_bounds(3, 0, 4)


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"PartialFC: rate must be in \(0, 1\], got"):
        build(rate=rate)


def test_inputs_are_refused_as_the_dense_head_refuses_them():
    embeddings, norms, labels = batch(4)
    with pytest.raises(TypeError, match=r"AdaFace\.forward: labels must be int64"):
        build()(embeddings, norms, labels.int())
    with pytest.raises(ValueError, match=r"norms must be \[B, 1\]"):
        build()(embeddings, norms[:, 0], labels)


def test_a_kernel_of_another_number_of_classes_is_refused():
    dense = heads.build_head("cosface", SIZE, CLASSES + 1)
    with pytest.raises(
        ValueError, match=rf"kernel: expected {CLASSES} classes, one a column, got \[8, {CLASSES + 1}\]"
    ):
        build("cosface").load_state_dict(dense.state_dict())


def test_a_step_takes_a_share_of_the_classes_and_room_for_the_true_ones():
    assert num_sampled(1000, 0.1, 64) == 100
    assert num_sampled(1000, 0.1, 256) == 256
    assert num_sampled(100, 0.1, 256) == 100


def test_memory_falls_with_the_ranks_and_with_the_rate():
    whole = shard_bytes(2_000_000, 512, 1, 1.0, 512, 128)
    assert whole > 2 * 4 * 512 * 2_000_000  # weights and momentum
    assert shard_bytes(2_000_000, 512, 8, 1.0, 512, 128) == pytest.approx(whole / 8, rel=1e-6)
    assert shard_bytes(2_000_000, 512, 8, 0.1, 512, 128) < whole / 16
