"""InsightFace's verification files: a pickle of (list of encoded images, list of answers).

Reference: insightface, recognition/arcface_torch/eval/verification.py, and the files lfw.bin, cfp_fp.bin, ... that it
reads.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.benchmarks.benchmark_folder import PairStream
from datasets.benchmarks.converted import Source
from datasets.benchmarks.plain_pickle import Span, Value, load_plain
from datasets.faces.images import MAX_FILE_BYTES, UnreadableImageError, decode_image, fit_image
from datasets.faces.paths import open_regular
from datasets.sample import Image

_LAYOUT = "expected a pickle of (list of 2N encoded images, list of N bools)"


def open_bin(file: Path) -> Source:
    """Return the set in a `.bin` file; see `read_bin`."""
    return Source(file.parent, [file.name], [file.name], lambda: read_bin(file))


def read_bin(file: Path) -> PairStream:
    """Return the pairs of a `.bin` file of any pickle protocol, written by Python 2 or 3.

    Nothing in the file is run; see `plain_pickle`. Images are decoded as they are asked for, to RGB, and resized where
    they are not 112 x 112; their iterator raises ValueError with the file and the byte where one cannot be decoded.

    Raises:
        ValueError: naming the file and mostly the byte, if it cannot be read, is damaged, holds anything but encoded
            images and answers, or not twice as many images as answers.
    """
    data = _map(file)
    spans, answers = _split(load_plain(data, file), file)
    return PairStream(_decode(data, spans, file), len(spans), np.array(answers, np.bool_))


def _map(file: Path) -> mmap.mmap:
    try:
        with open_regular(file) as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # what mmap says of an empty file
        raise ValueError(f"{file}: the file is empty; {_LAYOUT}") from error


def _split(content: Value, file: Path) -> tuple[list[Span], list[bool]]:
    """Return where the images are, and the answers."""
    match content:
        case ([*images], [*answers]):
            pass
        case _:
            raise ValueError(f"{file}: it holds something else; {_LAYOUT}")
    spans = [image for image in images if isinstance(image, Span) and image.is_bytes]
    known = [bool(answer) for answer in answers if isinstance(answer, int) and answer in (0, 1)]
    if len(spans) != len(images) or len(known) != len(answers):
        raise ValueError(
            f"{file}: {len(images) - len(spans)} of {len(images)} images are no byte strings, "
            f"{len(answers) - len(known)} of {len(answers)} answers neither true nor false; {_LAYOUT}"
        )
    if not known or len(spans) != 2 * len(known):
        raise ValueError(f"{file}: {len(spans)} images and {len(known)} answers; {_LAYOUT}")
    return spans, known


def _decode(data: mmap.mmap, spans: list[Span], file: Path) -> Iterator[Image]:
    for index, span in enumerate(spans):
        place = f"{file}, image {index} at byte {span.start}"
        if span.end - span.start > MAX_FILE_BYTES:
            raise UnreadableImageError(place, f"larger than {MAX_FILE_BYTES} bytes")
        try:
            encoded = span.read(data)
        except UnicodeError as error:
            raise UnreadableImageError(place, "its bytes are not written as text that stands for bytes") from error
        yield fit_image(decode_image(encoded, place))
