"""Encoded image -> uint8 RGB of any size -> [112, 112, 3]: the only place where OpenCV's channel order is turned."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from datasets.faces import heic
from datasets.faces.image_header import image_size, num_scans
from datasets.faces.image_kinds import HEAD_BYTES, NO_IMAGE, why_left_out
from datasets.faces.paths import open_regular
from datasets.sample import Image
from transforms.landmarks import IMAGE_SIZE

# 8192 x 8192, three times the largest sensor of a phone camera: more is a mistake or an attack. OpenCV holds it too,
# for what a header does not tell, unless it was imported before this package.
MAX_PIXELS = 2**26
MAX_FILE_BYTES = 2**28
# Encoders write 10. Each of them goes over all pixels, and may be written in a few bytes.
MAX_SCANS = 100
_FEW_PIXELS = 2**22
_PIXELS_OF_A_SCAN = 2**14  # what beginning one costs
_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)


class UnreadableImageError(ValueError):
    """An image that cannot be decoded.

    Attributes:
        path: the file, or another description of where the image is.
        reason: why it cannot be read.
    """

    def __init__(self, path: Path | str, reason: str = "cannot be read") -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(path: Path) -> Image:
    """Return the image in a file as uint8 [H, W, 3] RGB, of the size it has; see `decode_image`.

    Raises:
        UnreadableImageError: if the file is missing, not readable, too large or not an image.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnreadableImageError(path, f"larger than {MAX_FILE_BYTES} bytes")
        with open_regular(path) as stream:
            data = stream.read()
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or type(error).__name__) from error
    return decode_image(data, path)


def decode_image(data: bytes | memoryview, path: Path | str) -> Image:
    """Decode any format that OpenCV reads, HEIC by pillow-heif, to uint8 [H, W, 3] RGB, of the size it has.

    Gray images get three equal channels, 16-bit ones keep their high byte, alpha is dropped, the orientation tag is
    obeyed. `fit_image` brings it to the size of faces.

    Args:
        data: the encoded bytes.
        path: where they come from, for the error.
    Raises:
        UnreadableImageError: if the bytes are not an image, are cut off, have more than MAX_PIXELS pixels,
            or are a large JPEG of more than MAX_SCANS scans.
    """
    if not data:
        raise UnreadableImageError(path, "the file is empty")
    width, height = image_size(data) or (0, 0)
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(path, f"{width} x {height} pixels, more than {MAX_PIXELS}")
    work = width * height + _PIXELS_OF_A_SCAN
    if (scans := num_scans(bytes(data))) > MAX_SCANS and scans * work > MAX_SCANS * _FEW_PIXELS:
        raise UnreadableImageError(path, f"a JPEG of {scans} scans, more than {MAX_SCANS}")
    decoded: Image | None
    if heic.brand_of(data) == heic.HEIC:
        return _decode_heic(data, path)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)  # type: ignore[assignment]  # uint8
    except cv2.error as error:
        too_large = "CV_IO_MAX_IMAGE" in error.err
        reason = f"more than {MAX_PIXELS} pixels" if too_large else f"OpenCV refuses it ({error.err})"
        raise UnreadableImageError(path, reason) from error
    if decoded is None:
        kind = why_left_out(bytes(data[:HEAD_BYTES]))
        known = kind if kind != NO_IMAGE else ""
        raise UnreadableImageError(path, known or "not an image that OpenCV reads, or damaged")
    return decoded


def fit_image(image: Image) -> Image:
    """Return an image uint8 [H, W, 3] as [112, 112, 3]; one that has the size is returned as it is.

    Other sizes are stretched to the square, by area averages when both sides shrink, else bilinearly.
    """
    if image.shape == _SHAPE:
        return image
    height, width = image.shape[:2]
    # Bilinear samples alias when an image shrinks much; area averages turn blocky when it grows.
    method = cv2.INTER_AREA if min(height, width) >= IMAGE_SIZE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=method), np.uint8)


def _decode_heic(data: bytes | memoryview, path: Path | str) -> Image:
    try:
        return heic.decode(data, MAX_PIXELS)
    except ValueError as error:
        raise UnreadableImageError(path, str(error)) from error
