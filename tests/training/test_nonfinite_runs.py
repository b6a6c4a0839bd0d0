"""Losses and gradients that are not finite, in real runs of one rank and of two."""

import pytest
import pytorch_lightning as pl
import torch
from short_runs import Recorder, fit, metrics, on_two_ranks, state, trained_state

import main
from updates import NonFiniteError

TERMS = ("head", "pairwise", "triplet", "class", "occlusion")
ALL_TERMS = {"class_embeddings": True, "k_nearest": 3}


class Poison(pl.Callback):
    """Make something NaN in the given steps: {step: a loss term, "gradient" or "input"}."""

    def __init__(self, plan, rank=0):
        self.plan = plan
        self.rank = rank

    def on_fit_start(self, trainer, module):
        if trainer.global_rank == self.rank:
            module.model.register_forward_pre_hook(lambda _, images: self.spoil_input(trainer, images[0]))
            loss_terms = module._loss_terms
            module._loss_terms = lambda *args: self.spoil_terms(trainer, *loss_terms(*args))

    def planned(self, trainer):
        return self.plan.get(trainer.global_step + 1)

    def spoil_input(self, trainer, images):
        return images * torch.nan if self.planned(trainer) == "input" and trainer.training else images

    def spoil_terms(self, trainer, terms, accuracies):
        name = self.planned(trainer)
        # Added, so that the gradient of the term stays finite: the loss itself must be looked at.
        return {key: term + torch.nan if key == name else term for key, term in terms.items()}, accuracies

    def on_after_backward(self, trainer, module):
        if self.planned(trainer) == "gradient":
            next(module.model.parameters()).grad[0, 0] = torch.nan


@pytest.mark.parametrize("term", TERMS)
def test_a_bad_loss_term_stops_the_run_and_is_named_with_its_step(noise_faces, tmp_path, term):
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match=f"step 2: loss term {term} is not finite"):
        fit(tmp_path, recorder, Poison({2: term}), data_root=noise_faces, **ALL_TERMS)
    assert len(recorder.weights) == 1
    assert [row["step"] for row in metrics(tmp_path)] == [1]


def test_a_bad_gradient_stops_the_run_and_is_named_with_its_step(noise_faces, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 2: gradient of model\.input_layer\.0\.weight is not finite"):
        fit(tmp_path, Poison({2: "gradient"}), data_root=noise_faces)


class Before(Recorder):
    """Keep weights, statistics and momentum before and after each step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
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


def test_skipped_steps_change_neither_weights_nor_momentum_nor_statistics(noise_faces, tmp_path, caplog):
    plan = {number: name for number, name in enumerate((*TERMS, "input", "gradient"), start=2)}
    watcher = Before()
    options = {"epochs": 5, "on_nonfinite": "skip", "momentum": 0.9, "check_val_every_n_epoch": 5, **ALL_TERMS}
    model, _, trainer = fit(tmp_path, watcher, Poison(plan), data_root=noise_faces, **options)

    for step, (before, after) in enumerate(watcher.steps, start=1):
        changed = {name for name, value in after.items() if not torch.equal(value, before.get(name, torch.empty(0)))}
        if step not in plan:
            assert {"model.input_layer.0.weight", "momentum of model.input_layer.0.weight"} <= changed, step
            assert "matcher.class_embeddings.weight" in changed
        elif plan[step] == "gradient":  # its forward pass was sound: the statistics may follow it
            assert not changed & {name for name, _ in model.named_parameters()}
            assert not any(name.startswith("momentum") for name in changed)
        else:  # the neighbour table is refreshed between epochs, outside the step
            assert changed == set(), step
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    messages = [record.getMessage() for record in caplog.records if "update skipped" in record.getMessage()]
    assert messages[0] == "step 2: loss term head is not finite; update skipped (1 so far)"
    assert len(messages) == len(plan)
    assert [row["skipped_steps"] for row in metrics(tmp_path)] == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["skipped_steps"] == 7
    assert trainer.global_step == 10


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
    assert "step 2: the loss on another rank is not finite" in messages[0]
    assert "step 2: loss term head is not finite" in messages[1]


def test_the_program_ends_a_diverging_run_with_one_line_and_exit_code_1(noise_faces, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    flags = "--arch ir_tiny --batch_size 16 --gpus 0 --num_workers 0 --epochs 2 --lr 1e30"
    assert main.main([*flags.split(), "--data_root", noise_faces]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "not finite" in line]
    assert len(lines) == 1
    assert "step 2: loss term head, pairwise" in lines[0] and "lower --lr" in lines[0]
    (log,) = (tmp_path / "experiments").glob("*/run.log")
    assert "step 2: loss term head, pairwise" in log.read_text()
