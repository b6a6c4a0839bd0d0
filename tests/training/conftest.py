"""A pretraining through its command line, in a folder of its own."""

import pytest
from pretraining_runs import SMALL
from short_runs import write_faces

import main


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def pretrain(tmp_path, monkeypatch, faces):
    """Return a function that runs the program in a folder of its own and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))

    def run(*words):
        data = [] if "--data_root" in words else ["--data_root", str(faces)]
        try:
            return main.main(["pretrain", *SMALL, *data, *map(str, words)])
        except SystemExit as end:
            return end.code

    return run
