"""Which benchmark sets lie in a folder, whatever their names and formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.benchmarks.benchmark import Benchmark, fault_of, load_benchmark, opener_of
from datasets.benchmarks.benchmark_folder import check_name, is_own_layout
from datasets.faces.folder_scan import holds_people

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
    found = _list(path, own)
    _check(path, found)
    return found


def holds_sets(path: Path) -> bool:
    """Return whether a path is a benchmark set of any format, or a folder that holds one."""
    return path.exists() and bool(_list(path, own=True))


def are_sets(path: Path) -> bool:
    """Return whether a path is a benchmark set of any format, or a folder of such that is no folder of people."""
    found = _list(path, own=True) if path.exists() else {}
    return path in found.values() or (bool(found) and not holds_people(path))


def _list(path: Path, own: bool) -> dict[str, Path]:
    def counts(candidate: Path) -> bool:
        return opener_of(candidate) is not None or (own and is_own_layout(candidate))

    if counts(path):
        return {_name(path.resolve()): path}
    found: dict[str, Path] = {}
    # Files sort before folders.
    for entry in sorted(path.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)) if path.is_dir() else []:
        if not entry.name.startswith(".") and counts(entry):
            found.setdefault(_name(entry), entry)
    return found


def open_sets(path: Path, names: Sequence[str] = ()) -> list[Benchmark]:
    """Open benchmark sets of any name and format.

    Args:
        path: a set, or a folder that holds sets.
        names: those wanted, in this order: names of sets in the folder, or paths of sets, absolute or in it; none: all
            that are there.
    Raises:
        ValueError: if one is not there, damaged, or nothing can be measured on it; two have one name; names it.
    """
    places: dict[str, Path] = {}
    inside = _list(path, own=True) if path.exists() else {}
    for given in names or ["."]:
        if given in inside:
            found = {given: inside[given]}
            _check(path, found)
        else:
            found = find_sets(path / given if (path / given).exists() else path, own=True)
            if not (path / given).exists():
                raise ValueError(f"{path}: no benchmark set {given}; there are {', '.join(found)}")
        if twice := sorted(places.keys() & found.keys()):
            raise ValueError(f"{path / given}: a second set of the name {twice[0]}; rename one of them")
        places |= found
    sets = [load_benchmark(place, name) for name, place in places.items()]
    for benchmark in sets:
        if (fault := fault_of(benchmark)) is not None:
            raise ValueError(f"{places[benchmark.name]}: {fault}")
    return sets


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
