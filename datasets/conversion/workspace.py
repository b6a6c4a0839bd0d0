"""Where a result grows: a hidden folder beside its final name, that a killed conversion leaves and the next one uses.

Nothing half-written ever has the final name. Files of the result grow together in a `Journal`, which notes every few
seconds how far they are; the next run cuts them back to the last note and goes on from there. Results get their names
at the very end, by renaming, and a run that is killed even between two renamings is finished by the next one.
Parts of their own, skipped when they are there, would be simpler and be written twice: a record file may hold 100 GB.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from system.files import is_regular, make_room, set_aside, write_text

_PLAN, _PROGRESS, _LOCK = "plan.txt", "progress.json", "lock"


class BusyError(ValueError):
    """Another process is at work on the same result."""


class Workspace:
    """The hidden folder of one conversion, while its lock is held; see `open_workspace`.

    Attributes:
        folder: where the result grows.
        published: an earlier run had finished the result, and this one has only given it its names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published = self._rename()

    def publish(self, moves: Sequence[tuple[str, Path]]) -> None:
        """Give finished files or folders their final names; what had these names before is removed.

        Args:
            moves: (name in the folder, final path); the first is the result, the others belong to it.
        Raises:
            OSError: if a path cannot be written; the next run tries again.
        """
        listed = [[name, os.fspath(path.absolute())] for name, path in moves]
        write_text(self.folder / _PROGRESS, json.dumps({"moves": listed}))
        self._rename()

    def _rename(self) -> bool:
        """Do the moves that are noted and not done; return whether any are noted."""
        moves = [(self.folder / name, Path(path)) for name, path in _read_progress(self.folder).get("moves", [])]
        pending = [(source, path) for source, path in moves if source.exists()]
        # A reader takes an old .idx for the new .rec: what belongs to the old result goes first.
        for number, (_, path) in enumerate(pending):
            if path.is_dir():
                path.rename(self.folder / f"replaced-{number}")
            elif (self.folder / moves[0][0]).exists() and number:
                path.unlink(missing_ok=True)
        for source, path in pending:
            path.parent.mkdir(parents=True, exist_ok=True)
            source.replace(path)
        return bool(moves)


@contextmanager
def open_workspace(final: Path, plan: str) -> Iterator[Workspace]:
    """Give the workspace of a result, with what an interrupted conversion of the same plan left in it, else empty.

    It is removed when the block ends without an error; after one it stays for the next run if a checkpoint was reached.

    Args:
        final: path of the result; the workspace lies beside it.
        plan: whatever the content of the result depends on.
    Raises:
        BusyError: if another process is at work on the same result.
        OSError: if the folder cannot be written.
    """
    folder = folder_of(final)
    folder.mkdir(parents=True, exist_ok=True)
    # Another user's lock is a file that this process may not write, and stays.
    if os.path.lexists(folder / _LOCK) and not is_regular(folder / _LOCK):
        set_aside(folder / _LOCK, "is no file")
    with (folder / _LOCK).open("w", encoding="utf-8") as lock:
        try:
            _lock(lock)
        except (BlockingIOError, PermissionError) as error:
            raise BusyError(f"{final}: another conversion is writing it; wait until it ends") from error
        make_room(folder, (_PLAN, _PROGRESS))
        if _read(folder / _PLAN) != plan:
            _clear(folder)
            write_text(folder / _PLAN, plan)
        done = False
        try:
            yield Workspace(folder)
            done = True
        finally:
            # Without a note there is nothing to go on from.
            if done or not (folder / _PROGRESS).exists():
                # Windows removes no file that is open: the lock stays there.
                shutil.rmtree(folder, ignore_errors=not hasattr(os, "O_DIRECTORY"))


def folder_of(final: Path) -> Path:
    """Return the workspace of a result; it exists only while the result grows."""
    return final.parent / f".{final.name}.converting"


def plan_of(final: Path) -> str:
    """Return the plan of what was begun there, "" where nothing is."""
    try:
        return _read(folder_of(final) / _PLAN)
    except OSError:
        return ""  # it goes as we look


def _lock(stream: TextIO) -> None:
    """Lock a file until it is closed or the process dies.

    Raises:
        BlockingIOError, on Windows PermissionError: if another process has locked it.
    """
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        msvcrt = importlib.import_module("msvcrt")
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Journal:
    """Files that grow together in a workspace, from where the last checkpoint was.

    Args:
        workspace: whose files they are.
        names: of the files; all exist afterwards.
    Attributes:
        counts: whole numbers that describe how far the conversion is; all 0 at the beginning.
    """

    def __init__(self, workspace: Workspace, names: Sequence[str], counts: Sequence[str]) -> None:
        self._folder = workspace.folder
        noted = _read_progress(self._folder)
        sizes: dict[str, int] = noted.get("sizes", {})
        if any(_size(self._folder / name) < size for name, size in sizes.items()):
            noted, sizes = {}, {}  # a power cut took what was noted
        self.counts: dict[str, int] = {name: noted.get("counts", {}).get(name, 0) for name in counts}
        self.files: dict[str, BinaryIO] = {name: _open_at(self._folder / name, sizes.get(name, 0)) for name in names}

    def sync(self) -> None:
        """Leave the files on the disk as they are, without a note: a later run cuts off what came after the last."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())

    def checkpoint(self) -> None:
        """Note how far the files are; a later run goes on from here."""
        self.sync()
        sizes = {name: file.tell() for name, file in self.files.items()}
        write_text(self._folder / _PROGRESS, json.dumps({"sizes": sizes, "counts": self.counts}))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self.files.values():
            file.close()


def _read_progress(folder: Path) -> dict:
    text = _read(folder / _PROGRESS)
    return json.loads(text) if text else {}


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


def _open_at(file: Path, size: int) -> BinaryIO:
    """Open a file for writing after its first `size` bytes."""
    stream = file.open("r+b" if file.exists() else "w+b")
    stream.truncate(size)
    stream.seek(size)
    return stream
