"""TensorBoard: the values of metrics.csv as event files in the run folder, beside it and never in its place."""

from __future__ import annotations

import logging
import platform
import struct
import time
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from engine.files import WriteFailures, outlived

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Refuse `--tensorboard` where its package is missing.

    Raises:
        ValueError: one line that names the package.
    """
    if find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs the package tensorboardX: pip install tensorboardX")


class TensorBoardLogger(Logger):
    """Write event files into `tensorboard/` of the run folder: the same values at the same steps as metrics.csv.

    Events are written by the caller, not by a thread with a queue: once a full disk has ended that, the queue blocks.
    Those that cannot be written wait until they can, and go into another file: one may end inside an event.

    Args:
        folder: the run folder.
        failures: told when the events cannot be written; None: that is an error.
    """

    def __init__(self, folder: Path, failures: WriteFailures | None = None) -> None:
        super().__init__()
        self._folder = Path(folder) / FOLDER
        self._failures = failures
        self._path: Path | None = None
        self._waiting: list[bytes] = []

    @property
    def name(self) -> str:
        """Return the name Lightning shows for this logger."""
        return FOLDER

    @property
    def version(self) -> str:
        """Return an empty version: the run folder is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """Return the run folder."""
        return str(self._folder.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds config.json."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics of a step.

        Raises:
            ValueError: if no step is given.
        """
        if step is None:
            raise ValueError("TensorBoardLogger.log_metrics: step is None; pass the optimizer step")
        values = [{"tag": name, "simple_value": float(value)} for name, value in metrics.items()]
        self._waiting.append(_event(step=step, summary={"value": values}))
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write what could not be written before."""
        if self._waiting:
            with outlived(self._failures, FOLDER):
                self._write(self._waiting)
                self._waiting = []

    def _write(self, events: list[bytes]) -> None:
        path, self._path = self._path, None  # unless all goes well
        if path is None:
            path = _new_file(self._folder)
        _append(path, b"".join(events))
        self._path = path

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is still waiting when training ends, well or badly."""
        self.save()


def restart_tensorboard(run_folder: Path, last_step: int) -> None:
    """Tell TensorBoard to forget the values after `last_step`, which a resumed run will write again.

    Raises:
        OSError: if that cannot be written.
    """
    folder = Path(run_folder) / FOLDER
    if not folder.is_dir():
        return
    if find_spec("tensorboardX") is None:
        logger.warning("%s keeps values after step %d: tensorboardX is not installed", folder, last_step)
        return
    _append(_new_file(folder), _event(step=last_step + 1, session_log={"status": 1}))  # START: later values are void


def _new_file(folder: Path) -> Path:
    """Create and return an event file; TensorBoard reads those of a folder in the order of their names."""
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("events.out.tfevents.*")))  # nobody takes one away; a second may see two
    path = folder / f"events.out.tfevents.{int(time.time()):010d}.{number:06d}.{platform.node() or 'host'}"
    path.touch(exist_ok=False)
    try:
        _append(path, _event(file_version="brain.Event:2"))
    except OSError:
        path.unlink()
        raise
    return path


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def _event(**fields: Any) -> bytes:
    """Return an event as it stands in a file: its length, the bytes, and a checksum of either."""
    from tensorboardX.crc32c import crc32c  # for those who want it
    from tensorboardX.proto.event_pb2 import Event

    def checksum(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)  # masked, as TFRecord has it

    data = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)
