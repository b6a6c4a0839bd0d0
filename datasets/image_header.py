"""The size of an encoded image from its first bytes, so that a bomb is refused before it is decoded."""

from __future__ import annotations

import re
import struct

_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
# Start-of-frame markers hold the size; C4, C8 and CC lie among them and mean something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG, PNG, BMP or PNM file, or None where the header does not tell."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        return _pair(">II", data, 16)
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = _pair("<ii", data, 18)
        return abs(width), abs(height)
    match = _PNM.match(data[:4096])
    return (int(match[1]), int(match[2])) if match else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _JPEG_FRAMES:
            height, width = _pair(">HH", data, position + 5)
            return width, height
        # 0xFF before a marker is padding; every other segment states its length.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _pair(layout: str, data: bytes, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, offset)
    return first, second
