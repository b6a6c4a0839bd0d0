"""Files written as a whole: the old content or the new one, beside whatever stands in the way."""

import errno
import os

import pytest
from full_disk import full_disk

from system.files import atomic_write, make_room, remove_unfinished


def written(path, text="new"):
    with atomic_write(path) as stream:
        stream.write(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_write(path) as stream:
        stream.write("new")
        stream.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["a.json"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as stream:
        stream.write("half")
        raise KeyError
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, full_disk(10):
        written(tmp_path / "a.json", "x" * 100)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "a.json")
    assert names(tmp_path) == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("gone"), lambda path: path.write_text("old")])
def test_what_has_the_temporary_name_is_replaced_unopened(tmp_path, make):
    make(tmp_path / f".a.json.{os.getpid()}.tmp")
    written(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "new" and names(tmp_path) == ["a.json"]


def test_a_folder_under_the_name_is_set_aside_with_a_line(tmp_path, caplog):
    (tmp_path / "a.json").mkdir()
    (tmp_path / "a.json.unusable").write_text("earlier")
    written(tmp_path / "a.json")
    assert names(tmp_path) == ["a.json", "a.json.unusable", "a.json.unusable1"]
    assert f"{tmp_path / 'a.json'} is a folder; it is kept as a.json.unusable1" in caplog.text


def test_room_is_made_for_what_is_opened_where_it_stands(tmp_path):
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "plain.log").write_text("kept")
    make_room(tmp_path, ["pipe.log", "plain.log", "none.log"])
    assert names(tmp_path) == ["pipe.log.unusable", "plain.log"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in (".last.ckpt.123.tmp", ".config.json.7.tmp", "last.ckpt", "mine.tmp", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / ".folder.tmp").mkdir()  # no writer makes one
    remove_unfinished(tmp_path)
    assert names(tmp_path) == [".folder.tmp", ".hidden", "last.ckpt", "mine.tmp"]
