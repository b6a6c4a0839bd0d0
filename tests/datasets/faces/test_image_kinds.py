"""Images are found by what they hold; what is left out is counted."""

import sys
from types import ModuleType

import cv2
import numpy as np
import pytest

from datasets import ImageFolderDataset, UnreadableImageError
from datasets.faces import heic
from datasets.faces.image_kinds import HEAD_BYTES, suffix_of, why_left_out

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(64)
FORMATS = (".jpg", ".png", ".bmp", ".webp", ".avif", ".gif", ".tif", ".pgm", ".ppm", ".pbm", ".pam", ".jp2", ".ras")


def encoded(suffix, shape=(64, 64, 3)):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    gray = suffix in (".pgm", ".pbm")
    return cv2.imencode(suffix, image[..., 0] if gray else image)[1].tobytes()


def put(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def without_heic(monkeypatch):
    monkeypatch.setattr(heic, "find_spec", lambda name: None)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_is_told_by_its_first_bytes(suffix):
    assert suffix_of(encoded(suffix)[:HEAD_BYTES]) == suffix


@pytest.mark.parametrize(
    "name", ["1.jfif", "1.jpg_large", "1", "1.JPG", "1.jpg:orig", "1.jpg~", "1.", "1.dat", "1.txt", "1.png", "1.mp4"]
)
def test_an_image_is_read_whatever_its_name(tmp_path, name):
    dataset = ImageFolderDataset(put(tmp_path, {f"a/{name}": encoded(".jpg")}))
    assert [path.name for path in dataset.paths] == [name]
    assert dataset.read(0).shape == (112, 112, 3) and not dataset.left_out


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"P5 is the fifth person", "not an image"),
        (b"BMW of a neighbour, in front of the house of a friend", "not an image"),
        (b"<html></html>", "not an image"),
        (b"PK\x03\x04" + bytes(60), "not an image"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
        (b"\x1aE\xdf\xa3" + bytes(60), "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\xff\x0a" + bytes(60), "JPEG XL, which is not read here: convert it"),
        (HEIC, "HEIC: pip install pillow-heif"),
        (HEIC.replace(b"ftypheic", b"ftypmif1"), "HEIC: pip install pillow-heif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", ""),
    ],
)
def test_the_reason_names_what_a_file_is(data, reason, without_heic):
    assert why_left_out(data[:HEAD_BYTES]) == reason


def test_every_prefix_of_a_file_has_an_answer(without_heic):
    for data in (HEIC, *(encoded(suffix) for suffix in FORMATS)):
        for length in range(HEAD_BYTES):
            why_left_out(data[:length])


def test_what_is_left_out_is_counted_by_suffix_and_reason(tmp_path, caplog, without_heic):
    files = {f"a/{n}.jpg": encoded(".jpg") for n in range(2)}
    files |= {f"b/{n}.txt": b"x y" for n in range(8)} | {f"b/{n}.HEIC": HEIC for n in range(3)}
    files |= {
        "b/film.mp4": b"\0\0\0\x20ftypisom",
        "b/1.webp": encoded(".webp"),
        "a/notes": b"mine",
        "a/\x1b[31m.\x1b[2J": b"x",
    }
    dataset = ImageFolderDataset(put(tmp_path, files))
    text = str(dataset.left_out)
    assert text.startswith("14 files left out: 8 .txt (not an image), 3 .heic (HEIC: pip install pillow-heif), ")
    for part in ("1 .mp4 (a video)", "1 without suffix (not an image)"):
        assert part in text
    assert text.isprintable() and any(text in record.getMessage() for record in caplog.records)


def test_many_kinds_of_files_are_still_one_short_line(tmp_path):
    files = {f"a/x.s{n}": b"text" for n in range(100)} | {"a/1.png": encoded(".png")}
    text = str(ImageFolderDataset(put(tmp_path, files)).left_out)
    assert "100 files left out" in text and "92 of other kinds" in text and len(text) < 400


def test_files_with_the_suffix_of_an_image_are_not_opened(tmp_path, monkeypatch):
    put(tmp_path, {f"a/{n}.JPEG": encoded(".jpg") for n in range(3)})
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: pytest.fail("opened"))
    assert len(ImageFolderDataset(tmp_path)) == 3


def test_a_photograph_of_a_telephone_is_read_where_its_reader_is_installed(tmp_path, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)

    class File:
        size = (112, 112)

        def to_pillow(self):
            return self

        def convert(self, mode):
            assert mode == "RGB"
            return pixels

    reader = ModuleType("pillow_heif")
    reader.open_heif = lambda data: File()
    monkeypatch.setitem(sys.modules, "pillow_heif", reader)
    monkeypatch.setattr(heic, "find_spec", lambda name: True)
    dataset = ImageFolderDataset(put(tmp_path, {"a/IMG_1.HEIC": HEIC, "a/2.jpg": HEIC}))
    for index in range(2):
        np.testing.assert_array_equal(dataset.read(index), pixels)
    File.size = (10_000, 10_000)
    with pytest.raises(UnreadableImageError, match="10000 x 10000 pixels, more than"):
        dataset.read(0)


def test_the_real_reader_of_telephone_photographs_turns_them_upright(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed (make setup-extras)")
    image = np.zeros((64, 48, 3), np.uint8)
    image[:, :24] = (200, 30, 60)
    file = tmp_path / "a" / "1.heic"
    file.parent.mkdir()
    pillow_heif.from_bytes("RGB", (48, 64), image.tobytes()).save(str(file), quality=-1)
    read = ImageFolderDataset(tmp_path).read(0).astype(int)
    assert np.abs(read[50, 20] - (200, 30, 60)).max() < 6 and read[50, 90].max() < 6
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UnreadableImageError, match="pillow-heif refuses"):
        ImageFolderDataset(tmp_path).read(0)


def test_a_telephone_photograph_under_another_suffix_names_the_package(tmp_path, without_heic):
    dataset = ImageFolderDataset(put(tmp_path, {"a/1.jpg": HEIC, "a/2.jpg": encoded(".jpg")}))
    with pytest.raises(UnreadableImageError, match=r"1\.jpg: HEIC: pip install pillow-heif"):
        dataset.read(0)


# ---------------------------------------------------------------- folders that lie otherwise


def test_identities_one_level_deeper_are_named(tmp_path):
    put(tmp_path, {"women/ann/1.jpg": b"", "women/ann/x.txt": b"", "women/bea/1.jpg": b"", "men/carl/1.jpg": b""})
    with pytest.raises(ValueError, match="no image in any of its 2 folders") as caught:
        ImageFolderDataset(tmp_path)
    text = str(caught.value)
    assert "men/carl/1.jpg" in text and "the folders in men look like the identities" in text and "\n" not in text
    assert str(tmp_path / "men") in text and "2 folders" in text
    with pytest.raises(ValueError, match="the folders in all/women look like the identities"):
        ImageFolderDataset(put(tmp_path / "deep", {"all/women/ann/1.jfif": encoded(".jpg")}))


def test_folders_without_an_image_say_what_is_in_them(tmp_path, without_heic):
    with pytest.raises(ValueError, match=r"3 files left out: 2 \.heic \(HEIC: pip install pillow-heif\), 1 \.txt"):
        ImageFolderDataset(put(tmp_path, {"a/1.heic": HEIC, "b/1.heic": HEIC, "b/1.txt": b"x"}))


def test_links_out_of_the_root_are_followed_where_asked(tmp_path, caplog):
    root = tmp_path / "root"
    put(tmp_path / "disk", {"ann/1.png": encoded(".png"), "bob/1.png": encoded(".png"), "photo": encoded(".jpg")})
    put(root, {"carl/1.png": encoded(".png")})
    (root / "ann").symlink_to(tmp_path / "disk" / "ann")
    (root / "zoe").symlink_to(tmp_path / "disk" / "ann")
    (root / "carl" / "2.jpg").symlink_to(tmp_path / "disk" / "photo")
    (root / "carl" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    (root / "self").symlink_to(root)
    (tmp_path / "disk" / "ann" / "up").symlink_to(tmp_path / "disk")
    dataset = ImageFolderDataset(root, follow_links=True)
    names = [path.relative_to(root).as_posix() for path in dataset.paths]
    assert names == ["ann/1.png", "carl/1.png", "carl/2.jpg"]
    assert dataset.left_out[".jpg", "a broken link"] == 1
    assert any("ann and zoe are one folder" in record.getMessage() for record in caplog.records)
    assert [path.name for path in ImageFolderDataset(root).paths] == ["1.png"]
