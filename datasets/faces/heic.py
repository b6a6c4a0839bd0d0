"""HEIC, the format of telephones, through pillow-heif where that is installed. OpenCV reads its sister AVIF itself."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from datasets.sample import Image

AVIF, HEIC, OTHER = "AVIF", "HEIC", "other"
REMEDY = "HEIC: pip install pillow-heif"

_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_IMAGE_BRANDS = frozenset((b"mif1", b"mif2", b"msf1", b"miaf"))  # which coder it is, the list behind them tells
_BOXES = (b"moov", b"mdat", b"wide", b"skip")  # QuickTime files may begin without a brand


def brand_of(data: bytes | memoryview) -> str:
    """Return what a file in the ISO container holds: AVIF, HEIC or OTHER, a video; empty for another container."""
    head = bytes(data[:64])
    if head[4:8] in _BOXES:
        return OTHER
    if head[4:8] != b"ftyp" or len(head) < 12:
        return ""
    end = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    if brands[0] in _AVIF_BRANDS:
        return AVIF
    if brands[0] in _HEIC_BRANDS:
        return HEIC
    if brands[0] in _IMAGE_BRANDS:
        return AVIF if _AVIF_BRANDS.intersection(brands) else HEIC
    return OTHER


def is_installed() -> bool:
    """Return whether pillow-heif is there."""
    return find_spec("pillow_heif") is not None


def decode(data: bytes | memoryview, max_pixels: int) -> Image:
    """Return the first image of a HEIC file as uint8 [height, width, 3] RGB, turned as its tags say.

    Raises:
        ValueError: if pillow-heif is not installed, or the file is damaged or has more than max_pixels pixels.
    """
    if not is_installed():
        raise ValueError(REMEDY)
    import pillow_heif

    try:
        file = pillow_heif.open_heif(bytes(data))
        width, height = file.size
        # Pixels are decoded by what follows, not before.
        image = None if width * height > max_pixels else np.array(file.to_pillow().convert("RGB"), np.uint8)
    except (ValueError, OSError, RuntimeError, SyntaxError, EOFError) as error:
        raise ValueError(f"a HEIC image that pillow-heif refuses ({error})") from error
    if image is None:
        raise ValueError(f"{width} x {height} pixels, more than {max_pixels}")
    return image
