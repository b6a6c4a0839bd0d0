"""The size of an encoded image from its header, so that a bomb is refused before it is decoded."""

from __future__ import annotations

import re
import struct

Bytes = bytes | memoryview
Size = tuple[int, int]

# Start-of-frame markers hold the size; C4, C8 and CC lie among them and mean something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENT = struct.Struct(">BBH")
_JPEG_SIDES = struct.Struct(">HH")
_PADDING = re.compile(rb"\xff+")
# What ends the data of a scan and begins a segment or ends the picture. Not zeros after 0xFF, restarts and reserved
# markers: decoders pass over those, and believe no length behind them.
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_SCAN, _END = b"\xda", b"\xd9"
_BLANK = rb"(?:\s|#[^\n]*\n)+"
# Netpbm's formats with PFM, PAM, and Radiance, which states the height first: the two sides as text.
_TEXT = re.compile(
    rb"P[1-6Ff]" + _BLANK + rb"(\d{1,9})" + _BLANK + rb"(\d{1,9})\s"
    rb"|P7\s[^\0]{0,900}?WIDTH\s+(\d{1,9})\s[^\0]{0,900}?HEIGHT\s+(\d{1,9})\s"
    rb"|#\?[^\0]{0,3000}?\n[+-][XY] +(\d{1,9}) +[+-][XY] +(\d{1,9})"
)
# What states the sides in the boxes of AVIF, HEIC and JPEG 2000, and in a codestream of the last.
_BOXES = re.compile(rb"(?:ispe.{4}|ihdr|\xff\x4f\xff\x51.{4})(.{8})", re.DOTALL)
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_NUMBERS = {3: "H", 4: "I", 16: "Q"}
_MAX_TIFF_ENTRIES = 2**12


def image_size(data: Bytes) -> Size | None:
    """Return (width, height) of an image, the largest where a file of boxes states several.

    None where the header does not tell: the formats are those that OpenCV reads, and HEIC.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_size(data)
        return _binary_size(data) or _text_size(data)
    except (struct.error, OverflowError):  # cut off within the header, or a place beyond every file
        return None


def _binary_size(data: Bytes) -> Size | None:
    begin = bytes(data[:16])
    if begin.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(">II", data, 16)
    if begin.startswith(b"BM"):
        # The first header of OS/2 has 12 bytes and shorter sides.
        width, height = _pair("<HH" if data[14:18] == b"\x0c\0\0\0" else "<ii", data, 18)
        return abs(width), abs(height)
    if begin.startswith((b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")):
        return _tiff_size(data, "<" if begin.startswith(b"I") else ">")
    if begin.startswith(b"RIFF"):
        return _webp_size(data)
    if begin.startswith((b"GIF87a", b"GIF89a")):
        return _pair("<HH", data, 6)
    if begin.startswith(b"\x59\xa6\x6a\x95"):  # Sun raster
        return _pair(">II", data, 4)
    if begin[4:8] in (b"ftyp", b"jP  ") or begin.startswith(b"\xff\x4f\xff\x51"):
        found = [_pair(">II", match[1], 0) for match in _BOXES.finditer(data[: 2**16])]
        return max(found, key=lambda size: size[0] * size[1], default=None)
    return None


def _text_size(data: Bytes) -> Size | None:
    match = _TEXT.match(data[:4096])
    if match is None:
        return None
    first, second = (int(side) for side in match.groups() if side is not None)
    return first, second


def _jpeg_size(data: Bytes) -> Size | None:
    position, last = 2, len(data) - 9
    while position <= last:
        mark, marker, length = _JPEG_SEGMENT.unpack_from(data, position)
        if mark != 0xFF:
            break
        if marker in _JPEG_FRAMES:
            height, width = _JPEG_SIDES.unpack_from(data, position + 5)
            return width, height
        # 0xFF before a marker is padding, of any length; every other segment states its length.
        padding = _PADDING.match(data, position) if marker == 0xFF else None
        position = padding.end() - 1 if padding else position + 2 + length
    return None


def num_scans(data: bytes) -> int:
    """Return how many passes over the image a JPEG file holds.

    Those of a thumbnail in its metadata do not count, nor what follows the image: another one, or a phone's video.
    """
    count, position = 0, 2
    while data.startswith(b"\xff\xd8") and (found := _JPEG_MARKER.search(data, position)) and found[1] != _END:
        count += found[1] == _SCAN
        position = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    return count


def _webp_size(data: Bytes) -> Size | None:
    match bytes(data[8:16]):
        case b"WEBPVP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"WEBPVP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"WEBPVP8 ":
            width, height = _pair("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff_size(data: Bytes, order: str) -> Size | None:
    """Return the sides that the first directory of a TIFF or BigTIFF file states."""
    is_big = data[2] + data[3] == 43
    (directory,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, 8 if is_big else 4)
    count_layout, entry_bytes, value_at = ("Q", 20, 12) if is_big else ("H", 12, 8)
    (count,) = struct.unpack_from(order + count_layout, data, directory)
    first = directory + struct.calcsize(order + count_layout)
    sides: dict[int, int] = {}
    for entry in range(min(count, _MAX_TIFF_ENTRIES)):
        tag, kind = struct.unpack_from(f"{order}HH", data, first + entry * entry_bytes)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_NUMBERS:
            (sides[tag],) = struct.unpack_from(
                order + _TIFF_NUMBERS[kind], data, first + entry * entry_bytes + value_at
            )
    return (sides[_TIFF_WIDTH], sides[_TIFF_HEIGHT]) if len(sides) == 2 else None


def _pair(layout: str, data: Bytes, offset: int) -> Size:
    first, second = struct.unpack_from(layout, data, offset)
    return first, second
