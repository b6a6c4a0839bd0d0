"""What leaves the project on the device: torch.export's programs, moved there, and a saved model read again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

import nets
from benchmarks.gpu.case import Case, Cases, Figures, expect
from benchmarks.gpu.checks.networks import images, settle
from models import FaceModel
from models.onnx import graphs, wrapped
from options.model import NetworkOptions

BATCHES = (1, 3)


def face_model() -> FaceModel:
    """Return a small model with all its parts, of drawn weights and settled statistics."""
    torch.manual_seed(0)
    model = FaceModel(NetworkOptions(arch="ir_tiny", embedding_size=64, qaconv_channels=16, occlusion_head="fine"))
    settle(model.model, images(16, model.model.input_size, model.model.input_size))
    return model.eval()


def compare(module: wrapped.Wrapped, size: tuple[int, int], device: torch.device) -> Figures:
    """Return the largest difference, over the largest number, of a program written, read and moved to the device."""
    example = {"images": module.example(size)}
    rows = {0: "batch"} if size == wrapped.SIZE else {0: "batch", 2: "height", 3: "width"}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        graphs.save_program(graphs.to_program(module, example, {"images": rows}), path)
        program = move_to_device_pass(torch.export.load(path), device)
    there = program.module()
    figures: Figures = {}
    for batch in BATCHES:
        given = module.example(size, seed=batch, batch=batch)
        with torch.inference_mode():
            pairs = zip(module(given), there(given.to(device)), strict=True)
        for name, (wanted, found) in zip(graphs.output_names(module), pairs, strict=True):
            figures[name] = max(figures.get(name, 0.0), _relative(wanted, found))
    for name, difference in figures.items():
        expect(name, difference, 1e-3)
    return figures


def _relative(wanted: Tensor, found: Tensor) -> float:
    assert found.shape == wanted.shape, f"shape {[*found.shape]} in place of {[*wanted.shape]}"
    return float((found.cpu() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))


def check_described(flip: bool, device: torch.device) -> Figures:
    """The whole describe, image -> embedding, norm, map and visibility."""
    return compare(wrapped.WrappedModel(face_model(), wrapped.Form(flip=flip)).eval(), wrapped.SIZE, device)


def check_detector(device: torch.device) -> Figures:
    """A detector, of any height and width."""
    torch.manual_seed(0)
    detector = nets.build_detector("featherface_v2")
    settle(detector, nets.detector_input(images(2, 160, 192)))
    return compare(wrapped.WrappedDetector(detector).eval(), (160, 192), device)


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {
        "exported: describe": partial(check_described, False),
        "exported: describe with flip": partial(check_described, True),
        "exported: detector": check_detector,
    }
    return {name: Case(check, 120.0) for name, check in checks.items()}
