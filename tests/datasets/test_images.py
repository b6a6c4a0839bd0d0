import pickle

import cv2
import numpy as np
import pytest

from datasets.image_header import image_size
from datasets.images import MAX_PIXELS, UnreadableImageError, decode_image, read_image


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


def test_grey_images_get_three_equal_channels():
    grey = noise(channels=0)
    for suffix in (".pgm", ".png"):
        image = decode_image(encode(suffix, grey), "x")
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


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


@pytest.mark.parametrize("size", [(92, 112), (112, 92), (30, 20), (250, 250), (448, 224), (1, 1)])
def test_any_size_is_fitted_to_the_network(size):
    image = decode_image(encode(".png", noise(*size)), "x")
    assert image.shape == (112, 112, 3)


def test_shrinking_averages_areas():
    bgr = noise(448, 448)
    expected = bgr.reshape(112, 4, 112, 4, 3).astype(float).mean(axis=(1, 3))[..., ::-1]
    assert np.abs(decode_image(encode(".png", bgr), "x") - expected).max() <= 0.5


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_what_is_not_an_image_is_refused(data):
    with pytest.raises(UnreadableImageError, match=r"^a/b\.jpg: "):
        decode_image(data, "a/b.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_cut_off_image_is_refused(suffix):
    data = encode(suffix, noise())
    with pytest.raises(UnreadableImageError, match="damaged"):
        decode_image(data[: len(data) // 2], "x")


def bomb_png():
    data = bytearray(encode(".png", noise(4, 4)))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    return bytes(data)


def bomb_jpeg():
    data = bytearray(encode(".jpg", noise(4, 4)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(data)


def bomb_bmp():
    data = bytearray(encode(".bmp", noise(4, 4)))
    data[18:26] = (60000).to_bytes(4, "little") * 2
    return bytes(data)


@pytest.mark.parametrize("make", [bomb_png, bomb_jpeg, bomb_bmp, lambda: b"P5 # big\n60000 60000\n255\n\0"])
def test_a_bomb_is_refused_before_decoding(make, monkeypatch):
    def decoded(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decoded)
    with pytest.raises(UnreadableImageError, match=f"more than {MAX_PIXELS}"):
        decode_image(make(), "x")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".pgm", ".ppm"])
def test_headers_state_width_and_height(suffix):
    channels = 0 if suffix == ".pgm" else 3
    data = encode(suffix, noise(30, 50, channels))
    assert image_size(data) == image_size(memoryview(data)) == (50, 30)


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
