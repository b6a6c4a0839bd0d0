"""Checks of what a network computes, whatever it is a network of."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.checking.distance import DEVICE, HALF, Measure, measure
from models.checking.subject import DETECTOR, Subject, outputs_of
from models.checking.verdict import Verdict, failed, passed, skipped
from models.face_model import FaceModel

BATCHES = (1, 3, 8)
TOLERANCE = 1e-5  # of the largest number: kernels for other batch sizes sum in another order
QUANTIZED_TOLERANCE = 0.05  # likewise: a number at the edge of a rounding step goes either way
UNIT = 1e-5
GPU = "cuda"
QUANTIZED = "it is quantized: its integers are imitated, and have no gradient"


def check_eval_mode(subject: Subject) -> Verdict:
    """Every layer is in eval mode, as loading leaves it."""
    training = [name or "the network" for name, module in subject.network.named_modules() if module.training]
    if training:
        return failed(f"{len(training)} modules are in training mode: {training[0]}")
    return passed("every module")


@torch.no_grad()
def check_shapes(subject: Subject) -> Verdict:
    """Outputs have the rows of the batch and the shapes that the network states, and are finite."""
    for batch in BATCHES:
        found = outputs_of(subject.network, subject.images[:batch])
        for name, shape in _stated(subject, found).items():
            if tuple(found[name].shape) != (batch, *shape):
                return failed(f"{name} of {batch} images: {[batch, *shape]} expected, got {[*found[name].shape]}")
        for name, values in found.items():
            if not bool(values.isfinite().all()):
                return failed(f"{name} of {batch} images: not finite")
    shapes = ", ".join(f"{name} {[*values.shape[1:]]}" for name, values in found.items())
    return passed(f"{shapes}; batches of {', '.join(map(str, BATCHES))}")


def _stated(subject: Subject, found: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    if subject.kind == DETECTOR:
        return {name: (found["loc"].shape[1], size) for name, size in (("loc", 4), ("conf", 2), ("landmarks", 10))}
    net = subject.recognizer.model
    channels, height, width = net.map_shape
    shapes = {"embedding": (net.embedding_size,), "norm": (1,), "local_map": (channels, height, width)}
    return shapes | ({"visibility": (1, height, width)} if "visibility" in found else {})


@torch.no_grad()
def check_unit_length(subject: Subject) -> Verdict:
    """Embeddings have length 1, and the length before normalizing is positive."""
    found = outputs_of(subject.network, subject.images)
    lengths = torch.linalg.vector_norm(found["embedding"], dim=1)
    off, least = float((lengths - 1).abs().max()), float(found["norm"].min())
    if not off <= UNIT:
        return failed(f"an embedding has length {float(lengths[(lengths - 1).abs().argmax()]):.6g}, not 1")
    if not least > 0:
        return failed(f"a norm is {least:.3g}")
    return passed(f"within {off:.1e}; norms from {least:.3g} to {float(found['norm'].max()):.3g}")


@torch.no_grad()
def check_rows(subject: Subject) -> Verdict:
    """What is said of an image does not depend on the others in its batch, nor on its place."""
    images, network = subject.images, subject.network
    together = outputs_of(network, images)
    alone = [outputs_of(network, image[None]) for image in images]
    order = torch.arange(len(images)).flip(0).roll(1)
    elsewhere = outputs_of(network, images[order])
    worst, allowed = 0.0, TOLERANCE if subject.is_float else QUANTIZED_TOLERANCE
    for name, values in together.items():
        largest = float(values.abs().max()) or 1.0
        for others, company in (
            (torch.cat([each[name] for each in alone]), "alone"),
            (elsewhere[name][order.argsort()], "in another order"),
        ):
            difference = float((values - others).abs().max()) / largest
            if not difference <= allowed:
                return failed(f"{name} of an image {company} differs by {difference:.2e} of the largest number")
            worst = max(worst, difference)
    return passed(f"alone, in company, in another order: within {worst:.1e} of the largest number (at most {allowed})")


@torch.no_grad()
def check_determinism(subject: Subject) -> Verdict:
    """Twice the same images give the same bits."""
    first, second = (outputs_of(subject.network, subject.images) for _ in range(2))
    wrong = [name for name in first if not torch.equal(first[name], second[name])]
    if wrong:
        return failed(f"{', '.join(wrong)}: other numbers for the same images")
    return passed("the same bits twice")


def check_gradients(subject: Subject) -> Verdict:
    """In a training step every parameter gets a gradient that is finite and not zero."""
    if not subject.is_float:
        return skipped(QUANTIZED)
    model = copy.deepcopy(subject.network).requires_grad_(True).train()
    with torch.random.fork_rng(devices=[]):  # dropout
        torch.manual_seed(0)
        said = [*outputs_of(model, subject.images).values(), *_said_beside(model, subject.images)]
        generator = torch.Generator().manual_seed(0)
        torch.stack([(each * torch.randn(each.shape, generator=generator)).sum() for each in said]).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for what, names in {
        "no output uses": [name for name, gradient in gradients.items() if gradient is None],
        "a gradient that is not finite in": [
            name for name, grad in gradients.items() if grad is not None and not bool(grad.isfinite().all())
        ],
        "no gradient at all in": [
            name for name, grad in gradients.items() if grad is not None and not bool(grad.any())
        ],
    }.items():
        if names:
            return failed(f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    return passed(f"all {len(gradients)} parameters get one")


def _said_beside(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what matcher and modulator say, as in training: the scores of all pairs, the covariates."""
    if not isinstance(model, FaceModel):
        return []
    found = []
    if model.matcher is not None:
        said = outputs_of(model, images)
        maps, seen = said["local_map"], said.get("visibility")
        found.append(model.matcher(maps, maps, seen, seen))
    if model.modulator is not None:
        found.append(model.modulator.predict(model.model(images).feature_map))
    return found


@torch.no_grad()
def check_saving(subject: Subject) -> Verdict:
    """Written and read again into a network built anew, the weights give the same bits."""
    if not subject.is_float:
        return skipped("it is quantized; models.save_quantized writes it, and its own file was read")
    stream = io.BytesIO()
    torch.save(subject.network.state_dict(), stream)
    stream.seek(0)
    again = subject.rebuild()
    again.load_state_dict(torch.load(stream, weights_only=True))
    before, after = (outputs_of(model, subject.images) for model in (subject.network, again))
    wrong = [name for name in before if not torch.equal(before[name], after[name])]
    if wrong:
        return failed(f"{', '.join(wrong)}: other numbers after writing and reading the state dict")
    return passed(f"{len(stream.getvalue()) / 2**20:.1f} MiB, the same bits")


@torch.no_grad()
def check_precision(subject: Subject) -> Verdict:
    """In half precision embeddings point where they did, and a detector's scores, boxes and points stay."""
    exact = outputs_of(subject.network, subject.images)
    found = []
    for dtype, limits in HALF.items():
        name = str(dtype).removeprefix("torch.")
        with torch.autocast("cpu", dtype=dtype):
            rough = outputs_of(subject.network, subject.images)
        if wrong := [output for output, values in rough.items() if not bool(values.isfinite().all())]:
            return failed(f"{name}: {wrong[0]} is not finite: a number is beyond its range")
        measures = measure(subject, exact, rough, limits)
        if fault := _beyond(measures):
            return failed(f"{name} against float32: {fault}")
        found.append(f"{name}: {', '.join(map(str, measures))}")
    return passed(f"against float32, {'; '.join(found)}")


def _beyond(measures: Sequence[Measure]) -> str:
    """Return the first measure that is beyond its limit, in words; "": none is."""
    words = (
        f"{one}, at {'least' if one.is_least else 'most'} {one.limit} expected" for one in measures if not one.is_within
    )
    return next(words, "")


@torch.no_grad()
def check_gpu(subject: Subject) -> Verdict:
    """A GPU gives what the CPU gives."""
    if not torch.cuda.is_available():
        return skipped("there is no GPU here")
    model = copy.deepcopy(subject.network).to(GPU)
    there = {name: values.cpu() for name, values in outputs_of(model, subject.images.to(GPU)).items()}
    measures = measure(subject, outputs_of(subject.network, subject.images), there, DEVICE)
    if fault := _beyond(measures):
        return failed(f"against the CPU: {fault}")
    return passed(f"against the CPU: {', '.join(map(str, measures))}")
