"""Reads the tensors of a checkpoint that also holds arbitrary pickled objects, without running any of them.

`torch.load(weights_only=True)` refuses a file as soon as it names one foreign class, and the public checkpoints of
Lightning 1.x name several (hyper-parameters, callbacks). Here every global that is not needed to build a tensor or a
container becomes a placeholder: it accepts whatever the pickle feeds it and does nothing.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """Stands for an object or a function of the pickle; swallows arguments, state, items and calls."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> Inert:  # noqa: D102
        return Inert()

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None:
        """Drop an item of a pickled list subclass."""

    def extend(self, items: object) -> None:
        """Drop items of a pickled list subclass."""

    def add(self, item: object) -> None:
        """Drop an item of a pickled set subclass."""


def _allowed() -> dict[tuple[str, str], object]:
    """Return the globals that build tensors and containers.

    The functions are made anew for every file: a pickle can set attributes of what it names, and must not reach
    anything that outlives it.
    """

    def tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object) -> Tensor:
        return storage.as_strided(size, stride, offset)

    def parameter(data: Tensor, *rest: object) -> Tensor:
        return data

    class Ordered(OrderedDict[object, object]): ...

    return {
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): parameter,
        ("collections", "OrderedDict"): Ordered,
        ("torch", "Size"): tuple,
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    }


class InertUnpickler(pickle.Unpickler):
    """Unpickler that finds tensors, containers and placeholders, and imports nothing."""

    def __init__(self, file: io.BytesIO, read_storage: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read_storage = read_storage
        self._storages: dict[str, Tensor] = {}
        self._globals = _allowed()

    def find_class(self, module: str, name: str) -> object:
        """Return what stands for `module.name`; a placeholder class of its own unless it is on the short list."""
        key = (module, name)
        if key not in self._globals:
            self._globals[key] = type("Inert", (Inert,), {"__doc__": f"Stands for {module}.{name}."})
        return self._globals[key]

    def persistent_load(self, pid: tuple[str, torch.dtype, str, str, int]) -> Tensor:
        """Return the storage that `pid` = ("storage", type, key, device, length) names, as a flat tensor."""
        _, dtype, key, *_ = pid
        if key not in self._storages:
            data = bytearray(self._read_storage(key))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


class _StorageSizes(pickle.Unpickler):
    """Unpickler that builds nothing and notes how many bytes each storage is said to have."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> object:
        """Return a data type where `torch` names one, a placeholder class for anything else."""
        dtype = _DTYPES.get(name) if module == "torch" else None
        return type("Inert", (Inert,), {}) if dtype is None else dtype

    def persistent_load(self, pid: tuple[str, object, str, str, int]) -> Inert:
        """Note the size of a storage."""
        _, dtype, key, _, length = pid
        size = dtype.itemsize if isinstance(dtype, torch.dtype) else 1
        self.sizes[key] = max(self.sizes.get(key, 0), length * size)
        return Inert()


def check_storages(path: Path) -> None:
    """Refuse a file of `torch.save` whose archive holds more than its own size, or less than its tensors claim.

    torch.save compresses nothing, and a reader that trusts the claims would take what lies behind a storage for it.

    Raises:
        pickle.UnpicklingError: and, for a damaged archive or pickle, whatever `zipfile` and `pickle` raise.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for name, member in members.items():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise pickle.UnpicklingError(f"{name!r} is compressed")
        if sum(member.file_size for member in members.values()) > path.stat().st_size:
            raise pickle.UnpicklingError("its members overlap")
        root = _root(archive)
        scan = _StorageSizes(io.BytesIO(archive.read(f"{root}data.pkl")))
        scan.load()
        for key, size in scan.sizes.items():
            if size > members[f"{root}data/{key}"].file_size:
                raise pickle.UnpicklingError(f"storage {key!r} is cut short")


def _root(archive: zipfile.ZipFile) -> str:
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise pickle.UnpicklingError(f"expected one data.pkl in the archive, found {len(pickles)}")
    return pickles[0].removesuffix("data.pkl")


def load_inert(path: Path) -> object:
    """Return the content of a file written by `torch.save`, placeholders where it holds foreign objects.

    Args:
        path: file in torch's zip format (torch 1.6 and later).
    Raises:
        pickle.UnpicklingError: if the archive holds no pickle where torch puts it, or was written big-endian. A
            damaged archive or pickle raises whatever `zipfile` and `pickle` raise for it.
    """
    with zipfile.ZipFile(path) as archive:
        root = _root(archive)
        if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
            raise pickle.UnpicklingError("written on a big-endian machine")
        return InertUnpickler(
            io.BytesIO(archive.read(root + "data.pkl")), lambda key: archive.read(f"{root}data/{key}")
        ).load()
