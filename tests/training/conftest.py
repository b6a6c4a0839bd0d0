"""A pretraining, and a detector's training, through its command line, in a folder of its own."""

import detection_runs
import pytest
from detection_runs import data_flags, write_photos
from pretraining_runs import SMALL
from short_runs import write_faces

import main
from cli.detection import train


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


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_photos(root)
    return root


@pytest.fixture
def detect(tmp_path, monkeypatch, photos):
    """Return a function that trains a detector in a folder of its own and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))

    def run(*words):
        data = [] if {"--data_root", "--labels", "--synthetic_scenes"} & {*words} else data_flags(photos)
        try:
            return train.main([*detection_runs.SMALL, *data, *map(str, words)])
        except SystemExit as end:
            return end.code

    return run
