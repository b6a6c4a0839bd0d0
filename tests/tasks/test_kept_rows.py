"""Rows of an embedding that was interrupted: those of other weights, damaged ones and a full disk cost no more."""

import pytest
import torch

from models.embedding.rows import RowFiles
from tasks.kept_rows import KeptRows

ROWS = torch.arange(12.0).reshape(3, 4).half()


def opened(folder, digest="a", **options):
    rows = KeptRows(folder)
    rows.open(digest, **{"count": 8, "dim": 4, "dtype": torch.float16, "batch_size": 3, **options})
    return rows


def test_rows_of_the_same_weights_come_back_and_any_others_are_removed(tmp_path):
    opened(tmp_path / "run").write(1, ROWS)
    again = opened(tmp_path / "run")
    assert torch.equal(again.read(1), ROWS) and again.read(0) is None
    other = opened(tmp_path / "run", "b")
    assert other.read(1) is None and [path.name for path in (tmp_path / "run").iterdir()] == ["unfinished_b"]
    other.write(0, ROWS)
    (tmp_path / "run/unfinished_b/marks.bin").write_bytes(b"")
    assert opened(tmp_path / "run", "b").read(0) is None  # half-made files are made anew
    other.remove()
    assert not [*(tmp_path / "run").iterdir()] and other.read(0) is None


@pytest.mark.parametrize("folder", [None, "a file"])
def test_where_nothing_can_be_kept_nothing_is(tmp_path, folder):
    (tmp_path / "a file").write_text("")
    rows = opened(None if folder is None else tmp_path / folder)
    rows.write(1, ROWS)
    assert rows.read(1) is None
    rows.remove()


def test_a_disk_that_fills_up_costs_the_rows_alone(tmp_path, monkeypatch, caplog):
    def full(self, batch, rows):
        raise OSError(28, "No space left on device")

    rows = opened(tmp_path)
    monkeypatch.setattr(RowFiles, "write", full)
    rows.write(1, ROWS)
    rows.write(2, ROWS)
    assert rows.read(1) is None and caplog.messages == [
        "embeddings are not kept for a run that goes on (No space left on device)"
    ]
