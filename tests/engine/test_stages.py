"""Stages: what is trained when, at which rate and in which mode, on one rank and two, and over an interruption."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from second_task import Autoencoder, train
from short_runs import metrics, on_two_ranks, state
from torch import nn

from engine.optim import (
    SchedulePlan,
    build_optimizer,
    build_scheduler,
    forget,
    lr_factor,
    parameter_groups,
    stage_starts,
)
from options.engine import EngineOptions
from options.words.patterns import Stage, read_stages
from system.launch import is_main_process

# 8 steps an epoch: down alone, then both, then up alone, then down alone again.
STAGES = ("1:down.*=0.04", "2:down.*=0.02,up.*", "1:up.weight=0.01", "1:down.*")
OPTIONS = {"stages": STAGES, "epochs": 5, "lr": 0.05, "lr_schedule": "cosine", "warmup_steps": 2}
SWITCHES = (8, 24, 32)


class Watch(pl.Callback):
    """Keep what each step moved, the modes, and the optimizer's steps of each parameter."""

    def __init__(self):
        self.moved, self.modes, self.ages = [], [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.before = state(module)

    def on_train_batch_end(self, trainer, module, *_):
        self.moved.append({name for name, value in module.state_dict().items() if not value.equal(self.before[name])})
        self.modes.append((module.down.training, module.up.training))
        states = trainer.optimizers[0].state
        self.ages.append({n: int(states[p]["step"]) for n, p in module.named_parameters() if "step" in states[p]})


def test_each_stage_moves_its_parameters_at_its_rates_and_rests_the_others(tmp_path):
    watch = Watch()
    module, _ = train(tmp_path, watch, optimizer="adamw", log_every_n_steps=1, **OPTIONS)
    down, up = ({f"{part}.weight", f"{part}.bias"} for part in ("down", "up"))
    assert watch.moved == [down] * 8 + [down | up] * 16 + [{"up.weight"}] * 8 + [down] * 8
    assert watch.modes == [(True, False)] * 8 + [(True, True)] * 16 + [(False, True)] * 8 + [(True, False)] * 8
    # What goes on keeps its moments, what begins anew has none.
    assert [watch.ages[step].get("down.weight") for step in (0, 7, 8, 23, 32)] == [1, 8, 9, 24, 1]
    assert [watch.ages[step].get("up.weight") for step in (7, 8, 23, 24)] == [None, 1, 16, 17]
    rows = [row for row in metrics(tmp_path) if "train_loss" in row]
    shapes = [lr_factor(step, "cosine", SchedulePlan(40, 2, starts=(0, *SWITCHES))) for step in range(40)]
    assert shapes[8:11] == [*shapes[:1], 1.0, 1.0] and shapes[7] < 0.1 and shapes[23] < 0.1
    assert [row["lr/down.*"] for row in rows[:8]] == pytest.approx([0.04 * shape for shape in shapes[:8]])
    assert [row["lr/up.*"] for row in rows[8:24]] == pytest.approx([0.05 * shape for shape in shapes[8:24]])
    assert all(parameter.requires_grad for parameter in module.parameters()) and module.up.training


def test_the_groups_have_the_rates_of_the_stages():
    module = nn.ModuleDict({"down": nn.Linear(2, 2), "up": nn.Linear(2, 2)})
    stages = read_stages(STAGES)
    groups = parameter_groups([module], 0.1, stages=stages)
    optimizer = build_optimizer("sgd", groups, 0.05, 0.0)
    scheduler = build_scheduler(optimizer, "multistep", SchedulePlan(40, starts=stage_starts(stages, 40)), groups)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {}
    for _ in range(40):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found.setdefault(names[id(parameter)], []).append(group["lr"])
        optimizer.step(), scheduler.step()
    down = [0.04] * 8 + [0.02] * 16 + [0.0] * 8 + [0.05] * 8
    up = [0.0] * 8 + [0.05] * 16 + [0.01] * 8 + [0.0] * 8
    assert found["down.weight"] == pytest.approx(down) and found["up.weight"] == pytest.approx(up)
    assert found["up.bias"] == pytest.approx(up[:24] + [0.0] * 16)


def test_a_run_goes_on_before_at_and_after_a_switch_to_the_same_bits(tmp_path):
    # 2 steps an epoch: the switches are at 2, 6 and 8.
    options = {**OPTIONS, "batch_size": 48, "optimizer": "adamw", "ema_decay": 0.9, "checkpoint_every_n_steps": 1}
    expected, _ = train(tmp_path, KeepAll(tmp_path), **options)
    for step in (1, 2, 3, 8):
        folder = tmp_path / str(step)
        folder.mkdir()
        resumed, _ = train(folder, ckpt_path=tmp_path / f"{step}.ckpt", **options)
        torch.testing.assert_close(state(resumed), state(expected), rtol=0, atol=0)


class KeepAll(pl.Callback):
    """Copy each checkpoint under the number of its step, the one before the first step excepted."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, *_):
        last = self.folder / "last.ckpt"
        if last.exists():
            (self.folder / f"{torch.load(last, weights_only=True)['global_step']}.ckpt").write_bytes(last.read_bytes())


def trained_rank(folder):
    """Train on this rank and return the weights."""
    own = Path(folder) if is_main_process() else None
    module, _ = train(own, num_processes=2, **OPTIONS, keep_every_n_epochs=1, batch_size=48)
    return state(module)


def test_two_ranks_switch_together_and_one_goes_on(tmp_path):
    first, second = on_two_ranks(trained_rank, str(tmp_path))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    rows = [row for row in metrics(tmp_path) if "train_loss" in row]
    assert rows[-1]["step"] == 10 and rows[-1]["train_error_loss"] < rows[0]["train_error_loss"]
    (tmp_path / "one").mkdir()
    _, trainer = train(tmp_path / "one", ckpt_path=tmp_path / "epoch_002.ckpt", **OPTIONS, batch_size=48)
    assert trainer.global_step == 10


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_is_forgotten_begins_as_in_a_new_optimizer(name):
    module = nn.ModuleDict({"down": nn.Linear(2, 2), "up": nn.Linear(2, 2)})
    optimizer = build_optimizer(name, parameter_groups([module], 0.0), 0.1, 0.9)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    forget(optimizer, module["up"].parameters())
    known = {id(parameter) for parameter, content in optimizer.state.items() if content}
    assert known == {id(parameter) for parameter in module["down"].parameters()}


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"stages": ("5:down.*",), "epochs": 4}, "--stages takes 5 epochs together, but --epochs says 4"),
        ({"stages": ("down.*",)}, r"--stages: expected EPOCHS:PATTERN\[=RATE\],.* got 'down.\*'"),
        ({"stages": ("0:down.*",)}, r"--stages: expected EPOCHS:PATTERN"),
        ({"stages": ("3:down.*=-1",)}, r"--stages down.\*=-1: expected a number above 0, got '-1'"),
        ({"stages": ("24:down.*",), "lr_factors": ("up.*=2",)}, "--stages .* conflicts with --lr_factors"),
    ],
)
def test_words_that_are_no_stages_are_refused(options, refusal):
    with pytest.raises(ValueError, match=refusal):
        EngineOptions(**options)


@pytest.mark.parametrize("stages", [("1:down.*", "2:nothing"), ("3:down.*,down.weight",)])
def test_a_stage_that_fits_nothing_or_twice_is_refused(stages):
    module = Autoencoder(EngineOptions(stages=stages, epochs=3))
    with pytest.raises(ValueError, match=r"--stages: (no parameter that is trained is called 'nothing'|both 'down)"):
        module.check_patterns()


def test_a_word_gives_a_stage():
    assert read_stages(["25:model.*=1e-4, heads.*"]) == (Stage(25, (("model.*", 1e-4), ("heads.*", None))),)
