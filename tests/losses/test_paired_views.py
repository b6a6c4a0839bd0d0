"""Losses over two views against the golden file, values and gradients, and against loops that share no code."""

import math

import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from losses import info_nce, paired_cosine, supervised_contrastive

GOLDEN = load_golden("finetuning/contrastive.npz")
LABELS = torch.from_numpy(GOLDEN["labels"])
LOSSES = {
    "cosine": lambda a, b, _: paired_cosine(a, b),
    "cosine_hr_detached": lambda a, b, _: paired_cosine(a, b.detach()),
    "infonce": lambda a, b, t: info_nce(a, b, t),
    "infonce_masked": lambda a, b, t: info_nce(a, b, t, LABELS),
    "supcon_cross": lambda a, b, t: supervised_contrastive(a, b, LABELS, t),
}
CASES = [
    (name, tau) for name in LOSSES for tau in ((None,) if name.startswith("cosine") else (0.07, 0.5))
]  # fmt: skip


def views(dtype=torch.float64):
    return [torch.from_numpy(GOLDEN[side]).to(dtype).requires_grad_() for side in ("lr", "hr")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "tau"), CASES)
def test_values_and_gradients_are_those_of_the_golden_file(name, tau, dtype):
    lr, hr = views(dtype)
    loss = LOSSES[name](lr, hr, tau)
    loss.backward()
    stored = name if tau is None else f"{name}_tau{tau}"
    exact = dtype == torch.float64
    assert loss.item() == pytest.approx(float(GOLDEN[stored]), rel=1e-12 if exact else 1e-4)
    for side, tensor in (("lr", lr), ("hr", hr)):
        expected = torch.from_numpy(GOLDEN[f"{stored}_grad_{side}"])
        found = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        torch.testing.assert_close(found.float(), expected, rtol=2e-6 if exact else 1e-3, atol=1e-7 if exact else 1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 7), st.sampled_from([0.05, 0.3, 2.0]))
def test_loops_find_the_same_values_with_unknown_people_among_the_rows(seed, rows, tau):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(-2, 3, (rows,), generator=generator)
    cosines = functional.cosine_similarity(a[:, None], b, dim=2)
    masked, supervised = 0.0, 0.0
    for scores in (cosines.tolist(), cosines.T.tolist()):
        for i in range(rows):
            same = {j for j in range(rows) if j == i or int(labels[i]) == int(labels[j]) >= 0}
            power = [math.exp(score / tau) for score in scores[i]]
            others = sum(power[j] for j in range(rows) if j not in same)
            masked -= math.log(power[i] / (power[i] + others)) / (2 * rows)
            supervised -= sum(math.log(power[j] / sum(power)) for j in same) / len(same) / (2 * rows)
    assert float(info_nce(a, b, tau, labels)) == pytest.approx(masked, abs=1e-9)
    assert float(supervised_contrastive(a, b, labels, tau)) == pytest.approx(supervised, rel=1e-9, abs=1e-9)
    assert float(paired_cosine(a, b)) == pytest.approx(1 - float(cosines.diagonal().mean()), abs=1e-12)


def test_autocast_changes_nothing_and_half_precision_becomes_float32():
    lr, hr = views(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(lr, hr), LOSSES["infonce"](lr, hr, 0.07))
        loss = info_nce(lr.bfloat16(), hr.bfloat16())
    assert loss.dtype == torch.float32 and torch.equal(loss, info_nce(lr.bfloat16(), hr.bfloat16()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, b: info_nce(a, b[:5]), ValueError, r"info_nce: both sides must be .* \[12, 32\] and \[5, 32\]"),
        (lambda a, b: paired_cosine(a[0], b[0]), ValueError, "paired_cosine: both sides"),
        (lambda a, b: paired_cosine(a[:0], b[:0]), ValueError, "B >= 1"),
        (lambda a, b: info_nce(a, b, 0.0), ValueError, "temperature must be above 0, got 0.0"),
        (lambda a, b: info_nce(a, b, math.nan), ValueError, "temperature must be above 0, got nan"),
        (lambda a, b: info_nce(a, b, labels=LABELS[:3]), ValueError, r"labels must be \[12\] .* got \[3\]"),
        (lambda a, b: supervised_contrastive(a, b, LABELS.int()), TypeError, "must be int64, got torch.int32"),
    ],
)
def test_odd_input_is_refused_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(*views())
    assert "\n" not in str(caught.value)
