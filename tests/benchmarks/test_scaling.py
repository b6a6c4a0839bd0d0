"""The plan of docs/scaling.md: each line's arithmetic holds, and what it takes from the project is what that says."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import heads
import nets
from benchmarks.harness.program import read, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
IMAGES, IDENTITIES = 42_474_558, 2_059_906


def read_table(page, name):
    """Return the rows of a table between its marks on a page of docs/, cells by heading."""
    block = re.search(rf"<!-- {name} -->\n(.*?)\n(\n|<!--)", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def plan():
    """Return (what, figure, kind, how) of every line of the plan, section by section."""
    names = re.findall(r"<!-- (scaling_\w+) -->", (DOCS / "scaling.md").read_text(encoding="utf-8"))
    return [tuple(row.values()) for name in names for row in read_table("scaling.md", name)]


def value_of(figure):
    digits = re.match(r"[-\d.,e+]+", figure)[0].replace(",", "")
    return float(digits) / (100 if "%" in figure else 1), last_place(digits) / (100 if "%" in figure else 1)


def last_place(digits):
    mantissa, _, exponent = digits.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def figure(what):
    found = {line[1] for line in plan() if line[0] == what}
    assert len(found) == 1, what
    return value_of(found.pop())


def assert_says(what, value):
    shown, place = figure(what)
    assert abs(value - shown) <= 0.5 * place + 1e-9 * abs(value), (what, value)


def test_the_arithmetic_of_each_line_gives_the_figure_beside_it():
    checked = 0
    for what, shown, kind, how in plan():
        assert kind in {"assumed", "measured", "computed"} and how, what
        if kind != "computed" or re.search(r"(?!sqrt)[A-Za-z_]{2,}", how):
            continue
        value = eval(how.replace(",", "").replace("×", "*").replace("^", "**"), {"sqrt": math.sqrt})
        number, place = value_of(shown)
        assert abs(value - number) <= 0.5 * place + 1e-5 * abs(value), what
        checked += 1
    assert checked > 60


def test_a_line_takes_the_figures_of_the_lines_before_it():
    """Every number of a calculation is a constant of its own line's words, or stands on the page above it."""
    ours = {
        2,
        3,
        4,
        7,
        8,
        9,
        10,
        12,
        16,
        20,
        22,
        24,
        32,
        36,
        49,
        54,
        60,
        64,
        125e3,
        512,
        1024,
        3600,
        1e3,
        1e6,
        1e9,
        1e12,
    }
    above = [(float(number), 0.5) for number in (1, 1.0, 0.1, *ours)]
    for what, shown, kind, how in plan():
        if kind == "computed" and not re.search(r"(?!sqrt)[A-Za-z_]{2,}", how):
            for word in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*(?:e[+-]?\d+)?", how):
                number = float(word.replace(",", "").rstrip("."))
                near = (abs(number - value) <= 0.51 * place for value, place in above)
                assert any(near), (what, word)
        above.append(value_of(shown))


def test_measured_figures_are_those_of_the_benchmarks():
    where = {
        "decoding alone, a core": ("loader", "images/s", {"loader": "bare decoding, OpenCV"}),
        "read, decode, flip, occlude, a core": ("loader", "images/s", {"loader": "record, flip, occlusion at 0.5"}),
        "all else, a pair, on a CPU core": ("validation", "ms a pair", {"part": "all but the backbone"}),
    }
    for what, (table, column, wanted) in where.items():
        (row,) = (row for row in read_table("benchmarks.md", table) if wanted.items() <= row.items())
        assert_says(what, float(row[column].replace(",", "")))
    (million,) = (
        row for row in read_table("benchmarks.md", "head") if row["classes"] == "1,000,000" and row["ranks"] == "4"
    )
    measured, planned = (float(million[name].replace(",", "")) for name in ("MiB a rank", "planned MiB"))
    assert_says("measured over planned, 1 M, 4 ranks", measured / planned)
    for row in read_table("scaling.md", "structures")[1:]:
        assert_says(f"{row['what']}, a rank", float(row["MiB kept"].replace(",", "")))
    assert_says("planning an epoch, for seconds", float(row["MiB at its peak"].replace(",", "")))
    assert_says("planning an epoch", float(row["seconds"]))


def test_the_operations_are_those_of_the_convolutions_and_the_linear_layer():
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += 2 * module.weight[0].numel() * output[0].numel()

    with torch.device("meta"):
        model = nets.build_model("ir_101", 512).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 112, 112))
    assert counter.get_total_flops() == total
    assert_says("IR-101, forward, an image", total / 1e9)
    assert_says("IR-101", sum(parameter.numel() for parameter in model.parameters()))


def test_the_activations_are_what_autograd_keeps():
    batch, kept = 4, {}
    with torch.device("meta"):
        model = nets.build_model("ir_101", 512).to(torch.bfloat16).train()
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.empty(batch, 3, 112, 112, dtype=torch.bfloat16, device="meta"))
    size = sum(storage.nbytes() for storage in kept.values()) / batch / 1e6
    assert_says("kept of an image for the backward pass, bf16", size)


def test_the_head_takes_what_it_says():
    for what, ranks, batch, rate in (
        ("head split over the ranks, rate 1", 64, 8192, 1.0),
        ("head split over the ranks, rate 0.1", 64, 8192, 0.1),
        ("our head of 2 M on 8 ranks, batch 1024", 8, 1024, 0.1),
    ):
        assert_says(what, heads.shard_bytes(IDENTITIES, 512, ranks, rate, batch, batch // 4) / 1e9)
    classes = IDENTITIES // 64 + 1
    taking_part = classes // 10 + 1
    by_hand = 4 * 512 * (2 * classes + 6 * taking_part) + 9 * 8192 * taking_part
    assert by_hand == heads.shard_bytes(IDENTITIES, 512, 64, 0.1, 8192, 2048)


def test_what_the_page_concludes_follows_from_its_figures():
    assert_says("images", IMAGES)
    assert_says("checkpoint: weights and momentum", 8 * (65_150_912 + IDENTITIES * 512) / 1e9)
    assert figure("--class_embeddings, on every rank")[0] > 80, "it does not fit"
    assert figure("sum at rate 1")[0] < 80, "it fits"
    assert figure("all-reduce of its gradient")[0] > figure("step, embeddings not hidden")[0]
    assert figure("Young: best time between two")[0] > figure("run")[0]


@pytest.mark.slow
def test_the_structures_are_measured(tmp_path):
    path = run("structures", read("structures", ["--scale", "0.0001", "--output", str(tmp_path)], "bench"))
    found, reads = (table["rows"] for table in json.loads(path.read_text())["tables"])
    assert [row["what"] for row in found] == [
        "record file, first opening", "record file, with the sidecar", "PK sampler", "plan of an epoch",
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in found)
    assert [row["what"] for row in reads] == ["RecordDataset", "a map without advice"]
