"""The loggers beside metrics.csv in whole runs: one W&B run and one curve over every resume."""

import pytest
import torch
from short_runs import fit, metrics

from cli import training
from config import Config
from engine.loggers import tensorboard_logger
from engine.loggers.tensorboard_logger import restart_tensorboard

OPTIONS = {"batch_size": 8, "lr": 0.01, "checkpoint_every_n_steps": 2}


def step_of(path):
    return torch.load(path, weights_only=True, map_location="cpu")["global_step"]


@pytest.mark.flag("tensorboard")
@pytest.mark.slow
def test_tensorboard_has_the_values_of_metrics_csv_at_its_steps(noise_faces, tmp_path):
    event_files = pytest.importorskip("event_files")
    options = {**OPTIONS, "data_root": noise_faces, "tensorboard": True}
    fit(tmp_path, epochs=1, **options)
    last = tmp_path / "last.ckpt.previous"
    restart_tensorboard(tmp_path, step_of(last))  # as training.prepare does
    fit(tmp_path, epochs=2, ckpt_path=last, **options)
    found = event_files.read_values(tmp_path / "tensorboard")
    rows = {int(row.pop("step")): row for row in metrics(tmp_path)}
    assert found.keys() == rows.keys() and len(rows) == 8
    for step, row in rows.items():
        assert found[step] == pytest.approx(row, rel=1e-6, nan_ok=True)


def test_a_run_without_tensorboards_package_is_refused_before_its_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_logger, "find_spec", lambda name: None)
    given = Config(data_root=str(tmp_path / "nowhere"), gpus=0, tensorboard=True)
    with pytest.raises(ValueError, match="pip install tensorboardX"):
        training.prepare(given, set(), [])


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_wandb_run(noise_faces, tmp_path):
    import wandb

    options = {**OPTIONS, "data_root": noise_faces, "wandb": "offline"}
    fit(tmp_path, epochs=1, **options)
    wandb.finish()
    first = (tmp_path / "wandb_id.txt").read_text().strip()
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")
    assert saved["wandb_id"] == first
    (tmp_path / "wandb_id.txt").unlink()
    training.restore_wandb_id(tmp_path, saved)
    fit(tmp_path, epochs=2, ckpt_path=tmp_path / "last.ckpt", **options)
    wandb.finish()
    folders = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) == 2 and all(name.endswith(f"-{first}") for name in folders)
