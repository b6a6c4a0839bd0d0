import csv

import pytest

from callbacks import MetricsLogger, truncate_metrics


def rows(folder):
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_metrics_of_one_step_share_a_row_and_new_columns_keep_old_rows(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 2.0}, step=1)
    logger.log_metrics({"loss": 1.0}, step=2)
    logger.log_metrics({"val_acc": 0.5}, step=2)
    logger.log_metrics({"loss": 0.5}, step=3)
    logger.finalize("success")
    assert rows(tmp_path) == [
        {"step": "1", "loss": "2.0", "val_acc": ""},
        {"step": "2", "loss": "1.0", "val_acc": "0.5"},
        {"step": "3", "loss": "0.5", "val_acc": ""},
    ]


def test_a_row_that_was_written_already_is_merged_not_repeated(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 2.0}, step=1)
    logger.finalize("success")
    logger.log_metrics({"test_acc": 0.7}, step=1)
    logger.finalize("success")
    assert rows(tmp_path) == [{"step": "1", "loss": "2.0", "test_acc": "0.7"}]


def test_a_logger_opened_on_an_old_file_merges_its_last_step(tmp_path):
    first = MetricsLogger(tmp_path)
    first.log_metrics({"loss": 2.0, "val_acc": 0.5}, step=5)
    first.finalize("success")
    second = MetricsLogger(tmp_path)
    second.log_metrics({"test_acc": 0.9}, step=5)
    second.finalize("success")
    assert rows(tmp_path) == [{"step": "5", "loss": "2.0", "val_acc": "0.5", "test_acc": "0.9"}]


def test_truncation_drops_the_steps_that_a_resumed_run_repeats(tmp_path):
    logger = MetricsLogger(tmp_path)
    for step in (10, 20, 30):
        logger.log_metrics({"loss": 1.0 / step}, step=step)
    logger.finalize("success")
    assert truncate_metrics(tmp_path / "metrics.csv", 20) == 1
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20"]


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 2.0, "val_acc": 0.25}, step=1)
    logger.finalize("success")
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("2,1.")
    again = MetricsLogger(tmp_path)
    again.log_metrics({"extra": 3.0}, step=3)
    again.finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == ["1", "3"]


def test_a_metric_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="step is None"):
        MetricsLogger(tmp_path).log_metrics({"loss": 1.0})
