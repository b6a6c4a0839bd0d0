"""Which benchmark sets lie in a folder, whatever their names and formats."""

from __future__ import annotations

from pathlib import Path

from datasets.benchmarks.benchmark import opener_of
from datasets.benchmarks.benchmark_folder import check_name, is_own_layout

_EXPECTED = (
    "no benchmark set; expected <name>.bin, a bcolz folder <name>/ beside <name>_list.npy, a folder of identities with "
    "pairs.txt or pairs.csv, or a folder that holds some of these"
)


def find_sets(path: Path, own: bool = False) -> dict[str, Path]:
    """Return the sets in a folder by name, or the one that the path itself is.

    Where a name has several forms, a `.bin` file is taken before a folder.

    Args:
        path: a set, or a folder that holds sets.
        own: whether sets in our own layout count.
    Raises:
        ValueError: if the path does not exist, there is no set in it, or a name is no
            plain file name or differs from another by case only.
        OSError: if the folder cannot be listed.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")

    def counts(candidate: Path) -> bool:
        return opener_of(candidate) is not None or (own and is_own_layout(candidate))

    if counts(path):
        found = {_name(path.resolve()): path}
    else:
        # Files sort before folders.
        entries = sorted(path.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)) if path.is_dir() else []
        found = {}
        for entry in entries:
            if not entry.name.startswith(".") and counts(entry):
                found.setdefault(_name(entry), entry)
    _check(path, found)
    return found


def _name(path: Path) -> str:
    return path.stem if path.suffix == ".bin" and path.is_file() else path.name


def _check(path: Path, found: dict[str, Path]) -> None:
    if not found:
        raise ValueError(f"{path}: {_EXPECTED}")
    seen: dict[str, str] = {}
    for name in found:
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"{found[name]}: {error}; rename it, or convert it with --to memmap --set-name") from error
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(f"{path}: the sets {other!r} and {name!r} differ by case only; take them one by one")
