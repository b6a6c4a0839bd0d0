"""Data that go between the check and their use: one line that names them, no traceback."""

import shutil

import pytest
from programs import SMALL_RUN
from short_runs import write_faces

import main
import main_eval
from cli import folder_evaluation, training
from cli.pairs import image_sets
from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic
from tasks.recognition import face_set

ARGV = [*SMALL_RUN, "--batch_size", "8", "--epochs", "1", "--val_occlusion", "none"]


@pytest.fixture
def few_faces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_faces(tmp_path / "few_faces")


def after(monkeypatch, owner, name, action):
    """Do something whenever a function has returned."""
    whole = getattr(owner, name)

    def followed(*args, **options):
        found = whole(*args, **options)
        action()
        return found

    monkeypatch.setattr(owner, name, followed)


def outcome(program, argv, capfd):
    """Return exit code and the lines of error of a program, which must not show a traceback."""
    try:
        code = program([str(word) for word in argv])
    except SystemExit as end:
        code = end.code
    text = capfd.readouterr().err
    assert "Traceback" not in text
    return code, [line for line in text.splitlines() if " ERROR " in line or ": error: " in line]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("gone", ["train", "."])
def test_training_images_that_go_before_the_first_step_end_the_run_with_one_line(
    few_faces, gone, workers, monkeypatch, capfd
):
    after(monkeypatch, training, "prepare", lambda: shutil.rmtree(few_faces / gone))
    code, (line,) = outcome(main.main, [*ARGV, "--num_workers", workers, "--data_root", few_faces], capfd)
    assert code == 1
    assert "No such file or directory; nor can any other of the 32 images be read" in line and "resume" in line


@pytest.mark.parametrize("gone", ["train", "lfw", "."])
@pytest.mark.parametrize("place", ["_folders", "_open_training"])
def test_data_that_go_during_the_preparation_are_refused_with_one_line(few_faces, gone, place, monkeypatch, capfd):
    if (gone, place) == ("lfw", "_folders"):
        (few_faces / "calfw").mkdir()  # else there is no benchmark, and people are held out
    after(monkeypatch, face_set.FaceSet, place, lambda: shutil.rmtree(few_faces / gone, ignore_errors=True))
    code, lines = outcome(main.main, [*ARGV, "--num_workers", "0", "--data_root", few_faces], capfd)
    assert (code, len(lines)) in ((1, 1), (2, 1)) or (gone == "lfw" and code == 0)


def test_a_benchmark_that_goes_before_the_validation_is_still_validated_on(few_faces, monkeypatch, capfd):
    after(monkeypatch, training, "prepare", lambda: shutil.rmtree(few_faces / "lfw"))
    assert outcome(main.main, [*ARGV, "--data_root", few_faces], capfd) == (0, [])


def test_a_cache_that_goes_before_the_first_step_ends_the_run_with_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    spec = SyntheticSpec(num_identities=4, images_per_identity=4, benchmark_pairs=40)
    monkeypatch.setattr(face_set, "SyntheticSpec", lambda *sizes: spec)
    prepare_synthetic(tmp_path / "cache", spec, jobs=1, progress=False)
    after(monkeypatch, training, "prepare", lambda: shutil.rmtree(tmp_path / "cache"))
    code, (line,) = outcome(main.main, ARGV, capfd)
    assert code == 1 and "No such file or directory" in line


@pytest.mark.parametrize("place", ["load_model", "ImageFolderDataset", "warn_of_unaligned"])
def test_a_folder_that_goes_before_it_is_evaluated_is_one_line(few_faces, trained, place, monkeypatch, capfd):
    home = folder_evaluation if place == "load_model" else image_sets
    after(monkeypatch, home, place, lambda: shutil.rmtree(few_faces / "train"))
    argv = [
        "--model-path",
        trained / "last.ckpt",
        "--data-path",
        few_faces / "train",
        "--output-dir",
        "out",
        "--gpus",
        "0",
    ]
    code, (line,) = outcome(main_eval.main, argv, capfd)
    assert code == 2 and "few_faces/train" in line
