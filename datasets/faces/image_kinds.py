"""What a file holds, told by its first bytes: an image that is read here, one that needs a package, or none."""

from __future__ import annotations

import re
import struct

from datasets.faces import heic

HEAD_BYTES = 64
NO_IMAGE = "not an image"
# Accepted without a look inside: opening millions of files takes longer than listing them.
KNOWN_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .dib .webp .avif .gif .tif .tiff".split()
    + ".pgm .ppm .pbm .pnm .pam .jp2 .sr .ras .hdr".split()
)

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (
    (_JPEG, ".jpg"), (_PNG, ".png"), (b"GIF87a", ".gif"), (b"GIF89a", ".gif"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"II+\0", ".tif"), (b"MM\0+", ".tif"),
    (b"\0\0\0\x0cjP  ", ".jp2"), (b"\xff\x4f\xff\x51", ".jp2"), (b"#?RADIANCE", ".hdr"), (b"#?RGBE", ".hdr"),
    (b"\x59\xa6\x6a\x95", ".ras"),
)  # fmt: skip
# "P5" and "BM" alone may begin a text.
_PNM = re.compile(rb"P([1-7])\s+(?:#|\d|WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE)")
_PNM_SUFFIXES = {b"1": ".pbm", b"4": ".pbm", b"2": ".pgm", b"5": ".pgm", b"3": ".ppm", b"6": ".ppm", b"7": ".pam"}
_SUFFIX_OF_BRAND = {heic.AVIF: ".avif", heic.HEIC: ".heic"}
_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_VIDEOS = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"OggS", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")


def suffix_of(data: bytes) -> str:
    """Return the usual suffix of an image that is read here, from at least HEAD_BYTES of it; empty if it is none."""
    brand = heic.brand_of(data)
    if brand in _SUFFIX_OF_BRAND:
        return _SUFFIX_OF_BRAND[brand]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    pnm = _PNM.match(data[:HEAD_BYTES])
    if pnm:
        return _PNM_SUFFIXES[pnm[1]]
    if data[:2] == b"BM" and len(data) >= 18 and struct.unpack_from("<I", data, 14)[0] in _BMP_HEADERS:
        return ".bmp"
    return next((suffix for start, suffix in _SIGNATURES if data.startswith(start)), "")


def why_left_out(head: bytes) -> str:
    """Return why a file with these first HEAD_BYTES is not read as an image; empty where it is."""
    suffix = suffix_of(head)
    if suffix:
        return heic.REMEDY if suffix == ".heic" and not heic.is_installed() else ""
    if not head:
        return "empty"
    if head.startswith(_JPEG_XL):
        return "JPEG XL, which is not read here: convert it"
    if heic.brand_of(head) or head.startswith(_VIDEOS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "a video"
    return NO_IMAGE
