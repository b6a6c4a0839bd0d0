import pickle
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmark_sets import assert_one_line, draw_images, encode, listing, write_bin
from programs import ROOT

from datasets import load_benchmark
from datasets.benchmarks.bin_file import read_bin
from datasets.faces.images import MAX_PIXELS

GOLDEN = ROOT / "tests" / "golden" / "bin"
EXPECTED = np.load(GOLDEN / "expected.npz")


@pytest.mark.parametrize("name", ["lfw_p2", "lfw_highest", "lfw_py2"])
def test_the_golden_files_are_read_exactly(tmp_path, name):
    benchmark = load_benchmark(GOLDEN, name, cache=tmp_path)
    assert benchmark.name == name
    assert benchmark.issame.tolist() == EXPECTED["issame"].tolist() and benchmark.issame.dtype == bool
    assert benchmark.images.shape == (8, 112, 112, 3)
    crcs = [zlib.crc32(image[..., ::-1].tobytes()) for image in benchmark.images]
    assert crcs == EXPECTED["img_crc32_bgr"].tolist()


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_set(tmp_path, protocol):
    images = draw_images()
    write_bin(tmp_path / "set.bin", images, [True, False], protocol)
    stream = read_bin(tmp_path / "set.bin")
    assert stream.num_images == 4 and stream.issame.tolist() == [True, False]
    np.testing.assert_array_equal(np.stack(list(stream.images)), images)


def test_tuples_and_ones_and_zeros_are_taken_too(tmp_path):
    images = draw_images()
    content = [tuple(encode(image) for image in images), (1, 0)]
    (tmp_path / "set.bin").write_bytes(pickle.dumps(content))
    stream = read_bin(tmp_path / "set.bin")
    assert stream.issame.tolist() == [True, False] and len(list(stream.images)) == 4


def test_a_red_image_is_red(tmp_path):
    red = np.zeros((2, 112, 112, 3), np.uint8)
    red[..., 0] = 255
    write_bin(tmp_path / "set.bin", red, [True])
    assert np.stack(list(read_bin(tmp_path / "set.bin").images)).mean(axis=(0, 1, 2)).tolist() == [255, 0, 0]


def test_other_sizes_are_fitted(tmp_path):
    write_bin(tmp_path / "set.bin", [np.full((60, 80, 3), 9, np.uint8)] * 2, [True])
    assert [image.shape for image in read_bin(tmp_path / "set.bin").images] == [(112, 112, 3)] * 2


def bomb():
    """Return a small PNG that states 100000 x 100000 pixels."""
    data = bytearray(encode(np.zeros((4, 4, 3), np.uint8)))
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


GOOD = encode(np.zeros((112, 112, 3), np.uint8), ".jpg")
NESTED = [[True]]
for _ in range(300):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (7, "it holds something else; expected a pickle of (list of 2N encoded images, list of N bools)"),
        (b"x", "it holds something else"),
        ([], "it holds something else"),
        (([GOOD], [True], []), "it holds something else"),
        ((b"ab", [True]), "it holds something else"),
        (([GOOD] * 2, True), "it holds something else"),
        (([], []), "0 images and 0 answers"),
        (([GOOD] * 2, []), "2 images and 0 answers"),
        (([GOOD] * 2, [True, False]), "2 images and 2 answers"),
        (([GOOD] * 3, [True]), "3 images and 1 answers"),
        (([GOOD, "text"], [True]), "1 of 2 images are no byte strings"),
        (([GOOD, True], [True]), "1 of 2 images are no byte strings"),
        (([GOOD, [GOOD]], [True]), "1 of 2 images are no byte strings"),
        (([GOOD] * 2, [2]), "1 of 1 answers neither true nor false"),
        (([GOOD] * 2, [-1]), "1 of 1 answers neither true nor false"),
        (([GOOD] * 2, [b"1"]), "1 of 1 answers neither true nor false"),
        (([GOOD] * 2, NESTED), "1 of 1 answers neither true nor false"),
        (NESTED, "it holds something else"),
        (([GOOD, b""], [True]), "image 1 at byte"),
        (([GOOD, b"no image"], [True]), "image 1 at byte"),
        (([GOOD, GOOD[: len(GOOD) // 4]], [True]), "image 1 at byte"),
        (([GOOD, bomb()], [True]), f"more than {MAX_PIXELS}"),
    ],
)
def test_files_that_are_no_set_are_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "data" / "lfw.bin"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(ValueError) as caught:
        load_benchmark(file.parent, "lfw", cache=tmp_path / "cache")
    assert_one_line(caught.value, str(file), message)
    assert [name for name in listing(tmp_path / "cache") if name != "benchmarks"] == []
    assert listing(file.parent) == ["lfw.bin"]


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x04]", b"\xff\xd8\xff\xe0 a picture"])
def test_damaged_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "lfw.bin").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_benchmark(tmp_path, "lfw", cache=tmp_path / "cache")
    assert_one_line(caught.value, str(tmp_path / "lfw.bin"))


def test_text_that_stands_for_no_bytes_is_refused(tmp_path):
    # An image whose text holds a character beyond latin-1, which protocol 2 cannot mean.
    data = pickle.dumps(([GOOD, GOOD], [True]), protocol=2)
    data = data.replace("\u00ff".encode(), "\u0400".encode(), 1)
    (tmp_path / "lfw.bin").write_bytes(data)
    with pytest.raises(ValueError) as caught:
        load_benchmark(tmp_path, "lfw", cache=tmp_path / "cache")
    assert_one_line(caught.value, "lfw.bin, image 0 at byte", "not written as text")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    write_bin(tmp_path / "lfw.bin", draw_images(), [True, False])

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)  # root may read everything
        with pytest.raises(ValueError) as caught:
            load_benchmark(tmp_path, "lfw", cache=tmp_path / "cache")
    assert_one_line(caught.value, str(tmp_path / "lfw.bin"), "Permission denied")


def test_opencv_sees_the_same_pixels(tmp_path):
    images = draw_images()
    encoded = [encode(image, ".jpg") for image in images]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((encoded, [True, False])))
    expected = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for data in encoded]
    np.testing.assert_array_equal(np.stack(list(read_bin(tmp_path / "set.bin").images)), np.stack(expected))


def mutate(data, rng):
    """Return a copy with some bytes flipped, replaced, removed, inserted or repeated, mostly outside of the images."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        # The structure of the pickle is in its first and last bytes.
        place = int(rng.choice([rng.integers(len(data)), rng.integers(60), len(data) - 1 - rng.integers(60)]))
        place = min(max(place, 0), len(data) - 1)  # an earlier mutation may have left little
        kind = rng.integers(6)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place] = int(rng.choice(list(b"(])tlaesBCTUXVcR.\x80\x85\x86\x8a\x8e\x93\x95hjpqr\x00\xff")))
        elif kind == 2:
            del data[place : place + int(rng.integers(1, 9))]
        elif kind == 3:
            data[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 4:
            data[place : place + 4] = struct.pack("<I", int(rng.choice([0, 2**31, 2**32 - 1, 2**16])))
        else:
            del data[max(place, 1) :]
    return bytes(data)


def fuzz(folder, count, seed):
    """Read mutated files; each is a whole set or refused in one line that names it. Return how many were refused."""
    rng = np.random.default_rng(seed)
    sets = [(GOLDEN / f"{name}.bin").read_bytes() for name in ("lfw_p2", "lfw_highest", "lfw_py2")]
    small = ([GOOD] * 4, [True, False])
    sets += [pickle.dumps(small, protocol=protocol) for protocol in range(6)]
    refused = 0
    file = folder / "fuzzed.bin"
    for number in range(count):
        file.write_bytes(mutate(sets[number % len(sets)], rng))
        try:
            stream = read_bin(file)
            images = list(stream.images)
            assert len(images) == stream.num_images == 2 * len(stream.issame)
            assert all(image.shape == (112, 112, 3) and image.dtype == np.uint8 for image in images)
        except ValueError as error:
            assert_one_line(error, "fuzzed.bin")
            refused += 1
    return refused


def test_mutated_files_are_read_or_refused(tmp_path):
    refused = fuzz(tmp_path, 300, seed=0)
    assert 100 < refused < 300


@pytest.mark.slow
def test_many_mutated_files_are_read_or_refused(tmp_path):
    assert fuzz(tmp_path, 20_000, seed=1) > 5000
