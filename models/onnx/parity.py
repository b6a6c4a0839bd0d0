"""How far a graph's numbers lie from those of the network that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.face_model import FaceModel
from models.onnx.sessions import open_session
from models.onnx.wrapped import SIZE, Wrapped, WrappedMatcher, WrappedModel, reference
from qaconv import QAConv

if TYPE_CHECKING:
    import onnx

BATCHES = (1, 3, 8)
SIZES = ((96, 128), (65, 97), (200, 151))  # height and width of photographs
# Largest difference over the largest number of an output; int8 is judged by what the user's pairs lose.
TOLERANCES = {"float32": 1e-4, "fp16": 5e-2}


class Difference(NamedTuple):
    """Of one output on one batch of random images, or maps.

    Attributes:
        part: what was exported.
        precision: "float32", "fp16" or "int8".
        batch: images, for a matcher those of either side.
        size: height x width of the images.
        output: its name.
        largest: absolute difference.
        relative: that, over the largest number of torch's output.
        cosine: of the embeddings, the least; None of other outputs.
    """

    part: str
    precision: str
    batch: int
    size: str
    output: str
    largest: float
    relative: float
    cosine: float | None


def compare_model(
    graph: onnx.ModelProto | Path,
    model: FaceModel,
    module: WrappedModel,
    precision: str,
    batches: Sequence[int] = BATCHES,
) -> list[Difference]:
    """Return the differences of a graph of `export_describe`, from the model by the path that evaluation takes."""
    session, found = open_session(graph), list[Difference]()
    for batch in batches:
        given = module.example(SIZE, seed=batch, batch=batch)
        images = module.images(given)
        wanted = dict(zip(module.names, reference(model, images, module.form.flip), strict=True))
        found += _differences(("describe", precision, batch, SIZE), session, {"images": given}, wanted)
    return found


def compare_module(
    graph: onnx.ModelProto,
    part: str,
    module: Wrapped,
    sizes: Iterable[tuple[int, int]] = (SIZE,),
    batches: Sequence[int] = BATCHES,
) -> list[Difference]:
    """Return the differences of a graph of a backbone or a detector from its module, in float32."""
    session, found = open_session(graph), list[Difference]()
    for size in sizes:
        for batch in batches:
            given = module.example(size, seed=batch, batch=batch)
            with torch.inference_mode():
                wanted = dict(zip(module.names, module(given), strict=True))
            found += _differences((part, "float32", batch, size), session, {"images": given}, wanted)
    return found


def compare_matcher(graph: onnx.ModelProto, matcher: QAConv, batches: Sequence[int] = BATCHES) -> list[Difference]:
    """Return the differences of a graph of `export_matcher`, on maps of which cells, and one as a whole, are hidden."""
    session, found = open_session(graph), list[Difference]()
    names = [each.name for each in session.get_inputs()]
    cells = matcher.map_shape[1:]
    for batch in batches:
        given = matcher_example(names, matcher.map_shape, batch)
        module = WrappedMatcher(matcher).eval()
        with torch.inference_mode():
            wanted = {"scores": module(*given.values())}
        found += _differences(("matcher", "float32", batch, cells), session, given, wanted)
    return found


def matcher_example(names: Sequence[str], shape: tuple[int, int, int], batch: int) -> dict[str, Tensor]:
    """Return inputs of a matcher by name: unit maps, and visibilities of which every other one is below a half."""
    generator = torch.Generator().manual_seed(batch)
    given = {}
    for name in names:
        number = batch if name.startswith("probe") else batch + 1
        if name.endswith("_map"):
            given[name] = functional.normalize(torch.randn(number, *shape, generator=generator), dim=1)
        else:
            given[name] = torch.rand(number, 1, *shape[1:], generator=generator)
            given[name][-1] = 0.0
    return given


def refuse_wrong(differences: Iterable[Difference], tolerances: Mapping[str, float] = TOLERANCES) -> None:
    """Refuse a graph that says something else than torch does.

    Raises:
        ValueError: one line with the worst difference.
    """
    checked = [each for each in differences if each.precision in tolerances]
    wrong = [each for each in checked if not each.relative <= tolerances[each.precision]]  # NaN is wrong
    if wrong:
        worst = max(wrong, key=lambda each: np.inf if np.isnan(each.relative) else each.relative)
        raise ValueError(
            f"export: {worst.output} of the {worst.part} in {worst.precision} differs from torch's by"
            f" {worst.relative:.2g} of its largest number at batch {worst.batch}; at most"
            f" {tolerances[worst.precision]:g} is rounding"
        )


def table(differences: Iterable[Difference]) -> str:
    """Return the largest differences as a Markdown table, an output a line and a batch a column."""
    by_line: dict[tuple[str, str, str], dict[int, Difference]] = {}
    for each in differences:
        line = by_line.setdefault((each.part, each.precision, each.output), {})
        if each.batch not in line or not each.relative <= line[each.batch].relative:
            line[each.batch] = each
    batches = sorted({batch for line in by_line.values() for batch in line})
    return "\n".join(_lines(by_line, batches))


def _lines(by_line: Mapping[tuple[str, str, str], Mapping[int, Difference]], batches: Sequence[int]) -> Iterator[str]:
    yield f"| part | precision | output | {' | '.join(f'batch {batch}' for batch in batches)} | least cosine |"
    yield f"| --- | --- | --- |{' ---: |' * len(batches)} ---: |"
    for words, line in by_line.items():
        cosines = [each.cosine for each in line.values() if each.cosine is not None]
        numbers = [f"{line[batch].relative:.1e}" if batch in line else "" for batch in batches]
        yield f"| {' | '.join([*words, *numbers, f'{min(cosines):.7f}' if cosines else ''])} |"


def _differences(
    of: tuple[str, str, int, tuple[int, int]], session: Any, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[Difference]:
    part, precision, batch, size = of
    found = session.run([*wanted], {name: each.numpy() for name, each in given.items()})
    for (name, expected), array in zip(wanted.items(), found, strict=True):
        got = torch.from_numpy(array)
        if got.shape != expected.shape:
            raise ValueError(f"export: {name} of the {part} has the shape {[*got.shape]}, torch {[*expected.shape]}")
        largest = float((got - expected).abs().max())
        cosine = float(functional.cosine_similarity(got, expected, dim=1).min()) if name == "embedding" else None
        scale = float(expected.abs().max())
        yield Difference(part, precision, batch, "{} x {}".format(*size), name, largest, largest / (scale or 1), cosine)
