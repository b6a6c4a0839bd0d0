"""The matcher on the device against the same matcher on the CPU: scores, gradients, running statistics.

Maps are rounded to float16 first and visibilities are 0, 0.5 and 1, so that the device's float16 operands are exactly
the CPU's float32 ones and both take the same cells.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.case import Case, Cases, Figures, expect, largest, need_cuda, no_waiting
from qaconv import QAConv
from qaconv.matcher import SCORES
from qaconv.occlusion import OCCLUSION_METHODS

OF_SCORES = 2e-3  # over the scores' standard deviation
OF_GRADIENTS = 1e-2  # of norms: one near tie in a thousand may go the other way

Call = Callable[[QAConv, Tensor, Tensor, Tensor, Tensor], Tensor]
CALLS: dict[str, Call] = {
    "all pairs": lambda matcher, a, b, v, w: matcher(a, b, v, w),
    "against itself": lambda matcher, a, b, v, w: matcher(a, a, v, v),
    "pairs": lambda matcher, a, b, v, w: matcher.match_pairs(a[: len(b)], b, v[: len(b)], w),
}


def draw(generator: torch.Generator, num_maps: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Return unit maps [N, C, h, w] of float16 numbers in float32, and visibilities [N, 1, h, w]; one map is hidden."""
    maps = F.normalize(torch.randn(num_maps, channels, side, side, generator=generator), dim=1).half().float()
    visibility = torch.randint(3, (num_maps, 1, side, side), generator=generator) / 2
    visibility[0] = 0
    return maps, visibility


def autocast(device: torch.device, half: bool) -> AbstractContextManager[Any]:
    """Return a context in which the device's operands are float16, or one without effect."""
    return torch.autocast("cuda", torch.float16) if half and device.type == "cuda" else nullcontext()


def run_matcher(
    matcher: QAConv, inputs: list[Tensor], device: torch.device, call: Call, half: bool
) -> dict[str, Tensor]:
    """Return scores, gradients and running statistics after one pass, on the CPU."""
    # Copies: on another device the copy of a leaf that wants a gradient is no leaf, and would get none.
    leaves = [value.detach().to(device, copy=True).requires_grad_() for value in inputs]
    with autocast(device, half):
        scores = call(matcher, *leaves)
    slopes = torch.randn(scores.shape, generator=torch.Generator().manual_seed(3)).to(device)
    (slopes * scores).sum().backward()
    found = {"scores": scores.detach()}
    names = ("probe", "gallery", "probe_visibility", "gallery_visibility")
    found |= {f"grad {name}": leaf.grad for name, leaf in zip(names, leaves, strict=True) if leaf.grad is not None}
    found |= {f"grad {name}": p.grad.to_dense() for name, p in matcher.named_parameters() if p.grad is not None}
    found |= {name: buffer for name, buffer in matcher.named_buffers() if buffer.is_floating_point()}
    return {name: value.float().cpu() for name, value in found.items()}


def twins(device: torch.device, **options: Any) -> tuple[QAConv, QAConv]:
    """Return a matcher on the CPU and its equal on the device."""
    torch.manual_seed(0)
    ours, theirs = QAConv(**options), QAConv(**options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.to(device)


def compare(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> Figures:
    """Return the largest difference of each kind, and fail where it is too large."""
    assert wanted.keys() == found.keys(), f"other results: {sorted(wanted.keys() ^ found.keys())}"
    figures: Figures = {"scores": 0.0, "gradients": 0.0}
    for name, want in wanted.items():
        if name.startswith("grad "):
            error = float((found[name] - want).norm() / want.norm().clamp_min(1e-6))
            expect(name, error, OF_GRADIENTS)
            figures["gradients"] = max(figures["gradients"], error)
        else:
            spread = float(want.std()) if want.numel() > 1 else float(want.abs().clamp_min(1e-3))
            error = largest(found[name] - want) / spread
            expect(name, error, OF_SCORES)
            figures["scores"] = max(figures["scores"], error)
    return figures


def check_matcher(score: str, occlusion: str, shape: tuple[int, int], half: bool, device: torch.device) -> Figures:
    """Compare all ways to match, forward and backward, in training and in eval mode."""
    channels, side = shape
    figures: Figures = {}
    for (name, call), training in product(CALLS.items(), (True, False)):
        generator = torch.Generator().manual_seed(4)
        ours, theirs = twins(
            device, num_features=channels, height=side, width=side, occlusion_method=occlusion, score=score
        )
        probe, gallery = draw(generator, 9, channels, side), draw(generator, 5, channels, side)
        inputs = [probe[0], gallery[0], probe[1], gallery[1]]
        wanted = run_matcher(ours.train(training), inputs, torch.device("cpu"), call, half)
        found = run_matcher(theirs.train(training), inputs, device, call, half)
        try:
            one = compare(wanted, found)
        except AssertionError as error:
            raise AssertionError(f"{name}, {'training' if training else 'eval'}: {error}") from None
        figures = {key: max(figures.get(key, 0.0), value) for key, value in one.items()}
    return figures


def check_classes(device: torch.device) -> Figures:
    """Compare a projected match with class maps in float16, whose gradient is sparse."""
    ours, theirs = twins(
        device,
        num_features=64,
        height=7,
        width=7,
        score="weighted",
        projection_channels=32,
        num_classes=12,
        k_nearest=4,
    )
    maps, visibility = draw(torch.Generator().manual_seed(5), 6, 64, 7)
    labels = torch.tensor([3, 1, 4, 1, 5, 9])

    def call(matcher: QAConv, a: Tensor, b: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return matcher.class_logits(a, labels.to(a.device), v)

    inputs = [maps, maps[:1], visibility, visibility[:1]]
    wanted = run_matcher(ours.train(), inputs, torch.device("cpu"), call, half=False)
    found = run_matcher(theirs.train(), inputs, device, call, half=False)
    return compare(wanted, found)


def check_no_wait(device: torch.device) -> Figures:
    """Forward and backward pass of a batch against itself must not make the host wait for the device."""
    need_cuda(device)
    _, matcher = twins(device, num_features=64, height=7, width=7, occlusion_method="scaling")
    maps, visibility = (value.to(device) for value in draw(torch.Generator().manual_seed(6), 16, 64, 7))
    maps.requires_grad_()

    def step() -> None:
        with torch.autocast("cuda", torch.float16):
            scores = matcher(maps, maps, visibility, visibility)
        scores.sum().backward()

    step()  # compiles
    with no_waiting():
        step()
    return {}


def cases(on_gpu: bool) -> Cases:
    """Return the checks of every score with every occlusion method."""
    checks: dict[str, Callable[[torch.device], Figures]] = {}
    for score, occlusion in product(SCORES, OCCLUSION_METHODS):
        for half in (False, True):
            name = f"matcher: {score}, {occlusion}, {'float16' if half else 'float32'}"
            checks[name] = partial(check_matcher, score, occlusion, (64, 7) if on_gpu else (8, 3), half)
    checks["matcher: bn_fc, masking, 14x14 float16"] = partial(
        check_matcher, "bn_fc", "masking", (32, 14) if on_gpu else (8, 4), True
    )
    checks |= {"matcher: projection and class maps": check_classes, "matcher: no wait for the device": check_no_wait}
    return {name: Case(check, 60.0) for name, check in checks.items()}
