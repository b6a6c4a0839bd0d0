"""TensorBoard's event files, read as TensorBoard reads them."""

import struct

import pytest

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: make setup-extras")

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event


def unmasked(checksum):
    rotated = (struct.unpack("<I", checksum)[0] - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def read_file(path):
    """Yield the events of a file up to the first that is not whole."""
    data, place = path.read_bytes(), 0
    while place + 12 <= len(data):
        (length,) = struct.unpack("<Q", data[place : place + 8])
        body = data[place + 12 : place + 12 + length]
        checksum = data[place + 12 + length : place + 16 + length]
        if len(checksum) < 4:
            return
        assert unmasked(data[place + 8 : place + 12]) == crc32c(data[place : place + 8])
        assert unmasked(checksum) == crc32c(body)
        yield Event.FromString(body)
        place += 16 + length


def read_values(folder):
    """Return {step: {name: value}} of an event folder; a START voids what lies at its step and after."""
    values = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        events = list(read_file(path))
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            if event.HasField("session_log"):
                values = {step: row for step, row in values.items() if step < event.step}
            for value in event.summary.value:
                values.setdefault(event.step, {})[value.tag] = value.simple_value
    return values
