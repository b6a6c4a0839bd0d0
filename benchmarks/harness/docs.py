"""The tables of docs/benchmarks.md, rewritten from the JSON files of the benchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.tables import Column, to_markdown


def update_docs(page: Path, results: Path) -> list[str]:
    """Rewrite every table that `results` has figures for, between `<!-- name -->` and `<!-- /name -->`.

    Tables without a JSON stay as they are.

    Returns:
        The names of the tables written.
    Raises:
        ValueError: if the page has no place, or several, for a table.
    """
    text = page.read_text(encoding="utf-8")
    written = []
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for table in result["tables"]:
            text = replace_block(text, table["name"], _block(table, result), page)
            written.append(table["name"])
    page.write_text(text, encoding="utf-8")
    return written


def _block(table: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    columns = [Column(**column) for column in table["columns"]]
    machine, scale = result["machine"], result["options"]["scale"]
    conditions = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}, "
        f"{machine['system']}; medians of {table['runs']} runs."
    )
    if scale != 1:
        conditions += f" Sizes times {scale}: a test of the program, not a measurement."
    return f"{to_markdown(columns, table['rows'])}\n\n{conditions}"


def replace_block(text: str, name: str, block: str, page: Path) -> str:
    """Return the page's text with the block between its two marks replaced.

    Raises:
        ValueError: if the page has no place, or several, for it.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    text, count = pattern.subn(lambda _: f"{start}\n{block}\n{end}", text)
    if count != 1:
        raise ValueError(f"{page}: expected one place between {start} and {end}, got {count}; add the two lines")
    return text
