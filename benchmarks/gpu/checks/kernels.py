"""The Triton kernels against the operator of the CPU: best matches, where they are, and both sides' gradients.

The CPU is given the same rounded features in float32, so what differs is the order of sums and, in the gradient, the
rounding of the kernel's factors. On the CPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.case import Case, Cases, Figures, NotRunError, expect, largest, need_kernels
from qaconv.blocks import Maps
from qaconv.correlation import Maxima, best_matches
from qaconv.triton_matches import Direction, triton_best_matches, triton_gradient

# Largest difference of a cosine, and of a gradient over the norm of all; TF32 keeps 10 bits of float32's 23.
TOLERANCES = {
    "float16": (1e-5, 1e-3),
    "bfloat16": (1e-5, 1e-2),
    "float32": (1e-5, 1e-5),
    "tf32": (1e-3, 2e-3),
}


@dataclass(frozen=True)
class Match:
    """Which maps meet.

    Attributes:
        precision: key of TOLERANCES.
        probe, gallery: maps and cells of a side; gallery None: the probe set against itself.
        channels: of both.
        hide: the share of the cells that are hidden; one map of several is hidden altogether.
        groups: matched independently of each other.
    """

    precision: str
    probe: tuple[int, int]
    gallery: tuple[int, int] | None
    channels: int
    hide: float = 0.0
    groups: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        dtype: torch.dtype = getattr(torch, self.precision.replace("tf32", "float32"))
        return dtype


def draw_side(match: Match, size: tuple[int, int], generator: torch.Generator) -> Maps:
    """Return unit features, rounded, and hidden cells, on the CPU."""
    shape = (match.groups, *size)
    features = F.normalize(torch.randn(*shape, match.channels, generator=generator), dim=3).to(match.dtype)
    if not match.hide:
        return Maps(features, None)
    hidden = torch.rand(shape, generator=generator) < match.hide
    if size[0] > 1:
        hidden[:, 0] = True
    return Maps(features, hidden)


def on_device(side: Maps, device: torch.device) -> Maps:
    """Return a side's copy on the device."""
    return Maps(side.features.to(device), None if side.hidden is None else side.hidden.to(device))


def check_match(match: Match, device: torch.device) -> Figures:
    """Compare values, cells and gradients with the CPU's; the same call again must give the same bits."""
    need_device(device)
    if device.type != "cuda" and match.precision == "bfloat16":
        raise NotRunError("the interpreter multiplies the bits of bfloat16 as integers")
    generator = torch.Generator().manual_seed(1)
    probe = draw_side(match, match.probe, generator)
    gallery = probe if match.gallery is None else draw_side(match, match.gallery, generator)
    there = on_device(probe, device)
    others = there if gallery is probe else on_device(gallery, device)
    allow_tf32 = match.precision == "tf32"

    def matches() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        second = Maps(None, None) if others is there else others  # type: ignore[arg-type]  # the set against itself
        return triton_best_matches(there.features, there.hidden, second.features, second.hidden, allow_tf32)

    found = matches()
    assert all(torch.equal(a, b) for a, b in zip(found, matches(), strict=True)), "the second call gives other bits"
    of_values, of_gradients = TOLERANCES[match.precision]
    figures = _compare_values(Maxima(*found), probe, gallery, of_values)

    # A gradient flows through the cells that the kernel chose: near ties may have gone the other way on the CPU.
    looking = Direction(torch.randn(found[0].shape, generator=generator).to(device), found[1])
    looked_at = looking
    if others is not there:
        looked_at = Direction(torch.randn(found[2].shape, generator=generator).to(device), found[3])
    expected = _dense_gradients((probe, gallery), (looking, looked_at))
    passes = {
        "probe_gradient": lambda: triton_gradient(there, others, looking, looked_at, allow_tf32),
        "gallery_gradient": lambda: triton_gradient(others, there, looked_at, looking, allow_tf32),
    }
    for (name, run), want in zip(passes.items(), expected, strict=True):
        gradient = run()
        assert torch.equal(gradient, run()), f"{name}: the second call gives other bits"
        figures[name] = float((gradient.cpu().double() - want).norm() / want.norm().clamp_min(1e-30))
        expect(name, figures[name], of_gradients)
    return figures


def _compare_values(found: Maxima, probe: Maps, gallery: Maps, tolerance: float) -> Figures:
    sides = (Maps(probe.features.float(), probe.hidden), Maps(gallery.features.float(), gallery.hidden))
    wanted = best_matches(sides[0], sides[0] if gallery is probe else sides[1])
    figures: Figures = {}
    directions = {
        "probe": (found.probe, found.probe_cell, wanted.probe, wanted.probe_cell, sides),
        "gallery": (found.gallery, found.gallery_cell, wanted.gallery, wanted.gallery_cell, sides[::-1]),
    }
    for name, (best, cell, want, want_cell, (near, far)) in directions.items():
        assert cell is not None and want_cell is not None
        figures[f"{name}_value"] = largest(best.cpu().double() - want.double())
        expect(f"{name}_value", figures[f"{name}_value"], tolerance)
        # Where the cells differ, the kernel's must be a near tie and no hidden one.
        differs = cell.cpu().long() != want_cell.long()
        figures[f"{name}_other_cells"] = int(differs.sum())
        group, a, k, b = differs.nonzero(as_tuple=True)
        chosen = cell.cpu().long()[group, a, k, b]
        reached = (near.features[group, a, k].double() * far.features[group, b, chosen].double()).sum(1)
        expect(f"{name}_near_tie", largest(reached - want[group, a, k, b].double()), 2 * tolerance)
        assert far.hidden is None or not far.hidden[group, b, chosen].any(), f"{name}: a hidden cell was matched"
        expect(f"{name}: share of other cells", float(differs.double().mean()), 0.02)
    return figures


def _dense_gradients(sides: tuple[Maps, Maps], directions: tuple[Direction, Direction]) -> list[Tensor]:
    """Return the gradient of both sides' features through the chosen cells, float64 on the CPU."""
    weights = []
    for (near, far), direction in zip((sides, sides[::-1]), directions, strict=True):
        weight = torch.zeros(*near.features.shape[:3], *far.features.shape[1:3], dtype=torch.float64)
        weight.scatter_add_(4, direction.cell.cpu().long()[..., None], direction.grad.cpu().double()[..., None])
        if near.hidden is not None and far.hidden is not None:
            weight.masked_fill_(near.hidden[..., None, None] | far.hidden[:, None, None], 0)
        weights.append(weight)
    whole = weights[0] + weights[1].permute(0, 3, 4, 1, 2)
    near_grad = torch.einsum("lakbj,lbjc->lakc", whole, sides[1].features.double())
    return [near_grad, torch.einsum("lakbj,lakc->lbjc", whole, sides[0].features.double())]


def check_nan(device: torch.device) -> Figures:
    """A NaN under a cell must come out of every maximum that looked at it, and out of no other."""
    need_device(device)
    num_cells, channels = (49, 64) if device.type == "cuda" else (2, 16)
    probe, gallery = (torch.randn(1, n, num_cells, channels).half().to(device) for n in (3, 4))
    probe[0, 0, 1, 2] = torch.nan
    found = triton_best_matches(probe, None, gallery, None)
    assert found[0][0, 0, 1].isnan().all() and not found[0][0, 1:].isnan().any(), "the probe's direction"
    assert found[2][..., 0].isnan().all() and not found[2][..., 1:].isnan().any(), "the gallery's direction"
    return {}


def check_gradient_sizes(device: torch.device) -> Figures:
    """Gradients far beyond float16's range must keep their digits: they are scaled by a power of two."""
    need_device(device)
    size, channels = ((4, 49), 64) if device.type == "cuda" else ((2, 4), 16)
    match = Match("float16", size, None, channels)
    side = on_device(draw_side(match, size, torch.Generator().manual_seed(2)), device)
    found = triton_best_matches(side.features, None, None, None)
    direction = Direction(torch.randn(found[0].shape).to(device), found[1])
    plain = triton_gradient(side, side, direction, direction)
    figures: Figures = {}
    for factor in (2.0**-60, 2.0**60):
        scaled = direction._replace(grad=direction.grad * factor)
        gradient = triton_gradient(side, side, scaled, scaled).double() / factor
        figures[f"times {factor:.0e}"] = float((gradient - plain.double()).norm() / plain.double().norm())
        expect(f"gradient times {factor:.0e}", figures[f"times {factor:.0e}"], 1e-6)
    return figures


def need_device(device: torch.device) -> None:
    """Refuse where the kernels cannot run.

    Raises:
        NotRunError: without Triton, on a small device, or on the CPU without Triton's interpreter.
    """
    need_kernels(device)
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise NotRunError("needs a CUDA device, or TRITON_INTERPRET=1")


def cases(on_gpu: bool) -> Cases:
    """Return the checks; on the CPU, in the interpreter, of few small maps."""
    probe, gallery = ((33, 49), (18, 49)) if on_gpu else ((3, 4), (2, 4))
    small, channels = ((9, 196), 256) if on_gpu else ((2, 9), 16)
    half = Match("float16", probe, gallery, 512 if on_gpu else 16)
    matches: dict[str, Match] = {}
    for precision in TOLERANCES:
        for hide in (0.0, 0.4):
            match = replace(half, precision=precision, hide=hide)
            text = f"{precision}{' hidden' if hide else ''}"
            matches[f"7x7 {text}"] = match
            if hide or precision in ("float16", "float32"):
                matches[f"7x7 {text} against itself"] = replace(match, gallery=None)
    for precision in ("float16", "float32"):
        matches[f"14x14 {precision} hidden"] = Match(precision, small, (5, small[1]), channels, 0.4)
    odd = Match("float16", (5, 35), (3, 33), 100, 0.5) if on_gpu else Match("float16", (3, 5), (2, 3), 10, 0.5)
    matches |= {
        "odd sizes float16 hidden": odd,
        "odd sizes float32": replace(odd, precision="float32", hide=0.0),
        "one map of one cell": Match("float16", (1, 1), (2, 1), 64),
        "groups of one pair": Match("float16", (1, probe[1]), (1, probe[1]), channels, 0.4, groups=6),
    }
    checks: dict[str, Callable[[torch.device], Figures]] = {
        f"kernel: {name}": partial(check_match, match) for name, match in matches.items()
    }
    checks |= {"kernel: NaN is passed on": check_nan, "kernel: gradients of any size": check_gradient_sizes}
    return {name: Case(check, 90.0) for name, check in checks.items()}
