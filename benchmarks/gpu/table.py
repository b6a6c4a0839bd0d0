"""One table of all that the parts have written, in Markdown; needs nothing but Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "gpu_part_{}.json"
OUTCOMES = ("passed", "failed", "not run")
MOST = 200  # characters of a reason

Row = dict[str, Any]


def of_all(folder: Path) -> str:
    """Return the checks of all parts whose JSON lies in a folder, those that failed first, and how many there are."""
    paths = sorted(folder.glob(NAME.format("*")))
    if not paths:
        return f"{folder}: no part has been run"
    lines = ["| part | check | outcome | s | |", "| --- | --- | --- | ---: | --- |"]
    facts, counts = list[str](), Counter[str]()
    for path in paths:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            rows = [(row, _line(path.stem.rpartition("_")[2], row)) for row in read["checks"]]
            facts.append(f"{path}: {_facts(read['facts'])}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            facts.append(f"{path}: cannot be read ({type(error).__name__}: {error})")
            continue
        rows.sort(key=lambda pair: (OUTCOMES.index(pair[0]["outcome"]) != 1, pair[0]["check"]))
        lines += [line for _, line in rows]
        counts.update(row["outcome"] for row, _ in rows)
    total = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)
    return "\n".join([*lines, "", *facts, total])


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
