"""Reads the tensors of a checkpoint that also holds arbitrary pickled objects, without running any of them.

`torch.load(weights_only=True)` refuses a file as soon as it names one foreign class, and the public checkpoints of
Lightning 1.x name several (hyper-parameters, callbacks). Here every global that is not needed to build a tensor or a
container becomes a placeholder: it accepts whatever the pickle feeds it and does nothing.

A few bytes of a pickle can also ask for hours or for gigabytes without naming any code: `check_pickles` and
`check_storages` refuse those that torch's own reader would obey. So would a subclass of `pickle.Unpickler`, in C
(`test_a_few_bytes_that_ask_for_hours_or_gigabytes_are_refused`), hence the one in Python.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import torch
from torch import Tensor

from .quantized import dequantized

_PICKLES_BEFORE_1_6 = 5  # a magic number, a version, the machine, the content, the names of the storages
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
    # Integers; what they stand for is said where a tensor is built of them.
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}
_QUANTIZERS = ("per_tensor_affine", "per_channel_affine")
_REBUILD_QUANTIZED = "_rebuild_qtensor"


class Inert:
    """Stands for an object or a function of the pickle; swallows arguments, state, items and calls."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:  # noqa: D102
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


def _allowed(most: int) -> dict[tuple[str, str], object]:
    """Return the globals that build tensors and containers; of integers, `most` become floats.

    The functions are made anew for every file: a pickle can set attributes of what it names, and must not reach
    anything that outlives it.
    """

    def tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object) -> Tensor:
        return storage.as_strided(size, stride, offset)

    def quantized(
        storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], quantizer: object, *rest: object
    ) -> Tensor:
        nonlocal most
        integers = storage.as_strided(size, stride, offset)
        most -= integers.numel()
        if most < 0 or integers.numel() > storage.numel():
            raise pickle.UnpicklingError("quantized tensors of more numbers than are stored")
        return dequantized(integers, quantizer)

    def parameter(data: Tensor, *rest: object) -> Tensor:
        return data

    class Ordered(OrderedDict[object, object]): ...

    return {
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", _REBUILD_QUANTIZED): quantized,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): parameter,
        ("collections", "OrderedDict"): Ordered,
        ("torch", "Size"): tuple,
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
        **{("torch", name): name for name in _QUANTIZERS},
    }


class _Tuple(tuple[object, ...]):
    """A tuple of a pickle. As a key it may not be nested: one that holds another one twice is hashed for ever."""

    __slots__ = ()

    def __hash__(self) -> int:
        if any(isinstance(member, tuple) for member in self):
            raise pickle.UnpicklingError("a key of nested tuples")
        return super().__hash__()


class _Buffer(Inert):
    """Stands for what is called with a length and then takes that much memory."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        if any(isinstance(value, int) for value in args):
            _refuse_length(cls)
        return super().__new__(cls)


class _CarefulUnpickler(pickle._Unpickler):
    """Unpickler in Python: that in C fills its memo up to whatever number is named, 16 GB for five bytes."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)


def _hold_tuples(build: Callable[[Any], None]) -> Callable[[Any], None]:
    def step(unpickler: Any) -> None:
        build(unpickler)
        unpickler.stack[-1] = _Tuple(unpickler.stack[-1])

    return step


def _refuse_length(unpickler: Any) -> None:
    raise pickle.UnpicklingError("memory is asked for by its length")


for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    _CarefulUnpickler.dispatch[_code[0]] = _hold_tuples(_CarefulUnpickler.dispatch[_code[0]])
_CarefulUnpickler.dispatch[pickle.BYTEARRAY8[0]] = _refuse_length


class InertUnpickler(_CarefulUnpickler):
    """Unpickler that finds tensors, containers and placeholders, and imports nothing.

    Quantized tensors become float ones, as many as an archive of that size can hold: a storage may be named again.

    Args:
        file: the pickle.
        read_storage: gives the bytes of a storage by its key.
        size: of the whole archive in bytes.
    """

    def __init__(self, file: BinaryIO, read_storage: Callable[[str], bytes], size: int) -> None:
        super().__init__(file)
        self._read_storage = read_storage
        self._storages: dict[str, Tensor] = {}
        self._globals = _allowed(size)

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


class _Attributed(Inert):
    """Stands for a dict that a pickle gives attributes, as torch does; none of them may stand for a method."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or any(not isinstance(key, str) or hasattr(OrderedDict, key) for key in state):
            raise pickle.UnpicklingError("a dict whose methods are replaced")


class _StorageSizes(_CarefulUnpickler):
    """Unpickler that builds nothing and notes how many bytes each storage is said to have."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.sizes: dict[str, int] = {}
        self.is_quantized = False

    def find_class(self, module: str, name: str) -> object:
        """Return a data type where `torch` names one, a placeholder class for anything else."""
        self.is_quantized |= name == _REBUILD_QUANTIZED
        if name == "bytearray":
            return _Buffer
        if name == "OrderedDict":
            return type("OrderedDict", (_Attributed,), {})
        dtype = _DTYPES.get(name) if module == "torch" else None
        return type("Inert", (Inert,), {}) if dtype is None else dtype

    def persistent_load(self, pid: tuple[str, object, str, str, int]) -> Inert:
        """Note the size of a storage; before torch 1.6 more is said of it."""
        _, dtype, key, _, length = pid[:5]
        size = dtype.itemsize if isinstance(dtype, torch.dtype) else 1
        self.sizes[key] = max(self.sizes.get(key, 0), length * size)
        return Inert()


def check_pickles(path: Path) -> None:
    """Refuse a file of `torch.save` before version 1.6 whose pickles, five in a row, take more than they hold.

    Raises:
        pickle.UnpicklingError: and, for a damaged pickle, whatever `pickle` raises.
    """
    with path.open("rb") as stream, suppress(EOFError):
        for _ in range(_PICKLES_BEFORE_1_6):
            scan = _StorageSizes(stream)
            scan.load()
            if scan.is_quantized:
                raise pickle.UnpicklingError("quantized, in the format before torch 1.6: save it again")


def check_storages(path: Path) -> bool:
    """Refuse an archive of torch that holds more than its own size, or less than its tensors claim.

    torch compresses nothing but code, and a reader that trusts the claims would take what lies behind a storage for it.

    Returns:
        Whether there are quantized tensors.
    Raises:
        pickle.UnpicklingError: and, for a damaged archive or pickle, whatever `zipfile` and `pickle` raise.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise pickle.UnpicklingError("two members of one name")
        if sum(member.compress_size for member in members.values()) > path.stat().st_size:
            raise pickle.UnpicklingError("its members overlap")
        for name, member in members.items():
            is_code = name.split("/")[1:2] == ["code"]  # of a TorchScript; nobody reads it
            if not is_code and (member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size):
                raise pickle.UnpicklingError(f"{name!r} is compressed")
        root = archive_root(archive)
        scan = _StorageSizes(io.BytesIO(archive.read(f"{root}data.pkl")))
        scan.load()
        for key, size in scan.sizes.items():
            if size > members[f"{root}data/{key}"].file_size:
                raise pickle.UnpicklingError(f"storage {key!r} is cut short")
        return scan.is_quantized


def archive_root(archive: zipfile.ZipFile) -> str:
    """Return the folder of an archive of torch in which everything lies, with its slash.

    Raises:
        pickle.UnpicklingError: if there is no such folder, or several.
    """
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise pickle.UnpicklingError(f"expected one data.pkl in the archive, found {len(pickles)}")
    return pickles[0].removesuffix("data.pkl")


def load_inert(path: Path, unpickler: type[InertUnpickler] = InertUnpickler) -> object:
    """Return the content of an archive of torch, placeholders where it holds foreign objects.

    Args:
        path: file in torch's zip format (torch 1.6 and later).
        unpickler: what reads its data.pkl.
    Raises:
        pickle.UnpicklingError: if the archive holds no pickle where torch puts it, or was written big-endian. A
            damaged archive or pickle raises whatever `zipfile` and `pickle` raise for it.
    """
    with zipfile.ZipFile(path) as archive:
        root = archive_root(archive)
        if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
            raise pickle.UnpicklingError("written on a big-endian machine")
        data = io.BytesIO(archive.read(root + "data.pkl"))
        return unpickler(data, lambda key: archive.read(f"{root}data/{key}"), path.stat().st_size).load()
