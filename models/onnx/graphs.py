"""PyTorch's networks as ONNX graphs, by the exporter that rests on torch.export."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import nets
from models.face_model import FaceModel
from models.onnx import wrapped
from models.onnx.translation import translations
from models.onnx.wrapped import PLAIN, SIZE, Form
from qaconv import QAConv

if TYPE_CHECKING:
    import onnx

    Graph = onnx.ModelProto

OPSET = 20
MAX_EMBEDDED = 2**30  # bytes of weights within a file; protobuf ends at twice that
_LEAST_OPSET, _NEWEST_OPSET = 18, 22
_DETECTED = (96, 128)  # an example: no side of the coarsest map is 1, which would be taken for a constant
_BATCH = {0: "batch"}


def export_backbone(backbone: nets.Backbone, form: Form = PLAIN, opset: int = OPSET) -> onnx.ModelProto:
    """Return a backbone as a graph: `images` -> `embedding`, `norm`, `feature_map`, of any batch.

    Raises:
        ModuleNotFoundError: if onnx or onnxscript is missing. ValueError: if the opset is not known.
    """
    module = wrapped.WrappedBackbone(backbone.eval(), form)
    return to_onnx(module, {"images": module.example(SIZE)}, {"images": _BATCH}, opset)


def export_describe(model: FaceModel, form: Form = PLAIN, opset: int = OPSET) -> onnx.ModelProto:
    """Return a FaceModel without its matcher as a graph; see `WrappedModel` for what goes in and out.

    Raises:
        ModuleNotFoundError, ValueError: as `export_backbone`; also if the model is quantized, for the rounding that
            torch imitates is no operator of ONNX.
    """
    return to_onnx(*describe_program(model, form), opset)


def describe_program(model: FaceModel, form: Form = PLAIN) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Return what `to_onnx` and `to_program` export of a FaceModel: module, example and dynamic sizes.

    Raises:
        ValueError: if the model is quantized.
    """
    if model.form != "float32":
        raise ValueError(f"export: the model is {model.form}; export the float32 one with --precision int8")
    module = wrapped.WrappedModel(model, form).eval()
    return module, {"images": module.example(SIZE)}, {"images": _BATCH}


def export_occlusion_head(
    head: nets.AnyOcclusionHead, shapes: Sequence[tuple[int, int, int]], opset: int = OPSET
) -> onnx.ModelProto:
    """Return an occlusion head as a graph: `feature_map` (and `detail`) or `images` -> `visibility`.

    Args:
        head: of any kind.
        shapes: [C, h, w] of what it reads: of the raw feature map, for a fine head also of the detail map.
        opset: of the graph.
    """
    is_of_images = isinstance(head, nets.PyramidOcclusionHead)
    names = ["images"] if is_of_images else ["feature_map", "detail"][: len(shapes)]
    generator = torch.Generator().manual_seed(0)
    example = {n: torch.rand(2, *s, generator=generator) for n, s in zip(names, shapes, strict=True)}
    return to_onnx(wrapped.WrappedOcclusionHead(head.eval()), example, {"read": (_BATCH,) * len(names)}, opset)


def export_matcher(matcher: QAConv, with_visibility: bool = True, opset: int = OPSET) -> onnx.ModelProto:
    """Return a matcher as a graph: `probe_map`, `gallery_map` (and `..._visibility`) -> `scores` [P, G].

    Args:
        matcher: in whichever mode; the graph normalizes with the running statistics.
        with_visibility: whether it is told what can be seen.
        opset: of the graph.
    """
    channels, *cells = matcher.map_shape
    sides = {"probe": 2, "gallery": 3}
    generator = torch.Generator().manual_seed(0)
    example = {f"{side}_map": torch.rand(n, channels, *cells, generator=generator) for side, n in sides.items()}
    if with_visibility:
        example |= {f"{side}_visibility": torch.rand(n, 1, *cells, generator=generator) for side, n in sides.items()}
    dynamic = {name: {0: "probes" if name.startswith("probe") else "galleries"} for name in example}
    return to_onnx(wrapped.WrappedMatcher(matcher).eval(), example, dynamic, opset)


def export_detector(detector: nets.Detector, form: Form = PLAIN, opset: int = OPSET) -> onnx.ModelProto:
    """Return a detector as a graph: `images` -> `loc`, `conf`, `landmarks`, of any batch, height and width."""
    module = wrapped.WrappedDetector(detector.eval(), form)
    rows = 1 if form.preprocess else 2
    dynamic = {"images": {0: "batch", rows: "height", rows + 1: "width"}}
    return to_onnx(module, {"images": module.example(_DETECTED)}, dynamic, opset)


def to_program(module: nn.Module, example: Mapping[str, Tensor], dynamic: Mapping[str, Any]) -> Any:
    """Return a module as `torch.export` captures it, at an example of batch 2: 1 would be taken for a constant."""
    # On one object a size of the same name is the same size; where it is guessed, it need not be.
    dims: dict[str, Any] = {}

    def named(sizes: Any) -> Any:
        if isinstance(sizes, tuple):
            return tuple(named(each) for each in sizes)
        is_auto = any(name in ("height", "width") for name in sizes.values())
        auto = torch.export.Dim.DYNAMIC
        return {d: auto if is_auto else dims.setdefault(n, torch.export.Dim(n)) for d, n in sizes.items()}

    shapes = {name: named(sizes) for name, sizes in dynamic.items()}
    with torch.no_grad(), _quiet():
        return torch.export.export(module, tuple(example.values()), dynamic_shapes=shapes)


def to_onnx(
    module: nn.Module, example: Mapping[str, Tensor], dynamic: Mapping[str, Any], opset: int = OPSET
) -> onnx.ModelProto:
    """Return a module of this room as a graph.

    Args:
        module: with the `names` of its outputs.
        example: its inputs by name, in their order.
        dynamic: by name of an argument of `forward`, names of sizes by dimension.
        opset: of the graph.
    Raises:
        ModuleNotFoundError: if onnx or onnxscript is missing. ValueError: if the opset is not known.
    """
    return program_to_onnx(to_program(module, example, dynamic), [*example], output_names(module), opset)


def output_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the outputs of a module of this room."""
    names: tuple[str, ...] = module.names  # type: ignore[assignment]  # torch takes every attribute for a tensor
    return names


def program_to_onnx(program: Any, inputs: Sequence[str], outputs: Sequence[str], opset: int = OPSET) -> onnx.ModelProto:
    """Return what `to_program` captured as a graph, without what torch says of its own nodes."""
    check_opset(opset)
    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[*inputs],
            output_names=[*outputs],
            custom_translation_table=translations(opset),
            verbose=False,
        )
    assert exported is not None
    return stripped(exported.model_proto)


def check_opset(opset: int) -> None:
    """Refuse an opset that graphs here are not tested with.

    Raises:
        ValueError: one line with the range.
    """
    if not _LEAST_OPSET <= opset <= _NEWEST_OPSET:
        raise ValueError(f"export: opset must be from {_LEAST_OPSET} to {_NEWEST_OPSET}, got {opset}")


def stripped(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without `pkg.torch...` beside its nodes and values: stack traces and paths of this machine."""
    inner = graph.graph
    for each in [graph, inner, *graph.functions, *inner.node, *inner.value_info, *inner.input, *inner.output]:
        del each.metadata_props[:]
        each.doc_string = ""
    for tensor in inner.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    return graph


def save(graph: onnx.ModelProto, path: Path, max_embedded: int = MAX_EMBEDDED) -> list[Path]:
    """Write a graph and return its files: weights beyond a size go into `<name>.data` beside it, and out of the graph.

    Raises:
        OSError: if they cannot be written. ValueError: if there is a file of such data already.
    """
    import onnx

    data = path.with_name(f"{path.name}.data")
    if data.exists():
        raise ValueError(f"{data}: is there already, and data would be appended to it")
    is_large = graph.ByteSize() > max_embedded
    onnx.save_model(graph, str(path), save_as_external_data=is_large, location=data.name, size_threshold=1024)
    return [path, data] if is_large else [path]


def save_program(program: Any, path: Path) -> None:
    """Write what `to_program` captured for `torch.export.load`.

    Raises:
        OSError: if it cannot be written.
    """
    with _quiet():
        torch.export.save(program, path)


def save_openvino(graph: Path, path: Path) -> None:
    """Write a graph's file as OpenVINO's, `.xml` and `.bin`, in float32.

    Raises:
        ModuleNotFoundError: if openvino is missing.
    """
    import openvino

    openvino.save_model(openvino.convert_model(graph), path, compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch says of packages that it does not need and of its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
