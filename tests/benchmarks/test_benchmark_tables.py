"""Tables as text, as Markdown, and between the markers of the documentation."""

import json

import pytest
from programs import ROOT

from benchmarks import (
    data,
    evaluation,
    gallery,
    head,
    qaconv,
    report_page,
    sampler,
    step,
    synthetic,
    threads,
    validation,
)
from benchmarks import help as help_benchmark
from benchmarks.__main__ import BENCHMARKS
from benchmarks.finetuning import edgeface
from benchmarks.harness.docs import update_docs
from benchmarks.harness.program import PROGRAMS
from benchmarks.harness.tables import Column, row_cells, text_line, to_markdown
from benchmarks.pretraining import contrast_step

COLUMNS = (Column("what", "what", width=10), Column("time", "ratio", "{:.2f}x"), Column("MiB", "mib", "{:,.0f}"))
ROWS = [{"what": "first", "ratio": 0.256, "mib": 1234.5}, {"what": "second", "ratio": None}]
MODULES = (
    qaconv, step, head, validation, gallery, evaluation, data, sampler, synthetic, report_page, help_benchmark, threads,
    edgeface, contrast_step,
)  # fmt: skip
PAGE = ROOT / "docs/benchmarks.md"


def write_result(folder, name, scale=1.0):
    machine = {"cpu": "Some CPU", "cores": 2, "threads": 1, "torch": "2.13.0", "python": "3.11", "system": "Linux"}
    table = {"name": name, "runs": 7, "columns": [column._asdict() for column in COLUMNS], "rows": ROWS}
    result = {"machine": machine, "options": {"scale": scale}, "tables": [table]}
    (folder / f"{name}.json").write_text(json.dumps(result))


def test_cells_follow_the_format_and_missing_values_are_dashes():
    assert row_cells(COLUMNS, ROWS[0]) == ["first", "0.26x", "1,234"]
    assert row_cells(COLUMNS, ROWS[1]) == ["second", "-", "-"]


def test_lines_of_text_are_aligned():
    lines = [text_line(COLUMNS, cells) for cells in (["what", "time", "MiB"], *(row_cells(COLUMNS, r) for r in ROWS))]
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "first          0.26x     1,234"


def test_markdown_has_a_line_for_each_row():
    assert to_markdown(COLUMNS, ROWS).splitlines() == [
        "| what | time | MiB |",
        "| --- | ---: | ---: |",
        "| first | 0.26x | 1,234 |",
        "| second | - | - |",
    ]


def test_only_what_stands_between_the_markers_of_a_measured_table_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Head\n\n<!-- a -->\nold\n<!-- /a -->\n\nprose\n<!-- b -->\nkept\n<!-- /b -->\nTail\n")
    write_result(tmp_path, "a")
    assert update_docs(page, tmp_path) == ["a"]
    text = page.read_text()
    assert text.startswith("Head\n\n<!-- a -->\n| what | time | MiB |\n")
    assert text.endswith("\n<!-- /a -->\n\nprose\n<!-- b -->\nkept\n<!-- /b -->\nTail\n")
    assert "Some CPU, 2 cores, 1 threads, torch 2.13.0, Linux; medians of 7 runs." in text
    assert "old" not in text and "not a measurement" not in text
    update_docs(page, tmp_path)
    assert page.read_text() == text


def test_shrunken_sizes_are_named_as_such(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- a -->\n<!-- /a -->\n")
    write_result(tmp_path, "a", scale=0.02)
    update_docs(page, tmp_path)
    assert "Sizes times 0.02: a test of the program, not a measurement." in page.read_text()


@pytest.mark.parametrize("text", ["no markers\n", "<!-- a -->\n", 2 * "<!-- a -->\n<!-- /a -->\n"])
def test_a_page_without_one_place_for_a_table_is_refused_and_kept(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    write_result(tmp_path, "a")
    with pytest.raises(ValueError, match=r"page\.md: expected one place between <!-- a -->"):
        update_docs(page, tmp_path)
    assert page.read_text() == text


def test_every_benchmark_is_listed_and_every_table_has_its_place_on_the_page():
    assert [module.__name__ for module in MODULES] == [f"{PROGRAMS[name].package}.{name}" for name in BENCHMARKS]
    text = PAGE.read_text()
    for table in (table for module in MODULES for table in module.BENCHMARK.tables):
        assert text.count(f"<!-- {table.name} -->\n") == text.count(f"<!-- /{table.name} -->\n") == 1
