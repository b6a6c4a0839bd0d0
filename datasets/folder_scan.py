"""Which images lie in the identity folders of a root, and what lies there that is left out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

from datasets.counted import counted
from datasets.image_kinds import HEAD_BYTES, KNOWN_SUFFIXES, why_left_out

logger = logging.getLogger(__name__)

BENCHMARK_FILES = ("images.npy", "issame.npy")
LAYOUT = "expected one folder of images per identity"
# Kinds of files that a message names, and entries that are looked at where no image is found.
_MAX_KINDS = 8
_MAX_LOOKED_AT = 10_000


class LeftOut(Counter[tuple[str, str]]):
    """How many files are left out, by (suffix, reason)."""

    def __str__(self) -> str:
        kinds = sorted(self.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{number} {suffix or 'without suffix'} ({reason})" for (suffix, reason), number in kinds[:_MAX_KINDS]]
        if kinds[_MAX_KINDS:]:
            named.append(f"{sum(number for _, number in kinds[_MAX_KINDS:])} of other kinds")
        return f"{counted(self.total(), 'file')} left out: {', '.join(named)}"


class FolderScan:
    """The images of every identity folder: `<root>/<identity>/<image>`.

    A file with the suffix of an image is taken by its name, any other by its first bytes. Hidden entries, benchmark
    folders and, unless asked for, symbolic links that lead out of the root are not looked at.

    Args:
        root: folder of identity folders.
        follow_links: whether links may lead out of the root. A folder that two links lead to is taken once.
    Attributes:
        images: sorted image names of every identity folder that has some, sorted by folder name.
        left_out: what else lies in these folders.
    Raises:
        ValueError: if the root is missing, not a folder, unreadable or holds no identity with an image.
    """

    def __init__(self, root: Path, follow_links: bool = False) -> None:
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise ValueError(f"ImageFolderDataset: {root} {problem}; {LAYOUT}")
        self.root = root
        self.follow_links = follow_links
        self.left_out = LeftOut()
        self._real_root = root.resolve()
        self._outside: list[str] = []
        self._inner: list[str] = []
        entries = self._entries(root)
        folders = self._identities(entries)
        found = {folder: self._images(root / folder) for folder in folders}
        self.images = {folder: names for folder, names in found.items() if names}
        # Lists, records and notes may lie beside the identities; images there are probably meant to be read.
        loose = sum(not entry.is_dir() and not _why_left_out(entry) for entry in entries)
        empty = [folder for folder in folders if folder not in self.images]
        if not self.images:
            raise ValueError(f"ImageFolderDataset: {root}: {self._what_is_there(len(folders), loose)}; {LAYOUT}")
        self._warn(loose, empty)

    def _identities(self, entries: list[os.DirEntry[str]]) -> list[str]:
        folders = sorted((e for e in entries if e.is_dir() and not is_benchmark(Path(e))), key=lambda entry: entry.name)
        if not self.follow_links:
            return [folder.name for folder in folders]
        # Two names for one folder would be two identities of one person; the folder itself comes before links to it.
        owners: dict[Path, str] = {}
        for folder in sorted(folders, key=os.DirEntry.is_symlink):
            owner = owners.setdefault(Path(folder).resolve(), folder.name)
            if owner != folder.name:
                logger.warning("%s: %s and %s are one folder, taken once", self.root, owner, folder.name)
        return sorted(owners.values())

    def _images(self, folder: Path) -> list[str]:
        names = []
        for entry in self._entries(folder):
            if _is_folder(entry):
                self._inner.append(f"{folder.name}/{entry.name}")
                continue
            reason = _why_left_out(entry)
            if reason:
                self.left_out[_suffix(entry.name), reason] += 1
            else:
                names.append(entry.name)
        return sorted(names)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return what a folder shows: nothing hidden, and only links that may be followed."""
        try:
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
        except OSError as error:
            raise ValueError(
                f"ImageFolderDataset: cannot list {folder} ({error.strerror}); check its permissions"
            ) from error
        return [entry for entry in entries if not entry.is_symlink() or self._may_follow(entry)]

    def _may_follow(self, link: os.DirEntry[str]) -> bool:
        try:
            inside = self.follow_links or Path(link).resolve(strict=True).is_relative_to(self._real_root)
            Path(link).stat()
        except (OSError, RuntimeError):
            self.left_out[_suffix(link.name), "a broken link"] += 1
            return False
        if not inside:
            self._outside.append(link.name)
        return inside

    def _warn(self, loose: int, empty: list[str]) -> None:
        if loose:
            logger.warning("%s: %d images lie outside the identity folders and are ignored", self.root, loose)
        if empty:
            logger.warning(
                "%s: %d folders without an image are ignored, the first is %s", self.root, len(empty), empty[0]
            )
        for text in self._details():
            logger.warning("%s: %s", self.root, text)

    def _details(self) -> list[str]:
        """Return a line for each kind of thing that is not read."""
        details = [str(self.left_out)] if self.left_out else []
        if self._outside:
            links = counted(len(self._outside), "link")
            details.append(f"{links} not followed, out of the root, the first is {self._outside[0]} (--follow_links)")
        if self._inner:
            folders = counted(len(self._inner), "folder")
            details.append(f"{folders} within identity folders not searched, the first is {self._inner[0]}")
        return details

    def _what_is_there(self, num_folders: int, loose: int) -> str:
        if loose:
            return f"images lie directly in it ({loose}): is it one identity's folder? Then give the folder above"
        parts = [f"no image in any of its {num_folders} folders"]
        deep = self._first_deep_image() if self._inner else None
        if deep is None:
            return "; ".join([*parts, *self._details()])
        level = deep.parent.parent
        parts.append(
            f"images lie deeper, the first is {deep.relative_to(self.root)}, so that the folders in "
            f"{level.relative_to(self.root)} look like the identities: give {level}"
        )
        if num_folders > 1:
            parts.append(f"or put the identities of its {num_folders} folders into one folder (links: --follow_links)")
        return ", ".join(parts)

    def _first_deep_image(self) -> Path | None:
        """Return the first image below the level of the identities' images, if it is soon found."""
        looked_at = 0
        for folder, inner, files in os.walk(self.root):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(files):
                looked_at += 1
                if looked_at > _MAX_LOOKED_AT:
                    return None
                if not name.startswith(".") and not _why_file_left_out(os.path.join(folder, name)):  # noqa: PTH118
                    return Path(folder, name)
        return None


def is_benchmark(folder: Path) -> bool:
    """Return whether a folder holds a benchmark set in our own layout."""
    return all((folder / name).is_file() for name in BENCHMARK_FILES)


def _why_left_out(entry: os.DirEntry[str]) -> str:
    try:
        if not entry.is_file():
            return "no regular file"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    return _why_file_left_out(entry.path)


def _why_file_left_out(path: str) -> str:
    if os.path.splitext(path)[1].lower() in KNOWN_SUFFIXES:  # noqa: PTH122
        return ""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # many of them
            return why_left_out(file.read(HEAD_BYTES))
    except OSError as error:
        return f"cannot be opened: {error.strerror}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _suffix(name: str) -> str:
    """Return the suffix in lower case, short and printable."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return "".join(character if character.isprintable() else "?" for character in suffix[:16])
