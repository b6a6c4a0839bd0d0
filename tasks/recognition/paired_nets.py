"""What stands beside a recognizer that learns from two views: a frozen teacher, and a front before the LR images."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

import nets
from config import ARCHS, Config
from models.checkpoint_rules import state_rules
from models.fronts import Front, open_front
from ops import at_least, first_fault
from transforms import to_tensor

logger = logging.getLogger(__name__)
TEACHER, FRONT = "teacher", "front"  # entries of a checkpoint
_MAX_SIZE = 2**16  # of an embedding


class Teacher(NamedTuple):
    """A network that is learned from. It is in eval mode and has no gradient.

    It is no part of a module: neither trained, averaged nor synchronized. What it takes is its weights' memory, and a
    copy of them in every checkpoint: a run that goes on learns from the very same bits.

    Attributes:
        arch: of `ARCHS`.
        backbone: the network.
    """

    arch: str
    backbone: nets.Backbone

    @classmethod
    def frozen(cls, arch: str, backbone: nets.Backbone) -> Teacher:
        """Return a teacher of a network, which is changed for good."""
        backbone.activation_checkpointing = False
        # As the network in training lies in memory, whatever the teacher comes from: another layout rounds otherwise.
        backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        return cls(arch, backbone.requires_grad_(False).eval())

    @classmethod
    def from_file(cls, path: Path, color_space: str | None) -> Teacher:
        """Return the teacher in a file; raises FileNotFoundError and ValueError as `nets.load_weights`."""
        nets.check_is_file(path, "--teacher")
        try:
            state = nets.backbone_state(nets.read_state_dict(path).state_dict)
            arch, size = nets.infer_arch(state), nets.infer_embedding_size(state)
        except ValueError as error:
            raise ValueError(f"--teacher {path}: {str(error).removeprefix(f'{path}: ')}") from None
        backbone = nets.build_model(arch, size)
        nets.load_weights(backbone, path, color_space)
        return cls.frozen(arch, backbone)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Teacher:
        """Return what `to_dict` wrote, checked by `teacher_fault`."""
        backbone = nets.build_model(saved["arch"], saved["embedding_size"])
        state = saved["weights"]
        backbone.to(next(value.dtype for value in state.values() if value.is_floating_point()))
        backbone.load_state_dict(state)
        return cls.frozen(saved["arch"], backbone)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        size = self.backbone.embedding_size
        return {"arch": self.arch, "embedding_size": size, "weights": self.backbone.state_dict()}

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return unit embeddings [B, D] of images [B, 3, 112, 112] in [-1, 1]."""
        found: Tensor = self.backbone.to(images.device, images.dtype)(images).embedding
        return found


def teacher_fault(found: object, place: str, dtype: torch.dtype = torch.float32) -> str | None:
    """Return what in a checkpoint is no teacher's `to_dict`, its weights in `dtype`; None if all fits."""
    if fault := first_fault(at_least({"arch": "", "embedding_size": 0, "weights": _a_dict}), found, place):
        return fault
    assert isinstance(found, dict)
    arch, size = found["arch"], found["embedding_size"]
    if arch not in ARCHS or not 1 <= size <= _MAX_SIZE:
        return f"{place}: an architecture and the length of its embedding expected"
    with torch.device("meta"):
        expected = nets.build_model(arch, size).to(dtype).state_dict()
    return first_fault(state_rules(expected), found["weights"], f"{place}.weights")


def _a_dict(found: object, place: str) -> str | None:
    return None if isinstance(found, dict) else f"{place}: a dict expected"


class PairedNets:
    """The networks beside a recognizer; no parts of the module.

    Attributes:
        teacher: None: nothing is learned from one.
        front: what enlarges low-resolution images; None: they have the size of the others.
    """

    def __init__(self) -> None:
        self.teacher: Teacher | None = None
        self.front: Front | None = None

    def enlarged(self, images: Tensor) -> Tensor:
        """Return low-resolution images uint8 [B, h, h, 3] as the network takes them."""
        pixels = to_tensor(images)
        return pixels if self.front is None else self.front.to(pixels.device)(pixels)

    def taught(self, images: Tensor) -> Tensor:
        """Return the teacher's embeddings [B, D] of images."""
        assert self.teacher is not None, "a run whose losses read it has one"
        return self.teacher.embed(images)


def front_digest(front: Front | None) -> str:
    """Return the SHA-256 of a front's weights; "" of none and of one that has none."""
    state = {} if front is None else front.net.state_dict()
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest() if state else ""


def open_front_of(config: Config) -> Front | None:
    """Return the front that the options ask for.

    Raises:
        FileNotFoundError, ValueError: one line with the flag.
    """
    if config.front is None:
        return None
    try:
        return open_front(config.front, config.low_size)
    except ValueError as error:
        raise ValueError(f"--front: {error}") from error


class PairedNetsOfRun(Callback):
    """Give a recognizer its teacher and its front, and keep them in its checkpoints.

    The teacher of a new run is the network as it was loaded, or that of --teacher; of a run that goes on the one in the
    checkpoint. Of the front a checkpoint has a digest: the file is read again.

    Args:
        config: options of the run.
    Raises:
        FileNotFoundError, ValueError: one line with the flag, if a file does not hold what it should.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._front = open_front_of(config)
        self._teacher: Teacher | None = None
        if config.teacher and not config.resume_from_checkpoint:
            self._teacher = Teacher.from_file(Path(config.teacher), config.color_space)
            size, own = self._teacher.backbone.embedding_size, config.embedding_size
            if size != own and config.teacher_weight + config.remember_weight:
                raise ValueError(
                    f"--teacher {config.teacher}: its embeddings have {size} dimensions, the network's {own}: only"
                    " --relation_weight compares these"
                )

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the teacher of the run."""
        if self._config.has_teacher:
            self._teacher = Teacher.from_dict(checkpoint[TEACHER])

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Hand both over; a network that has been loaded, and not trained yet, teaches as it is."""
        beside, backbone = module.beside, module.model
        assert isinstance(beside, PairedNets) and isinstance(backbone, nets.Backbone)
        if self._config.has_teacher and self._teacher is None:
            self._teacher = Teacher.frozen(self._config.arch, copy.deepcopy(backbone))
        beside.teacher, beside.front = self._teacher, self._front
        if self._teacher is not None:
            self._teacher.backbone.to(next(backbone.parameters()).dtype)
            size = sum(value.numel() * value.element_size() for value in self._teacher.backbone.state_dict().values())
            logger.info("teacher: %s, %.1f MB here and in every checkpoint", self._teacher.arch, size / 1e6)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the teacher, and the digest of the front."""
        if self._teacher is not None:
            checkpoint[TEACHER] = self._teacher.to_dict()
        if self._front is not None:
            checkpoint[FRONT] = front_digest(self._front)
