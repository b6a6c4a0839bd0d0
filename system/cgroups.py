"""What the control groups of this process, of version 1 and 2, say of a resource. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def group_values(controller: str, first: Sequence[str], second: str) -> Iterator[list[str]]:
    """Yield the words of the files of each group that this process is in, from its own to the root of what is mounted.

    Each of these groups limits the process. One that has no such file is passed over.

    Args:
        controller: such as "cpu" or "memory".
        first: names of a group's files in version 1, whose words come together.
        second: name of the file in version 2.
    """
    for line in _lines(_PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        roots = [_CGROUPS / controllers, _CGROUPS / controller] if controllers else [_CGROUPS, _CGROUPS / "unified"]
        names = first if controllers else [second]
        # In a container the path may be the host's, which is not there; the root of what is mounted is.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            for root in roots:
                files = [_lines(root / str(group).lstrip("/") / name) for name in names]
                if all(files):
                    yield " ".join(line for lines in files for line in lines).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []  # no such limit here
