"""Pretrainings of other data, precisions and ends: what trains them, and what they go on from."""

import os
import shutil
import signal
from functools import partial

import numpy as np
import pytest
import torch
from converted_faces import write_face
from pretraining_runs import CLUSTERED, content, only, rows

import models
from datasets.faces.folder_scan import is_flat
from datasets.synthetic.prepare import render_identities
from tasks.embedding import embed_images
from tasks.kept_rows import KeptRows
from tasks.moco import refresh


@pytest.mark.parametrize("align", ["no", "yes"])
def test_a_folder_without_folders_is_trained_on(pretrain, tmp_path, align):
    """Its images have no names of people: it is read as one folder of the one above it, whatever else lies there."""
    flat = tmp_path / "home" / "flat"
    images = render_identities("flat", 3, 4)[0] if align == "yes" else np.zeros((12, 112, 112, 3), np.uint8)
    for number, image in enumerate(images):
        write_face(flat / f"{number:02d}.png", image)
    write_face(tmp_path / "home/other/a.png", images[0])
    words = ["--epochs", 1, "--batch_size", 4, "--queue_size", 8, "--align", align]
    assert pretrain("--data_root", flat, *words, "--prefix", "flat") == 0
    saved = content(only("flat_*") / "last.ckpt")
    assert saved["hyper_parameters"]["num_images"] == 12 == saved["global_step"] * 4
    (flat / "folder").mkdir()
    assert not is_flat(flat) and pretrain("--data_root", flat, *words) == 2


@pytest.mark.parametrize("words", [["--check_mode"], ["--precision", "bf16"]], ids=lambda words: words[0])
def test_other_precisions_train_and_cluster(pretrain, words):
    """Clusters in the first epoch: their embeddings are of the run's precision too."""
    words = [*CLUSTERED, "--pseudo_pairs", "0:1", "--key_momentum", 0.9, "--epochs", 1, *words]
    assert pretrain(*words, "--prefix", "other") == 0
    folder, kind = only("other_*"), torch.float64 if words[-1] == "--check_mode" else torch.float32
    state = content(folder / "last.ckpt")["state_dict"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {kind}
    keys = state["contrast.queue.keys"]
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(20, dtype=kind), rtol=1e-6, atol=0)
    assert int((state["clusters"] >= 0).sum()) > 16
    moved = state["contrast.query.projector.0.weight"] - state["contrast.key.projector.0.weight"]
    assert moved.abs().max() > 0 and rows(folder)[-1]["train_nce_loss"] > 0
    at_rest = state["contrast.key.backbone.input_layer.1.num_batches_tracked"] == 0
    assert bool(at_rest) == (kind == torch.float64)
    assert models.load(folder / "last.ckpt", encoder="key").model.input_layer[0].weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_a_compiled_run_trains_as_a_plain_one(pretrain):
    for name, flag in (("plain", []), ("compiled", ["--compile"])):
        assert pretrain("--epochs", 1, "--lr", 0.01, "--prefix", name, *flag) == 0
    plain, compiled = (rows(only(f"{name}_*")) for name in ("plain", "compiled"))
    assert [row["train_nce_loss"] for row in compiled] == pytest.approx([r["train_nce_loss"] for r in plain], rel=1e-2)
    names = [content(only(f"{name}_*") / "last.ckpt")["state_dict"].keys() for name in ("plain", "compiled")]
    assert names[0] == names[1]


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_run_that_ends_while_images_are_clustered_goes_on_from_the_embeddings_there_are(pretrain, how, monkeypatch):
    """8 batches of images: 3 are there when the run is killed, and one of these was not whole."""
    write, written = KeptRows.write, []

    class Killed(BaseException):
        pass

    def write_or_die(self, batch, rows):
        write(self, batch, rows)
        written.append(batch)
        if batch == 2:
            monkeypatch.setattr(KeptRows, "write", lambda *told: write(*told) or written.append(told[1]))
            if how == "killed":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(refresh, "embed_images", partial(embed_images, batch_size=4))
    assert pretrain(*CLUSTERED, "--prefix", "whole") == 0
    monkeypatch.setattr(KeptRows, "write", write_or_die)
    if how == "killed":
        with pytest.raises(Killed):
            pretrain(*CLUSTERED, "--prefix", "pieces")
    else:
        assert pretrain(*CLUSTERED, "--prefix", "pieces") == 128 + signal.SIGTERM
    folder = only("pieces_*")
    assert content(folder / "last.ckpt")["global_step"] == 4
    (kept,) = (folder / "clusters").glob("unfinished_*")
    if how == "killed":
        with (kept / "embeddings.npy").open("r+b") as file:
            file.seek(-(8 * 4 * 16 * 2 - 3), os.SEEK_END)  # a byte of the first batch
            file.write(b"\x3f")
    written.clear()
    assert pretrain("--resume_from_checkpoint", folder / "last.ckpt") == 0
    assert written == ([0, 3, 4, 5, 6, 7] if how == "killed" else [])
    states = [content(only(name) / "last.ckpt")["state_dict"] for name in ("pieces_*", "whole_*")]
    assert int(states[0]["generation"]) == 1
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert (folder / "metrics.csv").read_bytes() == (only("whole_*") / "metrics.csv").read_bytes()
    assert not [*(folder / "clusters").glob("unfinished_*")]
