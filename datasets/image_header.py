"""The size of an encoded image from its first bytes, so that a bomb is refused before it is decoded."""

from __future__ import annotations

import re
import struct

_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
# Start-of-frame markers hold the size; C4, C8 and CC lie among them and mean something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENT = struct.Struct(">BBH")
_JPEG_SIDES = struct.Struct(">HH")


def image_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG, PNG, BMP or PNM file, or None where the header does not tell."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return _pair(">II", data, 16)
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = _pair("<ii", data, 18)
        return abs(width), abs(height)
    match = _PNM.match(data[:4096])
    return (int(match[1]), int(match[2])) if match else None


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    position, last = 2, len(data) - 9
    while position <= last:
        mark, marker, length = _JPEG_SEGMENT.unpack_from(data, position)
        if mark != 0xFF:
            break
        if marker in _JPEG_FRAMES:
            height, width = _JPEG_SIDES.unpack_from(data, position + 5)
            return width, height
        # 0xFF before a marker is padding; every other segment states its length.
        position += 1 if marker == 0xFF else 2 + length
    return None


def _pair(layout: str, data: bytes | memoryview, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, offset)
    return first, second
