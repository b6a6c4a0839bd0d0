"""TensorBoard's files: whole after a resume, after a full disk, and refused in one line without the package."""

import math
import sys

import pytest
from full_disk import full_disk

from engine.files import WriteFailures
from engine.loggers import tensorboard_logger
from engine.loggers.tensorboard_logger import TensorBoardLogger, require_tensorboard, restart_tensorboard

event_files = pytest.importorskip("event_files")


def values(folder):
    return event_files.read_values(folder / "tensorboard")


def test_values_stand_at_their_steps(tmp_path):
    writer = TensorBoardLogger(tmp_path)
    writer.log_metrics({"loss": 2.5, "acc": 0.25}, 3)
    writer.log_metrics({"loss": 1.5}, 6)
    writer.log_metrics({"val_acc": 0.75}, 6)
    writer.finalize("success")
    assert values(tmp_path) == {3: {"loss": 2.5, "acc": 0.25}, 6: {"loss": 1.5, "val_acc": 0.75}}


def test_a_step_is_needed(tmp_path):
    with pytest.raises(ValueError, match="step is None"):
        TensorBoardLogger(tmp_path).log_metrics({"loss": 1.0})


def test_what_is_no_number_is_kept_as_it_is(tmp_path):
    TensorBoardLogger(tmp_path).log_metrics({"loss": math.nan, "norm": math.inf}, 1)
    assert math.isnan(values(tmp_path)[1]["loss"]) and values(tmp_path)[1]["norm"] == math.inf


def test_a_resumed_run_has_each_step_once(tmp_path):
    writer = TensorBoardLogger(tmp_path)
    for step in (2, 4, 6, 8):
        writer.log_metrics({"loss": float(step)}, step)
    restart_tensorboard(tmp_path, 4)
    again = TensorBoardLogger(tmp_path)
    for step in (6, 7):
        again.log_metrics({"loss": 10.0 * step}, step)
    assert {step: row["loss"] for step, row in values(tmp_path).items()} == {2: 2.0, 4: 4.0, 6: 60.0, 7: 70.0}


def test_many_starts_in_one_second_have_a_file_each(tmp_path):
    for step in range(12):
        restart_tensorboard(tmp_path, step - 1)
        TensorBoardLogger(tmp_path).log_metrics({"loss": float(step)}, step)
    assert [*values(tmp_path)] == [*range(12)]


def test_a_run_without_tensorboard_gets_no_folder_by_a_resume(tmp_path):
    restart_tensorboard(tmp_path, 4)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("room", [0, 40, 100, 130])
def test_a_full_disk_costs_nothing_but_the_delay(tmp_path, room):
    failures = WriteFailures()
    writer = TensorBoardLogger(tmp_path, failures)
    with full_disk(room):
        for step in (1, 2, 3):
            writer.log_metrics({"loss": float(step)}, step)
    assert [*failures.missing] == ["tensorboard"]
    writer.log_metrics({"loss": 4.0}, 4)
    assert failures.missing == {}
    assert {step: row["loss"] for step, row in values(tmp_path).items()} == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}


def test_a_run_folder_that_is_gone_is_outlived(tmp_path):
    failures = WriteFailures()
    writer = TensorBoardLogger(tmp_path / "gone", failures)
    writer.log_metrics({"loss": 1.0}, 1)
    writer.finalize("failed")
    assert [*failures.missing] == ["tensorboard"]


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tensorboard_logger, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^--tensorboard needs .*: pip install tensorboardX$"):
        require_tensorboard()
    (tmp_path / "tensorboard").mkdir()
    restart_tensorboard(tmp_path, 4)
    assert "keeps values after step 4" in caplog.text


def test_a_run_without_the_flag_does_not_import_the_package():
    assert "engine.loggers.tensorboard_logger" in sys.modules
    assert not {"tensorboardX.proto", "tensorboardX.summary"} & vars(tensorboard_logger).keys()
