"""Reads the tensors of a TorchScript without running it: a TorchScript is a program, and torch.jit.load executes it.

Its archive holds the code, which is left alone, and `data.pkl`: the modules, each as its attributes by name. The names
of attributes on the way to a tensor, joined by dots, are its key in the state dict of the network that was exported.
Only what such a pickle is made of is unpickled; what else it names is refused before anything is built of it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from .inert_pickle import Inert, InertUnpickler, archive_root, load_inert

_SCRIPT = "__torch__"  # the package of every class that the program defines
_CONTAINERS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
_MAX_ATTRIBUTES = 100_000
_MAX_PATH = 500  # characters; modules can hold themselves
_MAX_PACKED = 64  # members of a packed layer's state


class ScriptObject(Inert):
    """Stands for a module of the program, or a packed layer: keeps its state."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _ScriptUnpickler(InertUnpickler):
    def __init__(self, file: BinaryIO, read_storage: Callable[[str], bytes], size: int) -> None:
        super().__init__(file, read_storage, size)
        self._globals |= {("torch.jit._pickle", name): lambda value, *rest: value for name in _CONTAINERS}

    def find_class(self, module: str, name: str) -> object:
        """Return what stands for `module.name`, if a TorchScript can name it."""
        key = (module, name)
        if key not in self._globals:
            if module.partition(".")[0] != _SCRIPT:
                raise pickle.UnpicklingError(f"TorchScript that names {f'{module}.{name}'!r}")
            self._globals[key] = type("ScriptObject", (ScriptObject,), {"__doc__": f"Stands for {module}.{name}."})
        return self._globals[key]


def is_torchscript(path: Path) -> bool:
    """Return whether an archive of torch is a TorchScript: torch.save writes no constants."""
    with zipfile.ZipFile(path) as archive:
        return archive_root(archive) + "constants.pkl" in archive.namelist()


def load_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript, on the CPU, by their keys in the state dict of what was exported.

    The weight and bias of a layer that is packed, as quantized ones are, come as `weight` and `bias`, in float32.
    `check_storages` goes first.

    Args:
        path: the archive.
    Returns:
        Tensors by name; none from a frozen TorchScript, which has only unnamed constants.
    Raises:
        pickle.UnpicklingError: if it names what no TorchScript names, or modules nest without an end. A damaged
            archive or pickle raises whatever `zipfile` and `pickle` raise for it.
    """
    named = list(_named("", load_inert(path, _ScriptUnpickler), iter(range(_MAX_ATTRIBUTES))))
    tensors = dict(named)
    if len(tensors) < len(named):
        raise pickle.UnpicklingError("two tensors of one name")
    return tensors


def _named(path: str, value: object, budget: Iterator[int]) -> Iterator[tuple[str, Tensor]]:
    if next(budget, None) is None or len(path) > _MAX_PATH:
        raise pickle.UnpicklingError("modules in modules without an end")
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, ScriptObject):
        if isinstance(value.state, dict):
            for name, member in value.state.items():
                if not isinstance(name, str):
                    raise pickle.UnpicklingError("an attribute without a name")
                yield from _named(f"{path}.{name}" if path else name, member, budget)
        elif isinstance(value.state, list | tuple):
            yield from _packed(path, value.state)


def _packed(path: str, state: list[object] | tuple[object, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield weight and bias of a packed layer: its only matrix or kernel, and what follows it."""
    flat = chain.from_iterable(member if isinstance(member, list | tuple) else [member] for member in state)
    members = list(islice(flat, _MAX_PACKED))
    if not any(isinstance(member, Tensor) for member in members):
        return
    weights = [index for index, member in enumerate(members) if isinstance(member, Tensor) and member.ndim > 1]
    if len(weights) != 1:
        raise pickle.UnpicklingError(f"{path[:80]!r} is packed in a way that is not read")
    layer = [word for word in path.split(".") if word not in ("", "_packed_params")]
    for name, member in zip(("weight", "bias"), members[weights[0] :], strict=False):
        if isinstance(member, Tensor):
            yield ".".join([*layer, name]), member
