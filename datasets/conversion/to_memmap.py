"""Benchmark sets of others -> our own layout, a folder a set; see `datasets.benchmarks.benchmark_folder`."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from datasets.benchmarks.benchmark import opener_of
from datasets.benchmarks.benchmark_folder import check_name, is_own_layout, read_folder, write_folder
from datasets.benchmarks.sets import find_sets
from datasets.conversion.outcome import Job, Outcome, named_by_earlier_run
from datasets.conversion.workspace import open_workspace
from datasets.counted import counted
from datasets.parallel import ordered_results
from datasets.progress import tracked

_RESULT = "result"


def sets_to_memmap(job: Job, name: str | None = None) -> list[Outcome]:
    """Write a benchmark set, or every set in a folder, to `<job.output>/<name>/`.

    A set is a `.bin` file, a bcolz folder beside its `<name>_list.npy`, or a folder of identities with pairs.txt or
    pairs.csv. Each is complete or not there. An interrupted one begins again; those that are complete, as the checksum
    of their source says, are kept. `job.jobs` processes share the sets.

    Args:
        job: what to convert.
        name: of a single set; None is that of its file or folder.
    Raises:
        ValueError: if there is no set, names differ by case only, a set is damaged, an image cannot be read, which is
            named, or another set has the name.
        OSError: if the output cannot be written.
    """
    if name is not None and opener_of(job.source) is not None:
        check_name(name)
        sets = {name: job.source}
    else:
        sets = find_sets(job.source)
        if name is not None:
            raise ValueError(f"{job.source}: a name can be given to a single set only; this folder holds {len(sets)}")
    single = len(sets) == 1
    convert = partial(_convert, output=job.output, overwrite=job.overwrite, progress=single)
    with ordered_results(convert, list(sets.items()), min(job.jobs, len(sets))) as outcomes:
        return list(tracked(outcomes, "Converting sets", len(sets), hidden=single))


def _convert(item: tuple[str, Path], output: Path, overwrite: bool, progress: bool) -> Outcome:
    name, path = item
    opener, target = opener_of(path), output / name
    assert opener is not None, path
    source = opener(path)
    checksum = source.checksum()
    if target.exists() and _is_kept(target, name, checksum, overwrite):
        return Outcome(f"{target}: complete already, from the same source")
    with open_workspace(target, checksum) as workspace:
        if workspace.published:
            return named_by_earlier_run(target)
        # What an interrupted run left of it cannot be continued.
        shutil.rmtree(workspace.folder / _RESULT, ignore_errors=True)
        stream = source.read()
        images = tracked(stream.images, f"Converting {name}", stream.num_images, hidden=not progress)
        write_folder(stream._replace(images=images), workspace.folder / _RESULT, checksum)
        workspace.publish([(_RESULT, target)])
    return Outcome(f"{target}: {counted(len(stream.issame), 'pair')}")


def _is_kept(target: Path, name: str, checksum: str, overwrite: bool) -> bool:
    """Return whether a set that is there stays; refuse where it may neither stay nor go."""
    if not is_own_layout(target):
        raise ValueError(f"{target} exists and is no benchmark set; give another output")
    if overwrite:
        return False
    if read_folder(target, name).source != checksum:
        raise ValueError(f"{target} exists and is of another source; give --overwrite to replace it, or another output")
    return True
