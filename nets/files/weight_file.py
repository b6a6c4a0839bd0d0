"""Reads weight files of every supported kind into one record, without executing what they hold."""

from __future__ import annotations

import pickle
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ops import foreign_tensor, utf8_path

from .inert_pickle import check_pickles, check_storages, load_inert
from .quantized import unpacked
from .torchscript import is_torchscript, load_torchscript

_MAX_DEPTH = 4  # of containers in containers
_CONTAINERS = ("backbone_state_dict", "model_state_dict", "model", "net", "backbone", "ema")  # beside "state_dict"
_TORCHSCRIPT = "torchscript"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class WeightFile(NamedTuple):
    """What a weight file holds.

    Attributes:
        path: the file.
        state_dict: its tensors under the file's own keys, on the CPU.
        color_space: "rgb" or "bgr" where the file states the order its first convolution expects, else None.
        metadata: everything else at the file's top level; foreign objects are inert placeholders.
    """

    path: Path
    state_dict: dict[str, Tensor]
    color_space: str | None
    metadata: dict[str, object]

    @property
    def is_own(self) -> bool:
        """Whether a run of this project that trains a recognizer wrote the file: it states color order and options."""
        return self.color_space is not None and "hyper_parameters" in self.metadata and not self.is_pretrained

    @property
    def is_pretrained(self) -> bool:
        """Whether a pretraining of this project wrote it: its options name another task, and it has two encoders."""
        parameters = self.metadata.get("hyper_parameters")
        return isinstance(parameters, dict) and "task" in parameters


def check_is_file(path: Path, what: str) -> None:
    """Refuse a path that cannot be read from end to end: a folder, a pipe, a device.

    Raises:
        FileNotFoundError: one line that says what is there instead of `what`, if anything.
    """
    if not path.is_file():
        kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode), "a device") if path.exists() else ""
        inside = next((path / name for name in ("last.ckpt", "best.ckpt") if (path / name).is_file()), None)
        remedy = f"; give {inside}" if inside else ""
        raise FileNotFoundError(f"{path}: no such {what}{kind and f', but {kind}'}{remedy}")


def read_content(path: Path, what: str, foreign: bool = False) -> object:
    """Return what a file holds, its tensors on the CPU, those of an archive as pages of the file.

    Pickles are read with weights_only=True. Nothing in the file is executed.

    Args:
        path: the file.
        what: it is expected to be.
        foreign: put placeholders where an archive names classes that are not torch's own, make quantized tensors floats
            and read the tensors of a TorchScript; else these are refused.
    Raises:
        ValueError: one line, if it cannot be read, whatever that raises.
    """
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_torch(path, foreign)
    except Exception as error:  # no code of ours runs here: these readers raise anything when fed with foreign bytes
        reason = (str(error).splitlines() or [""])[0][:120]
        raise ValueError(f"{path}: damaged or not a {what} ({type(error).__name__}: {reason})") from error


def read_state_dict(path: str | Path) -> WeightFile:
    """Read a Lightning .ckpt (ours or AdaFace's), a bare .pt state dict, a TorchScript or a .safetensors file.

    Dicts within dicts, such as {"model": state dict}, are opened: their names become a prefix of the keys, except
    "state_dict". A pickle that names foreign classes is read with these classes replaced by placeholders. The weights
    of quantized layers become float32, under the names that a float layer has.

    Args:
        path: the file; only the suffix .safetensors matters, every other file is read as torch's.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line, if the file is damaged, holds no tensors, holds anything but whole tensors among the
            weights, or states an unknown color order.
    """
    path = Path(path)
    check_is_file(path, "weight file")
    try:
        content = read_content(path, "weight file", foreign=True)
    except ValueError as error:
        raise ValueError(f"{error}; expected what torch.save or torch.jit.save wrote, or a .safetensors") from error
    return _weight_file(path, content)


def _read_safetensors(path: Path) -> object:
    with utf8_path(path) as name, safe_open(name, framework="pt") as file:
        return {**(file.metadata() or {}), "state_dict": {key: file.get_tensor(key) for key in file.keys()}}


def _read_torch(path: Path, foreign: bool) -> object:
    archived = zipfile.is_zipfile(path)
    is_quantized = archived and check_storages(path)
    if not archived:
        check_pickles(path)
    elif foreign and is_torchscript(path):
        return {"state_dict": load_torchscript(path), "format": _TORCHSCRIPT}
    elif foreign and is_quantized:
        return load_inert(path)
    try:
        # Mapped, a storage that claims more than is there ends with it.
        with utf8_path(path) as name:
            return torch.load(name, map_location="cpu", weights_only=True, mmap=archived)
    except pickle.UnpicklingError:
        if not (archived and foreign):
            raise
        return load_inert(path)


def _weight_file(path: Path, content: object) -> WeightFile:
    """Sort a file's content; a mapping without "state_dict" is itself one, or contains some."""
    mapping = unpacked(content) if isinstance(content, dict) else {}
    sources: dict[str, object] = {"": mapping}
    if "state_dict" in mapping:
        sources = {"": mapping["state_dict"]} | {f"{name}.": mapping[name] for name in _CONTAINERS if name in mapping}
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for container, source in sources.items():
        is_state = source is mapping.get("state_dict")
        for prefix, found, others in _parts(source, container, _MAX_DEPTH, seen):
            # Beside weights a checkpoint may hold anything; among them, whose names have dots, there is nothing else.
            if others and (is_state or len(found) > len(others) or any("." in name for name in found)):
                name, kind = next(iter(others.items()))
                raise ValueError(f"{path}: {prefix + name!r} is of type {kind}, not a tensor")
            tensors |= {prefix + name: tensor for name, tensor in found.items()}
    if not tensors:
        frozen = ": frozen, as torch.jit.freeze leaves a TorchScript" if mapping.get("format") == _TORCHSCRIPT else ""
        raise ValueError(f"{path}: holds no named tensors{frozen}; expected a state dict or a checkpoint with one")
    if fault := foreign_tensor(tensors):
        raise ValueError(f"{path}: {fault}")
    metadata = {str(k): v for k, v in mapping.items() if k != "state_dict" and not isinstance(v, Tensor)}
    color_space = metadata.get("color_space")
    if color_space is not None and color_space not in ("rgb", "bgr"):
        # Neither repr nor str of a foreign object: tuples that hold each other twice print for ever.
        stated = repr(color_space[:40]) if isinstance(color_space, str) else f"of type {type(color_space).__name__}"
        raise ValueError(f"{path}: states color_space {stated}, expected 'rgb' or 'bgr'")
    return WeightFile(path, tensors, color_space, metadata)


def _parts(
    state: object, prefix: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, str]]]:
    """Yield (prefix, the tensors by name, the types of what else is there by name) of each dict that has tensors."""
    if not isinstance(state, dict) or id(state) in seen or not all(isinstance(key, str) for key in state):
        return
    seen.add(id(state))
    entries = unpacked(state)
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    if tensors:
        others = {key: value for key, value in entries.items() if not isinstance(value, Tensor | dict)}
        yield prefix, tensors, {key: type(value).__name__ for key, value in others.items()}
    if depth:
        for key, value in entries.items():
            yield from _parts(value, f"{prefix}{key}.", depth - 1, seen)
