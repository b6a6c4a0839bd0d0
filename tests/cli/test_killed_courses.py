"""Courses that change on their way, or of other tasks, killed anywhere, go on to the same bits."""

from functools import cache

import pytest
import torch
from broken_runs import FLAGS, SIGKILL, assert_same, finish, outcome, output, run_folder, start
from detection_runs import data_flags, write_photos
from pretraining_runs import CLUSTERED
from short_runs import write_faces

STAGES = [
    *("--stages", "1:heads.*,matcher.*", "--stages", "1:*=0.02", "--lr_schedule", "cosine", "--warmup_steps", "2"),
    *("--ema_decay", "0.5", "--penalty", "heads.*=l1:1e-3:prox"),
]
MIXTURE = ["--curriculum", "contrast", "--curriculum_epochs", "0,2", "--epoch_share", "0.7"]
PRETRAINING = [
    *("pretrain", "--arch", "ir_tiny", "--embedding_size", "16", "--batch_size", "8", "--queue_size", "20"),
    *("--projection_size", "8", "--epochs", "2", "--warmup_steps", "0", "--gpus", "0", "--num_workers", "0"),
    *("--log_every_n_steps", "1", "--align", "no"),
    *("--checkpoint_every_n_steps", "1", "--resume_from_checkpoint", "auto", "--prefix", "maskwise", *CLUSTERED),
]
DETECTION = [
    *("detect", "train", "--arch", "featherface_v2", "--image_size", "64", "--val_size", "96", "--batch_size", "4"),
    *("--epochs", "2", "--ema_decay", "0.5", "--gpus", "0", "--num_workers", "0", "--log_every_n_steps", "1"),
    *("--checkpoint_every_n_steps", "1", "--resume_from_checkpoint", "auto", "--prefix", "maskwise"),
]


@pytest.fixture(scope="module")
def courses(tmp_path_factory):
    """Return {name: command line}; each has 4 steps an epoch, the mixture 4 of two sets."""
    root = tmp_path_factory.mktemp("faces")
    faces = write_faces(root / "faces", pairs=7)
    write_photos(root / "photos")
    masked = write_faces(root / "masked", identities=4, pairs=0)
    sets = ["--data", f"web={faces}:2", "--data", f"masked={masked},head=cosface,final_weight=3"]
    return {
        "stages": [*FLAGS, "--data_root", str(faces), *STAGES],
        "mixture": [*FLAGS, *sets, "--val_data_path", str(faces), *MIXTURE],
        "pretraining": [*PRETRAINING, "--data_root", str(faces / "train")],
        "detection": [*DETECTION, *data_flags(root / "photos")],
    }


@pytest.fixture(scope="module")
def undisturbed(courses, tmp_path_factory):
    """Return a function that tells what a course on so many ranks leaves that meets no fault."""

    @cache
    def left(course, ranks):
        cwd = tmp_path_factory.mktemp("whole")
        assert finish(start(courses[course], cwd, ranks=ranks)) == [0] * ranks, output(cwd)
        return outcome(cwd)

    return left


SWITCH = 4  # steps before the second epoch, with which stage 2 and the pairs of clusters begin
KILLED = [
    ("stages", "update", 2),
    ("stages", "epoch's end", SWITCH),
    ("stages", "forward", SWITCH),
    ("stages", "update", 6),
    ("mixture", "update", 2),
    ("mixture", "validation", 6),
    ("pretraining", "refresh", 2),
    ("pretraining", "update", 6),
    ("detection", "update", 2),
    ("detection", "validation", 4),
    ("detection", "update", 6),
]


@pytest.mark.slow
@pytest.mark.parametrize(("course", "place", "steps"), KILLED)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_course_goes_on_to_the_same_bits(courses, undisturbed, tmp_path, course, place, steps, ranks):
    codes = finish(start(courses[course], tmp_path, (place, steps, SIGKILL), ranks, ranks - 1), timeout=300)
    assert codes[-1] == -SIGKILL and 0 not in codes and None not in codes, output(tmp_path, ranks - 1)
    folder = run_folder(tmp_path)
    done = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    assert done == (SWITCH if place == "refresh" else steps) or (
        place in ("epoch's end", "validation") and done == steps - 1  # before the checkpoint of the step
    )
    assert len([*folder.glob("clusters/unfinished_*")]) == (place == "refresh")
    assert finish(start(courses[course], tmp_path, ranks=ranks)) == [0] * ranks, output(tmp_path)
    assert "going on from experiments/maskwise_" in output(tmp_path)
    found, expected = outcome(tmp_path), undisturbed(course, ranks)
    assert_same(found, expected)
    assert (course == "pretraining") == ("cluster_f" in found[0]) and not [*folder.glob("clusters/unfinished_*")]
