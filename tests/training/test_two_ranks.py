"""Two gloo ranks do together what one process does alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from programs import ROOT
from short_runs import Recorder, build, fit, metrics, on_two_ranks, plain_scores, state, trained_state, write_faces

from cli.checkpoints import load_pretrained_model
from datasets import ImageFolderDataset
from datasets import write_faces as write_records
from engine.composite import mean_over_ranks

NUM_PAIRS = 7  # odd, so that the ranks cannot have equally many
OPTIONS = {
    "score_normalization": "visibility",
    "epochs": 2,
    "class_embeddings": True,
    "k_nearest": 2,
    "val_occlusion": ("block",),
    "log_every_n_steps": 50,
}
OPTIONS["max_bad_fraction"] = 0.1
BROKEN = ("train/person_02/1.png", "train/person_05/3.png")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """8 identities of 4 images, two of which cannot be read, and 7 pairs."""
    root = write_faces(tmp_path_factory.mktemp("faces"), pairs=NUM_PAIRS)
    for name in BROKEN:
        (root / name).write_bytes(b"not an image")
    return str(root)


def trained_rank(folder, options):
    """Train on this rank; average a sparse gradient that differs between the ranks on the way."""
    found = trained_state(folder, options)
    rank = dist.get_rank()
    rows, values = ([3, 1, 3], [1.0, 2.0, 3.0]) if rank == 0 else ([1], [10.0])
    gradient = torch.sparse_coo_tensor([rows], torch.tensor(values)[:, None], (5, 1))
    return {**found, "mean": mean_over_ranks(gradient).to_dense(), "num_rows": mean_over_ranks(gradient)._nnz()}


@pytest.fixture(scope="module")
def two_ranks(faces, tmp_path_factory):
    """What each rank saw and ended with, and the run folder."""
    folder = tmp_path_factory.mktemp("two_ranks")
    return on_two_ranks(trained_rank, str(folder), {"data_root": faces, **OPTIONS}), folder


def test_the_batches_of_the_ranks_together_are_those_of_one_process(two_ranks, faces, tmp_path):
    recorder = Recorder()
    fit(tmp_path, recorder, data_root=faces, **OPTIONS)
    (first, second), _ = two_ranks
    assert first["steps"] == second["steps"] == len(recorder.indices) == 4
    together = [a + b for a, b in zip(first["indices"], second["indices"], strict=True)]
    assert together == recorder.indices
    assert all(len(a) == len(b) for a, b in zip(first["indices"], second["indices"], strict=True))


def test_the_ranks_end_with_the_same_weights_and_statistics(two_ranks):
    (first, second), _ = two_ranks
    assert "matcher.class_embeddings.weight" in first["weights"]
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)


def test_a_sparse_gradient_is_averaged_over_the_rows_of_all_ranks(two_ranks):
    for rank in two_ranks[0]:
        assert rank["mean"].flatten().tolist() == [0, (2 + 10) / 2, 0, (1 + 3) / 2, 0]
        assert rank["num_rows"] == 2


def test_both_ranks_have_the_scores_that_one_process_finds_with_the_checkpoint(two_ranks, faces, tmp_path):
    ranks, folder = two_ranks
    _, datamodule, trainer = build(tmp_path, data_root=faces, **OPTIONS)
    model = load_pretrained_model(folder / "last.ckpt")
    trainer.test(model, datamodule=datamodule, verbose=False)
    alone = plain_scores(model)
    methods = ("adaface", "qaconv", "combined")
    assert set(alone) == {f"lfw/{condition}/{method}" for condition in ("clean", "occluded") for method in methods}
    for rank in ranks:
        assert all(len(values) == NUM_PAIRS for values in rank["scores"].values())
        torch.testing.assert_close(rank["scores"], alone, rtol=1e-4, atol=1e-5)


def test_unreadable_images_of_all_ranks_are_listed_once(two_ranks, faces):
    ranks, folder = two_ranks
    expected = {str(Path(faces) / name): "not an image that OpenCV reads, or damaged" for name in BROKEN}
    assert ranks[0]["unreadable"] == ranks[1]["unreadable"] == expected
    lines = (folder / "unreadable.txt").read_text().splitlines()
    assert lines == [f"{path}\t{reason}" for path, reason in sorted(expected.items())]


class KeepSixth(pl.Callback):
    """Save a checkpoint after the sixth step."""

    def __init__(self, folder):
        self.path = folder / "sixth.ckpt"

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 6:
            trainer.save_checkpoint(self.path)


def rank_from_records(folder, options, ckpt_path):
    """Train on this rank, perhaps from a checkpoint, and return the batches and the last weights."""
    recorder = Recorder()
    model, _, _ = fit(Path(folder), recorder, KeepSixth(Path(folder)), ckpt_path=ckpt_path, **options)
    return {"indices": recorder.indices, "weights": state(model)}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_two_ranks_stopped_inside_an_epoch_resume_with_the_remaining_records(faces, tmp_path, workers):
    """The identity split, the sampler and the reader all come from a record file."""
    folder = ImageFolderDataset(Path(faces) / "train")
    for name in ("records", "whole", "resumed"):
        (tmp_path / name).mkdir()
    write_records(tmp_path / "records", (path.read_bytes() for path in folder.paths), folder.labels)
    options = {"train_data_path": str(tmp_path / "records"), "use_mxrecord": True, "val_data_path": faces}
    options |= {"batch_size": 8, "epochs": 2, "num_workers": workers, "max_bad_fraction": 0.1}
    options |= {"cross_rank_pairs": True}  # a rank has one identity
    whole = on_two_ranks(rank_from_records, str(tmp_path / "whole"), options, None)
    checkpoint = str(tmp_path / "whole" / "sixth.ckpt")
    resumed = on_two_ranks(rank_from_records, str(tmp_path / "resumed"), options, checkpoint)
    for uninterrupted, rest in zip(whole, resumed, strict=True):
        assert len(uninterrupted["indices"]) == 8
        assert rest["indices"] == uninterrupted["indices"][6:]
        torch.testing.assert_close(rest["weights"], uninterrupted["weights"], rtol=0, atol=0)


@pytest.mark.slow
def test_torchrun_trains_and_validates_as_one_process_does(faces, tmp_path):
    flags = "--arch ir_tiny --embedding_size 16 --batch_size 16 --gpus 0 --num_workers 0 --epochs 1 --lr 0.01"
    flags += " --val_occlusion block --distributed_backend DP --log_every_n_steps 1 --max_bad_fraction 0.1"
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2".split()
    command = [sys.executable, *launcher, str(ROOT / "main.py"), *flags.split(), "--data_root", faces]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "experiments").iterdir()
    assert [row["step"] for row in metrics(folder)] == [1, 2]

    gone = [line for line in done.stderr.splitlines() if "--distributed_backend" in line]
    assert len(gone) == 1, "one line, not one of each rank"
    assert re.search(r"--distributed_backend dp no longer exists.*ddp is used", gone[0])

    report = json.loads((folder / "report" / "results.json").read_text())["benchmarks"]["lfw"]["conditions"]
    _, datamodule, trainer = build(tmp_path, data_root=faces, val_occlusion=("block",))
    model = load_pretrained_model(folder / "last.ckpt")
    trainer.test(model, datamodule=datamodule, verbose=False)
    for condition, methods in model.last_results["lfw"].items():
        for method, result in methods.items():
            assert report[condition][method]["fold_accuracy"] == pytest.approx(list(result.verification.fold_accuracy))
            assert report[condition][method]["num_genuine"] + report[condition][method]["num_impostor"] == NUM_PAIRS
