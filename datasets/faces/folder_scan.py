"""Which images lie in the identity folders of a root, and what lies there that is left out."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datasets.arrays.format import is_cache
from datasets.counted import counted
from datasets.faces.image_kinds import HEAD_BYTES, KNOWN_SUFFIXES, suffix_of, why_left_out

logger = logging.getLogger(__name__)

BENCHMARK_FILES = ("images.npy", "issame.npy")
PAIR_FILES = ("pairs.txt", "pairs.csv")
LAYOUT = "expected one folder of images per identity"
# Kinds of files that a message names, and entries that are looked at where no image is found.
_MAX_KINDS = 8
_MAX_LOOKED_AT = 10_000
_FOLLOW = "--follow_links; a benchmark set needs the images themselves"


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
        only: name of the one folder to look at; None: all.
    Attributes:
        images: sorted image names of every identity folder that has some, sorted by folder name.
        left_out: what else lies in these folders.
        unread: a line for each kind of thing below the root that is not read, those files included.
    Raises:
        ValueError: if the root is missing, not a folder, unreadable or holds no identity with an image.
    """

    def __init__(self, root: Path, follow_links: bool = False, only: str | None = None) -> None:
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise ValueError(f"ImageFolderDataset: {root} {problem}; {LAYOUT}")
        self.root = root
        self.follow_links = follow_links
        self.left_out = LeftOut()
        self._real_root = root.resolve()
        self._outside: list[str] = []
        self._inner: list[str] = []
        self._sets: set[str] = set()  # benchmark sets as folders of people with a list of pairs
        entries = self._entries(root) if only is None else []
        folders = self._identities(entries) if only is None else [only]
        found = {folder: self._images(root / folder) for folder in folders}
        self.images = {folder: names for folder, names in found.items() if names}
        # Lists, records and notes may lie beside the identities; images there are probably meant to be read.
        loose = sum(not entry.is_dir() and not _why_left_out(entry) for entry in entries)
        if not self.images and is_cache(root):
            raise ValueError(f"ImageFolderDataset: {root}: a cache of decoded images; --data_format arrays reads it")
        if not self.images:
            raise ValueError(f"ImageFolderDataset: {root}: {self._what_is_there(len(folders), loose)}; {LAYOUT}")
        empty = [folder for folder in folders if folder not in self.images and folder not in self._sets]
        self.unread = [*self._beside(loose, empty), *self._within()]
        for text in [*self.unread, *filter(None, [names_alike(self.images)])]:
            logger.warning("%s: %s", root, text)

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
        names: list[str] = []
        inner: list[str] = []
        left_out = LeftOut()
        for entry in self._entries(folder):
            if _is_folder(entry):
                inner.append(f"{folder.name}/{entry.name}")
            elif reason := _why_left_out(entry):
                left_out[_suffix(entry.name), reason] += 1
            else:
                names.append(entry.name)
        if inner and not names and any((folder / name).is_file() for name in PAIR_FILES):
            self._sets.add(folder.name)  # with people of its own
            return []
        self._inner += inner
        self.left_out += left_out
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

    def _beside(self, loose: int, empty: list[str]) -> list[str]:
        """Return a line for images outside the identity folders, and one for folders without any."""
        lines = [f"{counted(loose, 'image')} outside the identity folders not read"] if loose else []
        if empty:
            lines.append(f"{counted(len(empty), 'folder')} without an image ignored, the first is {empty[0]}")
        return lines

    def _within(self) -> list[str]:
        """Return a line for each kind of thing in the identity folders that is not read."""
        details = [str(self.left_out)] if self.left_out else []
        if self._outside:
            links = counted(len(self._outside), "link")
            details.append(f"{links} not followed, out of the root, the first is {self._outside[0]} ({_FOLLOW})")
        if self._inner:
            folders = counted(len(self._inner), "folder")
            details.append(f"{folders} within identity folders not searched, the first is {self._inner[0]}")
        return details

    def _what_is_there(self, num_folders: int, loose: int) -> str:
        if loose:
            return f"images lie directly in it ({loose}): is it one identity's folder? Then give the folder above"
        parts = [f"no image in any of its {counted(num_folders, 'folder')}"]
        deep = self._first_deep_image() if self._inner or self._sets else None
        if deep is None:
            return "; ".join([*parts, *self._within()])
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


def is_flat(folder: Path) -> bool:
    """Return whether images lie directly in a folder, and no folder does: nobody says who is on them."""
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError:
        return False  # whoever reads it says why
    return not any(map(_is_folder, entries)) and not all(map(_why_left_out, entries))


def holds_people(folder: Path) -> bool:
    """Return whether a folder is one of identity folders: at least two that hold images."""
    try:
        return len(FolderScan(folder).images) > 1
    except ValueError:
        return False


def names_alike(names: Iterable[str]) -> str:
    """Return which names people take for one, in words: but for case, and for how accents are encoded, they are equal.

    Where a file system or a program of another system has written one of them, they may be one person. Empty if there
    are none.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFKC", name.casefold()), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return ""
    # On a screen two encodings of one accent are the same.
    look_different = len({unicodedata.normalize("NFC", name) for name in alike[0]}) == len(alike[0])
    listed = ", ".join(map(repr if look_different else ascii, alike[0][:_MAX_KINDS]))
    others = f", and {counted(len(alike) - 1, 'other group')} of names" if alike[1:] else ""
    return f"the identities {listed}{others} differ by case or the encoding of accents only: are they one person?"


def refuse_output_within(root: Path, output: Path, name: str) -> None:
    """Raise a ValueError if an output, which `name` names, lies in a folder of identities.

    Pictures of a report would be a person's images when the folder is read again.
    """
    if output.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{name} {output} lies in the data folder {root}, where it counts as a person; give another")


def is_benchmark(folder: Path) -> bool:
    """Return whether a folder holds a benchmark set in our own layout."""
    # Not Path.is_file: a folder that may not be entered holds none, and listing it says so better.
    return all(os.path.isfile(folder / name) for name in BENCHMARK_FILES)  # noqa: PTH113


def is_image(path: Path) -> bool:
    """Return whether a path leads to a file that begins as an image does, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(suffix_of(file.read(HEAD_BYTES)))


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
