"""Get what is not embedded, and check it: `python main.py fetch --help`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from http.client import HTTPException
from urllib.request import urlopen

from options.command import FlagParser, as_typed, user_errors
from system.files import atomic_write
from system.terminal import show

THINGS = ("yunet",)
# The first is OpenCV's own copy; the second its authors', which works for any size without OpenCV too.
URLS = (
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx",
    "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/master/onnx/yunet_s_dynamic.onnx",
)

_SECONDS = 20
_MAX_BYTES = 2**22
_DESCRIPTION = """Get a file that is not embedded from its authors, check it against the checksum that is known, and put
it into the cache folder. yunet: the face detector YuNet, 0.2 MB; `--detector yunet` then takes it. What it was trained
on: docs/ethics.md. Exit code: 0 done, 2 it cannot be had."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py fetch") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} yunet")
    parser.usage = f"{prog} {{{','.join(THINGS)}}}"
    parser.add_argument("what", choices=THINGS, help="what to get")
    parser.read(argv)
    with user_errors(prog):
        show(_fetch_yunet())
    return 0


def _fetch_yunet() -> str:
    from models.detectors import fetched_file
    from models.detectors.yunet import KNOWN

    place = fetched_file()
    if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() in KNOWN:
        return f"{place} is there already, with a known checksum; use it by --detector yunet"
    reasons = []
    for url in URLS:
        try:
            data = _download(url)
        except (OSError, HTTPException) as error:
            reasons.append(f"no answer ({getattr(error, 'reason', error)})")
            continue
        known = KNOWN.get(hashlib.sha256(data).hexdigest())
        if known is None:
            reasons.append("not the file whose checksum is known")
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place, "wb") as stream:
            stream.write(data)
        return f"{known}: {place}, checksum as known; use it by --detector yunet"
    raise ValueError(
        f"YuNet cannot be had: {'; '.join(dict.fromkeys(reasons))}. Get {URLS[0]} on a machine with a network, copy the"
        " file here and give it by --detector FILE; --detector mtcnn needs no file"
    )


def _download(url: str) -> bytes:
    with urlopen(url, timeout=_SECONDS) as answer:
        data: bytes = answer.read(_MAX_BYTES)
    return data
