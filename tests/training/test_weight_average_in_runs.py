"""--ema_decay in real runs: what is averaged, when it is in the model's place, and what checkpoints hold."""

import pytest
import pytorch_lightning as pl
import torch
from short_runs import Recorder, fit, on_two_ranks, plain_scores, state, write_faces
from torch.testing import assert_close

import nets
from cli.checkpoints import load_pretrained_model
from engine.callbacks.weight_average import KEY

OPTIONS = {"batch_size": 8, "epochs": 2, "lr": 0.2, "ema_decay": 0.3}
CLASSES = {"class_embeddings": True, "k_nearest": 2}


class Evaluated(pl.Callback):
    """Keep the weights that validations and the test work with, by the steps done."""

    def __init__(self):
        self.weights = {}

    def on_validation_batch_start(self, trainer, module, *_):
        self.weights[trainer.global_step] = state(module)

    on_test_batch_start = on_validation_batch_start


def read(path):
    return torch.load(path, weights_only=True)


def naive_average(start, steps, decay):
    """Return the average of each tensor, one number of the run after the other."""
    average = {name: value.double() for name, value in start.items()}
    for step, weights in enumerate(steps):
        d = min(decay, (1 + step) / (10 + step))
        average = {name: d * average[name] + (1 - d) * weights[name].double() for name in average}
    return average


@pytest.mark.flag("ema_decay")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ema_decay_averages_the_weights_after_each_update_and_validates_the_average(noise_faces, tmp_path, accumulate):
    class Start(pl.Callback):
        def on_train_start(self, trainer, module):
            self.weights = state(module)

    start, recorder, evaluated = Start(), Recorder(), Evaluated()
    options = OPTIONS | CLASSES | {"accumulate_grad_batches": accumulate}
    model, _, _ = fit(tmp_path, start, recorder, evaluated, data_root=noise_faces, **options)
    steps = recorder.weights[accumulate - 1 :: accumulate]
    saved, last = read(tmp_path / "last.ckpt"), steps[-1]
    averaged = {n for n, v in last.items() if v.is_floating_point() and not n.startswith("matcher.class_embeddings.")}
    assert {"model.body.0.res_layer.0.running_mean", "heads.0.kernel", "heads.0.batch_mean"} < averaged
    expected = naive_average({name: start.weights[name] for name in averaged}, steps, 0.3)
    for name, value in saved["state_dict"].items():
        if name in averaged:
            assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: n + m)
            assert_close(saved[KEY][name], last[name], rtol=0, atol=0)
        elif name != "matcher.class_embeddings.neighbours":  # found anew after the last step
            assert_close(value, last[name], rtol=0, atol=0)
    assert saved[KEY].keys() == averaged
    kernel = "heads.0.kernel"
    assert not torch.allclose(saved[KEY][kernel], saved["state_dict"][kernel], atol=1e-4), "the run is too short"
    for weights in (evaluated.weights[len(steps)], state(model)):
        assert_close({n: weights[n] for n in averaged}, {n: saved["state_dict"][n] for n in averaged}, rtol=0, atol=0)


def test_validation_changes_nothing_that_training_goes_on_with(noise_faces, tmp_path):
    recorders = [Recorder(), Recorder()]
    for recorder, interval in zip(recorders, (0.25, 1.0), strict=True):
        options = OPTIONS | {"val_check_interval": interval, "accumulate_grad_batches": 2}
        fit(tmp_path / str(interval), recorder, data_root=noise_faces, **options)
    assert_close(recorders[0].weights, recorders[1].weights, rtol=0, atol=0)


def test_the_report_and_every_way_to_evaluate_a_checkpoint_have_the_average(noise_faces, tmp_path):
    tested = Evaluated()
    model, datamodule, trainer = fit(tmp_path, tested, data_root=noise_faces, **OPTIONS)
    validated = plain_scores(model)
    trainer.test(model, datamodule=datamodule, verbose=False)
    assert_close(plain_scores(model), validated, rtol=0, atol=0)
    average = read(tmp_path / "last.ckpt")["state_dict"]
    assert_close(tested.weights[trainer.global_step], average, rtol=0, atol=0)
    assert_close(dict(load_pretrained_model(tmp_path / "last.ckpt").state_dict()), average, rtol=0, atol=0)
    started = nets.build_model("ir_tiny", 16)
    nets.load_weights(started, tmp_path / "last.ckpt")
    assert_close({f"model.{n}": v for n, v in started.state_dict().items()}, part_of(average, "model."), rtol=0, atol=0)


def part_of(weights, prefix):
    return {name: value for name, value in weights.items() if name.startswith(prefix)}


def test_the_best_checkpoint_holds_what_was_validated(noise_faces, tmp_path):
    evaluated = Evaluated()
    fit(tmp_path, evaluated, data_root=noise_faces, val_check_interval=0.5, **OPTIONS)
    best = read(tmp_path / "best.ckpt")
    at_step = evaluated.weights[best["global_step"]]
    assert_close(dict(best["state_dict"]), at_step, rtol=0, atol=0)
    assert not torch.equal(best[KEY]["heads.0.kernel"], at_step["heads.0.kernel"])


def test_a_skipped_step_leaves_the_average_finite(noise_faces, tmp_path):
    class SpoilImages(pl.Callback):
        """Give the backbone NaN in one step: its running statistics see them before anybody else."""

        def on_train_start(self, trainer, module):
            self.handle = module.model.register_forward_pre_hook(
                lambda _, args: (args[0] * float("nan"),) if trainer.global_step == 2 and module.training else None
            )

    model, _, _ = fit(tmp_path, SpoilImages(), data_root=noise_faces, on_nonfinite="skip", **OPTIONS)
    assert model.guard.skipped == 1
    saved = read(tmp_path / "last.ckpt")
    for weights in (saved["state_dict"], saved[KEY]):
        assert all(torch.isfinite(value).all() for value in weights.values())


def test_without_it_checkpoints_hold_no_second_set_of_weights(noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces)
    assert KEY not in read(tmp_path / "last.ckpt")


# ---------------------------------------------------------------- two ranks


def averages_of_rank(folder, options):
    model, _, _ = fit(folder, **options)
    return {"weights": state(model), "scores": plain_scores(model)}


def test_a_split_head_is_left_out_and_the_ranks_agree_on_the_rest(tmp_path):
    options = OPTIONS | CLASSES | {"data_root": str(write_faces(tmp_path / "faces", pairs=7)), "partial_fc_rate": 0.5}
    options |= {"cross_rank_pairs": True}  # a rank has one identity
    first, second = on_two_ranks(averages_of_rank, tmp_path, options)
    assert_close(first["scores"], second["scores"], rtol=0, atol=0)
    saved = read(tmp_path / "last.ckpt")
    assert not [name for name in saved[KEY] if name.startswith("heads.")]
    rows = [rank["weights"]["heads.0.weight"] for rank in (first, second)]
    assert_close(saved["state_dict"]["heads.0.kernel"].T, torch.cat(rows), rtol=0, atol=0)
    for rank in (first, second):
        shared = {name: value for name, value in rank["weights"].items() if not name.startswith("heads.")}
        assert_close(shared, {name: saved["state_dict"][name] for name in shared}, rtol=0, atol=0)
