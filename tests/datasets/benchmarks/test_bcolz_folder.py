import json
import struct
import zlib

import numpy as np
import pytest
from benchmark_sets import assert_one_line, blosc_chunk, draw_images, listing, normalize, write_bcolz
from programs import ROOT

from datasets import load_benchmark
from datasets.benchmarks.bcolz_folder import read_bcolz, read_metadata

GOLDEN = ROOT / "tests" / "golden" / "bcolz"
EXPECTED = np.load(GOLDEN / "expected.npz")
CODECS = (b"blosclz", b"lz4", b"lz4hc", b"zlib", b"zstd")


def read(folder):
    stream = read_bcolz(read_metadata(folder))
    return np.stack(list(stream.images)), stream.issame.tolist()


@pytest.mark.parametrize("name", ["lfw", "cfp_fp"])
def test_the_golden_folders_are_read_exactly(tmp_path, name):
    benchmark = load_benchmark(GOLDEN, name, cache=tmp_path)
    assert benchmark.issame.tolist() == EXPECTED[f"{name}_issame"].tolist()
    floats = normalize(benchmark.images)
    assert [zlib.crc32(row.tobytes()) for row in floats] == EXPECTED[f"{name}_crc32"].tolist()
    np.testing.assert_array_equal(floats[:, :, 0, 0], EXPECTED[f"{name}_corner"])


def test_golden_folder_and_golden_bin_show_the_same_faces(tmp_path):
    folder = load_benchmark(GOLDEN, "lfw", cache=tmp_path)
    file = load_benchmark(GOLDEN.parent / "bin" / "lfw_highest.bin", "lfw", cache=tmp_path)
    np.testing.assert_array_equal(folder.images, file.images)
    assert folder.issame.tolist() == file.issame.tolist() and folder.source != file.source


def test_every_pixel_value_comes_back_in_its_channel(tmp_path):
    images = np.zeros((2, 112, 112, 3), np.uint8)
    images[:, :, :, 0] = np.arange(112 * 112).reshape(112, 112) % 256
    images[:, :, :, 1] = 255
    write_bcolz(tmp_path / "set", normalize(images), [True])
    np.testing.assert_array_equal(read(tmp_path / "set")[0], images)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shuffle", [0, 1, 2])
@pytest.mark.parametrize("level", [0, 5])
def test_every_codec_and_shuffle(tmp_path, codec, shuffle, level):
    images = draw_images()
    write_bcolz(tmp_path / "set", normalize(images), [True, False], 3, codec=codec, shuffle=shuffle, level=level)
    np.testing.assert_array_equal(read(tmp_path / "set")[0], images)


@pytest.mark.parametrize("chunk_rows", [1, 2, 4, 5, 10**15])
def test_any_chunking(tmp_path, chunk_rows):
    images = draw_images()
    write_bcolz(tmp_path / "set", normalize(images), [False, True], chunk_rows)
    pixels, issame = read(tmp_path / "set")
    np.testing.assert_array_equal(pixels, images)
    assert issame == [False, True]


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "<f8"])
def test_other_floats(tmp_path, dtype):
    images = draw_images()
    write_bcolz(tmp_path / "set", normalize(images).astype(dtype), [True, False])
    np.testing.assert_array_equal(read(tmp_path / "set")[0], images)


def test_room_in_the_last_chunk_is_left_out(tmp_path):
    values = normalize(draw_images(6))
    write_bcolz(tmp_path / "set", values[:4], [True, False], chunk_rows=3)
    (tmp_path / "set" / "data" / "__1.blp").write_bytes(blosc_chunk(values[3:6]))
    assert len(read(tmp_path / "set")[0]) == 4


def test_the_folder_itself_may_be_named(tmp_path):
    images = draw_images()
    write_bcolz(tmp_path / "lfw", normalize(images), [True, False])
    benchmark = load_benchmark(tmp_path / "lfw", "other", cache=tmp_path / "cache")
    assert benchmark.name == "other"
    np.testing.assert_array_equal(benchmark.images, images)


# ---------------------------------------------------------------- refusals


def change_json(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def change_bytes(file, offset, data):
    content = bytearray(file.read_bytes())
    content[offset : offset + len(data)] = data
    file.write_bytes(content)


SIZES, STORAGE, CHUNK, ANSWERS = "lfw/meta/sizes", "lfw/meta/storage", "lfw/data/__1.blp", "lfw_list.npy"

BREAKAGES = {
    "sizes cut": (SIZES, lambda f: f.write_text('{"shape": [4')),
    "sizes empty": (SIZES, lambda f: f.write_bytes(b"")),
    "sizes binary": (SIZES, lambda f: f.write_bytes(bytes(range(256)))),
    "sizes list": (SIZES, lambda f: f.write_text("[4, 3, 112, 112]")),
    "sizes nested": (SIZES, lambda f: f.write_text("[" * 100_000)),
    "sizes deep": (SIZES, lambda f: f.write_text('{"shape": ' + "[" * 500 + "]" * 500 + "}")),
    "sizes digits": (SIZES, lambda f: f.write_text('{"shape": [' + "9" * 5000 + "]}")),
    "no shape": (SIZES, lambda f: f.write_text("{}")),
    "shape of other images": (SIZES, lambda f: change_json(f, shape=[4, 3, 96, 96])),
    "shape odd": (SIZES, lambda f: change_json(f, shape=[3, 3, 112, 112])),
    "shape huge": (SIZES, lambda f: change_json(f, shape=[10**15, 3, 112, 112])),
    "shape text": (SIZES, lambda f: change_json(f, shape="4")),
    "dtype int": (STORAGE, lambda f: change_json(f, dtype="uint8")),
    "dtype object": (STORAGE, lambda f: change_json(f, dtype="O")),
    "dtype nested": (STORAGE, lambda f: change_json(f, dtype={"names": ["a"]})),
    "chunklen 0": (STORAGE, lambda f: change_json(f, chunklen=0)),
    "chunklen negative": (STORAGE, lambda f: change_json(f, chunklen=-3)),
    "chunklen text": (STORAGE, lambda f: change_json(f, chunklen="3")),
    "chunklen other": ("lfw/data/__0.blp", lambda f: change_json(f.parents[1] / "meta" / "storage", chunklen=2)),
    "chunk missing": (CHUNK, lambda f: f.unlink()),
    "chunk folder": (CHUNK, lambda f: (f.unlink(), f.mkdir())),
    "chunk empty": (CHUNK, lambda f: f.write_bytes(b"")),
    "chunk short": (CHUNK, lambda f: f.write_bytes(f.read_bytes()[:31])),
    "chunk cut": (CHUNK, lambda f: f.write_bytes(f.read_bytes()[:-1])),
    "chunk long": (CHUNK, lambda f: f.write_bytes(f.read_bytes() + b"x")),
    "chunk magic": (CHUNK, lambda f: change_bytes(f, 0, b"BLPK")),
    "blosc version": (CHUNK, lambda f: change_bytes(f, 16, b"\x05")),
    "blosc zeros": (CHUNK, lambda f: change_bytes(f, 16, bytes(16))),
    "snappy": (CHUNK, lambda f: change_bytes(f, 18, bytes([2 << 5 | 1]))),
    "bytes 2 GB": (CHUNK, lambda f: change_bytes(f, 20, struct.pack("<I", 2**31 - 1))),
    "bytes 0": (CHUNK, lambda f: change_bytes(f, 20, struct.pack("<I", 0))),
    "bytes less": (CHUNK, lambda f: change_bytes(f, 20, struct.pack("<I", 3 * 112 * 112 * 4 - 4))),
    "block size 0": (CHUNK, lambda f: change_bytes(f, 24, bytes(4))),
    "block size huge": (CHUNK, lambda f: change_bytes(f, 24, b"\xff" * 4)),
    "compressed 4 GB": (CHUNK, lambda f: change_bytes(f, 28, b"\xff" * 4)),
    "payload": (CHUNK, lambda f: change_bytes(f, 32, b"\xff" * 64)),
    "answers missing": (ANSWERS, lambda f: f.unlink()),
    "answers empty": (ANSWERS, lambda f: f.write_bytes(b"")),
    "answers junk": (ANSWERS, lambda f: f.write_bytes(b"junk" * 100)),
    "answers header": (ANSWERS, lambda f: change_bytes(f, 10, b"(" * 60)),
    "answers int": (ANSWERS, lambda f: np.save(f, np.array([1, 0]))),
    "answers none": (ANSWERS, lambda f: np.save(f, np.zeros(0, bool))),
    "answers square": (ANSWERS, lambda f: np.save(f, np.zeros((2, 1), bool))),
    "answers object": (ANSWERS, lambda f: np.save(f, np.array([True, None]), allow_pickle=True)),
    "answers zip": (ANSWERS, lambda f: np.savez(f.open("wb"), a=1)),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_damaged_folders_are_refused_in_one_line(tmp_path, breakage):
    name, damage = breakage
    write_bcolz(tmp_path / "data" / "lfw", normalize(draw_images()), [True, False])
    file = tmp_path / "data" / name
    damage(file)
    before = listing(tmp_path / "data")
    with pytest.raises(ValueError) as caught:
        load_benchmark(tmp_path / "data", "lfw", cache=tmp_path / "cache")
    assert_one_line(caught.value, str(file))
    assert [entry for entry in listing(tmp_path / "cache") if entry != "benchmarks"] == []
    assert listing(tmp_path / "data") == before


def test_another_number_of_answers_is_refused(tmp_path):
    write_bcolz(tmp_path / "lfw", normalize(draw_images()), [True, False, True])
    with pytest.raises(ValueError, match=r"meta/sizes: shape must be \[6, 3, 112, 112\] for the 3 answers"):
        load_benchmark(tmp_path, "lfw", cache=tmp_path / "cache")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.01, -1.01, 3e38, 0.0])
def test_values_that_are_no_normalized_pixels_are_refused(tmp_path, value):
    values = normalize(draw_images())
    values[2, 1, 5, 7] = value
    write_bcolz(tmp_path / "lfw", values, [True, False], chunk_rows=1)
    with pytest.raises(ValueError) as caught:
        load_benchmark(tmp_path, "lfw", cache=tmp_path / "cache")
    assert_one_line(caught.value, "__2.blp, image 0 in it", "normalized otherwise")


def test_another_normalization_is_refused(tmp_path):
    values = (draw_images()[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128
    write_bcolz(tmp_path / "lfw", values, [True, False])
    with pytest.raises(ValueError, match="normalized otherwise"):
        load_benchmark(tmp_path, "lfw", cache=tmp_path / "cache")


def mutate(data, rng):
    """Return a copy with some bytes changed, mostly in the headers, or cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.choice([rng.integers(len(data)), rng.integers(min(len(data), 64))]))
        kind = rng.integers(4)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + 4] = rng.bytes(len(data[place : place + 4]))
        elif kind == 2:
            data[place] = int(rng.choice(list(b"[]{}(),'\"-0123456789")))
        elif rng.random() < 0.1:
            del data[max(place, 1) :]
    # As an attacker would: the compressed size agrees with the file.
    if data.startswith(b"blpk") and len(data) > 32 and rng.random() < 0.5:
        data[28:32] = struct.pack("<I", len(data) - 16)
    return bytes(data)


def fuzz(root, count, seed):
    """Read folders with one mutated file; each is a whole set or refused in one line. Return how many were refused."""
    rng = np.random.default_rng(seed)
    values = normalize(draw_images(2))
    files, intact = [], []
    for codec in CODECS:
        folder = root / codec.decode()
        write_bcolz(folder, values, [True], 1, codec=codec, shuffle=1 + len(codec) % 2)
        names = ["meta/sizes", "meta/storage", "data/__0.blp", "data/__1.blp", f"../{codec.decode()}_list.npy"]
        files += [(folder, folder / name) for name in [*names, "data/__0.blp", "data/__1.blp"]]
    intact = [file.read_bytes() for _, file in files]
    refused = 0
    for number in range(count):
        (folder, file), data = files[number % len(files)], intact[number % len(files)]
        file.write_bytes(mutate(data, rng))
        try:
            pixels, issame = read(folder)
            assert pixels.shape == (2, 112, 112, 3) and pixels.dtype == np.uint8 and len(issame) == 1
        except ValueError as error:
            assert_one_line(error, str(folder))
            refused += 1
        file.write_bytes(data)
    return refused


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::SyntaxWarning")
def test_mutated_folders_are_read_or_refused(tmp_path):
    assert 100 < fuzz(tmp_path, 350, seed=0) <= 350


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::SyntaxWarning")
def test_many_mutated_folders_are_read_or_refused(tmp_path):
    assert fuzz(tmp_path, 20_000, seed=1) > 5000
