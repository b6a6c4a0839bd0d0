"""The plan of docs/scaling.md: its tables are those that the program computes, and each line's arithmetic holds."""

import json
import re

import pytest
import torch
from torch import nn

import heads
import nets
from benchmarks import scaling, structures
from benchmarks.harness.figures import Figures, evaluate, read_number, read_table
from benchmarks.harness.program import run


@pytest.fixture(scope="module")
def page():
    return scaling.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures():
    return scaling.plan()


def rows(page):
    """Return (what, figure, kind, how) of every line of the page's tables."""
    blocks = re.findall(r"<!-- scaling_\w+ -->\n(.*?)\n<!-- /scaling", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()[2:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def number(text):
    found = re.match(r"[-\d.,e+]+", text)[0]
    return float(found.replace(",", "")) / (100 if "%" in text else 1), found


def test_the_page_holds_what_the_program_computes(page):
    assert scaling.updated(page, scaling.PAGE) == page, "run python -m benchmarks.scaling --update-docs"


def test_the_arithmetic_on_the_page_gives_the_figure_beside_it(page):
    checked = 0
    for what, figure, kind, how in rows(page):
        assert kind in {"assumed", "measured", "computed"} and how, what
        if kind != "computed" or re.search(r"(?!sqrt)[A-Za-z_]{2,}", how):
            continue
        value = eval(how.replace(",", "").replace("×", "*").replace("^", "**"), {"sqrt": lambda x: x**0.5})
        shown, digits = number(figure)
        last_place = 10.0 ** -len(digits.partition("e")[0].partition(".")[2]) * (0.01 if "%" in figure else 1)
        if "e" in digits:
            last_place *= 10 ** int(digits.partition("e")[2])
        assert abs(value - shown) <= 0.5 * last_place + 1e-5 * abs(value), what
        checked += 1
    assert checked > 60


def test_the_operations_are_those_of_its_convolutions_and_its_linear_layer():
    total = 0

    def count(module, inputs, output):
        nonlocal total
        fan_in = module.weight[0].numel()
        total += 2 * fan_in * output[0].numel()

    with torch.device("meta"):
        model = nets.build_model("ir_101", 512).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        model(torch.empty(1, 3, 112, 112))
    assert scaling.forward_flops() == total == pytest.approx(24.2e9, rel=0.01)


def test_activations_are_at_least_the_inputs_of_all_layers_with_weights():
    least = 0

    def count(module, inputs):
        nonlocal least
        least += inputs[0].numel() * 2

    with torch.device("meta"):
        model = nets.build_model("ir_101", 512).to(torch.bfloat16).train()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.PReLU):
                module.register_forward_pre_hook(count)
        model(torch.empty(2, 3, 112, 112, dtype=torch.bfloat16))
    kept = scaling.activation_bytes(torch.bfloat16)
    assert 0.6 * least / 2 <= kept <= 1.1 * least / 2
    assert scaling.activation_bytes(torch.float32) == pytest.approx(2 * kept, rel=0.01)


def test_the_large_numbers_are_what_a_pocket_calculator_says(figures):
    assert figures["batch"] == 8192 and figures["steps"] == pytest.approx(5184.9, abs=0.1)
    assert figures["parameters"] == 65_150_912
    assert figures["mtbf"] == pytest.approx(54 * 24 * 16384 / 419 / 64)
    assert figures["checkpoint"] == pytest.approx(8 * (65_150_912 + 2_059_906 * 512) / 1e9)
    assert figures["class_maps"] == pytest.approx(2 * 2_059_906 * 512 * 49 / 1e9)
    assert figures["class_maps"] > 80, "the page says that it does not fit"
    assert figures["sum_dense"] < 80 and figures["unsplit_ms"] > figures["step_ms"]
    assert figures["young"] > figures["run"], "the page says so"
    classes = 2_059_906 // 64 + 1
    taking_part = classes // 10 + 1
    shard = 4 * 512 * (2 * classes + 6 * taking_part) + 9 * 8192 * taking_part
    assert figures["sampled"] * 1e9 == shard == heads.shard_bytes(2_059_906, 512, 64, 0.1, 8192, 2048)


def test_expressions_know_arithmetic_and_nothing_else():
    values = {"a": 2.0, "b_2": 3.0}
    assert evaluate("a + b_2 * 4 - 1 / a", values) == 13.5
    assert evaluate("sqrt(a ** 4)", values) == 4
    for refused in ("c", "a if a else b_2", "print(a)", "a.real", "sqrt(a, a)", "'a'"):
        with pytest.raises(ValueError, match="cannot evaluate"):
            evaluate(refused, values)


def test_a_line_shows_its_numbers():
    figures = Figures()
    figures.assume("many", "many", 42_474_558, "{:,.0f}", "source")
    figures.assume("part", "part", 0.25, "{}", "source")
    figures.compute("root", "root", "{:.1f} GB", "sqrt(many ** 2) * part")
    assert figures.lines["root"].how == "sqrt(42,474,558 ^ 2) × 0.25"
    with pytest.raises(ValueError, match="many is there already"):
        figures.assume("many", "again", 1, "{}", "source")


def test_a_figure_is_read_from_the_one_row_that_has_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- t -->\n| a | b |\n| --- | ---: |\n| x | 1,234 |\n| y | 0.5x |\n\nhere\n<!-- /t -->\n")
    assert read_number(page, "t", "b", a="x") == 1234 and read_number(page, "t", "b", a="y") == 0.5
    with pytest.raises(ValueError, match="expected one row of t"):
        read_number(page, "t", "b", a="z")
    with pytest.raises(ValueError, match="no table u"):
        read_table(page, "u")


def test_the_structures_are_measured(tmp_path, capsys):
    path = run(structures.BENCHMARK, ["--scale", "0.0001", "--output", str(tmp_path)])
    found, reads = (table["rows"] for table in json.loads(path.read_text())["tables"])
    assert [row["what"] for row in found] == [
        "record file, first opening", "record file, with the sidecar", "PK sampler", "plan of an epoch",
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in found)
    assert [row["what"] for row in reads] == ["RecordDataset", "a map without advice"]
