import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import ROOT

from datasets import ImageFolderDataset, RecordDataset, write_faces
from datasets.faces.image_header import image_size
from datasets.faces.images import MAX_PIXELS, UnreadableImageError, decode_image, fit_image, read_image


def encode(suffix, image, *params):
    ok, data = cv2.imencode(suffix, image, *params)
    assert ok
    return data.tobytes()


def noise(height=112, width=112, channels=3, dtype=np.uint8):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif"])
def test_lossless_formats_give_the_stored_pixels_in_rgb_order(suffix):
    bgr = noise()
    image = decode_image(encode(suffix, bgr), "x")
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, bgr[..., ::-1])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_a_red_image_is_red(suffix):
    bgr = np.zeros((112, 112, 3), np.uint8)
    bgr[..., 2] = 255
    red, green, blue = decode_image(encode(suffix, bgr), "x").reshape(-1, 3).mean(axis=0)
    assert red > 250 and green < 5 and blue < 5


def test_gray_images_get_three_equal_channels():
    gray = noise(channels=0)
    for suffix in (".pgm", ".png"):
        image = decode_image(encode(suffix, gray), "x")
        np.testing.assert_array_equal(image, np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize(("suffix", "channels"), [(".png", 3), (".png", 0), (".pgm", 0), (".tif", 3)])
def test_sixteen_bit_images_keep_their_high_byte(suffix, channels):
    deep = noise(channels=channels, dtype=np.uint16)
    image = decode_image(encode(suffix, deep), "x")
    expected = deep[..., ::-1] if channels else np.repeat(deep[..., None], 3, axis=2)
    # libpng rounds, the others cut.
    assert np.abs(image.astype(int) - (expected >> 8)).max() <= 1


def test_alpha_is_dropped():
    bgra = noise(channels=4)
    np.testing.assert_array_equal(decode_image(encode(".png", bgra), "x"), bgra[..., 2::-1])


SIZES = [(92, 112), (112, 92), (30, 20), (250, 250), (448, 224), (1, 1), (112, 112)]


@pytest.mark.parametrize("size", SIZES)
def test_a_photograph_keeps_its_size_and_pixels_until_it_is_fitted_to_the_network(tmp_path, size):
    bgr = noise(*size)
    (tmp_path / "1.png").write_bytes(encode(".png", bgr))
    image = read_image(tmp_path / "1.png")
    np.testing.assert_array_equal(image, bgr[..., ::-1])
    fitted = fit_image(image)
    assert fitted.shape == (112, 112, 3) and fitted.dtype == np.uint8
    assert (fitted is image) == (size == (112, 112))


@pytest.mark.parametrize("size", SIZES)
def test_the_readers_of_folders_and_records_fit_what_they_decode(tmp_path, size):
    data = encode(".png", noise(*size))
    for number in range(2):
        path = tmp_path / f"folder/{number}/1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    (tmp_path / "records").mkdir()
    write_faces(tmp_path / "records", [data, data], [0, 1])
    for dataset in (ImageFolderDataset(tmp_path / "folder"), RecordDataset(tmp_path / "records")):
        np.testing.assert_array_equal(dataset.read(1), fit_image(decode_image(data, "x")))


def test_shrinking_averages_areas():
    image = noise(448, 448)
    expected = image.reshape(112, 4, 112, 4, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(fit_image(image) - expected).max() <= 0.5


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_what_is_not_an_image_is_refused(data):
    with pytest.raises(UnreadableImageError, match=r"^a/b\.jpg: "):
        decode_image(data, "a/b.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_cut_off_image_is_refused(suffix):
    data = encode(suffix, noise())
    with pytest.raises(UnreadableImageError, match="damaged"):
        decode_image(data[: len(data) // 2], "x")


def stated(data, sides, *places):
    """Return an encoded image with other sides written over those in its header."""
    data = bytearray(data)
    for place in places:
        data[place : place + len(sides)] = sides
    return bytes(data)


def text_sides(data, old=b"64 64", new=b"60000 60000"):
    assert old in data
    return data.replace(old, new, 1)


def tiff(order, is_big, kind, width, height):
    """A TIFF or BigTIFF file of nothing but the sides."""
    layout = {3: "HH" if not is_big else "HHI", 4: "I" if not is_big else "II"}[kind]
    rest = (0,) * (len(layout) - 1)
    entries = b"".join(
        struct.pack(f"{order}HH{'Q' if is_big else 'I'}{layout}", tag, kind, 1, side, *rest)
        for tag, side in ((256, width), (257, height))
    )
    mark = b"II" if order == "<" else b"MM"
    if is_big:
        return mark + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, 2) + entries
    return mark + struct.pack(f"{order}HIH", 42, 8, 2) + entries


def webp(kind, sides):
    return b"RIFF" + bytes(4) + b"WEBP" + kind + bytes(4) + sides


def bombs():
    """Return headers that state far too many pixels, by format; those that hold an image too are 64 x 64."""
    four = {
        suffix: encode(suffix, noise(64, 64)) for suffix in (".png", ".jpg", ".bmp", ".gif", ".sr", ".jp2", ".avif")
    }
    large = (60000).to_bytes(4, "big") * 2
    jp2, avif = four[".jp2"], four[".avif"]
    return {
        "png": stated(four[".png"], large, 16),
        "jpeg": stated(four[".jpg"], b"\xff\xff\xff\xff", four[".jpg"].index(b"\xff\xc0") + 5),
        "bmp": stated(four[".bmp"], (60000).to_bytes(4, "little") * 2, 18),
        "os2": b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 60000, 60000, 1, 24) + bytes(100),
        "gif": stated(four[".gif"], struct.pack("<HH", 60000, 60000), 6),
        "sun": stated(four[".sr"], large, 4),
        "jp2": stated(jp2, large, jp2.index(b"ihdr") + 4, jp2.index(b"\xff\x4f\xff\x51") + 8),
        "jp2_codestream_alone": stated(jp2, large, jp2.index(b"\xff\x4f\xff\x51") + 8),
        "j2k": stated(jp2, large, jp2.index(b"\xff\x4f\xff\x51") + 8)[jp2.index(b"\xff\x4f\xff\x51") :],
        "avif": stated(avif, large, avif.index(b"ispe") + 8),
        "pgm": b"P5 # big\n60000 60000\n255\n\0",
        "pam": encode(".pam", noise(64, 64))
        .replace(b"WIDTH 64", b"WIDTH 60000")
        .replace(b"HEIGHT 64", b"HEIGHT 60000"),
        "pfm": text_sides(encode(".pfm", noise(64, 64).astype(np.float32))),
        "hdr": text_sides(encode(".hdr", noise(64, 64).astype(np.float32)), b"-Y 64 +X 64", b"-Y 60000 +X 60000"),
        "tiff": tiff("<", False, 4, 60000, 60000),
        "tiff_of_motorola": tiff(">", False, 3, 60000, 60000),
        "big_tiff": tiff("<", True, 4, 60000, 60000),
        "big_tiff_of_motorola": tiff(">", True, 3, 60000, 60000),
        "webp_lossy": webp(b"VP8 ", bytes(6) + struct.pack("<HH", 16383, 16383)),
        "webp_lossless": webp(b"VP8L", b"\x2f" + (16382 | 16382 << 14).to_bytes(4, "little")),
        "webp_extended": webp(b"VP8X", bytes(4) + (59999).to_bytes(3, "little") * 2),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_refused_before_decoding(name, monkeypatch):
    def decoded(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decoded)
    with pytest.raises(UnreadableImageError, match=rf"^x: \d+ x \d+ pixels, more than {MAX_PIXELS}$"):
        decode_image(bombs()[name], "x")


# Whether a header is understood must not decide alone: OpenCV itself is told the limit.
_OPENCV_ALONE = """
import importlib, re, sys
from pathlib import Path
importlib.import_module(sys.argv[1])
from datasets.faces import images
images.image_size = lambda data: None
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
for path in sys.argv[2:]:
    try:
        images.decode_image(Path(path).read_bytes(), path)
    except images.UnreadableImageError as error:
        print(error.reason)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize("first", ["datasets.faces.images", "transforms.augment"])
def test_opencv_holds_the_limit_whatever_is_imported_first(tmp_path, first):
    # Images of one row too many, fewer than OpenCV takes by itself.
    tall = np.zeros((8193, 8192), np.uint8)
    suffixes = (".webp", ".tif", ".png", ".jpg", ".jp2") if first == "datasets.faces.images" else (".webp",)
    encoded = {suffix: encode(suffix, tall) for suffix in suffixes}
    encoded["x.pgm"] = b"P5\n8192 8193\n255\n\0"
    encoded["x.gif"] = stated(encode(".gif", noise(64, 64)), struct.pack("<HH", 8192, 8193), 6)
    if first == "datasets.faces.images":
        encoded[".avif"] = encode(".avif", tall, [cv2.IMWRITE_AVIF_SPEED, 10])
    paths = [tmp_path / name for name in encoded]
    for path, data in zip(paths, encoded.values(), strict=True):
        path.write_bytes(data)
    command = [sys.executable, "-c", _OPENCV_ALONE, first, *map(str, paths)]
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_IO_MAX_IMAGE_PIXELS"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    *reasons, kilobytes = run.stdout.splitlines()
    assert reasons == [f"more than {MAX_PIXELS} pixels"] * len(paths), run.stdout
    assert int(kilobytes) < 30_000


def test_sides_that_need_few_bytes_may_be_long_where_the_other_is_short():
    image = decode_image(encode(".png", np.zeros((2, 60000, 3), np.uint8)), "x")
    assert image.shape == (2, 60000, 3) and fit_image(image).shape == (112, 112, 3)


def test_a_large_jpeg_of_very_many_scans_is_refused_before_decoding(monkeypatch):
    data = encode(".jpg", np.zeros((2100, 2100), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert decode_image(data, "x").shape == (2100, 2100, 3)
    scan = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImageError, match=r"^x: a JPEG of 10[0-9] scans, more than 100$"):
        decode_image(data[:-2] + 100 * scan + data[-2:], "x")


@pytest.mark.parametrize("kind", ["motion photo", "many pictures", "metadata"])
def test_what_lies_behind_or_within_a_jpeg_is_not_counted_as_scans(kind):
    face = encode(".jpg", noise(2100, 2100), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(2**24)
    assert video.count(b"\xff\xda") > 150
    match kind:
        case "motion photo":  # a video behind the picture
            data = face + video
        case "many pictures":  # of one file, as MPF and a burst have them
            data = face * 30
        case "metadata":  # within the picture, before and between its scans
            segment = b"\xff\xe5" + (2 + 60_000).to_bytes(2) + 30_000 * b"\xff\xda"
            first, second = face.index(b"\xff\xda"), face.rindex(b"\xff\xda")
            data = face[:2] + segment + face[2:first] + segment + face[first:second] + segment + face[second:]
    np.testing.assert_array_equal(decode_image(data, "x"), decode_image(face, "x"))


@pytest.mark.parametrize(
    "hidden", [b"\xff\x02\xf0\xf0", b"\xff\x01\xf0\xf0", b"\xff\xd7\xf0\xf0", b"\xff\xff\x00\xf0\xf0"]
)
def test_scans_behind_what_is_no_segment_are_counted(monkeypatch, hidden):
    """A decoder that looks for its next restart marker passes over such bytes, whatever length they seem to state."""
    data = encode(".jpg", np.zeros((2100, 2100), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    scan = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImageError, match=r"^x: a JPEG of 10[0-9] scans, more than 100$"):
        decode_image(data[:-2] + hidden + 100 * scan + data[-2:], "x")


def test_the_first_picture_of_many_is_taken(tmp_path):
    picture = noise()
    frames = [picture, np.zeros_like(picture), np.zeros_like(picture)]
    assert cv2.imwritemulti(str(tmp_path / "many.tif"), frames)
    np.testing.assert_array_equal(read_image(tmp_path / "many.tif"), picture[..., ::-1])


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".bmp", ".pgm", ".ppm", ".pam", ".sr", ".tif", ".webp", ".gif", ".avif"]
)
def test_headers_state_width_and_height(suffix):
    channels = 0 if suffix == ".pgm" else 3
    data = encode(suffix, noise(30, 50, channels))
    assert image_size(data) == image_size(memoryview(data)) == (50, 30)
    assert image_size(data[:3]) is None


@given(st.binary(max_size=80), st.sampled_from(sorted(bombs())), st.integers(0, 60))
def test_no_header_however_damaged_is_an_error(noise_bytes, name, place):
    data = bombs()[name]
    for damaged in (data[:place], data[:place] + noise_bytes, data[:place] + noise_bytes + data[place:]):
        size = image_size(damaged)
        assert size is None or (size[0] >= 0 and size[1] >= 0)


def test_progressive_jpeg_and_unknown_headers():
    data = encode(".jpg", noise(30, 50), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert image_size(data) == (50, 30)
    assert image_size(data[:20]) is None
    assert image_size(b"\xff\xd8" + b"\xff" * 50) is None
    assert image_size(b"II*\0") is None


def test_the_error_survives_pickling_and_keeps_its_fields(tmp_path):
    with pytest.raises(UnreadableImageError) as caught:
        read_image(tmp_path / "missing.jpg")
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.path == tmp_path / "missing.jpg"
    assert "No such file" in error.reason and str(error) == f"{error.path}: {error.reason}"
    with pytest.raises(UnreadableImageError, match="directory"):
        read_image(tmp_path)


def test_opencv_says_nothing_of_its_own_about_an_image_that_it_cannot_read(tmp_path):
    odd = tmp_path / "odd.tif"
    assert cv2.imwrite(str(odd), np.zeros((4, 4), np.float32))
    odd.write_bytes(
        odd.read_bytes().replace(b"\x53\x01\x03\x00\x01\x00\x00\x00\x03", b"\x53\x01\x03\x00\x01\x00\x00\x00\x01")
    )
    code = "import sys, pathlib; from datasets.faces.images import read_image\nread_image(pathlib.Path(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, str(odd)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "UnreadableImageError" in run.stderr and "WARN" not in run.stderr


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video"),
        (b"\xff\x0a" + bytes(60), "JPEG XL, which is not read here: convert it"),
        (b"<html>404</html>", "not an image that OpenCV reads, or damaged"),
    ],
)
def test_what_has_the_name_of_an_image_alone_is_told_for_what_it_is(tmp_path, data, reason):
    (tmp_path / "1.jpg").write_bytes(data)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(tmp_path / "1.jpg")
    assert caught.value.reason == reason


def test_scans_are_limited_by_the_work_they_are_in_a_small_jpeg_too(monkeypatch):
    data = encode(".jpg", np.zeros((2000, 2000), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    scan = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImageError, match=r"a JPEG of 10[0-9]* scans, more than 100"):
        decode_image(data[:-2] + 1000 * scan + data[-2:], "x")


def test_padding_of_any_length_before_a_marker_is_skipped_at_once():
    data = encode(".jpg", noise(30, 50))
    started = time.process_time()
    assert image_size(data[:2] + b"\xff" * 2**26 + data[2:]) == (50, 30)
    assert time.process_time() - started < 5
