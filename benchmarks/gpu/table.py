"""One table of all that the parts have written, in Markdown; needs nothing but Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "gpu_part_{}.json"
OUTCOMES = (PASSED, FAILED, NOT_RUN) = ("passed", "failed", "not run")
MOST = 200  # characters of a reason

Row = dict[str, Any]


def of_all(folder: Path) -> str:
    """Return the checks of all parts whose JSON lies in a folder, those that failed first, and how many there are."""
    paths = sorted(folder.glob(NAME.format("*")))
    if not paths:
        return f"{folder}: no part has been run"
    said, lines = list[str](), list[tuple[bool, str]]()
    counts = Counter[str]()
    for path in paths:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            rows = sorted(read["checks"], key=lambda row: str(row["check"]))
            lines += [(row["outcome"] != FAILED, _line(path.stem.rpartition("_")[2], row)) for row in rows]
            said.append(f"{path}: {_facts(read['facts'])}")
            counts.update(row["outcome"] for row in rows)
        except (OSError, ValueError, LookupError, TypeError) as error:
            said.append(f"{path}: cannot be read ({type(error).__name__}: {error})")
    head = ["| part | check | outcome | s | |", "| --- | --- | --- | ---: | --- |"]
    table = [line for _, line in sorted(lines, key=lambda pair: pair[0])]  # else in the order of parts and names
    return "\n".join([*head, *table, "", *said, ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)])


def _line(part: str, row: Row) -> str:
    said = row.get("reason") or "; ".join(_figures(row.get("figures", {})))
    cells = (part, row["check"], row["outcome"], f"{row['seconds']:.1f}", str(said)[:MOST])
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"


def _figures(figures: Row) -> Iterator[str]:
    """Yield what was measured; of single runs the median is there already."""
    for name, value in figures.items():
        if not isinstance(value, list):
            yield f"{name} {short(value)}"


def short(value: object) -> str:
    """Return a figure as text, of a float three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _facts(facts: Row) -> str:
    shown = ("gpu", "capability", "cpu", "cores", "torch", "triton", "cuda", "driver", "revision", "device")
    return ", ".join(f"{name} {facts[name]}" for name in shown if facts.get(name) is not None)
