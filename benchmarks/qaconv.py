"""QAConv against the plain formulation, and against the matrix product that is its floor.

Run as `python -m benchmarks qaconv`. "Plain" is the published formulation on autograd: one einsum, the maximum over
either side, batch norm, linear layer, batch norm; parameters and inputs are the same for both. "Product" is
torch.matmul of the same operations into memory that is there already, so it pays for arithmetic alone. The floor is
written down before anything is measured: operations over the peak of large products in this process, or the bytes of
maps and maxima over the rate of large copies, whichever takes longer.
"Logits" is the largest difference of a score from float32, for maps of normal numbers and a new matcher; "spread" is
the same over the standard deviation of the scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.floor import Work, floor_seconds
from benchmarks.harness.measure import Step, compare, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from evaluation import FaceDescriptions, LocalView, score_all_pairs
from qaconv import QAConv

MAPS_PER_PRODUCT = 16  # rows of the all-pairs product held at a time


class Size(NamedTuple):
    """Maps on a side of the match, and their shape."""

    num_maps: int
    channels: int
    side: int  # cells along height and width


class Case(NamedTuple):
    """A row of the table."""

    title: str
    size: Size
    build: Callable[[Size], dict[str, Step]]  # the steps "ours" and "reference"
    reference: str
    work: Callable[[Size], Work]
    time_goal: float
    memory_goal: float | None = None  # None: the reference's memory says nothing
    logit_goal: float | None = None  # None: both steps compute in float32, or return no scores


def plain_scores(matcher: QAConv, probe: Tensor, gallery: Tensor) -> Tensor:
    """Return the training-mode scores [P, G] of a "bn_fc" matcher without occlusion, by the published formulation."""
    sim = torch.einsum("pcs,gcr->pgrs", probe.flatten(2), gallery.flatten(2))
    best = torch.cat([sim.max(dim=2)[0], sim.max(dim=3)[0]], dim=-1)
    num_cells = sim.shape[3]
    best = matcher.bn(best.view(1, 1, -1, num_cells))
    logits = matcher.fc(best.view(-1, num_cells)).view(-1, 2).sum(dim=1, keepdim=True)
    return matcher.logit_bn(logits).view(sim.shape[:2])


def _draw_maps(size: Size) -> Tensor:
    return F.normalize(torch.randn(size.num_maps, size.channels, size.side, size.side), dim=1)


def _matcher(size: Size, inference_dtype: torch.dtype | None = None) -> QAConv:
    return QAConv(size.channels, size.side, size.side, "none", inference_dtype=inference_dtype)


def _rows(maps: Tensor) -> Tensor:
    """Return maps [N, C, h, w] as the rows of a matrix product, [N * h * w, C]."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1).contiguous()


def training_steps(size: Size, against_itself: bool) -> dict[str, Step]:
    """Return forward and backward pass of all pairs, by the matcher and by the plain formulation."""
    torch.manual_seed(0)
    matcher = _matcher(size).train()
    probe = _draw_maps(size).requires_grad_()
    gallery = probe if against_itself else _draw_maps(size).requires_grad_()
    coefficients = torch.randn(size.num_maps, size.num_maps)

    def step(scores: Callable[[Tensor, Tensor], Tensor]) -> None:
        (coefficients * scores(probe, gallery)).mean().backward()
        probe.grad = gallery.grad = None
        matcher.zero_grad()

    return {"ours": lambda: step(matcher), "reference": lambda: step(lambda p, g: plain_scores(matcher, p, g))}


def self_steps(size: Size) -> dict[str, Step]:
    """Return a training step of a batch against itself."""
    return training_steps(size, against_itself=True)


def gallery_steps(size: Size) -> dict[str, Step]:
    """Return a training step of a batch against another one."""
    return training_steps(size, against_itself=False)


def forward_steps(size: Size) -> dict[str, Step]:
    """Return the matcher's evaluation of all pairs of two sets, and their one matrix product."""
    torch.manual_seed(0)
    matcher = _matcher(size).eval()
    probe, gallery = _draw_maps(size), _draw_maps(size)
    rows, columns = _rows(probe), _rows(gallery)
    product = torch.empty(len(rows), len(columns))
    return {
        "ours": torch.inference_mode()(lambda: matcher(probe, gallery)),
        "reference": lambda: torch.matmul(rows, columns.T, out=product),
    }


def bf16_steps(size: Size) -> dict[str, Step]:
    """Return the matcher's evaluation of all pairs of two sets in bfloat16 and in float32."""
    torch.manual_seed(0)
    exact, half = _matcher(size).eval(), _matcher(size, torch.bfloat16).eval()
    half.load_state_dict(exact.state_dict())
    probe, gallery = _draw_maps(size), _draw_maps(size)
    return {
        "ours": torch.inference_mode()(lambda: half(probe, gallery)),
        "reference": torch.inference_mode()(lambda: exact(probe, gallery)),
    }


def all_pairs_steps(size: Size) -> dict[str, Step]:
    """Return the evaluation of every unordered pair, as main_eval.py does it, and the product of all ordered ones."""
    torch.manual_seed(0)
    matcher = _matcher(size).eval()
    maps = _draw_maps(size)
    faces = FaceDescriptions(F.normalize(maps.mean(dim=(2, 3)), dim=1), (LocalView(maps, None),))
    rows = _rows(maps)
    parts = rows.split(MAPS_PER_PRODUCT * size.side**2)
    product = torch.empty(len(parts[0]), len(rows))

    def multiply() -> None:
        for part in parts:
            torch.matmul(part, rows.T, out=product[: len(part)])

    return {"ours": torch.inference_mode()(lambda: score_all_pairs(faces, matcher)), "reference": multiply}


def _forward_work(size: Size, num_pairs: int, num_sets: int, dtype: torch.dtype = torch.float32) -> Work:
    """Return the work of the correlations of some pairs: maps are read once, a score is written for each pair."""
    num_cells = size.side**2
    num_bytes = 4 * num_sets * size.num_maps * num_cells * size.channels + 4 * num_pairs
    return Work(2 * num_pairs * num_cells**2 * size.channels, num_bytes, dtype)


def _training_work(size: Size, num_pairs: int, num_sets: int) -> Work:
    """Return the work of both passes: every best match adds a weighted cell to the gradients of both its ends."""
    forward = _forward_work(size, num_pairs, num_sets)
    num_matches = num_sets * size.num_maps**2 * size.side**2
    # Values and their gradients are written and read (float32), indices too (uint8); so are the maps' gradients.
    return Work(forward.operations + 4 * num_matches * size.channels, 2 * forward.num_bytes + 18 * num_matches)


def self_work(size: Size) -> Work:
    """Return the least work of a training step of a set against itself, whose scores are half of them transposes."""
    return _training_work(size, size.num_maps * (size.num_maps + 1) // 2, num_sets=1)


def gallery_work(size: Size) -> Work:
    """Return the least work of a training step of a set against another."""
    return _training_work(size, size.num_maps**2, num_sets=2)


def forward_work(size: Size) -> Work:
    """Return the least work of the scores of a set against another."""
    return _forward_work(size, size.num_maps**2, num_sets=2)


def bf16_work(size: Size) -> Work:
    """Return the same in bfloat16."""
    return _forward_work(size, size.num_maps**2, num_sets=2, dtype=torch.bfloat16)


def all_pairs_work(size: Size) -> Work:
    """Return the least work of the scores of all unordered pairs of a set."""
    return _forward_work(size, size.num_maps * (size.num_maps - 1) // 2, num_sets=1)


# Goals are those of the project's plan: at most this share of the reference's time and memory.
_STEP, _FORWARD = "forward + backward", "forward"
_SMALL, _LARGE = Size(256, 512, 7), Size(64, 256, 14)
CASES = {
    "self_7x7": Case(f"batch against itself, {_STEP}", _SMALL, self_steps, "plain", self_work, 0.4, 0.15),
    "self_14x14": Case(f"batch against itself, {_STEP}", _LARGE, self_steps, "plain", self_work, 0.3, 0.1),
    "gallery_7x7": Case(f"probe x gallery, {_STEP}", _SMALL, gallery_steps, "plain", gallery_work, 0.65, 0.2),
    "forward_7x7": Case(f"probe x gallery, {_FORWARD}", _SMALL, forward_steps, "product", forward_work, 1.15),
    "forward_14x14": Case(f"probe x gallery, {_FORWARD}", _LARGE, forward_steps, "product", forward_work, 1.15),
    "bf16_7x7": Case(
        f"probe x gallery, {_FORWARD}, bf16", _SMALL, bf16_steps, "float32", bf16_work, 0.7, logit_goal=2e-3
    ),
    "bf16_14x14": Case(
        f"probe x gallery, {_FORWARD}, bf16", _LARGE, bf16_steps, "float32", bf16_work, 0.7, logit_goal=2e-3
    ),
    "all_pairs": Case(
        f"all unordered pairs, {_FORWARD}", Size(1000, 512, 7), all_pairs_steps, "product", all_pairs_work, 0.7
    ),
}

TABLE = Table(
    "qaconv",
    (
        Column("what", "what", width=41),
        Column("size", "size", width=25),
        Column("against", "against", width=9),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("goal", "time_goal", "<= {:.2f}x"),
        Column("memory", "memory_ratio", "{:.2f}x"),
        Column("goal", "memory_goal", "<= {:.2f}x"),
        Column("logits", "logit_difference", "{:.1e}"),
        Column("goal", "logit_goal", "<= {:.0e}"),
        Column("spread", "relative_difference", "{:.1%}"),
        Column("floor s", "floor_seconds", "{:.3f}"),
        Column("ours s", "ours_seconds", "{:.3f}"),
        Column("other s", "reference_seconds", "{:.3f}"),
        Column("ours MiB", "ours_mib", "{:,.0f}"),
        Column("other MiB", "reference_mib", "{:,.0f}"),
    ),
)


def _logit_differences(steps: dict[str, Step]) -> Row:
    """Return how far our scores are from the reference's: at most, and over the scores' standard deviation."""
    ours, reference = steps["ours"](), steps["reference"]()
    assert isinstance(ours, Tensor) and isinstance(reference, Tensor)
    difference = (ours - reference).abs().max().item()
    return {"logit_difference": difference, "relative_difference": difference / reference.std().item()}


def measure_case(case: Case, scale: float, repeats: int) -> Row:
    """Return time and extra memory of a case and of what it is compared with."""
    size = case.size._replace(num_maps=scaled(case.size.num_maps, scale, least=4))
    least_seconds = floor_seconds(case.work(size))
    steps = case.build(size)
    costs = compare(steps, repeats)
    ours, reference = costs["ours"], costs["reference"]
    reference_mib = None if case.memory_goal is None else reference.extra_mib
    return {
        "what": case.title,
        "size": f"{size.num_maps}, {size.channels} x {size.side} x {size.side}",
        "against": case.reference,
        "time_ratio": ratio(ours.seconds, reference.seconds),
        "time_goal": case.time_goal,
        "memory_ratio": ratio(ours.extra_mib, reference_mib),
        "memory_goal": case.memory_goal,
        **({} if case.logit_goal is None else _logit_differences(steps)),
        "logit_goal": case.logit_goal,
        "floor_seconds": least_seconds,
        "ours_seconds": ours.seconds,
        "reference_seconds": reference.seconds,
        "ours_mib": ours.extra_mib,
        "reference_mib": reference_mib,
        "ours_runs": ours.runs,
        "reference_runs": reference.runs,
    }


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    for name in args.rows:
        yield TABLE, measure_case(CASES[name], args.scale, args.repeats)


BENCHMARK = Benchmark((TABLE,), _measure)
