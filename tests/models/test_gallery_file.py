"""The file of a gallery: what is saved comes back, and what is no gallery is refused in one line."""

import io
import json
import zipfile

import numpy as np
import pytest
from galleries import same
from portraits import load_model, write_people

from models import Aligner, Gallery
from models.pictures import read_face


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), num=6, images=3)


@pytest.fixture
def gallery(model, people):
    gallery = Gallery(model)
    gallery.enrol(people)
    return gallery


@pytest.fixture(scope="module")
def saved(model, people, tmp_path_factory):
    gallery = Gallery(model)
    gallery.enrol(people)
    file = tmp_path_factory.mktemp("saved") / "gallery.npz"
    gallery.save(file)
    return file


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_is_saved_comes_back(model, people, tmp_path, dtype):
    gallery = Gallery(model, map_dtype=dtype)
    gallery.enrol(people)
    gallery.save(tmp_path / "gallery.npz")
    found = Gallery.load(tmp_path / "gallery.npz", model)
    same(gallery, found)
    assert isinstance(found._templates.views[0].maps, np.memmap)
    assert found.names == gallery.names and found.photographs == gallery.photographs
    probe = people / "p5" / "2.png"
    assert str(found.identify(probe)) == str(gallery.identify(probe))
    found.remove("p0")
    found.add("p1", [people / "p0" / "0.png"])
    found.save(tmp_path / "gallery.npz")  # over the file that its maps lie in
    again = Gallery.load(tmp_path / "gallery.npz", model)
    same(found, again)
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.npz"]
    with np.load(tmp_path / "gallery.npz", allow_pickle=False) as plain:
        assert plain["maps_0"].dtype == np.dtype(dtype)


def test_a_gallery_of_other_weights_or_another_alignment_is_refused(saved, model, tmp_path):
    other = load_model(tmp_path / "other.ckpt", num_classes=4, qaconv_score="weighted")
    with pytest.raises(ValueError, match=r"gallery\.npz: the gallery belongs to other weights"):
        Gallery.load(saved, other)
    for aligner in (Aligner(read_face, "arcface"), Aligner(read_face, detector="yunet")):
        with pytest.raises(ValueError, match=r"the gallery was made with the (template|detector)"):
            Gallery.load(saved, model, aligner)


def rewrite(source, target, **changes):
    """Write a gallery again with some members changed or left out."""
    with np.load(source) as arrays:
        members = {**dict(arrays), **changes}
    np.savez(target, **{name: values for name, values in members.items() if values is not None})


def header_of(source, **changes):
    with np.load(source) as arrays:
        header = json.loads(arrays["header"].tobytes()) | changes
    return np.frombuffer(json.dumps(header).encode(), np.uint8)


BIG_HEADER = b"{'descr': '|i1', 'fortran_order': False, 'shape': (1000000000000, 7, 7, 512), }"


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("'owners' is missing", {"owners": None}),
        ("'other' is unexpected", {"other": np.zeros(1)}),
        ("embedding: float32", {"embedding": np.zeros((6, 16))}),
        ("unit length", {"embedding": np.full((6, 16), np.nan, np.float32)}),
        ("owners: each photograph", {"owners": np.full(18, 6)}),
        ("owners: each photograph", {"owners": np.zeros(18, np.int64)}),
        ("visibility_0: numbers from 0 to 1", {"visibility_0": np.full((6, 7, 7), 2, np.float32)}),
        ("length: numbers from 0", {"length": np.full(6, np.nan, np.float32)}),
        ("maps_1: float16", {"maps_1": np.zeros((6, 7, 7, 3), np.float16)}),
        ("plain numbers", {"digests": np.array([{}], dtype=object)}),
        ("header", {"header": np.frombuffer(b"[" * 100_000, np.uint8)}),
        ("header", {"header": np.frombuffer(b"null", np.uint8)}),
    ],
)
def test_a_file_with_something_wrong_is_refused_in_one_line(saved, model, tmp_path, words, changes):
    rewrite(saved, tmp_path / "changed.npz", **changes)
    with pytest.raises(ValueError, match=r"changed\.npz: no gallery that can be used") as raised:
        Gallery.load(tmp_path / "changed.npz", model)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("another version", {"schema": 2}),
        ("a person is there twice", {"names": ["a"] * 6}),
        ("float16 or int8", {"map_dtype": "float32"}),
        ("SHA-256", {"origin": {"model": "x", "template": "", "detector": ""}}),
        ("list", {"strangers": {"fused": 3}}),
        ("finite", {"strangers": {"fused": [float("nan")]}}),
    ],
)
def test_a_header_with_something_wrong_is_refused(saved, model, tmp_path, words, changes):
    rewrite(saved, tmp_path / "changed.npz", header=header_of(saved, **changes))
    with pytest.raises(ValueError, match=r"changed\.npz: no gallery") as raised:
        Gallery.load(tmp_path / "changed.npz", model)
    assert words in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"no archive at all" * 50])
def test_what_is_no_gallery_is_refused_in_one_line(model, tmp_path, content):
    (tmp_path / "other.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.npz: no gallery"):
        Gallery.load(tmp_path / "other.npz", model)


def test_damaged_cut_compressed_and_boastful_files_are_refused(saved, model, tmp_path):
    data = saved.read_bytes()
    place = data.index(b"embedding.npy") + 300
    damaged = data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]
    big = io.BytesIO()
    with np.load(saved) as arrays, zipfile.ZipFile(big, "w") as archive:
        for name in arrays.files:
            buffer = io.BytesIO()
            np.save(buffer, arrays[name])
            text = buffer.getvalue()
            if name == "maps_0":
                text = b"\x93NUMPY\x01\x00" + len(BIG_HEADER).to_bytes(2, "little") + BIG_HEADER
            archive.writestr(f"{name}.npy", text)
    with np.load(saved) as arrays:
        np.savez_compressed(tmp_path / "compressed.npz", **arrays)
    contents = {"damaged": damaged, "cut": data[: len(data) // 2], "big": big.getvalue()}
    for name, content in contents.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
    for name in ("compressed", *contents):
        with pytest.raises(ValueError, match=rf"{name}\.npz: no gallery that can be used, or damaged"):
            Gallery.load(tmp_path / f"{name}.npz", model)


def test_a_failed_save_leaves_the_old_file(gallery, people, tmp_path, monkeypatch):
    file = tmp_path / "gallery.npz"
    gallery.save(file)
    before = file.read_bytes()

    def fail(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    gallery.remove("p0")
    with pytest.raises(OSError):
        gallery.save(file)
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["gallery.npz"]


def test_a_model_without_matcher_has_a_gallery_of_embeddings(people, tmp_path):
    options = {"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "occlusion_method": "none"}
    alone = load_model(tmp_path / "a.ckpt", **options)
    gallery = Gallery(alone)
    gallery.enrol(people)
    gallery.save(tmp_path / "gallery.npz")
    found = Gallery.load(tmp_path / "gallery.npz", alone).identify(people / "p0" / "0.png")
    assert found.score == "adaface" and found.visible is None
    with pytest.raises(ValueError, match="lacks a local matcher"):
        gallery.identify(people / "p0" / "0.png", score="fused")


def test_hostile_names_are_one_line_each(model, people, tmp_path):
    gallery = Gallery(model)
    gallery.add("evil\x1b[31m\nname", [people / "p0" / "0.png"])
    gallery.add("other", [people / "p1" / "0.png"])
    gallery.save(tmp_path / "g.npz")
    found = Gallery.load(tmp_path / "g.npz", model).identify(people / "p0" / "1.png")
    assert "\x1b" not in str(found) and len(str(found).splitlines()) == 5
