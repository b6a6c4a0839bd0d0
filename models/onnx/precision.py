"""Graphs in fewer bits, and what that costs on pairs of the user's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation import Interval, Resampling, paired_bootstrap, tar_at_far, tar_measure
from models.onnx.wrapped import Form
from models.portraits import Crops, Scores
from models.rates import percent, threshold_at
from transforms import to_tensor

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("float32", "fp16", "int8")
_QUANTIZED = ("Conv", "Gemm", "MatMul")
_BATCH = 16
_INTEGER_DOTS = ("avx512_vnni", "avx_vnni", "asimddp")  # of the processor's flags


def quantized(
    graph: onnx.ModelProto, crops: Crops, form: Form, reduce_range: bool | None = None
) -> tuple[onnx.ModelProto, int]:
    """Return a graph of `export_describe` whose convolutions and products take int8 weights and uint8 inputs.

    Static levels from a calibration, per channel of the weights, written as QuantizeLinear and DequantizeLinear. The
    convolutions that see the images, and the layer that gives the embedding, stay in float32.

    Args:
        graph: in float32.
        crops: uint8 [N, 112, 112, 3] RGB, faces like those to come, N >= 1.
        form: that it was exported in.
        reduce_range: whether weights have 7 bits, so that sums of two products do not overflow 16 bits; None: where
            this processor has no instructions that sum in 32.
    Returns:
        The graph, and how many of its layers are quantized.
    Raises:
        ValueError: if there are no crops, or nothing is left to quantize.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not len(crops):
        raise ValueError("export: int8 needs crops for a calibration, got none")
    with tempfile.TemporaryDirectory() as name:
        source, prepared, target = (Path(name) / file for file in ("float.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save_model(graph, str(source))
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        kept = ends_of(onnx.load(str(prepared)))
        quantize_static(
            str(prepared),
            str(target),
            _Calibration(crops, form),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_QUANTIZED],
            per_channel=True,
            reduce_range=not has_integer_dots() if reduce_range is None else reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
        )
        found = onnx.load(str(target))
    num_layers = sum(node.op_type in _QUANTIZED for node in found.graph.node) - len(kept)
    if num_layers <= 0:
        raise ValueError("export: no layer is left to quantize beside the first and the last")
    return found, num_layers


def ends_of(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the layers that see the images, and of the one that gives the embedding."""
    nodes = graph.graph.node
    users: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    producers = {name: node for node in nodes for name in node.output}
    first = _nearest(graph.graph.input[0].name, lambda value: users.get(value, []), lambda node: node.output)
    last = _nearest(
        graph.graph.output[0].name, lambda value: [producers[value]] if value in producers else [], lambda n: n.input
    )
    return sorted({*first, *last})


def _nearest(start: str, nodes_at: Any, values_beyond: Any) -> list[str]:
    """Return the names of the layers that are met first on every way from a value."""
    waiting, seen, found = [start], set(), []
    while waiting:
        for node in nodes_at(waiting.pop()):
            if node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type in _QUANTIZED:
                found.append(node.name)
            else:
                waiting += values_beyond(node)
    return found


def has_integer_dots() -> bool:
    """Return whether this processor sums products of eight bits in 32 bits; False where nobody can tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    lines = [line.split() for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return any(flag in line for line in lines[:1] for flag in _INTEGER_DOTS)


class _Calibration:
    """What onnxruntime asks for images: a batch a call, then None."""

    def __init__(self, crops: Crops, form: Form) -> None:
        self._batches = self._read(crops, form)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Take what onnxruntime proposes; all is read in any case."""

    @staticmethod
    def _read(crops: Crops, form: Form) -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, len(crops), _BATCH):
            chunk = np.ascontiguousarray(crops[start : start + _BATCH])
            for view in (chunk, chunk[:, :, ::-1]):
                pixels = view[..., ::-1] if form.color_order == "bgr" else view
                pixels = np.ascontiguousarray(pixels)
                yield {"images": pixels if form.preprocess else to_tensor(torch.from_numpy(pixels)).numpy()}


class Loss(NamedTuple):
    """What fewer bits cost on pairs, of one score.

    Attributes:
        score: its name.
        far: false-accept rate.
        threshold: that the float32 model's impostor pairs have for it, or that was calibrated.
        tar: of the float32 model there.
        tar_same: of the smaller one at the same threshold, with which it is shipped.
        far_same: how many impostor pairs it accepts there.
        difference: of the TAR of both, each at the threshold of its own impostors: float32 less the smaller one, and
            its 95 % interval over people.
        num_genuine, num_impostors: pairs.
        data: name of the set that they are of.
    """

    score: str
    far: float
    threshold: float
    tar: float
    tar_same: float
    far_same: float
    difference: Interval
    num_genuine: int
    num_impostors: int
    data: str = ""

    @property
    def points(self) -> float:
        """Percentage points of TAR that are lost, by the worse of the two ways to count."""
        return 100 * max(self.difference.estimate, self.tar - self.tar_same)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes for JSON; ends of an interval that few people do not give are None."""
        interval = self.difference._asdict()
        return self._asdict() | {"difference": {name: None if isnan(end) else end for name, end in interval.items()}}

    def __str__(self) -> str:
        low, high = 100 * self.difference.lower, 100 * self.difference.upper
        return (
            f"{self.points:.2f} points of TAR lost at FAR {self.far:g} ({self.score}; {self.num_genuine} genuine,"
            f" {self.num_impostors} impostor pairs): {percent(self.tar)} before, {percent(self.tar_same)} at the same"
            f" threshold {self.threshold:.4f}, where FAR is {percent(self.far_same)}; at its own threshold"
            f" {100 * self.difference.estimate:.2f} [{low:.2f}, {high:.2f}] points"
        )


def loss_of(
    scores: tuple[Scores, Scores],
    score: str,
    people: NDArray[np.int64] | None,
    issame: NDArray[np.bool_],
    far: float,
    threshold: float | None = None,
) -> Loss:
    """Return what fewer bits cost on pairs.

    Args:
        scores: of the float32 model and of the smaller one, [M] each by name.
        score: which.
        people: int [M, 2], whom each pair shows, for the interval; None: it is over pairs.
        issame: bool [M].
        far: false-accept rate.
        threshold: that was calibrated; None: that of these impostor pairs.
    Raises:
        ValueError: if the impostor pairs are too few for the FAR.
    """
    before, after = (each[score] for each in scores)
    if threshold is None:
        threshold = threshold_at(before[~issame], far)
    elif (num := int((~issame).sum())) * far < 1:
        raise ValueError(f"--pairs: {num} impostor pairs cannot show a FAR of {far:g}; give more people, or --far")
    difference = paired_bootstrap(before, after, issame, tar_measure(far), Resampling(people))
    # Without resampling it is a number on any data; the interval may not exist where people are few.
    own = [tar_at_far(each, issame, [far])[far] for each in (before, after)]
    return Loss(
        score, far, threshold,
        float((before[issame] >= threshold).mean()), float((after[issame] >= threshold).mean()),
        float((after[~issame] >= threshold).mean()), difference._replace(estimate=own[0] - own[1]),
        int(issame.sum()), int((~issame).sum()),
    )  # fmt: skip


def refuse_loss(losses: Sequence[Loss], max_loss: float) -> None:
    """Refuse a model of which a score loses more than so many points of TAR, on any set.

    Raises:
        ValueError: one line with the figures of the score that loses most, and the points of each other.
    """
    ranked = sorted(losses, key=lambda loss: -loss.points)
    if ranked and not ranked[0].points <= max_loss:
        others = "".join(f"; {loss.data} {loss.score}: {loss.points:.2f}" for loss in ranked[1:])
        raise ValueError(
            f"{ranked[0].data}: {ranked[0]}: more than --max_loss {max_loss:g}; nothing is written{others}"
        )
