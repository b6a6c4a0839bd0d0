"""QAConv against the plain formulation, and against the matrix product that is its floor.

Run as `python -m benchmarks.qaconv`. "Plain" is the published formulation on autograd: one einsum, the maximum over
either side, batch norm, linear layer, batch norm; parameters and inputs are the same for both. "Product" is
torch.matmul of the same operations into memory that is there already, so it pays for arithmetic alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Step, compare, ratio
from benchmarks.program import Benchmark, main, scaled
from benchmarks.tables import Column, Row, Table
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
    time_goal: float
    memory_goal: float | None = None  # None: the reference's memory says nothing


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


def _matcher(size: Size) -> QAConv:
    return QAConv(size.channels, size.side, size.side, "none")


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


# Goals are those of the project's plan: at most this share of the reference's time and memory.
CASES = {
    "self_7x7": Case("batch against itself, forward + backward", Size(256, 512, 7), self_steps, "plain", 0.4, 0.15),
    "self_14x14": Case("batch against itself, forward + backward", Size(64, 256, 14), self_steps, "plain", 0.3, 0.1),
    "gallery_7x7": Case("probe x gallery, forward + backward", Size(256, 512, 7), gallery_steps, "plain", 0.65, 0.2),
    "forward_7x7": Case("probe x gallery, forward", Size(256, 512, 7), forward_steps, "product", 1.15),
    "forward_14x14": Case("probe x gallery, forward", Size(64, 256, 14), forward_steps, "product", 1.15),
    "all_pairs": Case("all unordered pairs, forward", Size(1000, 512, 7), all_pairs_steps, "product", 0.7),
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
        Column("ours s", "ours_seconds", "{:.3f}"),
        Column("other s", "reference_seconds", "{:.3f}"),
        Column("ours MiB", "ours_mib", "{:,.0f}"),
        Column("other MiB", "reference_mib", "{:,.0f}"),
    ),
)


def measure_case(case: Case, scale: float, repeats: int) -> Row:
    """Return time and extra memory of a case and of what it is compared with."""
    size = case.size._replace(num_maps=scaled(case.size.num_maps, scale, least=4))
    costs = compare(case.build(size), repeats)
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", nargs="+", choices=CASES, default=list(CASES), help="which ones to measure (all)")


BENCHMARK = Benchmark("qaconv", __doc__, (TABLE,), _measure, add_arguments=_add_arguments)

if __name__ == "__main__":
    main(BENCHMARK)
