"""A key for a Python value that equal values share, in every process: repr() would name an address."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import types
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.sample import FaceDataset


class _ContentPickler(pickle.Pickler):
    """Writes functions as their code and what they hold, not as their name: it may mean something else tomorrow."""

    def reducer_override(self, value: Any) -> Any:
        """Return constructor and content of functions and code, NotImplemented for everything else."""
        match value:
            case types.FunctionType():
                held = tuple(cell.cell_contents for cell in value.__closure__ or ())
                return tuple, ((value.__code__, value.__defaults__, value.__kwdefaults__, held),)
            case types.CodeType():
                return tuple, ((value.co_code, value.co_consts, value.co_names),)
        return NotImplemented


def content_key(value: object) -> str:
    """Return hex digits that depend on what a transform is and does, not on where it lies in memory.

    Functions count by their code, defaults and closures, objects by class, attributes and their class's methods. What
    they call in other modules does not count. Equal values may, rarely, get two keys, as two orders of a set do; then
    something is computed again. A value that cannot be pickled gets a key of its own, which nobody finds again.
    """
    buffer = io.BytesIO()
    pickler = _ContentPickler(buffer, protocol=5)
    pickler.fast = True  # no memo: equal parts and one part twice are the same
    try:
        pickler.dump((value, tuple(_methods(type(value)))))
    except (pickle.PicklingError, TypeError, ValueError, AttributeError, RecursionError):
        return uuid.uuid4().hex
    return hashlib.sha256(buffer.getvalue()).hexdigest()[:32]


def dataset_key(dataset: FaceDataset, words: str) -> str:
    """Return hex digits that depend on a data set's files, by path, size and time, on its labels and decoding.

    Args:
        dataset: any.
        words: what else they shall depend on.
    """
    digest = hashlib.sha256(f"{words} {dataset.decoding}".encode())
    digest.update(dataset.labels.tobytes())
    for path in dataset.paths:
        try:
            status = path.stat()
            state = f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = f"{path.absolute()} missing"
        digest.update(os.fsencode(state) + b"\0")
    return digest.hexdigest()[:32]


def _methods(cls: type) -> Iterator[tuple[str, types.FunctionType]]:
    for base in cls.__mro__:
        for name, member in vars(base).items():
            # A method that knows its own class would be written with itself.
            if isinstance(member, types.FunctionType) and "__class__" not in member.__code__.co_freevars:
                yield name, member
