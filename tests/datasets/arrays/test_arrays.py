"""The image cache: what `convert --to arrays` writes, what is read from it, and what is refused."""

import os
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from converted_faces import contents, kill_at, killed, write_face
from full_disk import full_disk
from programs import refusal

from cli.data import convert
from config import get_args
from data import FaceDataModule
from datasets import ArrayDataset, ImageFolderDataset, RecordDataset, UnreadableImageError
from datasets.arrays import shards
from datasets.conversion import to_arrays, workspace
from datasets.sampling.windows import WindowBatchSampler
from datasets.synthetic.prepare import render_identities

HOSTILE = "<b>\x1b[31m,\n.png"


@pytest.fixture(scope="module")
def images():
    return render_identities("arrays", 5, 8)[0]


@pytest.fixture
def folder(tmp_path, images):
    """Five identities of eight images, one of which cannot be read and one of which has a hostile name."""
    root = tmp_path / "faces"
    for number, image in enumerate(images):
        write_face(root / f"person {number // 8}" / (HOSTILE if number == 9 else f"{number:02d}.png"), image)
    (root / "person 3/30.png").write_bytes(b"broken")
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(to_arrays, "CHECKPOINT", 4)
    monkeypatch.setattr(shards, "BLOCK_IMAGES", 4)
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))


def make(source, output, *more):
    return convert.main([str(source), str(output), "--to", "arrays", "--shard-images", "16", *more])


@pytest.mark.convert_flag("shard_images")
def test_a_cache_holds_the_images_labels_and_names_of_its_source(folder, tmp_path, capsys):
    assert make(folder, tmp_path / "cache1") == 1
    assert "40 images of 5 identities in 3 shards\nunreadable: 1 image" in capsys.readouterr().out
    source, cache = ImageFolderDataset(folder), ArrayDataset(tmp_path / "cache1")
    assert len(cache) == 40 and cache.class_names == source.class_names
    assert sorted(cache.originals) == list(range(40)) and (cache.originals != np.arange(40)).any()
    for index, original in enumerate(cache.originals.tolist()):
        assert cache.labels[index] == source.labels[original]
        assert cache.paths.relative(index) == source.paths.relative(original)
        if source.paths.relative(original) == "person 3/30.png":
            assert not cache._shards.read(index).any()
            with pytest.raises(UnreadableImageError, match="not an image that OpenCV reads"):
                cache.read(index)
        else:
            assert np.array_equal(cache.read(index), source.read(original))
    rows = cache.read_rows(10, 37)  # over three shards
    assert all(
        isinstance(row, UnreadableImageError) or np.array_equal(row, cache.read(10 + number))
        for number, row in enumerate(rows)
    )
    again = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(again.read(2), cache.read(2)) and again.decoding == cache.decoding
    # numpy alone reads the files.
    plain = np.load(tmp_path / "cache1/shard-00001.npy")
    assert plain.shape == (16, 112, 112, 3) and np.array_equal(plain[4], cache.read(20))


def test_a_killed_conversion_goes_on_and_gives_the_same_bytes(folder, tmp_path, monkeypatch):
    make(folder, tmp_path / "whole")
    for call in (2, 4, 3):  # inside a shard, at the end of one, and in the next
        with monkeypatch.context() as patch:
            patch.setattr(workspace.Journal, "checkpoint", kill_at(call, workspace.Journal.checkpoint))
            assert killed(lambda: make(folder, tmp_path / "resumed"))
        assert not (tmp_path / "resumed").exists()
    decoded = []
    with monkeypatch.context() as patch:
        read = to_arrays.decode_payload
        patch.setattr(to_arrays, "decode_payload", lambda payload: decoded.append(payload) or read(payload))
        assert make(folder, tmp_path / "resumed") == 1
    assert len(decoded) < 40  # not from the beginning
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    assert (tmp_path / "resumed.unreadable.tsv").read_bytes() == (tmp_path / "whole.unreadable.tsv").read_bytes()
    assert not list(tmp_path.glob(".*converting"))


def test_records_make_the_cache_that_their_folder_makes(folder, tmp_path):
    (folder / "person 3/30.png").unlink()
    (folder / "person 1" / HOSTILE).rename(folder / "person 1/09.png")
    convert.main([str(folder), str(tmp_path / "rec"), "--to", "records"])
    assert make(tmp_path / "rec", tmp_path / "a") == 0 and make(folder, tmp_path / "b") == 0
    from_records, from_folder = ArrayDataset(tmp_path / "a"), ArrayDataset(tmp_path / "b")
    assert np.array_equal(from_records.labels, from_folder.labels) and len(RecordDataset(tmp_path / "rec")) == 39
    assert all(np.array_equal(from_records.read(index), from_folder.read(index)) for index in range(39))


def test_what_cannot_fit_is_refused_and_what_is_large_is_told(folder, tmp_path, monkeypatch, capsys, caplog):
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(to_arrays.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
        line = refusal(capsys, lambda words: make(*words), folder, tmp_path / "out")
    assert "40 images need 0.00 GB decoded, and its disk has 0.00 GB free" in line and "--to records" in line
    assert sorted(tmp_path.iterdir()) == before
    with full_disk(2**16):
        line = refusal(capsys, lambda words: make(*words), folder, tmp_path / "out")
    assert "shard-00000.npy: File too large" in line
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr("datasets.arrays.dataset.total_memory", lambda: 2e6)
    make(folder, tmp_path / "out")
    assert "are more than 60 % of the 0.0 GB of memory here" in caplog.text


def test_other_images_and_damage_are_told_refused_or_mended(folder, tmp_path, capsys):
    out = tmp_path / "out"
    make(folder, out)
    whole = contents(out)
    assert make(folder, out) == 0
    assert "complete already" in capsys.readouterr().out
    shard = out / "shard-00001.npy"
    with shard.open("r+b") as stream:  # one bit
        stream.seek(5000)
        byte = stream.read(1)
        stream.seek(5000)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ValueError, match=r"shard-00001\.npy: damaged, its checksum is wrong"):
        ArrayDataset(out)
    assert make(folder, out) == 0
    assert "1 damaged shard made again" in capsys.readouterr().out
    assert contents(out) == whole
    os.truncate(shard, 5000)
    with pytest.raises(ValueError, match=r"shard-00001\.npy: half written or damaged"):
        ArrayDataset(out)
    make(folder, out)
    (out / "labels.npy").write_bytes(whole["labels.npy"][:-1] + b"\1")
    with pytest.raises(ValueError, match=r"labels\.npy: damaged"):
        ArrayDataset(out)
    (out / "labels.npy").write_bytes(whole["labels.npy"])
    (out / "arrays.json").write_bytes(whole["arrays.json"].replace(b'"count": 40', b'"count": 41'))
    with pytest.raises(ValueError, match=r"arrays\.json: damaged"):
        ArrayDataset(out)
    (out / "arrays.json").write_bytes(whole["arrays.json"])
    shutil.rmtree(folder / "person 4")
    assert "is of other images" in refusal(capsys, lambda words: make(*words), folder, out)
    assert contents(out) == whole
    assert make(folder, out, "--overwrite") == 1 and len(ArrayDataset(out)) == 32
    with pytest.raises(ValueError, match=r"no arrays\.json lies there"):
        ArrayDataset(folder)


@pytest.mark.parametrize("asks", [True, False])
def test_blocks_are_read_once_and_give_the_same_images(folder, tmp_path, monkeypatch, asks):
    """Where the system cannot say what is in memory, and where it says that nothing is."""
    make(folder, tmp_path / "out")
    plain, blocks = ArrayDataset(tmp_path / "out"), ArrayDataset(tmp_path / "out")
    blocks.read_by_blocks()
    blocks._shards._asks = asks
    reads, fill = [], blocks._shards._fill
    monkeypatch.setattr(blocks._shards, "_fill", lambda *where: reads.append(where) or fill(*where))
    readable = [index for index in range(40) if index not in plain._unreadable]
    for index in np.random.default_rng(0).permutation(readable).tolist():
        assert np.array_equal(blocks.read(index), plain.read(index))
    if not asks:  # else it depends on the system
        assert sum(len(images) for _, _, images in reads if images.ndim == 4) == 40


def test_a_cache_trains_as_a_folder_does_and_shuffles_over_windows(folder, tmp_path):
    make(folder, tmp_path / "out")
    words = ["--data_root", tmp_path / "out", "--data_format", "arrays", "--sampler", "shuffle", "--batch_size", 8]
    words += ["--val_identities", 0.4, "--num_workers", 0, "--arch", "ir_tiny"]
    data = FaceDataModule(get_args([str(word) for word in words]))
    data.setup()
    assert data.train_dataset.labels.max() == 2 and data.benchmarks[0].name == "own"
    sampler = data.build_sampler(rank=0)
    assert isinstance(sampler, WindowBatchSampler) and len(sampler) == 3
    # The held-out people leave gaps; each shard keeps its own images.
    starts = [int((data.train_dataset.indices < bound).sum()) for bound in (0, 16, 32)]
    assert sampler._starts.tolist() == starts and data.train_dataset.dataset._shards.by_blocks
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (8, 112, 112, 3)
    with pytest.raises(ValueError, match=r"--data_format arrays reads it"):
        ImageFolderDataset(tmp_path / "out")
