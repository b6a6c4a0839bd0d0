"""How a converter checks and encodes images, in processes of its own where there are several jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.faces.image_folder import ImageFolderDataset
from datasets.faces.image_header import image_size
from datasets.faces.image_kinds import suffix_of
from datasets.parallel import ordered_results
from datasets.payloads import Payload, Portion, decode_payload, portions
from datasets.progress import tracked
from datasets.records.dataset import RecordDataset
from datasets.sample import Image
from transforms.landmarks import IMAGE_SIZE

ENCODINGS = ("png", "jpeg")

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class Encoding(NamedTuple):
    """How images are written that cannot stay as they are.

    Attributes:
        format: one of ENCODINGS; png is without loss.
        quality: of jpeg, 1 to 100.
    """

    format: str = "png"
    quality: int = 95


def encode(image: Image, encoding: Encoding) -> bytes:
    """Return an RGB image as the bytes of a PNG or JPEG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, encoding.quality] if encoding.format == "jpeg" else []
    done, data = cv2.imencode(f".{encoding.format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, encoding
    return data.tobytes()


def to_face(portion: Portion, encoding: Encoding) -> list[Payload]:
    """Return images as PNG or JPEG of 112 x 112: those that are keep their bytes, the others are encoded.

    Every image is decoded, so that none is handed on that cannot be.
    """
    return [_to_face(payload, encoding) for payload in portion.read()]


def to_checked(portion: Portion) -> list[Payload]:
    """Return images with the bytes they have, after a look whether these can be decoded."""
    return [_checked(payload) for payload in portion.read()]


@contextmanager
def worked(
    dataset: ImageFolderDataset | RecordDataset,
    indices: NDArray[np.int64] | range,
    work: Callable[[Portion], list[Payload]],
    jobs: int,
    description: str,
) -> Iterator[Iterator[Payload]]:
    """Give the results of `work` for some images of a data set, one by one and in order, with a progress bar.

    Args:
        dataset, indices: the images.
        work: `to_checked` or a `partial` of `to_face`.
        jobs: processes.
        description: text beside the bar; none is shown where stderr is no terminal.
    """
    with ordered_results(work, portions(dataset, indices), jobs) as results:
        images = chain.from_iterable(results)
        yield iter(tracked(images, description, len(indices)))


def face_work(encoding: Encoding) -> Callable[[Portion], list[Payload]]:
    """Return `to_face` with an encoding, for `worked`."""
    return partial(to_face, encoding=encoding)


def _to_face(payload: Payload, encoding: Encoding) -> Payload:
    image, reason = decode_payload(payload)
    if image is None:
        return Payload(payload.location, b"", reason)
    is_face = payload.data.startswith((_JPEG, _PNG)) and image_size(payload.data) == (IMAGE_SIZE, IMAGE_SIZE)
    return payload if is_face else payload._replace(data=encode(image, encoding))


def _checked(payload: Payload) -> Payload:
    image, reason = decode_payload(payload)
    if image is None:
        return Payload(payload.location, b"", reason)
    known = bool(suffix_of(payload.data))
    return payload if known else Payload(payload.location, b"", "an image whose format has no suffix known here")
