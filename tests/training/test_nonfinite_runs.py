"""Losses and gradients that are not finite, in real runs of one rank and of two."""

import json
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from short_runs import Recorder, fit, metrics, on_two_ranks, state, trained_state

import main
from engine.callbacks import truncate_incidents
from engine.guard import NonFiniteError
from train_val import Recognizer

TERMS = ("head", "pairwise", "triplet", "class", "occlusion")
ALL_TERMS = {"class_embeddings": True, "k_nearest": 3}


class Poison(pl.Callback):
    """Make something NaN in the given steps: {step: a loss term, "gradient" or "input"}."""

    def __init__(self, plan, rank=0):
        self.plan = plan
        self.rank = rank
        self.planned = None

    def on_fit_start(self, trainer, module):
        if trainer.global_rank == self.rank:
            self.forward_terms, module.forward_terms = module.forward_terms, self.spoilt_terms
            module.model.register_forward_pre_hook(self.spoil_input)

    def spoil_input(self, _, images):
        return images[0] * torch.nan if self.planned == "input" else images[0]

    def spoilt_terms(self, batch, step):
        self.planned = self.plan.get(step.number + 1)  # also when the step is repeated
        terms = self.forward_terms(batch, step)
        # Added, so that the gradient of the term stays finite: the loss itself must be looked at.
        spoilt = {
            key: (weight, loss + torch.nan if key == self.planned else loss)
            for key, (weight, loss) in terms.losses.items()
        }
        self.planned = None
        return replace(terms, losses=spoilt)

    def on_after_backward(self, trainer, module):
        if self.plan.get(trainer.global_step + 1) == "gradient" and trainer.global_rank == self.rank:
            next(module.model.parameters()).grad[0, 0] = torch.nan


@pytest.mark.parametrize("term", TERMS)
def test_a_bad_loss_term_stops_the_run_and_is_named_with_its_step(noise_faces, tmp_path, term):
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match=f"step 2: loss term {term} is not finite"):
        fit(tmp_path, recorder, Poison({2: term}), data_root=noise_faces, **ALL_TERMS)
    after_first, after_second = recorder.weights
    assert [row["step"] for row in incidents(tmp_path)] == [2]
    changed = [name for name, value in after_second.items() if not torch.equal(value, after_first[name])]
    assert all(name.endswith("num_batches_tracked") for name in changed)
    assert [row["step"] for row in metrics(tmp_path)] == [1]


def test_a_bad_gradient_stops_the_run_and_is_named_with_its_step(noise_faces, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 2: gradient of model\.input_layer\.0\.weight is not finite"):
        fit(tmp_path, Poison({2: "gradient"}), data_root=noise_faces)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_scores_that_are_not_finite_end_the_run_with_one_line(noise_faces, tmp_path, monkeypatch, capfd, stage):
    spoilt = "validation_step" if stage == "fit" else "test_step"
    score = getattr(Recognizer, spoilt)

    def spoil(self, batch, batch_idx):
        with torch.no_grad():
            self.model.output_layer[-1].running_mean.fill_(torch.nan)
        score(self, batch, batch_idx)

    monkeypatch.setattr(Recognizer, spoilt, spoil)
    monkeypatch.chdir(tmp_path)
    flags = "--arch ir_tiny --batch_size 16 --gpus 0 --num_workers 0 --epochs 1 --val_occlusion none"
    assert main.main([*flags.split(), "--data_root", noise_faces]) == 1
    found = capfd.readouterr().err
    name = "val" if stage == "fit" else "test"
    assert f"{name} after step 2: 6 of 6 scores of adaface on lfw, clean, are not finite; lower --lr" in found
    assert "Traceback" not in found


class Before(Recorder):
    """Keep weights, statistics and momentum before and after each step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        self.steps.append([self.everything(trainer, module)])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps[-1].append(self.everything(trainer, module))

    @staticmethod
    def everything(trainer, module):
        kept = {name: value for name, value in state(module).items() if not name.endswith("num_batches_tracked")}
        names = {parameter: name for name, parameter in module.named_parameters()}
        momentum = {
            f"momentum of {names[parameter]}": values["momentum_buffer"].clone()
            for parameter, values in trainer.optimizers[0].state.items()
        }
        return kept | momentum


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_change_neither_weights_nor_momentum_nor_statistics(
    noise_faces, tmp_path, monkeypatch, caplog, fused
):
    monkeypatch.setattr(Recognizer, "_is_fused", lambda self: fused)  # True: as on a GPU
    plan = {number: name for number, name in enumerate((*TERMS, "input", "gradient"), start=2)}
    watcher = Before()
    options = {"epochs": 5, "on_nonfinite": "skip", "momentum": 0.9, "check_val_every_n_epoch": 5, **ALL_TERMS}
    model, _, trainer = fit(tmp_path, watcher, Poison(plan), data_root=noise_faces, **options)

    for step, (before, after) in enumerate(watcher.steps, start=1):
        changed = {name for name, value in after.items() if not torch.equal(value, before.get(name, torch.empty(0)))}
        if step not in plan:
            assert {"model.input_layer.0.weight", "momentum of model.input_layer.0.weight"} <= changed, step
            assert "matcher.class_embeddings.weight" in changed
        else:  # the neighbour table is refreshed between epochs, outside the step
            assert changed == set(), step
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    messages = [record.getMessage() for record in caplog.records if "update skipped" in record.getMessage()]
    though = "though the output of every module is"
    assert messages[0] == f"step 2: loss term head is not finite, {though}; update skipped (1 so far)"
    assert messages[5].endswith("is not finite, first in the output of model.input_layer.0; update skipped (6 so far)")
    assert len(messages) == len(plan)
    assert [row["skipped_steps"] for row in metrics(tmp_path)] == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["skipped_steps"] == 7
    assert trainer.global_step == 10
    found = incidents(tmp_path)
    assert [row["step"] for row in found] == list(plan)
    assert [row["indices"] for row in found] == [[watcher.indices[step - 1]] for step in plan]
    assert found[0]["cause"].startswith("loss term head") and found[0]["loss"] is None
    assert found[-1]["cause"].startswith("gradient") and found[-1]["loss"] > 0


def incidents(folder):
    return [json.loads(line) for line in (folder / "incidents.jsonl").read_text().splitlines()]


def test_a_resumed_run_tells_of_each_incident_once(noise_faces, tmp_path):
    options = {"epochs": 3, "on_nonfinite": "skip", "data_root": noise_faces}
    fit(tmp_path, Poison({1: "head", 4: "head", 5: "head"}), **options | {"epochs": 2})
    assert [row["step"] for row in incidents(tmp_path)] == [1, 4]
    path = tmp_path / "incidents.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "cut off')
    truncate_incidents(path, 2)
    assert [row["step"] for row in incidents(tmp_path)] == [1]
    truncate_incidents(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_bad_batch_among_accumulated_ones_drops_the_whole_step(noise_faces, tmp_path):
    watcher = Before()
    poison = Poison({2: "pairwise"})
    options = {"epochs": 3, "accumulate_grad_batches": 2, "on_nonfinite": "skip", "check_val_every_n_epoch": 3}
    model, _, _ = fit(tmp_path, watcher, poison, data_root=noise_faces, **options)
    weight = "model.input_layer.0.weight"
    assert model.guard.skipped == 1
    after = [step[1][weight] for step in watcher.steps]
    assert not torch.equal(after[1], after[0])
    assert torch.equal(after[3], after[1])
    assert not torch.equal(after[5], after[3])


def poisoned_state(folder, options, plan):
    return trained_state(folder, options, Poison(plan, rank=1))


def stopped(folder, options, plan):
    try:
        poisoned_state(folder, options, plan)
    except NonFiniteError as error:
        return str(error)
    return "not stopped"


def test_two_ranks_skip_together_when_the_loss_of_one_is_bad(noise_faces, tmp_path):
    options = {"data_root": noise_faces, "epochs": 2, "on_nonfinite": "skip", "log_every_n_steps": 50, **ALL_TERMS}
    ranks = on_two_ranks(poisoned_state, str(tmp_path), options, {2: "head", 3: "gradient"})
    assert [rank["skipped"] for rank in ranks] == [2, 2]
    assert [rank["steps"] for rank in ranks] == [4, 4]
    torch.testing.assert_close(ranks[0]["weights"], ranks[1]["weights"], rtol=0, atol=0)
    assert all(torch.isfinite(value).all() for value in ranks[0]["weights"].values())


def test_two_ranks_stop_together_when_the_loss_of_one_is_bad(noise_faces, tmp_path):
    options = {"data_root": noise_faces, "log_every_n_steps": 50}
    messages = on_two_ranks(stopped, str(tmp_path), options, {2: "head"})
    assert messages[0] == messages[1]
    assert "step 2: loss term head is not finite on rank 1" in messages[0]


def test_the_program_ends_a_diverging_run_with_one_line_and_exit_code_1(noise_faces, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    flags = "--arch ir_tiny --batch_size 16 --gpus 0 --num_workers 0 --epochs 2 --lr 2e9"
    assert main.main([*flags.split(), "--data_root", noise_faces]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "not finite" in line]
    assert len(lines) == 1
    assert "step 2: gradient of model." in lines[0] and "lower --lr" in lines[0]
    (log,) = (tmp_path / "experiments").glob("*/run.log")
    assert "step 2: gradient of model." in log.read_text()
