import csv
import resource

import pytest

from engine.files import WriteFailures
from engine.loggers.metrics_logger import MetricsLogger, truncate_metrics


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


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_interruption_does_not_show_in_the_columns(tmp_path, interrupted):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 2.0, "epoch": 0}, step=1)
    if interrupted:
        logger.finalize("failed")
        logger = MetricsLogger(tmp_path)
    logger.log_metrics({"acc": 0.25}, step=1)
    logger.log_metrics({"loss": 1.0, "epoch": 0}, step=2)
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_bytes() == b"step,epoch,acc,loss\r\n1,0.0,0.25,2.0\r\n2,0.0,,1.0\r\n"


def test_a_cut_off_last_line_is_not_continued_by_the_next(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\r\n1,2.0\r\n2,1.")  # of 1.5: as many fields as any other
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 1.5}, step=2)
    logger.finalize("success")
    assert [row["loss"] for row in rows(tmp_path)] == ["2.0", "1.5"]


def test_rows_wait_while_the_disk_is_full(tmp_path, caplog):
    failures = WriteFailures()
    logger = MetricsLogger(tmp_path, failures)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (20, 3):  # in the middle of a line, and of the header
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            for step in range(2, 6):
                logger.log_metrics({"loss": float(step)}, step=step + room)
            logger.save()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(failures.missing) == ["metrics.csv"] and len(caplog.records) == 1
    logger.log_metrics({"loss": 9.0}, step=99)
    logger.finalize("success")
    assert [int(row["step"]) for row in rows(tmp_path)] == [1, *range(22, 26), *range(5, 9), 99]
    assert failures.missing == {}


def test_a_metric_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="step is None"):
        MetricsLogger(tmp_path).log_metrics({"loss": 1.0})
