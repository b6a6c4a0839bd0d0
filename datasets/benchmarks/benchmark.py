"""Benchmark sets: pairs of faces with the answer, found by name in any of the formats that users have them in."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.benchmarks.bcolz_folder import is_bcolz, open_bcolz
from datasets.benchmarks.benchmark_folder import Benchmark, check_name, is_own_layout, read_folder, save_benchmark
from datasets.benchmarks.bin_file import open_bin
from datasets.benchmarks.converted import Source, convert_once
from datasets.benchmarks.mlfw import is_mlfw, open_mlfw
from datasets.benchmarks.pair_folder import is_pair_folder, open_pair_folder

__all__ = ["BENCHMARKS", "Benchmark", "find_benchmarks", "load_benchmark", "save_benchmark"]

logger = logging.getLogger(__name__)

BENCHMARKS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")


class _Format(NamedTuple):
    """How a set lies in a folder, `<name><suffix>`, how it is recognized there, and how it is opened.

    `open` is None for our own layout, which needs no conversion.
    """

    suffix: str
    matches: Callable[[Path], bool]
    open: Callable[[Path], Source] | None


# The first that matches is taken; another format is one line here and its module.
_FORMATS = (
    _Format("", is_own_layout, None),
    _Format(".bin", lambda path: path.suffix == ".bin" and path.is_file(), open_bin),
    _Format("", is_bcolz, open_bcolz),
    _Format("", is_mlfw, open_mlfw),
    _Format("", is_pair_folder, open_pair_folder),
)


def load_benchmark(
    path_or_dir: str | os.PathLike[str], name: str, cache: Path | None = None, progress: bool = True
) -> Benchmark:
    """Open a benchmark set; its images are mapped, not read.

    A set in another format than ours is converted once, into the user's cache folder, and opened from there as long as
    its files stay as they are. Formats, in the order in which they are tried: our own folder with images.npy and
    issame.npy (identities.npy, folds.npy and source.txt are optional); InsightFace's `<name>.bin`; AdaFace's bcolz
    folder `<name>/` beside `<name>_list.npy`; MLFW's folder `aligned/` beside its pairs.txt; a folder of identities
    with pairs.txt (LFW's form, MFR2 too) or pairs.csv in it.

    Args:
        path_or_dir: the set itself, or the folder that holds it under its name.
        name: of the set.
        cache: folder for what is converted; None is the user's, see `cache_folder`.
        progress: whether to show a progress bar while converting.
    Raises:
        ValueError: if there is no such set, or a file is damaged or does not fit the others; one line that names it.
    """
    check_name(name)
    given = Path(path_or_dir)
    found = _find_inside(given, name) or next(((form, given) for form in _FORMATS if _matches(form, given)), None)
    if found is None:
        raise ValueError(
            f"load_benchmark: no benchmark {name!r} in {given}; expected {name}/images.npy (uint8 [2N, 112, 112, 3] "
            f"RGB) and {name}/issame.npy (bool [N]), or {name}.bin, or a bcolz folder {name}/ beside {name}_list.npy, "
            f"or a folder of identities {name}/ with pairs.txt or pairs.csv"
        )
    form, path = found
    return read_folder(path, name) if form.open is None else convert_once(form.open(path), name, cache, progress)


def find_benchmarks(
    root: str | os.PathLike[str], cache: Path | None = None, progress: bool = True
) -> tuple[dict[str, Benchmark], list[str]]:
    """Open those of the five usual sets that lie in a folder, in any format of `load_benchmark`.

    Returns:
        (the sets present by name, the names of those missing), both in the order of BENCHMARKS.
    Raises:
        ValueError: if a set is present but damaged, or nothing can be measured on it; names its file.
    """
    folder = Path(root)
    found = {name: place for name in BENCHMARKS if (place := _find_inside(folder, name))}
    present = {name: load_benchmark(folder, name, cache, progress) for name in found}
    for name, (_, path) in found.items():
        if (fault := fault_of(present[name])) is not None:
            raise ValueError(f"{path}: {fault}")
    missing = [name for name in BENCHMARKS if name not in present]
    _warn_of_look_alikes(folder, missing)
    return present, missing


def _warn_of_look_alikes(folder: Path, missing: list[str]) -> None:
    """Say what has the name of a missing set, or nearly so, and is none: who put it there thinks it is validated."""
    names = {name.replace("_", ""): name for name in missing}
    for entry in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ():
        stem = entry.lower().removesuffix(".bin")
        name = names.get(stem.replace("_", "").replace("-", ""))
        if name is not None:
            logger.warning(
                "%s: %s is not validated: a set is called %s, and docs/data.md lists its forms", folder, entry, name
            )


def fault_of(benchmark: Benchmark) -> str | None:
    """Return why no accuracy, or no interval of it, can be had from a set, None where it can."""
    genuine, impostor = int(benchmark.issame.sum()), int((~benchmark.issame).sum())
    if min(genuine, impostor) < 2:
        return f"{genuine} genuine and {impostor} impostor pairs; a threshold is cross-validated on two of each or more"
    people = benchmark.identities
    if people is not None:
        wrong = np.flatnonzero((people[::2] == people[1::2]) != benchmark.issame)
        if wrong.size:
            count, first = wrong.size, wrong[0]
            return f"identities and issame contradict each other in {count} pairs, first in pair {first}; correct one"
    if benchmark.folds is None:
        return None
    kinds = {fold: benchmark.issame[benchmark.folds == fold] for fold in np.unique(benchmark.folds).tolist()}
    if len(kinds) < 2:
        return "all pairs are in one fold; two are needed; correct or remove the folds"
    for fold, kind in kinds.items():
        if kind.all() or not kind.any():
            name = "genuine" if kind.all() else "impostor"
            return f"fold {fold} holds {len(kind)} {name} pairs alone, and needs both; correct or remove the folds"
    return None


def opener_of(path: Path) -> Callable[[Path], Source] | None:
    """Return what opens a benchmark set in the format of others; None if the path is no such set."""
    return next((form.open for form in _FORMATS if form.open is not None and form.matches(path)), None)


def _find_inside(folder: Path, name: str) -> tuple[_Format, Path] | None:
    candidates = ((form, folder / f"{name}{form.suffix}") for form in _FORMATS)
    return next(((form, path) for form, path in candidates if _matches(form, path)), None)


def _matches(form: _Format, path: Path) -> bool:
    try:
        return form.matches(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
