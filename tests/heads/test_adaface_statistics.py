"""AdaFace's running norm statistics: when they move, in which precision, and over which batch."""

import pytest
import torch
from gloo_ranks import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.nn import functional

import heads


def inputs(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = functional.normalize(torch.randn(count, 5, generator=generator), dim=1)
    norms = 5 + 30 * torch.rand(count, 1, generator=generator)
    return embeddings, norms, torch.randint(4, (count,), generator=generator)


def build(t_alpha: float = 0.01, h: float | None = None) -> heads.AdaFace:
    torch.manual_seed(0)
    head = heads.build_head("adaface", 5, 4, h=h, t_alpha=t_alpha)
    assert isinstance(head, heads.AdaFace)
    return head


@settings(max_examples=40)
@given(
    norms=st.lists(st.floats(0, 300, width=32), min_size=2, max_size=9),
    t_alpha=st.sampled_from([0.01, 0.5, 1.0]),
)
def test_statistics_follow_the_clamped_batch(norms: list[float], t_alpha: float) -> None:
    head = build(t_alpha)
    embeddings, _, labels = inputs(len(norms))
    clamped = [min(max(n, 1e-3), 100.0) for n in norms]
    mean = sum(clamped) / len(clamped)
    std = (sum((n - mean) ** 2 for n in clamped) / (len(clamped) - 1)) ** 0.5
    head(embeddings, torch.tensor(norms)[:, None], labels)
    assert head.batch_mean.item() == pytest.approx(t_alpha * mean + (1 - t_alpha) * 20, rel=1e-4)
    assert head.batch_std.item() == pytest.approx(t_alpha * std + (1 - t_alpha) * 100, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("count", "training"), [(6, False), (1, False), (1, True)])
def test_statistics_stay_in_eval_mode_and_for_a_batch_of_one(count: int, training: bool) -> None:
    head = build(t_alpha=0.5).train(training)
    logits = head(*inputs(count))
    assert logits.isfinite().all()
    assert head.batch_mean.tolist() == [20.0] and head.batch_std.tolist() == [100.0]


def test_statistics_are_buffers_in_float32_under_autocast_and_take_no_gradient() -> None:
    head = build(t_alpha=0.5)
    embeddings, norms, labels = inputs(6)
    norms.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(embeddings, norms, labels)
    logits.sum().backward()
    assert norms.grad is None
    buffers = dict(head.named_buffers())
    assert list(buffers) == ["batch_mean", "batch_std"]
    assert all(b.shape == (1,) and b.dtype == torch.float32 and not b.requires_grad for b in buffers.values())
    assert head.batch_mean.item() == pytest.approx(0.5 * norms.mean().item() + 10, rel=1e-6)


def test_high_quality_moves_the_margin_from_cosine_to_angle() -> None:
    head = build(h=1.0).eval()
    head.batch_std.fill_(10.0)
    embedding = functional.normalize(head.kernel.detach(), dim=0)[:, :1].T * 0.5  # cosine 0.5: theta = 60 degrees
    label = torch.tensor([0])
    theta = torch.tensor(0.5).acos()
    for norm, z in [(10.0, -1.0), (20.0, 0.0), (30.0, 1.0), (99.0, 1.0), (0.0, -1.0)]:
        logit = head(embedding, torch.tensor([[norm]]), label)[0, 0]
        expected = 64 * (torch.cos(theta - 0.4 * z) - 0.4 * (1 + z))
        torch.testing.assert_close(logit, expected, atol=5e-3, rtol=0)


def test_without_concentration_adaface_is_cosface() -> None:
    head, cosface = build(h=0.0), heads.build_head("cosface", 5, 4)
    cosface.kernel.data.copy_(head.kernel)
    torch.testing.assert_close(head(*inputs(6)), cosface(*inputs(6)), atol=1e-4, rtol=0)


def test_nearly_equal_norms_keep_their_small_deviation() -> None:
    head = build(t_alpha=1.0)
    embeddings, _, labels = inputs(8)
    norms = 90 + 1e-3 * torch.arange(8.0)[:, None]
    head(embeddings, norms, labels)
    assert head.batch_std.item() == pytest.approx(norms.double().std().item(), rel=1e-3)


# ---------------------------------------------------------------- several ranks


SHARES = [[5, 3], [1, 1]]  # samples of rank 0 and rank 1; a rank with one sample has no deviation of its own


def _train_on_a_rank() -> list[dict[str, torch.Tensor]]:
    found = []
    for counts in SHARES:
        head = build(t_alpha=0.3)
        share = slice(0, counts[0]) if distributed.get_rank() == 0 else slice(counts[0], None)
        for step in range(2):
            logits = head(*(tensor[share] for tensor in inputs(sum(counts), seed=step)))
        found.append({"logits": logits.detach(), "mean": head.batch_mean, "std": head.batch_std})
    return found


def test_two_ranks_see_the_statistics_of_the_global_batch() -> None:
    for counts, *ranks in zip(SHARES, *on_ranks(2, _train_on_a_rank), strict=True):
        alone = build(t_alpha=0.3)
        for step in range(2):
            expected = alone(*inputs(sum(counts), seed=step))
        for rank in ranks:
            torch.testing.assert_close(rank["mean"], alone.batch_mean, atol=0, rtol=1e-6)
            torch.testing.assert_close(rank["std"], alone.batch_std, atol=0, rtol=1e-6)
        assert torch.equal(ranks[0]["mean"], ranks[1]["mean"]) and torch.equal(ranks[0]["std"], ranks[1]["std"])
        torch.testing.assert_close(torch.cat([r["logits"] for r in ranks]), expected.detach(), atol=1e-4, rtol=0)
