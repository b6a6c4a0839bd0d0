"""Run folders: a new one for each run, and what is needed to repeat it."""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import metadata
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

from engine.devices import describe_machine
from engine.files import RunLogHandler, WriteFailures
from options.engine import EngineOptions
from system import ROOT, terminal
from system.files import atomic_write, is_regular, naming, set_aside
from system.terminal import LineFormatter, printable, shell_command

logger = logging.getLogger(__name__)

# Warnings of Lightning about things that are so on purpose.
QUIET_WARNINGS = (
    "Checkpoint directory .* exists and is not empty",  # the run folder holds config.json before the first checkpoint
    ".*LeafSpec.* is deprecated",
    ".*does not have many workers.*",
    ".*in eval mode at the start of training.*",  # --check_mode and --freeze
    ".*your dataloader is not resumable.*",  # the data module keeps its place
    ".*smaller than the logging interval.*",  # the last step of an epoch is logged too
    ".*sync_dist=True.*",  # every rank computes the same accuracies from all scores
)
LOCK_FILE, LOG_FILE = "run.lock", "run.log"
SIDE_FILES = (
    *("config.json", "command.txt", "environment.json", LOG_FILE),
    *("metrics.csv", "incidents.jsonl", "unreadable.txt", "heartbeat.json", "wandb_id.txt"),
    *("status.html", "status.json"),
)
SIDE_FOLDERS = ("report", "tensorboard", "wandb", "wandb_upload")
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
LOG_TIME = "%H:%M:%S"
RECORDED_PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "opencv-python-headless", "scikit-learn")


def create_run_folder(root: Path, prefix: str) -> Path:
    """Create and return `root/{prefix}_{MM}-{DD}_{counter}` with a counter above all others of this prefix.

    The counter alone says which run is the newest, whatever the clock said. `mkdir` is the lock: two runs started in
    the same second get two folders.

    Raises:
        OSError: if the folder cannot be created.
    """
    root.mkdir(parents=True, exist_ok=True)
    stem = f"{prefix}_{datetime.now():%m-%d}"
    counter = max((number for number, _ in _numbered(root, prefix)), default=-1) + 1
    while True:
        folder = root / f"{stem}_{counter}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            counter += 1


def lock_folder(folder: Path) -> TextIO:
    """Keep other processes out of a folder until this one ends, however it ends, or closes the file that is returned.

    The lock is one of `fcntl`: it belongs to the process alone, so workers and further ranks do not hold it on, and NFS
    passes it to other machines. Where system or file system has none, a warning says so.

    Raises:
        ValueError: if another process has the folder; it says which.
    """
    path = folder / LOCK_FILE
    if os.path.lexists(path) and not is_regular(path):
        set_aside(path, "is no file")
    stream = path.open("a+", encoding="utf-8", errors="replace")
    try:
        import fcntl  # Windows has none

        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EAGAIN):
            stream.seek(0)
            holder = printable(stream.read(200).strip()) or "another process"
            stream.close()
            raise ValueError(
                f"{folder} is in use by {holder}; wait until that ends, or end it: two must not write one folder"
            ) from error
        logger.warning(
            "%s: this file system has no locks (%s); start no second process that writes here", folder, error
        )
        return stream
    holder = f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
    with suppress(OSError):  # a full disk: the lock holds without its text
        stream.truncate(0)
        os.write(stream.fileno(), holder.encode())
    return stream


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Remove the folders that the block made where bad input ends it before there is more in them than log and lock."""
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        yield
    except (ValueError, OSError):
        with suppress(OSError, ValueError):  # what cannot go stays
            if made and {path.name for path in folder.iterdir()} <= {LOCK_FILE, LOG_FILE}:
                with lock_folder(folder):  # another process may have begun here meanwhile
                    for path in folder.iterdir():
                        path.unlink()
                    for path in made:
                        path.rmdir()
        raise


def run_folders(root: Path, prefix: str) -> list[Path]:
    """Return the folders of the runs with this prefix, the newest first."""
    return [folder for _, folder in sorted(_numbered(root, prefix), reverse=True)]


def only_evaluated(folder: Path) -> bool:
    """Return whether a run folder belongs to a run that trained nothing."""
    path = folder / "config.json"
    try:
        options = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        options = None
    # A run that was killed before it wrote its options may have trained.
    return isinstance(options, dict) and options.get("evaluate") is True


def _numbered(root: Path, prefix: str) -> list[tuple[int, Path]]:
    """Return (counter, run folder) of the runs with this prefix."""
    pattern = re.compile(rf"{re.escape(prefix)}_\d\d-\d\d_(\d+)")
    found = ((pattern.fullmatch(folder.name), folder) for folder in root.glob(f"{glob.escape(prefix)}_*"))
    return [(int(match[1]), folder) for match, folder in found if match and folder.is_dir()]


def write_record(folder: Path, config: EngineOptions, argv: list[str]) -> None:
    """Write config.json, the exact command, the versions and the git revision into the run folder.

    A resumed run adds its command to `command.txt` and keeps the versions of both in `environment.json`.
    """
    write_json(folder / "config.json", config.to_dict())
    with naming(folder), (folder / "command.txt").open("a", encoding="utf-8") as stream:
        stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {shell_command([sys.executable, *argv])}\n")
    path = folder / "environment.json"
    changed = {"override": list(config.override)} if config.override else {}
    write_json(path, [*_read_history(path), _environment() | changed])


def _read_history(path: Path) -> list[object]:
    if not path.exists():
        return []
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(history, allow_nan=False)
    except (ValueError, RecursionError):
        history = None
    if not isinstance(history, list):
        set_aside(path, "is no list in JSON")
        return []
    return history


def command_to_go_on(checkpoint: Path, program: str = "") -> str:
    """Return the words for a shell, in the folder where this process was started, that go on from a checkpoint.

    Args:
        checkpoint: the file.
        program: of main.py; "": the one that starts without a name.
    """
    door = [os.path.relpath(ROOT / "main.py"), *filter(None, [program])]
    return shell_command([sys.executable, *door, "--resume_from_checkpoint", str(checkpoint)])


def write_json(path: Path, value: object) -> None:
    """Write JSON as a whole, or nothing."""
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=2, allow_nan=False)


class _TerminalHandler(logging.StreamHandler):
    """Write to what `sys.stderr` is now: a progress bar puts itself there, and lines above it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep news of the terminal itself from it; of its losses it tells what is wrong."""
        return record.name != terminal.__name__ or record.levelno > logging.INFO

    @property
    def stream(self) -> TextIO:
        """Return where lines go; the bar is on another terminal if stderr is none."""
        return sys.stderr if sys.stderr.isatty() else getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass


def start_log(is_main_process: bool = True) -> MemoryHandler:
    """Send log lines to the terminal, and keep them until `log_into` names the run folder.

    Ranks other than the first show warnings only.
    """
    kept = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
    shown = _TerminalHandler()
    shown.setFormatter(LineFormatter(LOG_FORMAT, LOG_TIME))
    logging.basicConfig(level=logging.INFO if is_main_process else logging.WARNING, handlers=[shown, kept], force=True)
    for name in ("pytorch_lightning", "lightning_fabric"):
        library = logging.getLogger(name)
        library.setLevel(logging.WARNING)  # its news are settings of ours and advertisements
        library.handlers, library.propagate = [], True  # what it warns of belongs in run.log too
    logging.captureWarnings(True)
    for message in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message)
    return kept


def log_into(folder: Path, kept: MemoryHandler, failures: WriteFailures | None = None) -> None:
    """Write the log lines kept so far, and all that follow, into `run.log` of the run folder.

    `failures` is told when it cannot be written.
    """
    file = RunLogHandler(folder / LOG_FILE, failures or WriteFailures())
    file.setFormatter(LineFormatter(LOG_FORMAT, LOG_TIME))
    kept.setTarget(file)
    kept.close()
    logging.getLogger().removeHandler(kept)
    logging.getLogger().addHandler(file)


def versions() -> dict[str, object]:
    """Return the versions that figures depend on: Python, packages, and the git revision of this program."""
    return {"python": platform.python_version(), **_package_versions(), **_git_state()}


def _package_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in RECORDED_PACKAGES}


def _environment() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "packages": _package_versions(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        **describe_machine(),
        **_git_state(),
    }


def _git_state() -> dict[str, object]:
    """Return revision and whether the tree was changed; nulls outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", ROOT, *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"git_revision": git("rev-parse", "HEAD"), "git_dirty": None if status is None else bool(status)}
