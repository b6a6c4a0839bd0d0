"""Checkpoints are whole or not there, and one that is damaged is known."""

import errno
import os
import zipfile

import pytest
import torch
from full_disk import full_disk

from engine.checkpoint_file import AtomicCheckpointIO, damage, keep_copy
from engine.files import WriteFailures


def weights(path):
    return torch.load(path, weights_only=True)["weights"]


def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    io = AtomicCheckpointIO()
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"weights": torch.ones(3)}, path)

    def write_half_then_fail(checkpoint, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", write_half_then_fail)
    with pytest.raises(OSError, match="No space left"):
        io.save_checkpoint({"weights": torch.zeros(3)}, path)
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.ones(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("room", [0, 100, 20_000])
def test_a_full_disk_leaves_the_old_checkpoint_whole_and_is_said_once(tmp_path, caplog, room):
    failures = WriteFailures()
    io = AtomicCheckpointIO(failures)
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"weights": torch.ones(10_000)}, path)
    with full_disk(room):
        for _ in range(3):
            io.save_checkpoint({"weights": torch.zeros(10_000)}, path)
    assert torch.equal(weights(path), torch.ones(10_000)) and damage(path) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    reason = os.strerror(errno.EFBIG)
    assert failures.missing == {"last.ckpt": reason}
    assert caplog.messages == [f"last.ckpt could not be written ({reason}); the run goes on without it"]
    io.save_checkpoint({"weights": torch.zeros(10_000)}, path)
    assert torch.equal(weights(path), torch.zeros(10_000))
    assert failures.missing == {} and caplog.messages[1:] == ["last.ckpt can be written again"]


def test_an_error_that_is_not_the_disks_ends_the_run(tmp_path, monkeypatch):
    def fail(checkpoint, stream):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        AtomicCheckpointIO(WriteFailures()).save_checkpoint({}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_finds_a_changed_byte_wherever_it_is(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(1000.0)}, path)
    assert damage(path) is None
    content = path.read_bytes()
    for place in range(0, len(content) - 73, 50):  # 71 bytes of checksum and their number come last
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert damage(path) == "its checksum differs", place


def test_a_checkpoint_stays_an_archive_that_others_read(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, path)
    for mmap in (True, False):
        assert torch.equal(torch.load(path, weights_only=True, mmap=mmap)["weights"], torch.ones(3))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"sha256:")


def test_a_checkpoint_without_a_checksum_is_taken(tmp_path):
    torch.save({"weights": torch.ones(3)}, tmp_path / "old.ckpt")
    assert damage(tmp_path / "old.ckpt") is None


@pytest.mark.parametrize("links", [True, False])
def test_a_kept_copy_outlives_the_next_checkpoint(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    io = AtomicCheckpointIO()
    for number in range(3):
        if number:
            keep_copy(tmp_path / "last.ckpt", tmp_path / "kept.ckpt")
        io.save_checkpoint({"weights": torch.full((3,), number)}, tmp_path / "last.ckpt")
    assert weights(tmp_path / "kept.ckpt").tolist() == [1] * 3
    assert {entry.name for entry in tmp_path.iterdir()} == {"last.ckpt", "kept.ckpt"}
