"""Checkpoints with one place changed, through every door: refused in one line, or without consequence."""

from pathlib import Path

import pytest
import torch
from mutations import mutated
from short_runs import SMALL, fit

import models
import nets
from cli import checkpoints, training
from cli.checkpoints import load_pretrained_model, newest_checkpoint, read_to_resume
from config import Config

KINDS = {
    "sgd": {"ema_decay": 0.9},
    "adamw": {"optimizer": "adamw", "class_embeddings": True, "k_nearest": 3, "accumulate_grad_batches": 2},
    "shards": {"partial_fc_rate": 1.0},
    "graph": {"sampler": "graph", "epochs": 2},
}


@pytest.fixture(scope="module")
def written(noise_faces, tmp_path_factory):
    """The last checkpoint within an epoch of a run of each kind, read."""
    found = {}
    for kind, options in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        fit(folder, data_root=noise_faces, batch_size=8, checkpoint_every_n_steps=1, **options)
        found[kind] = torch.load(folder / "last.ckpt.previous", weights_only=True)
    return found


@pytest.fixture
def templates(monkeypatch):
    """Build the model of the same options once."""
    build, built = checkpoints._template, {}

    def cached(parameters):
        key = repr(parameters)
        if key not in built:
            built[key] = build(parameters)
        return built[key]

    monkeypatch.setattr(checkpoints, "_template", cached)


def check(path, content):
    checkpoint, template = checkpoints._checked(path, content)
    checkpoints._check_run(path, checkpoint, template)


def refusal(function, *args):
    """Return the one line with which something is refused, None if it is accepted."""
    try:
        function(*args)
    except (ValueError, OSError) as error:
        message = str(error)
        assert "\n" not in message and "\x1b" not in message and "\0" not in message and len(message) < 1000
        return message
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_writes_is_accepted(written, kind):
    check(Path("last.ckpt"), written[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_changed_checkpoints_are_refused_in_a_line_that_names_file_and_place(written, templates, kind):
    refused = 0
    for seed in range(40):
        content, change = mutated(written[kind], f"{kind} {seed}")
        message = refusal(check, Path("last.ckpt"), content)
        assert message is None or message.startswith("last.ckpt: "), change
        refused += message is not None
    assert refused > 20


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model.body.1.res_layer.1.weight", -3e38),
        ("matcher.fc.weight", 1e19),
        ("model.input_layer.1.running_var", 3e38),
    ],
)
def test_a_weight_whose_square_is_not_finite_is_named_by_every_door(written, tmp_path, name, size):
    """Finite itself, it would be met as a score of NaN, hours later."""
    path = tmp_path / "last.ckpt"
    weights = {key: value.clone() for key, value in written["adamw"]["state_dict"].items()}
    weights[name][(-1,) * weights[name].ndim] = size
    torch.save({**written["adamw"], "state_dict": weights}, path)
    own = (load_pretrained_model, read_to_resume, models.load)
    assert all(name in refusal(load, path) and str(path) in refusal(load, path) for load in own)
    if name.startswith("model."):
        foreign = {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
        torch.save(foreign, path)
        message = refusal(nets.load_weights, nets.build_model("ir_tiny", 16), path, "rgb")
        assert name.removeprefix("model.") in message and str(path) in message


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_through_all_doors(written, noise_faces, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "files" / "last.ckpt"
    path.parent.mkdir()
    model = nets.build_model("ir_tiny", 16)
    base = {"data_root": noise_faces, "batch_size": 8, **KINDS[kind]}
    resumed = 0
    for seed in range(520):
        content, change = mutated(written[kind], f"{kind} file {seed}")
        try:
            torch.save(content, path)
        except (RecursionError, RuntimeError, NotImplementedError):
            continue  # no file can hold it
        loads = (load_pretrained_model, read_to_resume, lambda path: nets.load_weights(model, path, "rgb"))
        messages = [refusal(load, path) for load in loads]
        assert all(message is None or str(path) in message for message in messages), change
        assert (newest_checkpoint(path.parent) is None) == (messages[1] is not None), change
        start = Config(**{**SMALL, **base, "start_from_model_statedict": str(path), "fast_dev_run": True})
        if seed % 10 == 0:
            refusal(training.prepare, start, frozenset(), [])
        if messages[1] is None and resumed < 25:
            resumed += goes_on(path, tmp_path / f"run_{seed}", change)


def goes_on(source, folder, change):
    """Resume to the end what was accepted, unless the data contradict it; return whether it ran."""
    folder.mkdir()
    path = folder / source.name
    path.write_bytes(source.read_bytes())
    given = Config(**{**SMALL, "resume_from_checkpoint": str(path)})
    try:
        session = training.prepare(given, frozenset(), [])
    except (ValueError, OSError) as error:
        assert str(path) in str(error) or "--" in str(error), change
        return False
    session.trainer.fit(session.model, datamodule=session.datamodule, ckpt_path=str(path), weights_only=True)
    return True
