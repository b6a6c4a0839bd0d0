"""Detectors trained through their command line: they learn, log, go on to the same bits, and say what is wrong."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detection_runs import SIDE, SMALL, data_flags, write_photos
from pretraining_runs import content, only, rows
from short_runs import on_two_ranks

import nets
from cli.detection import train
from cli.detection.checkpoints import read_to_resume
from config import DetectionConfig
from datasets import LabeledPhotos, collate_detections, read_labels
from engine.guard import NonFiniteError
from models.detectors.sized import SizedDetector, TestSizes
from models.detectors.trained import TrainedDetector
from tasks.detection import figures
from tasks.detection.data import DetectionData, WholePhotos
from tasks.detection.module import DetectorTraining


def go_on(whole, kept="pieces_01-01_0"):
    """Return the flags that go on from the last checkpoint but one of a run, in a folder of its own."""
    folder = Path("experiments") / kept
    folder.mkdir()
    (folder / "last.ckpt").write_bytes((whole / "last.ckpt.previous").read_bytes())
    (folder / "metrics.csv").write_bytes((whole / "metrics.csv").read_bytes())
    return folder, ["--resume_from_checkpoint", folder / "last.ckpt"]


def test_a_run_goes_on_from_the_middle_of_an_epoch_to_the_same_bits(detect):
    more = ["--checkpoint_every_n_steps", 3, "--ema_decay", 0.5, "--negatives", 3]
    assert detect(*more, "--prefix", "whole") == 0
    whole = only("whole_*")
    found = rows(whole)
    assert len(found) == 8 and {"train_loc_loss", "train_conf_loss", "train_landmarks_loss"} <= found[0].keys()
    assert {"val_ap", "val_ap50", "val_recall"} <= found[3].keys() and not {"val_ap"} & found[2].keys()
    assert content(whole / "best.ckpt")["hyper_parameters"]["config"]["negatives"] == 3
    assert cv2.imread(str(whole / "samples.png")).shape[1] > 4 * 320
    assert "16 photographs at 96 pixels: ap 0." in (whole / "run.log").read_text()

    saved = content(whole / "last.ckpt")
    assert saved["hyper_parameters"]["min_sizes"] == [[16, 32], [64, 128], [256, 512]]
    assert saved["hyper_parameters"]["steps"] == [8, 16, 32] and saved["color_space"] == "bgr"
    detector = nets.load_detector(whole / "last.ckpt")
    assert detector.form == nets.DETECTORS["retinaface_mnet025"]
    for name, value in detector.state_dict().items():
        assert torch.equal(value, saved["state_dict"][f"detector.{name}"])

    assert content(whole / "last.ckpt.previous")["DetectionData"] == {"seed": 42, "epoch": 1, "batches_done": 2}
    kept, words = go_on(whole)
    assert detect(*words) == 0
    for key in ("state_dict", "weights_in_training", "optimizer_states"):
        torch.testing.assert_close(content(kept / "last.ckpt")[key], saved[key], rtol=0, atol=0)
    assert (kept / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_student_learns_from_a_teacher_that_a_resumed_run_must_find_again(detect, tmp_path):
    teacher, other = tmp_path / "teacher.pth", tmp_path / "other.pth"
    for path in (teacher, other):
        torch.save(nets.build_detector("featherface_v1").state_dict(), path)
    lessons = ["--arch", "featherface_v2", "--teacher_weight", 0.5, "--attention_weight", 10]
    words = [*lessons, "--teacher", teacher, "--start_from_teacher_body", "--checkpoint_every_n_steps", 3]
    assert detect(*words, "--epochs", 1, "--prefix", "whole") == 0
    whole = only("whole_*")
    names = {f"train_teacher_{part}_loss" for part in ("loc", "conf", "landmarks")} | {"train_attention_loss"}
    assert all(row[name] > 0 for row in rows(whole) for name in names)
    state = content(whole / "last.ckpt")["state_dict"]
    assert not any("teacher" in name for name in state)
    kept, words = go_on(whole)
    words += [*lessons[:2], "--epochs", 1]
    assert detect(*words, "--teacher", other) == 2
    teacher.rename(tmp_path / "moved.pth")
    assert detect(*words) == 2 and detect(*words, "--teacher", tmp_path / "moved.pth") == 0
    torch.testing.assert_close(content(kept / "last.ckpt")["state_dict"], state, rtol=0, atol=0)
    # Without a lesson it needs no teacher any more.
    assert (
        detect(
            *go_on(whole, "alone_01-01_0")[1],
            *lessons[:2],
            "--override",
            "teacher_weight=0,attention_weight=0",
            "--epochs",
            1,
        )
        == 0
    )


def test_a_run_that_began_with_a_teachers_backbone_goes_on_without_the_teacher(detect, tmp_path):
    teacher = tmp_path / "teacher.pth"
    torch.save(nets.build_detector("featherface_v1").state_dict(), teacher)
    words = ["--arch", "featherface_v2", "--teacher", teacher, "--start_from_teacher_body", "--epochs", 1]
    assert detect(*words, "--checkpoint_every_n_steps", 3, "--prefix", "body") == 0
    whole = only("body_*")
    teacher.unlink()
    kept, again = go_on(whole)
    assert detect(*again, *words[:2], "--epochs", 1) == 0
    saved = [content(folder / "last.ckpt")["state_dict"] for folder in (kept, whole)]
    torch.testing.assert_close(*saved, rtol=0, atol=0)


@pytest.fixture
def damaged(tmp_path, photos):
    """Return the folder of photographs of which two cannot be read."""
    root = tmp_path / "damaged"
    shutil.copytree(photos, root)
    (root / "images/03.png").write_bytes(b"no image")
    (root / "images/07.png").unlink()
    return root


def test_photographs_that_cannot_be_read_are_replaced_counted_and_listed(detect, damaged):
    words = ["--data_root", damaged, "--labels", damaged / "label.txt", "--monitor", "none", "--epochs", 1]
    assert detect(*words, "--max_bad_fraction", 0.2, "--prefix", "some") == 0
    lines = (only("some_*") / "unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(damaged / f"images/{name}.png") for name in ("03", "07")]
    assert not any("val_ap" in row for row in rows(only("some_*")))
    assert detect(*words, "--prefix", "many") == 1


LABELS = {
    "empty": "",
    "faceless": "# images/00.png\n# images/01.png\n",
    "cut": "# images/00.png\n1 2 30",
    "elsewhere": "# other/a.png\n1 2 30 30\n",
    "nan": "# images/00.png\n1 2 30 30 " + "nan nan 0 " * 5 + "1\n",
}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data_root", "{}"], "--data_root needs --labels"),
        (["--labels", "{}/label.txt"], "--labels needs --data_root"),
        (["--data_root", "{}", "--labels", "{}/label.txt"], "--monitor val_ap needs labels to validate on"),
        ([*data_flags(Path("{}")), "--monitor", "val_nme"], "choose one of val_ap, val_ap50, val_recall"),
        (["--data_root", "{}", "--labels", "missing.txt", "--monitor", "none"], "missing.txt: cannot read the labels"),
        (["--data_root", "missing", "--labels", "{}/label.txt", "--monitor", "none"], "missing: no folder of photogr"),
        (["--data_root", "{}", "--labels", "empty.txt", "--monitor", "none"], "empty.txt: holds no labels"),
        (
            ["--data_root", "{}", "--labels", "faceless.txt", "--monitor", "none"],
            "faceless.txt has no face that counts",
        ),
        (["--data_root", "{}", "--labels", "cut.txt", "--monitor", "none"], "cut.txt, line 2: 4, 19 or 20 numbers"),
        (["--data_root", "{}", "--labels", "elsewhere.txt", "--monitor", "none"], "has none of the 1 photographs of"),
        (["--data_root", "{}", "--labels", "nan.txt", "--monitor", "none"], "nan.txt has no face that counts in its 1"),
        ([*data_flags(Path("{}")), "--val_data_path", "few"], "few lacks 15 of the 16 photographs"),
        (["--batch_size", 64], "--batch_size 64: ShuffleBatchSampler: a batch of 64 needs as many images"),
        (["--teacher", "{}/label.txt", "--teacher_weight", 1], "label.txt: damaged or not a weight file"),
        (["--teacher", "v2.pth"], "--teacher: nothing is learned from it"),
        (["--teacher_weight", 1], "--teacher_weight and --attention_weight need a detector to learn from"),
        (["--start_from_teacher_body"], "--start_from_teacher_body begins with the backbone of a detector"),
        (["--start_from_model_statedict", "v2.pth"], "v2.pth: holds featherface_v2, whose weights do not fit --arch"),
        (["--resume_from_checkpoint", "v2.pth"], "v2.pth: not a checkpoint of a detector's training"),
        (["--activation_checkpointing"], "--activation_checkpointing knows recognizers' backbones alone"),
        (["--no_channels_last"], "unknown flag --no_channels_last"),
        (["--compile", "--attention_weight", "1", "--teacher", "x.pth"], "--compile takes a detector whole"),
        (["--image_size", 100], "--image_size must be a multiple of 32, got 100; try 96 or 128"),
        (["--stages", "2:heads.*"], "--stages: no parameter that is trained is called 'heads.*'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_cannot_work_is_one_line(detect, photos, capsys, words, line):
    for name, text in LABELS.items():
        Path(f"{name}.txt").write_text(text)
    Path("few/images").mkdir(parents=True)
    shutil.copy(photos / "images/00.png", "few/images/00.png")
    torch.save(nets.build_detector("featherface_v2").state_dict(), "v2.pth")
    assert detect(*(str(word).replace("{}", str(photos)) for word in words)) == 2
    error = capsys.readouterr().err
    assert line in error and "Traceback" not in error and error.splitlines()[-1].startswith("main.py detect train: ")
    assert not Path("experiments").exists()


def test_a_checkpoint_of_other_priors_photographs_or_tasks_is_refused_in_a_line(detect, photos, tmp_path, capsys):
    assert detect("--epochs", 1, "--prefix", "first") == 0
    path = only("first_*") / "last.ckpt"
    write_photos(tmp_path / "more", 20)
    saved = content(path)
    saved["hyper_parameters"]["min_sizes"][0] = [10.0, 20.0]
    torch.save(saved, tmp_path / "tampered.ckpt")
    capsys.readouterr()
    for words, line in (
        (["--min_sizes", "10,20/32,64/128,256"], "--min_sizes 10,20/32,64/128,256 conflicts with 16,32/64,128/256,512"),
        (["--override", "min_sizes=10,20/32,64/128,256"], "--override min_sizes: it cannot change within a run"),
        (["--override", "arch=featherface_v2"], "holds retinaface_mnet025, whose weights do not fit featherface_v2"),
        (data_flags(tmp_path / "more"), "was trained on photographs of other names"),
    ):
        assert detect("--resume_from_checkpoint", path, *words) == 2
        assert line in capsys.readouterr().err
    with pytest.raises(ValueError, match="min_sizes and steps are not those of its options"):
        read_to_resume(tmp_path / "tampered.ckpt")


def test_what_a_detector_says_that_is_no_number_ends_the_run_in_a_line(detect, monkeypatch, capsys):
    """NaN scores are above no threshold: they would pass for photographs without faces."""
    forward = nets.Detector.forward

    def diverged(self, images):
        found = forward(self, images)
        return found if self.training else found._replace(conf=found.conf * torch.nan)

    monkeypatch.setattr(nets.Detector, "forward", diverged)
    assert detect("--epochs", 1) == 1
    assert "what the detector says of 16 of 16 photographs is not finite" in capsys.readouterr().err


def test_a_smoke_test_leaves_nothing(detect):
    assert detect("--fast_dev_run", "--prefix", "fast") == 0
    assert not Path("experiments").exists()


@pytest.mark.slow
def test_scenes_are_drawn_where_no_photographs_are_given(detect):
    words = ["--synthetic_scenes", 6, "--synthetic_val_scenes", 2, "--epochs", 1, "--batch_size", 3]
    assert detect(*words, "--prefix", "scenes") == 0
    assert json.loads((only("scenes_*") / "config.json").read_text())["synthetic_scenes"] == 6
    assert 0 <= rows(only("scenes_*"))[-1]["val_recall"] <= 1


COURSE = ["--check_mode", "--optimizer", "sgd", "--lr_schedule", "multistep", "--accumulate_grad_batches", "2"]


def course(folder, root, teacher):
    """Train on this rank and return what was logged."""
    os.chdir(folder)
    words = ["--teacher", teacher, "--teacher_weight", "0.5", "--attention_weight", "10", "--prefix", "course"]
    assert train.main([*SMALL, *COURSE, *words, *data_flags(Path(root))]) == 0
    return rows(only("course_*")) if only("course_*") else []


@pytest.mark.slow
def test_in_check_mode_two_ranks_follow_the_losses_and_figures_of_one_process(photos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    torch.save(nets.build_detector("featherface_v1").state_dict(), tmp_path / "teacher.pth")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    told = (str(photos), str(tmp_path / "teacher.pth"))
    together = on_two_ranks(course, str(tmp_path / "two"), *told, timeout=300)[0]
    monkeypatch.chdir(tmp_path)
    alone = course(str(tmp_path / "one"), *told)
    assert len(alone) == 4 and {"val_ap", "train_teacher_conf_loss", "train_attention_loss"} <= alone[1].keys()
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, rel=0, abs=1e-9)
    assert len({row["train_loc_loss"] for row in alone}) == 4


def test_figures_are_those_of_what_was_found():
    """Two faces of 20 pixels: one is found 1 pixel beside itself, with its points 2 pixels off; one is missed."""
    boxes = np.array([[10.0, 10, 30, 30], [50, 50, 70, 70], [0, 0, 8, 8]])
    points = np.stack([np.full((5, 2), 20.0), np.full((5, 2), 60.0), np.full((5, 2), np.nan)])
    truth = figures.Truth(boxes, np.array([False, False, True]))
    found = figures.Found(np.array([[11.0, 10, 31, 30], [0, 0, 8, 8], [50, 50, 70, 70]]), np.array([0.9, 0.8, 0.4]))
    one = figures.Findings(0, truth, points, found, np.stack([points[0] + (2, 0), points[0], points[1]]))
    values = figures.figures([one])
    assert values["val_recall"] == 0.5 and values["val_nme"] == pytest.approx(2 / 20)
    assert values["val_ap50"] == pytest.approx(1) and values["val_ap"] < 1
    unlabeled = one._replace(points=np.full((3, 5, 2), np.nan))
    assert "val_nme" not in figures.figures([unlabeled])


def test_a_photograph_that_no_rank_saw_is_no_figure():
    with pytest.raises(RuntimeError, match="findings of 0 photographs of 3"):
        figures.Validation().gather(3, "val")
    seen = figures.Validation()
    seen._bad = [2]
    with pytest.raises(NonFiniteError, match="of 1 of 3 photographs is not finite"):
        seen.gather(3, "val")


def test_whole_photographs_keep_their_form(photos, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((48, SIDE, 3), 200, np.uint8))
    (tmp_path / "label.txt").write_text("# wide.png\n-10 20 30 40\n")
    labeled = LabeledPhotos(tmp_path, read_labels(tmp_path / "label.txt"))
    for size, height, width, box in ((192, 48, SIDE, [-10, 20, 20, 60]), (48, 24, 48, [-5, 10, 10, 30])):
        image, faces, index, unreadable = WholePhotos(labeled, size)[0]
        assert image.shape == (size, size, 3) and (index, unreadable) == (0, -1)
        assert (image[:height, :width] == 200).all() and (image[height:] == (123, 117, 104)).all()
        assert (image[:, width:] == (123, 117, 104)).all() and faces.boxes.tolist() == [box]


def test_a_validation_finds_and_judges_what_the_evaluation_does(tmp_path):
    torch.manual_seed(0)
    detector = nets.build_detector("retinaface_mnet025").eval()
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    noise = np.random.default_rng(0).integers(0, 255, (320, 320, 3), np.uint8)
    for name, side in (("same", 160), ("twice", 320)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), noise[:side, :side])
    (tmp_path / "label.txt").write_text("# same.png\n-9 20 30 40\n# twice.png\n300 100 40 40\n")
    photos = LabeledPhotos(tmp_path, read_labels(tmp_path / "label.txt"))
    module = DetectorTraining(DetectionConfig(arch="retinaface_mnet025", val_size=160).to_dict()).eval()
    module.detector.load_state_dict(detector.state_dict())
    with torch.inference_mode():
        module.on_validation_epoch_start()
        module.validation_step(collate_detections([WholePhotos(photos, 160)[place] for place in (0, 1)]), 0)
    shown = SizedDetector(TrainedDetector(tmp_path / "detector.pth"), TestSizes(160))
    for place, seen in enumerate(module.validation.gather(2, "val")):
        np.testing.assert_allclose(seen.truth.boxes * (place + 1), photos.labels(place).faces.boxes)
        surest = shown.detect(photos.read(place).image, figures.LEAST_SCORE)[:5]
        assert len(surest) == 5
        np.testing.assert_allclose([one.box + 0.5 for one in surest], seen.found.boxes[:5] * (place + 1), atol=0.05)
        np.testing.assert_allclose([one.score for one in surest], seen.found.scores[:5], atol=1e-4)
    with pytest.raises(RuntimeError, match="call setup"):
        DetectionData(DetectionConfig()).train_dataset  # noqa: B018
