"""A run on one page: what it does now, its curves, its pace and its last words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from engine.status.state import ENDS, FINISHED, Status, clock_time, silence_of_death
from system.memory import gigabytes
from system.page.courses import Chart, Line, charts_of, course
from system.page.document import Script, document
from system.page.markup import Child, Markup, element, table

_SCRIPT = Path(__file__).parent / "page.js"
PACE = (
    Chart("Images per second", "images_per_second", ""),
    Chart("Share of training that waits for data", "waiting_share", ""),
    Chart("Memory in GB", "memory_gb", ""),
)


def build_page(status: Status, lines: Mapping[str, Line], pace: Mapping[str, Line]) -> str:
    """Return the page; it is loaded again every so often while the run lives.

    Args:
        status: as status.json holds it.
        lines: the metrics of metrics.csv by name.
        pace: the series of PACE since the run was started or resumed.
    """
    is_over = status["state"] in ENDS
    paces = [course(chart, {name: pace[name] for name in chart.names(pace)}) for chart in PACE]
    sections: dict[str, Child] = {
        "Now": [_headline(status), None if is_over else _signs_of_death(status), _facts(status)],
        "Training": _side_by_side(charts_of(lines)),
        "Pace": _side_by_side(paces),
        "Figures": _figures(status),
        "Incidents": _incidents(status),
        "Warnings": _texts(status["warnings"]),
        "Command and versions": _origin(status),
    }
    about = [f"last written at {clock_time(status['written_at'])}"]
    if is_over:
        return document(f"Run {status['run']}", about, sections)
    silence = silence_of_death(status["every_seconds"])
    script = Script(
        _SCRIPT.read_text(encoding="utf-8"), {"written": round(status["written_at"], 3), "silence": silence}
    )
    seconds = max(1, math.ceil(status["every_seconds"]))
    return document(f"Run {status['run']}", about, sections, script, refresh=seconds)


def headline(status: Status) -> str:
    """Return in one line what a run does, or how it ended."""
    if status["state"] in ENDS:
        words = f": {status['words']}" if status["words"] else ""
        return f"{status['state']} after {duration(status['running_seconds'])}, at step {status['step']:,}{words}"
    parts = [status["occupation"] or status["state"], f"step {status['step']:,}"]
    if status["total_steps"]:
        share = status["step"] / status["total_steps"]
        parts[1] += f" of {status['total_steps']:,} ({share:.1%})"
    if status["pairs"] is not None:
        parts.append(f"{status['pairs']:,} of {status['total_pairs']:,} pairs")
    if status["seconds_to_go"] is not None:
        parts.append(f"{duration(status['seconds_to_go'])} of training to go")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time in hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _side_by_side(charts: Sequence[Markup]) -> Markup | None:
    return element("div", charts, class_="figures") if any(charts) else None


def _headline(status: Status) -> list[Markup]:
    ended_well = status["state"] == FINISHED and not status["exit_code"]
    is_bad = status["state"] in ENDS and not ended_well
    told = [element("p", headline(status), class_="answer alarm" if is_bad else "answer")]
    if status["total_steps"]:
        told.append(
            element("progress", value=status["step"], max=status["total_steps"], aria_label="steps that are done")
        )
    return told


def _signs_of_death(status: Status) -> list[Markup]:
    process, minutes = status["process"], silence_of_death(status["every_seconds"]) / 60
    text = (
        f"Written by process {process['pid']} on {process['host']}, and anew every {status['every_seconds']:g} s while"
        f" it lives: a page older than {minutes:g} minutes is of a run that died. "
    )
    return [
        element("p", "This page is too old: its run has died.", class_="answer alarm", id="died", hidden=True),
        element("p", text, element("span", "", id="age", hidden=True), class_="note"),
    ]


def _facts(status: Status) -> Markup:
    best, waiting, is_over = status["best"], status["waiting_share"], status["state"] in ENDS
    sizes = {
        "memory of rank 0 and its workers": status["memory_bytes"],
        "GPU memory": status["gpu_memory_bytes"],
    }
    rows: list[tuple[str, object]] = [
        ("epoch, from 0", f"{status['epoch']} of {status['epochs']}"),
        ("running for", duration(status["running_seconds"])),
        ("images per second", None if is_over else f"{status['images_per_second']:.1f}"),
        ("of training spent waiting for data", None if waiting is None else f"{waiting:.1%}"),
        *((name, gigabytes(size)) for name, size in sizes.items() if size is not None),
        ("best so far", best and f"{best['metric']} {best['value']:.6g} at step {best['step']:g}"),
        ("skipped steps", f"{status['skipped_steps']:,}"),
        ("incidents", f"{status['incidents']['num']:,}"),
        ("no batch is finished", None if is_over else status["stalled"]),
        ("exit code", status["exit_code"]),
    ]
    shown = [[name, str(value)] for name, value in rows if value is not None]
    return table(["what", "now"], shown, "The run in figures.", class_="facts")


def _figures(status: Status) -> Markup | None:
    rows = [
        [name, *_at_step(found["value"], found["step"]), *_at_step(found["largest"], found["largest_step"])]
        for name, found in status["figures"].items()
    ]
    head = ["metric", "latest", "at step", "largest", "at step"]
    return table(head, rows, "What was logged of each metric.") if rows else None


def _at_step(value: float | str | None, step: float | None) -> list[str]:
    if value is None or step is None:
        return ["-", "-"]
    return [value if isinstance(value, str) else f"{value:.5g}", f"{step:,.0f}"]


def _incidents(status: Status) -> Markup | None:
    rows = [[f"{step:,}", cause] for step, cause in status["incidents"]["last"]]
    caption = f"The last of {status['incidents']['num']:,}; incidents.jsonl has their images."
    return table(["step", "cause"], rows, caption, class_="facts") if rows else None


def _texts(texts: list[str]) -> Markup | None:
    return element("ul", [element("li", text) for text in texts]) if texts else None


def _origin(status: Status) -> list[Markup]:
    command = status["command"]
    rows = [[name, value] for name, value in status["versions"].items()]
    told = [element("p", element("code", command))] if command else []
    return [*told, table(["package", "version"], rows, "Versions.", class_="facts")] if rows else told
