"""A path that is none, or leads to something else, is one line and exit code 2."""

import os
import socket

import pytest
from programs import SMALL_RUN, refusal

import main
import main_eval
from cli.data import check, convert, split

pytestmark = pytest.mark.usefixtures("in_empty_folder")

ARGV = [*SMALL_RUN, "--align", "no"]  # no time for looking where the faces of a refused run lie

PATHS = [
    "data_root", "train_data_path", "val_data_path", "train_data_subset", "resume_from_checkpoint",
    "start_from_model_statedict",
]  # fmt: skip


def plain_file(path):
    path.write_text("no folder")


def empty_folder(path):
    path.mkdir()


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)  # the tests run in its folder; the whole path may be too long


def loop(path):
    path.symlink_to(path)


def dangling(path):
    path.symlink_to(path.parent / "gone")


@pytest.mark.parametrize("make", [plain_file, empty_folder, os.mkfifo, unix_socket, loop, dangling])
@pytest.mark.parametrize("name", PATHS)
def test_a_path_to_something_else_is_one_line(name, make, capsys, tmp_path, faces):
    make(tmp_path / "given")
    assert "given" in refusal(capsys, main.main, *ARGV, "--data_root", faces, f"--{name}", tmp_path / "given")


@pytest.mark.parametrize(
    "word", ["/dev/zero", "/dev/null", "/dev/null/x", "", "a\0b", "x" * 300, "y/" * 3000, "\udce9\x1b[31m"]
)
@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_cannot_be_is_one_line(name, word, capsys, faces):
    assert refusal(capsys, main.main, *ARGV, "--data_root", faces, f"--{name}={word}").isprintable()


@pytest.mark.parametrize("word", ["/dev/zero", "/dev/null", "", "a\0b", "x" * 300, "y/" * 3000, "\udce9\x1b[31m"])
@pytest.mark.parametrize("name", ["model-path", "data-path", "output-dir", "pairs", "map-dir"])
def test_an_evaluation_path_that_cannot_be_is_one_line(name, word, capsys, faces):
    if (name, word) == ("output-dir", "x" * 300):
        pytest.skip("the message comes when the report is written")
    words = {"--model-path": faces / "none.ckpt", "--data-path": faces / "train", "--output-dir": "out"}
    words[f"--{name}"] = word
    assert refusal(capsys, main_eval.main, *(f"{flag}={value}" for flag, value in words.items())).isprintable()


@pytest.mark.parametrize("word", ["", "..x" * 100, "a\0b", "a/b", "\udce9" * 300])
def test_a_prefix_that_names_no_folder_is_one_line(word, capsys):
    assert "prefix" in refusal(capsys, main.main, f"--prefix={word}")


@pytest.mark.parametrize("word", ["/dev/zero", "/dev/null", "a\0b", "x" * 300, "y/" * 3000, "\udce9\x1b[31m"])
def test_the_data_programs_answer_such_paths_in_one_line(word, capsys, tmp_path):
    assert refusal(capsys, check.main, word).isprintable()
    assert refusal(capsys, check.main, f"--benchmarks={word}").isprintable()
    assert refusal(capsys, convert.main, word, tmp_path / "out", "--to", "records").isprintable()
    assert refusal(capsys, split.main, word, "--out", tmp_path / "out").isprintable()
