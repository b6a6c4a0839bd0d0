"""Record files built from the description of the format alone, for the tests of their reader and writer."""

import struct

import cv2
import numpy as np

MAGIC = bytes([0x0A, 0x23, 0xD7, 0xCE])


def body(label, payload, id=0, id2=0):
    """The bytes of a record before they are cut into parts."""
    if np.ndim(label) == 0:
        return struct.pack("<IfQQ", 0, label, id, id2) + payload
    return struct.pack("<IfQQ", len(label), 0, id, id2) + struct.pack(f"<{len(label)}f", *label) + payload


def part(kind, data):
    return MAGIC + struct.pack("<I", (kind << 29) + len(data)) + data + b"\0" * ((4 - len(data) % 4) % 4)


def cut(data):
    """The parts of a record: a look at every fourth byte."""
    pieces, begin = [], 0
    for position in range(0, len(data) - 3, 4):
        if data[position : position + 4] == MAGIC:
            pieces.append(data[begin:position])
            begin = position + 4
    pieces.append(data[begin:])
    kinds = [0] if len(pieces) == 1 else [1] + [2] * (len(pieces) - 2) + [3]
    return b"".join(part(kind, piece) for kind, piece in zip(kinds, pieces, strict=True))


def record(label, payload, id=0, id2=0):
    return cut(body(label, payload, id, id2))


def picture(seed, suffix=".png"):
    """A small image of noise, encoded without loss."""
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


def write_records(folder, records, stem="train", index=True, line_end="\n"):
    """Write (key, bytes of a framed record) pairs in the given order; returns the offset of each key."""
    folder.mkdir(parents=True, exist_ok=True)
    offsets, data = {}, b""
    for key, framed in records:
        offsets[key] = len(data)
        data += framed
    (folder / f"{stem}.rec").write_bytes(data)
    if index:
        lines = "".join(f"{key}\t{offset}{line_end}" for key, offset in offsets.items())
        (folder / f"{stem}.idx").write_bytes(lines.encode())
    return offsets


def faces(counts, ranges=None, first_label=0, suffix=".png"):
    """Records in InsightFace's layout: header, images with keys from 1, identity records."""
    total = sum(counts)
    ends = np.cumsum([1, *counts])
    ranges = ranges or list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    labels = np.repeat(np.arange(len(counts)), counts) + first_label
    end = total + 1 + len(ranges)
    records = [(0, record([total + 1, end], b"", 0))]
    for key, label in enumerate(labels.tolist(), start=1):
        records.append((key, record(float(label), picture(key, suffix), key)))
    records += [(total + 1 + number, record(bounds, b"", total + 1 + number)) for number, bounds in enumerate(ranges)]
    return records
