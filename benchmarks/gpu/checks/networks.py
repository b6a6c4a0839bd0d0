"""Networks on the device against themselves on the CPU: what they say, a training step's gradient, boxes that stay.

Backbones and detectors are drawn and their batch norms are given the statistics of some images, so that numbers stay in
the range of a trained network's, in half precision too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losses
import nets
from benchmarks.gpu.case import Case, Cases, Figures, expect, largest
from ops import boxes

ARCHS = ("ir_tiny", "ir_50", "ir_101", "ir_se_50", "mobilefacenet", "edgeface_s_gamma_05", "insightface_r50")
HALVES = {"bf16": (torch.bfloat16, 0.99), "fp16": (torch.float16, 0.999)}  # 8 and 11 bits
LEAST_COSINE, LEAST_GRADIENT_COSINE = 0.9999, 0.999
LEAST_OF_DETECTOR = 0.99  # of its gradient: of background priors that are equally hard another may be learned
SIDES = (160, 224)  # height and width of what detectors see
NUM_BOXES = 3000  # more than nms compares at once

Net = TypeVar("Net", bound=nn.Module)


def images(number: int, height: int, width: int, scale: float = 1.0) -> Tensor:
    """Return smooth random images [N, 3, height, width] in [-scale, scale] on the CPU, always the same."""
    coarse = torch.rand(number, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (2 * fine.clamp(0, 1) - 1) * scale


@torch.no_grad()
def settle(model: nn.Module, given: Tensor) -> None:
    """Give batch norms the statistics of some images, and put the model into eval mode."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # a plain mean
        norm.reset_running_stats()
    model.train()(given)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()


def twin(model: Net, device: torch.device) -> Net:
    """Return a copy on the device, laid out as trainings lay it out."""
    theirs: Net = copy.deepcopy(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return theirs


def gradient_of(model: nn.Module, loss: Tensor) -> Tensor:
    """Return the gradient of all parameters in one row, float64 on the CPU."""
    loss.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert found, "no parameter has a gradient"
    return torch.cat([gradient.detach().cpu().double().flatten() for gradient in found])


def least_cosine(first: Tensor, second: Tensor) -> float:
    """Return the least cosine of rows [N, D] of two devices; NaN where one of them is not finite."""
    a, b = (each.detach().cpu().double().flatten(1) for each in (first, second))
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("nan")  # an infinite row has a cosine of 0, or any
    return F.cosine_similarity(a, b).min().item()


def expect_cosine(name: str, found: float, least: float) -> None:
    """Fail unless found >= least; NaN fails."""
    expect(f"1 - cosine of {name}", 1 - found, 1 - least)


def check_backbone(arch: str, on_gpu: bool, device: torch.device) -> Figures:
    """Compare embeddings, feature maps, maps of half precision too, and the gradient of a training step.

    Embeddings of half precision are shown: where drawn images are nearly alike to a drawn network, as to mobilefacenet,
    its last batch norm makes of rounding what it makes of their differences.
    """
    torch.manual_seed(0)
    ours = nets.build_model(arch)
    given = images(8 if on_gpu else 3, ours.input_size, ours.input_size)
    settle(ours, given)
    theirs = twin(ours, device)
    with torch.no_grad():
        wanted, found = ours(given), theirs(given.to(device))
        maps = least_cosine(wanted.feature_map, found.feature_map)
        figures: Figures = {"float32": least_cosine(wanted.embedding, found.embedding), "map": maps}
        figures["norm"] = largest(found.norm.cpu() / wanted.norm - 1)
        for name, (dtype, _) in HALVES.items():
            with torch.autocast(device.type, dtype):
                half = theirs(given.to(device))
            figures[name] = least_cosine(wanted.feature_map, half.feature_map)
            figures[f"{name}, embedding"] = least_cosine(wanted.embedding, half.embedding)
    for name in ("float32", "map"):
        expect_cosine(name, figures[name], LEAST_COSINE)
    expect("relative difference of norms", figures["norm"], 1e-2)
    for name, (_, least) in HALVES.items():
        expect_cosine(f"map, {name}", figures[name], least)
        expect_cosine(f"embedding, {name}", figures[f"{name}, embedding"], -1.0)  # not finite
    gradients = []
    for model, place in ((ours, torch.device("cpu")), (theirs, device)):
        torch.manual_seed(1)
        _without_dropout(model.train())
        gradients.append(gradient_of(model, model(given.to(place)).embedding[:, :8].square().sum()))
    figures["gradient"] = least_cosine(gradients[0][None], gradients[1][None])
    expect_cosine("gradient", figures["gradient"], LEAST_GRADIENT_COSINE)
    return figures


def _without_dropout(model: nn.Module) -> None:
    """Take out what is drawn, by generators that differ between devices."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.eval()


def check_occlusion_heads(device: torch.device) -> Figures:
    """Compare what each occlusion head sees."""
    torch.manual_seed(0)
    backbone = nets.build_model("ir_tiny").eval()
    given = images(4, backbone.input_size, backbone.input_size)
    channels = backbone.map_shape[0]
    heads: dict[str, nets.AnyOcclusionHead] = {
        "plain": nets.OcclusionHead(channels),
        "fine": nets.FineOcclusionHead(channels, backbone.detail_channels),
        "pyramid": nets.PyramidOcclusionHead(),
    }
    figures: Figures = {}
    for name, head in heads.items():
        with torch.no_grad():
            _, wanted = nets.see(backbone, head.eval(), given)
            _, found = nets.see(twin(backbone, device), twin(head, device), given.to(device))
        assert wanted is not None and found is not None
        figures[name] = largest(found.cpu() - wanted)
        expect(f"visibility, {name}", figures[name], 1e-3)
    return figures


def check_detector(name: str, device: torch.device) -> Figures:
    """Compare what a detector says, and the gradient of MultiBox on a face in each image."""
    torch.manual_seed(0)
    ours = nets.build_detector(name)
    given = nets.detector_input(images(2, *SIDES))
    settle(ours, given)
    theirs = twin(ours, device)
    with torch.no_grad():
        wanted, found = ours(given), theirs(given.to(device))
    figures: Figures = {part: largest(b.cpu() - a) for part, a, b in zip(wanted._fields, wanted, found, strict=True)}
    for part, difference in figures.items():
        expect(part, difference, 1e-2)
    target = torch.tensor([[0.2, 0.3, 0.6, 0.8, *[0.4] * 10, 1.0]])
    gradients = []
    for model, place in ((ours, torch.device("cpu")), (theirs, device)):
        priors, targets = boxes.priors(*SIDES).to(place), [target.to(place)] * 2
        found = losses.multibox_loss(model.train()(given.to(place)), priors, targets)
        gradients.append(gradient_of(model, torch.stack([*found]).sum()))
    figures["gradient"] = least_cosine(gradients[0][None], gradients[1][None])
    expect_cosine("gradient", figures["gradient"], LEAST_OF_DETECTOR)
    return figures


def check_nms(device: torch.device) -> Figures:
    """Of the same boxes the same must stay, in the same order, whether few or many overlap."""
    generator = torch.Generator().manual_seed(0)
    figures: Figures = {}
    for spread in (100.0, 2000.0):
        corner = spread * torch.rand(NUM_BOXES, 2, generator=generator)
        corners = torch.cat([corner, corner + 10 + 50 * torch.rand(NUM_BOXES, 2, generator=generator)], dim=1)
        scores = torch.rand(NUM_BOXES, generator=generator).mul(50).round() / 50  # many are equal
        wanted = boxes.nms(corners, scores, 0.4)
        found = boxes.nms(corners.to(device), scores.to(device), 0.4).cpu()
        assert torch.equal(found, wanted), f"{len(found)} boxes stay in place of {len(wanted)}, or others"
        figures[f"of {spread:g} pixels"] = len(wanted)
    return figures


def cases(on_gpu: bool) -> Cases:
    """Return the checks; on the CPU of fewer images."""
    checks: dict[str, Callable[[torch.device], Figures]] = {
        f"backbone: {arch}": partial(check_backbone, arch, on_gpu) for arch in ARCHS
    }
    checks["occlusion heads"] = check_occlusion_heads
    checks |= {f"detector: {name}": partial(check_detector, name) for name in nets.DETECTORS}
    checks["boxes that stay"] = check_nms
    return {name: Case(check, 60.0) for name, check in checks.items()}
