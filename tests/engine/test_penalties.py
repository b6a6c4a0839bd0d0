"""Penalties and their proximal steps against vectors of others and against brute force."""

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given
from hypothesis import strategies as st
from second_task import Autoencoder, train
from short_runs import metrics, state
from torch import nn

from engine.optim import build_optimizer, parameter_groups
from engine.penalties import PENALTIES, SHRINKERS, Penalties
from options.words.patterns import Penalty, read_penalties

GOLDEN = {name: torch.from_numpy(value) for name, value in load_golden("finetuning/regularisers.npz").items()}
TENSORS = ("linear", "conv", "vector", "small")
STRENGTH, RATE = float(GOLDEN["lambda"]), float(GOLDEN["lr"])
YES, NO = torch.tensor(True), torch.tensor(False)
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("kind", ["l1", "l2", "group"])
def test_values_gradients_and_steps_are_the_golden_ones(name, kind):
    weight = GOLDEN[name].double().requires_grad_()
    charged = STRENGTH * PENALTIES[kind](weight)
    charged.backward()
    torch.testing.assert_close(charged.detach(), GOLDEN[f"{name}_{kind}"], **CLOSE)
    torch.testing.assert_close(weight.grad, GOLDEN[f"{name}_{kind}_grad"], **CLOSE)
    for amount in (RATE * STRENGTH, torch.tensor(RATE * STRENGTH, dtype=torch.float64)):  # of a processor, a device
        moved = weight.detach().clone()
        SHRINKERS[kind]([moved], amount)
        torch.testing.assert_close(moved, GOLDEN[f"{name}_{kind}_prox"], **CLOSE)
        assert torch.equal(moved == 0, GOLDEN[f"{name}_{kind}_prox"] == 0)


@pytest.mark.parametrize("name", TENSORS)
def test_steps_of_several_kinds_are_the_step_of_their_sum(name):
    module = nn.ParameterDict({"w": nn.Parameter(GOLDEN[name].double())})
    stepped(module, [Penalty("w", "group", STRENGTH, True), Penalty("w", "l1", STRENGTH, True)], RATE)
    torch.testing.assert_close(module["w"].detach(), GOLDEN[f"{name}_sparse_group_prox"], **CLOSE)


def stepped(module, penalties, rate, gradient=None, optimizer="sgd", accepted=YES):
    """Make one update at this rate, and the proximal steps."""
    made = build_optimizer(optimizer, parameter_groups([module], 0.0), rate, 0.0)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
    if accepted:
        made.step()
    Penalties(penalties, module.named_parameters()).shrink(made, 0, accepted)


@given(st.lists(st.sampled_from(["l1", "l2", "group"]), min_size=1, unique=True), st.integers(0, 10**6))
def test_a_step_minimizes_distance_and_penalty(kinds, seed):
    rng = torch.Generator().manual_seed(seed)
    start = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    penalties = [Penalty("w", kind, 0.7, True) for kind in kinds]
    module = nn.ParameterDict({"w": nn.Parameter(start.clone())})
    stepped(module, penalties, 0.3)

    def cost(weight):
        return 0.5 * (weight - start).square().sum() + sum(0.3 * 0.7 * PENALTIES[kind](weight) for kind in kinds)

    found = module["w"].detach()
    for size in (1e-3, 1e-1, 1.0):
        others = found + size * torch.randn(100, 3, 4, generator=rng, dtype=torch.float64)
        assert all(cost(other) >= cost(found) for other in others)


def test_under_adamw_each_weight_has_the_threshold_of_its_own_rate():
    module = nn.ParameterDict({"w": nn.Parameter(GOLDEN["adam_start"].clone())})
    made = build_optimizer("adamw", parameter_groups([module], 0.0), float(GOLDEN["adam_lr"]), 0.0)
    penalties = Penalties([Penalty("w", "l1", float(GOLDEN["adam_lambda"]), True)], module.named_parameters())
    for gradient, expected in zip(GOLDEN["adam_grads"], GOLDEN["adam_after"], strict=True):
        module["w"].grad = gradient.clone()
        made.step()
        penalties.shrink(made, 0, YES)
        torch.testing.assert_close(module["w"].detach(), expected, rtol=1e-7, atol=1e-12)
        module["w"].data.copy_(expected)
    assert (GOLDEN["adam_after"] == 0).any()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["l1", "l2", "group"])
def test_a_refused_first_step_leaves_every_bit(kind, optimizer):
    module = nn.ParameterDict({"w": nn.Parameter(GOLDEN["linear"].clone())})
    made = build_optimizer(optimizer, parameter_groups([module], 0.0), 0.1, 0.0)
    made.state[module["w"]] = {"step": torch.tensor(0.0), "exp_avg_sq": torch.zeros(6, 5)}
    module["w"].grad = torch.ones(6, 5)
    Penalties([Penalty("w", kind, 1.0, True)], module.named_parameters()).shrink(made, 0, NO)
    assert torch.equal(module["w"].detach(), GOLDEN["linear"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["l1", "l2", "group"])
@pytest.mark.parametrize("shape", [(9, 7, 3, 3), (700, 30), (40_000,), (1, 20_000), ()])
def test_a_step_in_pieces_is_the_step_of_the_whole_in_any_layout(shape, kind, optimizer):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layouts = [start.clone(memory_format=torch.contiguous_format)]
    layouts += [start.clone(memory_format=torch.channels_last)] if start.ndim == 4 else []
    for weight in layouts:
        module = nn.ParameterDict({"w": nn.Parameter(weight)})
        made = build_optimizer(optimizer, parameter_groups([module], 0.0), 0.1, 0.0)
        module["w"].grad = (start * 3).sin()
        made.step()
        before, rate = module["w"].detach().clone(), torch.tensor(0.1)
        if optimizer == "adamw" and kind != "group":
            step = torch.tensor(1.0)
            rate = (
                rate
                * (1 - 0.999**step).sqrt()
                / (1 - 0.9**step)
                / (made.state[module["w"]]["exp_avg_sq"].sqrt() + 1e-8)
            )
        Penalties([Penalty("w", kind, 0.05, True)], module.named_parameters()).shrink(made, 0, YES)
        rows = before.flatten(1) if before.ndim > 1 else before.reshape(1, -1)
        norms = rows.norm(dim=1).view(-1, *[1] * (before.ndim - 1)) if before.ndim > 1 else rows.norm()
        expected = {
            "l1": before.sign() * (before.abs() - 0.05 * rate).clamp(min=0),
            "l2": before / (1 + 0.1 * rate),
            "group": before * (1 - 0.05 * rate * rows.shape[1] ** 0.5 / norms).clamp(min=0),
        }
        torch.testing.assert_close(module["w"].detach(), expected[kind], rtol=2e-5, atol=1e-6)


def test_each_parameter_has_its_own_rate_and_one_without_a_gradient_stays():
    module = nn.ParameterDict({name: nn.Parameter(torch.ones(2, 2)) for name in "abc"})
    made = build_optimizer("sgd", parameter_groups([module], 0.0, (("b", 0.5),)), 0.2, 0.0)
    module["a"].grad, module["b"].grad = torch.zeros(2, 2), torch.zeros(2, 2)
    Penalties([Penalty("*", "l1", 1.0, True)], module.named_parameters()).shrink(made, 0, YES)
    assert [float(module[name].detach()[0, 0]) for name in "abc"] == pytest.approx([0.8, 0.9, 1.0])


def test_the_strength_rises_along_the_golden_ramp():
    (ramped,) = read_penalties(["w=l1:0.5:prox:ramp_3_8"])
    assert (ramped.is_proximal, ramped.ramp) == (True, (3, 8))
    found = [ramped.strength_in(epoch) for epoch in GOLDEN["epochs"].tolist()]
    np.testing.assert_allclose(found, 0.5 * GOLDEN["ramp_3_8"].numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["w=l3:1"], r"--penalty: expected PATTERN=KIND:STRENGTH.* got 'w=l3:1'"),
        (["w=l1"], r"expected PATTERN=KIND:STRENGTH"),
        (["w=l1:1:later"], r"expected PATTERN=KIND:STRENGTH"),
        (["w=l1:0"], r"--penalty w=l1:0: expected a number above 0, got '0'"),
        (["w=l1:1:ramp_8_3"], r"a ramp rises from one epoch to a later one"),
        (["v=l1:1"], r"--penalty: no parameter that is trained is called 'v'; names are like w"),
        (["w=l1:1", "?=l1:2"], r"--penalty: both 'w' and '\?' fit w"),
        (["rows=l2:1"], r"--penalty rows: rows is moved row by row; leave it out"),
    ],
)
def test_what_cannot_be_charged_is_refused(words, refusal):
    rows = nn.Parameter(torch.ones(2, 2))
    named = [("w", nn.Parameter(torch.ones(2, 2))), ("rows", rows)]
    with pytest.raises(ValueError, match=refusal):
        Penalties(read_penalties(words), named, [rows])


def test_a_run_reports_what_became_zero_and_a_refused_step_does_not_shrink(tmp_path, monkeypatch):
    terms, before = Autoencoder.forward_terms, []

    def spoilt(self, batch, step):
        if step.number in (7, 8):
            before.append(state(self))
        return terms(self, batch._replace(values=batch.values * torch.nan) if step.number == 7 else batch, step)

    monkeypatch.setattr(Autoencoder, "forward_terms", spoilt)
    train(tmp_path, on_nonfinite="skip", penalty=("down.weight=l1:0.3:prox:ramp_0_1", "up.weight=group:0.01"))
    torch.testing.assert_close(before[1], before[0], rtol=0, atol=0)
    rows = [row for row in metrics(tmp_path) if "train_loss" in row]
    assert rows[0]["zeros/down.weight"] == 0 < rows[-1]["zeros/down.weight"]
    assert rows[-1]["zero_groups/up.weight"] == 0 < rows[0]["train_penalty_loss"]
    assert rows[0]["train_loss"] > rows[0]["train_error_loss"] + rows[0]["train_penalty_loss"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_with_rates_and_penalties_goes_on_to_the_same_bits(tmp_path, optimizer):
    options = {
        "optimizer": optimizer, "lr": 0.02, "lr_factors": ("up.*=0.3",), "keep_every_n_epochs": 1,
        "penalty": ("*.weight=l1:0.1:prox:ramp_0_2", "up.*=l2:0.1"),
    }  # fmt: skip
    (tmp_path / "resumed").mkdir()
    expected, _ = train(tmp_path, **options)
    resumed, _ = train(tmp_path / "resumed", ckpt_path=tmp_path / "epoch_000.ckpt", **options)
    torch.testing.assert_close(state(resumed), state(expected), rtol=0, atol=0)
    last, last_resumed = (
        [row for row in metrics(folder) if "lr" in row][-1] for folder in (tmp_path, tmp_path / "resumed")
    )
    assert last_resumed == last and last["lr/up.*"] == pytest.approx(0.3 * last["lr"])
