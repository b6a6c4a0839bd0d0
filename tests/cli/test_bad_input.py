"""A user's mistake is answered by one line and exit code 2, and nothing is left behind."""

import shutil

import pytest
from benchmark_sets import draw_images, write_bin
from programs import ROOT, SMALL_RUN, program
from untrained import write_checkpoint

import main
import main_eval


def refusal(capsys, program_main, *argv):
    """Return the one line on stderr with which the program refuses argv."""
    with pytest.raises(SystemExit) as raised:
        program_main([str(word) for word in argv])
    assert raised.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_missing_data(capsys, tmp_path):
    line = refusal(capsys, main.main, *SMALL_RUN, "--data_root", tmp_path / "nowhere")
    assert "nowhere does not exist" in line
    assert not (tmp_path / "experiments").exists()


def test_empty_data(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no image" in refusal(capsys, main.main, *SMALL_RUN, "--data_root", tmp_path / "empty")


@pytest.mark.parametrize("issame", [[True] * 12, [True], [False] * 4])
def test_a_benchmark_set_on_which_nothing_can_be_measured(capsys, faces, tmp_path, issame):
    write_bin(tmp_path / "sets" / "lfw.bin", draw_images(2 * len(issame)), issame)
    line = refusal(capsys, main.main, *SMALL_RUN, "--data_root", faces, "--val_data_path", tmp_path / "sets")
    assert f"lfw.bin: {sum(issame)} genuine and {len(issame) - sum(issame)} impostor pairs" in line
    assert not (tmp_path / "experiments").exists()


def test_unknown_architecture(capsys):
    assert "ir_tiny" in refusal(capsys, main.main, "--arch", "resnet")


def test_batch_size_not_divisible_by_four(capsys):
    assert "divisible by 4" in refusal(capsys, main.main, "--batch_size", "30")


def test_fewer_identities_than_the_batch_needs(capsys, faces):
    line = refusal(capsys, main.main, *SMALL_RUN, "--data_root", faces, "--batch_size", "64")
    assert "largest batch that works is 48" in line


def test_wrong_number_of_classes(capsys, faces):
    line = refusal(capsys, main.main, *SMALL_RUN, "--data_root", faces, "--custom_num_class", "13")
    assert "13 given, but the training data hold 12" in line


def test_resume_path_that_does_not_exist(capsys, tmp_path):
    line = refusal(capsys, main.main, "--resume_from_checkpoint", tmp_path / "last.ckpt")
    assert "no such checkpoint" in line


def test_resume_from_a_damaged_checkpoint(capsys, trained, tmp_path):
    damaged = tmp_path / "last.ckpt"
    damaged.write_bytes((trained / "last.ckpt").read_bytes()[:5000])
    assert "damaged" in refusal(capsys, main.main, "--resume_from_checkpoint", damaged)


def test_resume_with_a_conflicting_flag(capsys, trained):
    line = refusal(capsys, main.main, "--resume_from_checkpoint", trained / "last.ckpt", "--lr", "0.5")
    assert "--lr 0.5 conflicts with 0.001 in the checkpoint" in line


def test_conflicting_flags(capsys):
    assert "--use_16bit" in refusal(capsys, main.main, "--use_16bit", "--precision", "32")


def test_unwritable_output_folder(capsys, trained, faces, tmp_path):
    (tmp_path / "file").write_text("")
    argv = [
        "--model-path",
        trained / "last.ckpt",
        "--data-path",
        faces / "train",
        "--output-dir",
        tmp_path / "file/out",
    ]
    assert "file" in refusal(capsys, main_eval.main, *argv)


def test_unwritable_run_folder(capsys, faces, tmp_path):
    (tmp_path / "experiments").write_text("")
    assert "experiments" in refusal(capsys, main.main, *SMALL_RUN, "--data_root", faces)


def test_evaluating_a_file_that_is_no_checkpoint(capsys, faces, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"\x00" * 100)
    line = refusal(capsys, main_eval.main, "--model-path", "model.ckpt", "--data-path", faces / "train")
    assert "model.ckpt" in line


def test_evaluating_with_another_architecture(capsys, trained, faces):
    argv = ["--model-path", trained / "last.ckpt", "--data-path", faces / "train", "--arch", "ir_50"]
    assert "holds ir_tiny, but --arch says ir_50" in refusal(capsys, main_eval.main, *argv)


def test_a_map_folder_that_does_not_exist_and_no_other_folder_is_left(capsys, trained, faces, tmp_path):
    argv = ["--model-path", trained / "last.ckpt", "--data-path", faces / "train", "--map-dir", "nowhere"]
    assert "--map-dir nowhere: no such folder" in refusal(capsys, main_eval.main, *argv, "--output-dir", "new/out")
    assert not list(tmp_path.iterdir())


def test_a_shortlist_for_a_model_without_a_matcher(capsys, faces, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", qaconv_loss_weight=0.0)
    argv = ["--model-path", checkpoint, "--data-path", faces / "train", "--shortlist", "5"]
    assert "--shortlist is for the local matcher" in refusal(capsys, main_eval.main, *argv)


def test_a_refusal_in_a_process_of_its_own_shows_no_traceback(tmp_path):
    done = program("main.py", "--data_root", tmp_path / "nowhere", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(ROOT) not in done.stderr


@pytest.mark.slow
def test_unreadable_images_and_single_images_are_warned_of_and_the_run_goes_on(faces, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(faces / "train", data)
    people = sorted(data.iterdir())
    broken = sorted(people[0].iterdir())[2]
    broken.write_bytes(b"not an image")
    for image in sorted(people[1].iterdir())[1:]:
        image.unlink()
    flags = [*SMALL_RUN, "--data_root", data, "--epochs", "1", "--val_identities", "0.3", "--num_workers", "9999"]
    done = program("main.py", *flags, cwd=tmp_path)
    (folder,) = (tmp_path / "experiments").iterdir()
    log = (folder / "run.log").read_text()
    assert "1 of 12 identities have one image only" in log
    assert "--num_workers 9999" in log
    assert "own" in done.stdout
    assert broken.name in log
