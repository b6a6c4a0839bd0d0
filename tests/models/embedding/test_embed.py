"""`embed` as a user runs it: what is in the folder, what a killed run leaves, and what is refused."""

import csv
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from converted_faces import contents, write_face
from full_disk import full_disk
from portraits import write_model
from programs import ROOT, refusal

import models
from cli.data import convert
from cli.embedding import embed as program
from datasets import ArrayDataset, ImageFolderDataset, save_benchmark
from datasets.benchmarks.benchmark import Benchmark
from datasets.synthetic.prepare import render_identities
from evaluation import describe_with_flip
from models.embedding import embed as embedding
from models.embedding.folder import DTYPES, content_checksum, read_names
from models.embedding.rows import RowFiles
from models.embedding.sources import Photographs, find_photographs
from options.embedding import EMBEDDING_DTYPES, EMBEDDING_FORMATS
from transforms import to_tensor

HOSTILE = '=cmd,"<b>\x1b[31m\n.png'


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three people of four images; one cannot be read, and one has a hostile name."""
    root = tmp_path_factory.mktemp("people")
    for number, image in enumerate(render_identities("embed", 3, 4)[0]):
        write_face(root / f"person {number // 4}" / (HOSTILE if number == 5 else f"{number:02d}.png"), image)
    (root / "person 2/11.png").write_bytes(b"broken")
    return root


@pytest.fixture(autouse=True)
def no_log(monkeypatch, tmp_path):
    monkeypatch.setattr("engine.runs.start_log", lambda *words: None)
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))


def run(source, output, model_path, *more):
    words = [source, output, "--model-path", model_path, "--align", "no", "--batch-size", "4", "--gpus", "0", *more]
    return program.main([str(word) for word in words])


def described(model_path, images):
    """Return embeddings and norms of images, computed here batch by batch."""
    model, parts, norms = models.load(model_path), [], []

    def describe(batch):
        found = model.describe(batch)
        norms.append(found.norm[:, 0])
        return found

    for start in range(0, len(images), 4):
        parts.append(describe_with_flip(describe, to_tensor(torch.from_numpy(images[start : start + 4]))).embedding)
    mean = [(image + mirror) / 2 for image, mirror in zip(norms[::2], norms[1::2], strict=True)]
    return torch.cat(parts).numpy(), torch.cat(mean).numpy()


def test_the_choices_are_those_of_the_functions():
    assert (EMBEDDING_DTYPES, EMBEDDING_FORMATS) == (DTYPES, embedding.FORMATS)


@pytest.mark.embed_flag("dtype", "batch_size", "flip")
def test_a_folder_of_people_becomes_embeddings_with_labels_names_and_facts(folder, model_path, tmp_path, capsys):
    assert run(folder, tmp_path / "out", model_path, "--dtype", "float32") == 1
    assert "11 embeddings of 16 numbers, float32\nunreadable: 1 image" in capsys.readouterr().out
    dataset = ImageFolderDataset(folder)
    blank = np.zeros((112, 112, 3), np.uint8)
    images = np.stack([blank if index == 11 else dataset.read(index) for index in range(12)])
    embeddings, norms = described(model_path, images)
    found = models.read_embeddings(tmp_path / "out")
    assert np.array_equal(found.embeddings, embeddings[:11]) and np.array_equal(found.norms, norms[:11])
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 3
    text = (tmp_path / "out/images.csv").read_text()
    assert len(text.splitlines()) == 12 and "\x1b" not in text  # a hostile name stays on its line
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["index"] for row in rows] == [str(index) for index in range(11)]
    assert rows[0]["name"] == "person 0/00.png" and rows[0]["label"] == "0" and 0 <= float(rows[0]["quality"]) <= 1
    assert read_names(tmp_path / "out", 11)[4].startswith("person 1/")
    facts = json.loads((tmp_path / "out/embeddings.json").read_text())
    assert facts["count"] == 11 and facts["dim"] == 16 and facts["unreadable"] == 1 and facts["encoder"] == "backbone"
    assert facts["arch"] == "ir_tiny" and facts["template"] == "as given" and "python" in facts["versions"]
    assert facts["weights_sha256"] == models.portraits.weights_checksum(models.load(model_path))
    assert "11.png" in (tmp_path / "out.unreadable.tsv").read_text()
    assert run(folder, tmp_path / "plain", model_path, "--no-flip") == 1  # float16
    plain = models.read_embeddings(tmp_path / "plain")
    direct = models.load(model_path).describe(to_tensor(torch.from_numpy(images[:4]))).embedding.numpy()
    assert np.array_equal(plain.embeddings[:4], direct.astype(np.float16))


def test_every_source_gives_the_embeddings_of_its_images(folder, model_path, tmp_path):
    people = tmp_path / "people"
    for number, image in enumerate(render_identities("embed", 2, 4)[0]):
        write_face(people / f"{number // 4}" / f"{number}.png", image)
        write_face(tmp_path / "flat" / f"{number}.png", image)
    images = np.stack([ImageFolderDataset(people).read(index) for index in range(8)])
    convert.main([str(people), str(tmp_path / "rec"), "--to", "records"])
    convert.main([str(people), str(tmp_path / "arrays"), "--to", "arrays"])
    identities = np.array([5, 5, 5, 5, 9, 7, 9, 7])
    save_benchmark(Benchmark(images, np.arange(4) < 2, "own", identities=identities), tmp_path / "sets")
    expected = described(model_path, images)[0].astype(np.float16)
    found = {}
    for name in ("people", "flat", "rec", "arrays", "sets"):
        assert run(tmp_path / name, tmp_path / f"{name}-out", model_path) == 0
        found[name] = models.read_embeddings(tmp_path / f"{name}-out")
    for name in ("people", "flat", "rec", "sets"):
        assert np.array_equal(found[name].embeddings, expected), name
    order = ArrayDataset(tmp_path / "arrays").originals
    # Other images in a batch may change the last digits.
    assert np.allclose(found["arrays"].embeddings, expected[order], atol=2e-3)
    assert found["flat"].labels is None and not (tmp_path / "flat-out/labels.npy").exists()
    assert found["sets"].labels.tolist() == [0, 0, 0, 0, 2, 1, 2, 1]
    assert found["rec"].labels.tolist() == [0] * 4 + [1] * 4 == found["people"].labels.tolist()
    assert found["arrays"].labels.tolist() == [int(place >= 4) for place in order]


@pytest.mark.embed_flag("follow_links")
def test_links_out_of_the_folder_are_followed_if_asked_for(folder, model_path, tmp_path):
    (tmp_path / "linked").mkdir()
    write_face(tmp_path / "linked/own/0.png", np.zeros((112, 112, 3), np.uint8))
    (tmp_path / "linked/other").symlink_to(folder / "person 0")
    counts = []
    for number, words in enumerate(([], ["--follow-links"])):
        assert run(tmp_path / "linked", tmp_path / f"out {number}", model_path, *words) == 0
        counts.append(len(models.read_embeddings(tmp_path / f"out {number}")))
    assert counts == [1, 5]


def test_an_interrupted_run_goes_on_and_gives_the_same_bits(folder, model_path, tmp_path, monkeypatch, capsys):
    run(folder, tmp_path / "whole", model_path)
    written, write = [], RowFiles.write

    def torn(self, batch, rows):
        if len(written) == 1:  # half of a batch is on the disk, its mark is not
            self._write("embeddings.npy", len(self.header("embeddings.npy")) + batch * 4 * 32, b"\xff" * 64)
            raise KeyboardInterrupt
        written.append(batch)
        write(self, batch, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RowFiles, "write", torn)
        with pytest.raises(SystemExit) as stop:
            run(folder, tmp_path / "out", model_path)
    assert stop.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err and not (tmp_path / "out").exists()
    again = []
    monkeypatch.setattr(RowFiles, "write", lambda self, batch, rows: again.append(batch) or write(self, batch, rows))
    assert run(folder, tmp_path / "out", model_path) == 1
    assert written == [0] and again == [1, 2]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert run(folder, tmp_path / "out", model_path) == 0 and again == [1, 2]  # complete already
    assert not list(tmp_path.glob(".*converting"))


def test_ranks_share_the_work_and_mend_what_is_not_whole(folder, model_path, tmp_path, monkeypatch):
    model = models.load(model_path)
    paths, labels = find_photographs(folder)
    job = models.EmbedJob(tmp_path / "one", batch_size=2)
    source = Photographs(paths, labels)
    models.embed(model, source, job)
    by_rank, write = {0: [], 1: [], 2: []}, RowFiles.write

    def noted(self, batch, rows):
        rank = int(threading.current_thread().name)
        by_rank[rank].append(batch)
        if (rank, batch) == (2, 5):  # its rows are lost after the mark is on the disk
            mark = self._mark(rows)
            self._mark = lambda rows: mark
            rows = rows._replace(norms=2 * rows.norms)
        write(self, batch, rows)

    monkeypatch.setattr(RowFiles, "write", noted)
    monkeypatch.setattr(embedding, "_WAIT_SECONDS", 0.01)
    shared = job._replace(output=tmp_path / "many", num_ranks=3)
    ranks = [
        threading.Thread(target=models.embed, args=(model, source, shared._replace(rank=rank)), name=str(rank))
        for rank in (2, 1, 0)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert by_rank == {0: [0, 1, 5], 1: [2, 3], 2: [4, 5]}
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.embed_flag("overwrite")
def test_other_weights_other_images_and_a_full_disk_are_one_line(folder, model_path, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def refused(*more, model=model_path, source=folder):
        return refusal(capsys, lambda words: run(source, out, model, *words), *more)

    with full_disk(600):
        assert "embeddings.npy: File too large" in refused("--dtype", "float32")
    with monkeypatch.context() as patch:
        patch.setattr(embedding.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
        assert "12 embeddings need 0.00 GB, and its disk has 0.00 GB free" in refused()
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))
    other = write_model(tmp_path / "other.ckpt", embedding_size=8)
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):  # begun
        patch.setattr(RowFiles, "write", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
        run(folder, out, model_path)
    assert "what an interrupted run began is of other weights; give --overwrite" in refused(model=other)
    run(folder, out, model_path)
    before = contents(out)
    assert "exists and is of other weights" in refused(model=other)
    assert "has another dtype (float16 there, float32 here)" in refused("--dtype", "float32")
    assert "holds crops" in refused("--align", "yes", source=write_flat_set(tmp_path))
    assert contents(out) == before
    assert run(folder, out, other, "--overwrite") == 1 and models.read_embeddings(out).facts["dim"] == 8
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(source=tmp_path / "empty")
    assert "nowhere does not exist" in refused(source=tmp_path / "nowhere")


def write_flat_set(tmp_path):
    images = render_identities("embed", 2, 4)[0]
    save_benchmark(Benchmark(images, np.arange(4) < 2, "own"), tmp_path / "sets")
    return tmp_path / "sets"


def test_a_damaged_folder_of_embeddings_is_one_line(folder, model_path, tmp_path):
    out = tmp_path / "out"
    run(folder, out, model_path)
    whole = contents(out)
    for name, data, message in (
        ("embeddings.npy", whole["embeddings.npy"][:-1], r"embeddings\.npy: damaged"),
        ("labels.npy", whole["norms.npy"], r"labels\.npy: float32 \[11\] instead of int64"),
        ("embeddings.json", b'{"format": 1}', r"embeddings\.json: damaged"),
        ("embeddings.json", b"[" * 10**5, r"embeddings\.json: damaged"),
    ):
        (out / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            models.read_embeddings(out)
        (out / name).write_bytes(whole[name])
    (out / "norms.npy").unlink()
    with pytest.raises(ValueError, match=r"norms\.npy: missing"):
        models.read_embeddings(out)


def test_parquet_holds_the_same_or_its_package_is_named(folder, model_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    line = refusal(capsys, lambda words: run(folder, tmp_path / "out", model_path, *words), "--format", "parquet")
    assert "parquet needs pyarrow, which is not installed" in line and not (tmp_path / "out").exists()


@pytest.mark.embed_flag("format")
@pytest.mark.parametrize("dtype", DTYPES)
def test_parquet_holds_the_same(folder, model_path, tmp_path, dtype):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: make setup-extras")
    run(folder, tmp_path / "npy", model_path, "--dtype", dtype)
    run(folder, tmp_path / "parquet", model_path, "--dtype", dtype, "--format", "parquet")
    plain, table = (models.read_embeddings(tmp_path / name) for name in ("npy", "parquet"))
    assert np.array_equal(plain.embeddings, table.embeddings) and table.embeddings.dtype == dtype
    assert np.array_equal(plain.norms, table.norms) and np.array_equal(plain.labels, table.labels)
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == ["embeddings.json", "embeddings.parquet"]
    assert read_names(tmp_path / "parquet", len(table)) == read_names(tmp_path / "npy", len(plain))
    assert content_checksum(tmp_path / "parquet") != content_checksum(tmp_path / "npy")


@pytest.mark.slow
def test_two_ranks_that_are_killed_and_one_that_goes_on_give_the_same_bits(folder, model_path, tmp_path):
    run(folder, tmp_path / "whole", model_path, "--batch-size", "1")
    words = ["embed", folder, tmp_path / "out", "--model-path", model_path, "--align", "no", "--gpus", "0"]
    words += ["--batch-size", "1", "--threads", str(torch.get_num_threads())]
    torchrun = {**os.environ, "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, str(ROOT / "main.py"), *map(str, words)]
    ranks = [subprocess.Popen(command, env={**torchrun, "RANK": str(rank)}) for rank in range(2)]
    marks, end = tmp_path / ".out.converting/marks.bin", time.monotonic() + 200
    while not (marks.exists() and any(marks.read_bytes())) and ranks[0].poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()
        rank.wait()
    assert subprocess.run(command, check=False, timeout=250).returncode == 1
    whole, out = contents(tmp_path / "whole"), contents(tmp_path / "out")
    assert {name: data for name, data in out.items() if name != "embeddings.json"} == {
        name: data for name, data in whole.items() if name != "embeddings.json"
    }
