"""W&B: refused in one line when it does not start, and handed the pictures of a run when it does."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.loggers import WandbLogger

from datasets import Sample
from engine.loggers import wandb_run
from engine.loggers.metrics_logger import MetricsLogger
from engine.loggers.wandb_run import WandbIdentity, log_picture, restore_wandb_id, start_wandb
from tasks.sample_sheet import SampleSheet

OPTIONS = {"lr": 0.1, "wandb": "online", "wandb_project": "maskwise", "wandb_entity": None, "wandb_name": None}


class RecordingLogger(WandbLogger):
    """A W&B logger that keeps what it is given."""

    def __init__(self):
        self.images = []

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, images, step))


def test_pictures_go_to_wandb_and_to_no_other_logger(tmp_path):
    wandb_logger = RecordingLogger()
    trainer = SimpleNamespace(loggers=[MetricsLogger(tmp_path), wandb_logger], global_step=7)
    log_picture(trainer, "score_histograms", tmp_path / "step_7.png")
    assert wandb_logger.images == [("score_histograms", [str(tmp_path / "step_7.png")], 7)]


def test_the_sheet_of_samples_goes_to_wandb_once(tmp_path):
    wandb_logger = RecordingLogger()
    dataset = SimpleNamespace(class_names=["ann", "bea"])
    trainer = SimpleNamespace(
        loggers=[wandb_logger],
        global_step=0,
        current_epoch=0,
        datamodule=SimpleNamespace(source=lambda number: dataset),
    )
    places = torch.arange(2)
    batch = Sample(torch.zeros(2, 112, 112, 3, dtype=torch.uint8), places, places, None, places, places)
    sheet = SampleSheet(tmp_path)
    for batch_idx in (0, 1, 0):
        sheet.on_train_batch_start(trainer, None, batch, batch_idx)
    assert wandb_logger.images == [("samples", [str(tmp_path / "samples.png")], 0)]
    assert (tmp_path / "samples.png").stat().st_size > 0


def test_a_run_that_wandb_cannot_start_is_refused_in_one_line(tmp_path, monkeypatch):
    import wandb

    def refuse(**options):
        raise wandb.errors.AuthenticationError("The API key is invalid.\nLog in again")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ValueError, match=r"^--wandb online: .*\(The API key is invalid\).*--wandb offline$") as raised:
        start_wandb(tmp_path, OPTIONS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("answers_at", [3, None])
def test_a_server_out_of_reach_is_tried_again_and_then_the_run_goes_on_offline(
    tmp_path, monkeypatch, caplog, answers_at
):
    import wandb

    modes, waits = [], []

    def init(**options):
        modes.append(options["mode"])
        if options["mode"] == "online" and len(modes) != answers_at:
            raise wandb.errors.CommError("Timed out while retrying\nConsider increasing the init_timeout setting")
        return SimpleNamespace()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb_run.time, "sleep", waits.append)
    start_wandb(tmp_path, OPTIONS)
    assert waits == [2, 8]
    assert modes == ["online"] * 3 + ["offline"] * (answers_at is None)
    assert caplog.text.count("trying again") == 2
    assert caplog.text.count(f"wandb sync {tmp_path}/wandb/offline-*") == (answers_at is None)


@pytest.mark.flag("wandb_project", "wandb_entity", "wandb_name")
@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("name", [None, "first"])
def test_mode_name_folder_and_options_reach_wandb(tmp_path, monkeypatch, mode, name):
    import wandb

    started = []
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.setattr(wandb, "init", lambda **options: started.append(options) or SimpleNamespace())
    given = OPTIONS | {"wandb": mode, "wandb_project": "masks", "wandb_entity": "team", "wandb_name": name}
    start_wandb(tmp_path, given)
    (options,) = started
    assert (options["mode"], options["name"], options["config"]) == (mode, name or tmp_path.name, given)
    assert (options["project"], options["entity"], options["resume"]) == ("masks", "team", "allow")
    assert Path(options["dir"]) == tmp_path
    # The telemetry of the library is no part of the run: offline it stays at home too.
    assert os.environ["WANDB_ERROR_REPORTING"] == ("false" if mode == "offline" else "true")


def started_ids(monkeypatch):
    """Return a list to which every start of a W&B run adds its id."""
    import wandb

    ids = []
    monkeypatch.setattr(wandb, "init", lambda **options: ids.append(options["id"]) or SimpleNamespace())
    return ids


def test_a_folder_keeps_its_id_and_another_has_another(tmp_path, monkeypatch):
    ids = started_ids(monkeypatch)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in (*folders, *folders):
        folder.mkdir(exist_ok=True)
        start_wandb(folder, OPTIONS)
    assert ids[:2] == ids[2:] and ids[0] != ids[1]
    assert (folders[0] / "wandb_id.txt").read_text().strip() == ids[0]


def saved_checkpoint(folder):
    checkpoint = {}
    WandbIdentity(folder).on_save_checkpoint(None, None, checkpoint)
    return checkpoint


def test_a_checkpoint_taken_to_another_folder_takes_the_id_along(tmp_path, monkeypatch):
    ids = started_ids(monkeypatch)
    (tmp_path / "moved").mkdir()
    start_wandb(tmp_path, OPTIONS)
    restore_wandb_id(tmp_path / "moved", saved_checkpoint(tmp_path))
    start_wandb(tmp_path / "moved", OPTIONS)
    assert ids[0] == ids[1]
    restore_wandb_id(tmp_path, {"wandb_id": "another"})
    assert saved_checkpoint(tmp_path) == {"wandb_id": ids[0]}, "the folder knows better"


def test_a_run_without_wandb_has_no_id(tmp_path):
    assert saved_checkpoint(tmp_path) == saved_checkpoint(None) == {}
    restore_wandb_id(tmp_path, {})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("text", [b"", b"a b", b"../x", b"x" * 65, b"\xff\xfe", b"\x1b[2J"])
def test_what_is_no_id_is_replaced_by_a_new_one(tmp_path, monkeypatch, text):
    ids = started_ids(monkeypatch)
    (tmp_path / "wandb_id.txt").write_bytes(text)
    for value in (text, text.decode("latin-1"), 7, None, ["a"]):
        restore_wandb_id(tmp_path, {"wandb_id": value})
    start_wandb(tmp_path, OPTIONS)
    assert len(ids[0]) == 8 and (tmp_path / "wandb_id.txt").read_text().strip() == ids[0]
