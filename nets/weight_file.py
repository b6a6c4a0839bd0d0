"""Reads weight files of every supported kind into one record, without executing what they hold."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .inert_pickle import load_inert

# What a damaged archive or a pickle with nonsense in it raises, as far as reading runs no foreign code.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


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
        """Whether a training run of this project wrote the file: it states colour order and hyper-parameters."""
        return self.color_space is not None and "hyper_parameters" in self.metadata


def read_state_dict(path: str | Path) -> WeightFile:
    """Read a Lightning .ckpt (ours or AdaFace's), a bare .pt state dict or a .safetensors file.

    Pickles are read with weights_only=True; one that names foreign classes is read again with these classes replaced
    by placeholders. Nothing in the file is executed either way.

    Args:
        path: the file; only the suffix .safetensors matters, every other file is read as torch's.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line, if the file is damaged, holds no tensors or states an unknown colour order.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise ValueError(
            f"{path}: damaged or not a weight file ({type(error).__name__}: {reason}); "
            "expected a .ckpt or .pt that torch.save wrote, or a .safetensors"
        ) from error
    return _weight_file(path, content)


def _read_safetensors(path: Path) -> object:
    with safe_open(path, framework="pt") as file:
        return {**(file.metadata() or {}), "state_dict": {key: file.get_tensor(key) for key in file.keys()}}


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
        return load_inert(path)


def _weight_file(path: Path, content: object) -> WeightFile:
    """Sort a file's content; a mapping without "state_dict" is itself one."""
    mapping = content if isinstance(content, Mapping) else {}
    state = mapping.get("state_dict", mapping)
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path}: holds no named tensors; expected a state dict or a checkpoint with one")
    metadata = {str(k): v for k, v in mapping.items() if k != "state_dict" and not isinstance(v, Tensor)}
    color_space = metadata.get("color_space")
    if color_space not in (None, "rgb", "bgr"):
        raise ValueError(f"{path}: states color_space {color_space!r}, expected 'rgb' or 'bgr'")
    return WeightFile(path, tensors, color_space, metadata)
