import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from torch import nn

from engine.optim import (
    SchedulePlan,
    build_optimizer,
    build_scheduler,
    lr_factor,
    matched,
    named_rates,
    parameter_groups,
    restart,
    unfinished,
)


def test_norms_and_biases_do_not_decay_and_everything_else_does():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Linear(4, 2))
    decayed, kept = parameter_groups([module], 0.1)
    assert {tuple(p.shape) for p in decayed["params"]} == {(4, 3, 3, 3), (2, 4)}
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 5


def test_frozen_parameters_are_in_no_group():
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    groups = parameter_groups([module], 0.1)
    assert [len(group["params"]) for group in groups] == [0, 1]


@pytest.mark.parametrize("name, kind", [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_flag_chooses_the_optimizer(name, kind):
    groups = parameter_groups([nn.Linear(2, 2)], 0.1)
    optimizer = build_optimizer(name, groups, lr=0.5, momentum=0.8)
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    if name == "sgd":
        assert optimizer.param_groups[0]["momentum"] == 0.8


NET = {"model": nn.Linear(2, 2), "heads": nn.Linear(2, 3)}
FACTORS = (("model.w*", 0.1), ("heads.*", 10.0))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_pattern_has_a_pair_of_groups_at_its_own_rate_also_after_a_restart(name):
    module = nn.ModuleDict(NET)
    groups = parameter_groups([module], 0.1, FACTORS)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
    assert found == [[], ["model.bias"], ["model.weight"], [], ["heads.weight"], ["heads.bias"]]
    optimizer = build_optimizer(name, groups, lr=2.0, momentum=0.0)
    scheduler = build_scheduler(optimizer, "cosine", SchedulePlan(8))
    applied = [group["lr"] for group in optimizer.param_groups]
    assert named_rates(applied, 2.0, FACTORS) == {"lr": 2.0, "lr/model.w*": pytest.approx(0.2), "lr/heads.*": 20.0}
    restart(optimizer, scheduler, {"lr": 1.0, "momentum": 0.5, "weight_decay": 0.3}, steps=4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.5, 0.05, 0.05, 5.0, 5.0])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0] * 3
    optimizer.step(), scheduler.step()
    factor = 0.5 * (1 + math.cos(math.pi * 5 / 8))
    assert [group["lr"] for group in optimizer.param_groups[::2]] == pytest.approx([factor, 0.1 * factor, 10 * factor])


@pytest.mark.parametrize(
    ("patterns", "refusal"),
    [
        (
            ["heads.*", "model.[xy]"],
            r"--f: no parameter that is trained is called 'model.\[xy\]'; names are like model",
        ),
        (["heads.*", "*.bias"], r"--f: both 'heads.\*' and '\*.bias' fit heads.bias; give one of them"),
        (["heads.*", "heads.*"], r"--f: both 'heads.\*' and 'heads.\*' fit heads.weight"),
    ],
)
def test_a_pattern_that_fits_nothing_or_what_another_fits_is_refused(patterns, refusal):
    with pytest.raises(ValueError, match=refusal):
        matched([name for name, _ in nn.ModuleDict(NET).named_parameters()], patterns, "--f")


def test_unknown_optimizer_lists_the_choices():
    with pytest.raises(ValueError, match="sgd, adamw"):
        build_optimizer("lion", [], 0.1, 0.9)


def test_multistep_multiplies_by_gamma_at_each_milestone():
    plan = SchedulePlan(100, milestones=(10, 20), gamma=0.1)
    factors = [lr_factor(step, "multistep", plan) for step in (0, 9, 10, 19, 20)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_falls_from_one_to_zero_after_warmup():
    plan = SchedulePlan(110, warmup_steps=10)
    assert lr_factor(0, "cosine", plan) == pytest.approx(0.1)
    assert lr_factor(10, "cosine", plan) == pytest.approx(1.0)
    assert lr_factor(60, "cosine", plan) == pytest.approx(0.5)
    assert lr_factor(110, "cosine", plan) == pytest.approx(0.0)
    assert lr_factor(35, "cosine", plan) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 57, 200])
def test_one_cycle_is_that_of_torch_over_all_steps(steps):
    optimizer = build_optimizer("adamw", parameter_groups([nn.Linear(2, 2)], 0.0), lr=0.7, momentum=0.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.7, total_steps=steps)
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        assert 0.7 * lr_factor(step, "onecycle", SchedulePlan(steps)) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    assert 0.7 * lr_factor(steps, "onecycle", SchedulePlan(steps)) == pytest.approx(expected, rel=1e-12)  # it stays


def test_scheduler_sets_the_rate_of_the_next_step():
    optimizer = build_optimizer("sgd", parameter_groups([nn.Linear(2, 2)], 0.0), lr=2.0, momentum=0.0)
    scheduler = build_scheduler(optimizer, "multistep", SchedulePlan(10, warmup_steps=4))
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


@pytest.mark.parametrize(
    ("margin", "warmup", "said"),
    [
        (16, 0, ["--margin_warmup_epochs 16 is more than --epochs 8: the margin reaches 50 % of its value"]),
        (8, 80, []),
        (0, 160, ["--warmup_steps 160 is more than the 80 steps of the run: the learning rate reaches 50 % of --lr"]),
    ],
)
def test_a_warm_up_that_the_run_does_not_finish_is_told(margin, warmup, said):
    lines = unfinished(margin, 8, warmup, 80)
    assert len(lines) == len(said) and all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_rates_are_those_of_the_golden_file():
    golden = np.load(Path(__file__).parents[1] / "golden" / "pretraining" / "e_schedule.npz")
    per_epoch = int(golden["steps_per_epoch"])
    names = [name for name in golden.files if name.endswith(".step_lr") and not name.startswith("cosine")]
    assert len(names) >= 8
    for name in names:
        warmup, milestones, _ = name.split(".")
        steps = tuple(per_epoch * int(epoch) for epoch in milestones.removeprefix("ms").split("-"))
        plan = SchedulePlan(len(golden[name]), per_epoch * int(warmup.removeprefix("w")), steps, 0.1)
        found = [0.05 * lr_factor(step, "multistep", plan) for step in range(len(golden[name]))]
        np.testing.assert_allclose(found, golden[name], rtol=1e-12)
    plan = SchedulePlan(len(golden["cosine.step_lr"]), 2 * per_epoch)
    found = [0.05 * lr_factor(step, "cosine", plan) for step in range(plan.total_steps)]
    np.testing.assert_allclose(found, golden["cosine.step_lr"], rtol=1e-12)


@pytest.mark.parametrize("case", range(6))
def test_the_cosine_ends_at_its_floor_as_the_golden_schedules_do(case):
    golden = {name.partition(".")[2]: value for name, value in load_golden("finetuning/schedules.npz").items()
              if name.startswith(f"{case}.")}  # fmt: skip
    floor = float(golden["eta_min_fraction"])
    plan = SchedulePlan(int(golden["total_steps"]), int(golden["warmup_steps"]), floor=floor)
    found = [lr_factor(step, "cosine", plan) for step in range(len(golden["factor"]))]
    np.testing.assert_allclose(found, golden["factor"], rtol=1e-12, atol=1e-15)
