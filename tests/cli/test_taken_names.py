"""What stands where an output goes, a pipe, a folder or a link, is set aside or replaced, and never waited for."""

import os
import signal
from contextlib import contextmanager

import pytest
from converted_faces import write_face
from short_runs import write_faces
from untrained import write_checkpoint

import main_eval
from cli.data import check, convert
from datasets.synthetic.prepare import render_identities
from engine import runs
from engine.loggers import wandb_run
from system.files import make_room

KINDS = ("pipe", "folder", "link out", "dangling link")
EVALUATION = ("run.log", "run.lock", "results.json", "report.txt", "scores.npz", "accuracy.png")
CHECK = ("report.json", "findings.csv", "contact_sheet.png", "images_per_identity.png")


@contextmanager
def within(seconds):
    """Fail where the block waits: an open pipe without a second end never answers."""

    def give_up(*_):
        raise AssertionError(f"waited for {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def take(folder, names, kind):
    """Put something of a kind under each name, and return what it leads to."""
    outside = folder.parent / "outside"
    outside.write_text("kept")
    folder.mkdir(exist_ok=True)
    for name in names:
        match kind:
            case "pipe":
                os.mkfifo(folder / name)
            case "folder":
                (folder / name).mkdir()
                (folder / name / "inside").write_text("kept")
            case "link out":
                (folder / name).symlink_to(outside)
            case "dangling link":
                (folder / name).symlink_to(folder.parent / "gone")
    return outside


def assert_written(folder, names, outside):
    """All names are files of the program, and nothing that was there is lost."""
    for name in names:
        assert (folder / name).is_file() and not (folder / name).is_symlink(), name
    assert outside.read_text() == "kept" and not (folder.parent / "gone").exists()
    for kept in folder.glob("*.unusable/inside"):
        assert kept.read_text() == "kept"


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_is_written_whatever_stands_under_its_names(tmp_path, kind, quiet_log):
    faces = write_faces(tmp_path / "faces", pairs=0) / "train"
    model = write_checkpoint(tmp_path / "last.ckpt")
    outside = take(tmp_path / "out", EVALUATION, kind)
    words = {"--model-path": model, "--data-path": faces, "--output-dir": tmp_path / "out", "--gpus": 0}
    with within(60):
        assert main_eval.main([f"{flag}={value}" for flag, value in words.items()]) == 0
    assert_written(tmp_path / "out", EVALUATION, outside)
    assert len(list((tmp_path / "out").glob("*.unusable/inside"))) == (len(EVALUATION) if kind == "folder" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_is_written_whatever_stands_under_its_names(tmp_path, kind):
    for number, image in enumerate(render_identities("taken names", 3, 2)[0]):
        write_face(tmp_path / f"faces/{number // 2}/{number}.png", image)
    outside = take(tmp_path / "out", CHECK, kind)
    with within(60):
        assert check.main([str(tmp_path / "faces"), "--output-dir", str(tmp_path / "out")]) == 0
    assert_written(tmp_path / "out", CHECK, outside)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversion_is_written_whatever_stands_in_its_workspace(tmp_path, kind):
    for number, image in enumerate(render_identities("taken names", 2, 2)[0]):
        write_face(tmp_path / f"faces/{number // 2}/{number}.png", image)
    (tmp_path / "out").mkdir()
    outside = take(tmp_path / "out/.train.rec.converting", ("plan.txt", "progress.json", "lock"), kind)
    with within(60):
        assert convert.main([str(tmp_path / "faces"), str(tmp_path / "out"), "--to", "records"]) == 0
    assert_written(tmp_path / "out", ("train.rec", "train.idx"), outside)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_taken_whatever_stands_under_its_name(tmp_path, kind):
    outside = take(tmp_path / "run", [runs.LOCK_FILE], kind)
    with within(10):
        runs.lock_folder(tmp_path / "run").close()
    assert_written(tmp_path / "run", [runs.LOCK_FILE], outside)


def test_a_lock_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(OSError) as refused:
        runs.lock_folder(tmp_path / "nowhere")
    assert refused.value.filename == str(tmp_path / "nowhere" / runs.LOCK_FILE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_a_wandb_run_is_begun_anew_whatever_stands_under_its_name(tmp_path, kind):
    outside = take(tmp_path / "run", [wandb_run.ID_FILE], kind)
    with within(10):
        make_room(tmp_path / "run", runs.SIDE_FILES)
        wandb_run.restore_wandb_id(tmp_path / "run", {wandb_run.ID_KEY: "abc123"})
    assert_written(tmp_path / "run", [wandb_run.ID_FILE], outside)
