"""QAConv's training step against the plain formulation: time and extra memory, forward and backward.

Run as `python -m benchmarks.qaconv`. "Plain" is the published formulation on autograd: one einsum, the maximum over
either side, batch norm, linear layer, batch norm. Both use the same parameters and inputs.

- Time: one warm-up of each, then alternating runs in one process; medians, and the ratio of the medians.
- Memory: how far the resident set peaks above its level before the step. Freed heap is handed back first (malloc_trim),
  and the kernel's peak counter (VmHWM in /proc/self/status) is reset by writing 5 to /proc/self/clear_refs: Linux only.
"""

import argparse
import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from qaconv import QAConv

Step = Callable[[], None]


def plain_scores(matcher: QAConv, probe: Tensor, gallery: Tensor) -> Tensor:
    """Return the training-mode scores [P, G] of a "bn_fc" matcher without occlusion, by the published formulation."""
    sim = torch.einsum("pcs,gcr->pgrs", probe.flatten(2), gallery.flatten(2))
    best = torch.cat([sim.max(dim=2)[0], sim.max(dim=3)[0]], dim=-1)
    num_cells = sim.shape[3]
    best = matcher.bn(best.view(1, 1, -1, num_cells))
    logits = matcher.fc(best.view(-1, num_cells)).view(-1, 2).sum(dim=1, keepdim=True)
    return matcher.logit_bn(logits).view(sim.shape[:2])


def build_steps(args: argparse.Namespace, against_itself: bool) -> dict[str, Step]:
    """Return one forward and backward pass per formulation."""
    torch.manual_seed(0)
    matcher = QAConv(args.channels, args.height, args.width, "none").train()
    shape = (args.batch, args.channels, args.height, args.width)
    probe = F.normalize(torch.randn(shape), dim=1).requires_grad_()
    gallery = probe if against_itself else F.normalize(torch.randn(shape), dim=1).requires_grad_()
    coefficients = torch.randn(args.batch, args.batch)

    def step(scores: Callable[[Tensor, Tensor], Tensor]) -> None:
        (coefficients * scores(probe, gallery)).mean().backward()
        probe.grad = gallery.grad = None
        matcher.zero_grad()

    return {"plain": lambda: step(lambda p, g: plain_scores(matcher, p, g)), "ours": lambda: step(matcher)}


def measure_seconds(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of alternating runs, after one warm-up of each step."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"benchmarks.qaconv: /proc/self/status has no {field}; memory is measured on Linux only.")


def measure_extra_bytes(step: Step) -> int:
    """Return how far the resident set peaks above its level before the step."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return _status_bytes("VmHWM") - before


def run_case(args: argparse.Namespace, against_itself: bool) -> dict[str, object]:
    """Return medians, extremes, extra memory and the ratios of one case."""
    steps = build_steps(args, against_itself)
    seconds = measure_seconds(steps, args.repeats)
    extra_bytes = {name: measure_extra_bytes(step) for name, step in steps.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "case": "batch against itself" if against_itself else "probe against gallery",
        "size": f"{args.batch} x {args.batch}, {args.channels} x {args.height} x {args.width}",
        "seconds": seconds,
        "median_seconds": median,
        "extra_mib": {name: value / 2**20 for name, value in extra_bytes.items()},
        "time_ratio": median["ours"] / median["plain"],
        "memory_ratio": extra_bytes["ours"] / extra_bytes["plain"],
    }


def to_markdown(cases: list[dict]) -> str:
    """Return the cases as a table."""
    lines = [
        "| case | size | plain s | ours s | time | plain MiB | ours MiB | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        median, extra = case["median_seconds"], case["extra_mib"]
        lines.append(
            f"| {case['case']} | {case['size']} | {median['plain']:.2f} | {median['ours']:.2f} "
            f"| {case['time_ratio']:.2f}x | {extra['plain']:.0f} | {extra['ours']:.0f} | {case['memory_ratio']:.2f}x |"
        )
    return "\n".join(lines)


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser; defaults are the training batch of the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--height", type=int, default=7)
    parser.add_argument("--width", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    return parser


def main() -> None:
    """Measure both cases, print the table, write the JSON."""
    args = get_parser().parse_args()
    torch.set_num_threads(args.threads)
    cases = [run_case(args, against_itself) for against_itself in (True, False)]
    print(to_markdown(cases))
    if args.output is not None:
        result = {"torch": torch.__version__, "threads": args.threads, "repeats": args.repeats, "cases": cases}
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
