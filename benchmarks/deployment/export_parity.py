"""How far exported graphs lie from torch, for every network in every precision.

Run as `python -m benchmarks export_parity`; it needs onnx, onnxscript and onnxruntime. A figure is the largest
difference of any output over the largest number of that output, in onnxruntime, on random images and weights; detectors
are shown three sizes. Normalizations have seen drawn faces once: else numbers grow with depth as in no trained network.
int8 is calibrated with the same faces, and judged by the embedding's cosine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch

import nets
from benchmarks.gpu.checks.networks import settle
from benchmarks.harness.program import Benchmark
from benchmarks.harness.tables import Column, Row, Table
from datasets.synthetic.prepare import render_identities
from models import FaceModel
from models.onnx import graphs, parity, precision
from models.onnx.parity import BATCHES, Difference
from models.onnx.wrapped import Form, WrappedDetector, WrappedModel
from options.model import NetworkOptions
from transforms import to_tensor

PEOPLE, IMAGES = 8, 2  # of the calibration

TABLE = Table(
    "export_parity",
    (
        Column("network", "what", width=24),
        Column("precision", "precision", width=9),
        *(Column(f"batch {batch}", f"batch_{batch}", "{:.1e}") for batch in BATCHES),
        Column("least cosine", "cosine", "{:.7f}"),
        Column("MiB", "mib", "{:.1f}"),
    ),
)


def recognizer_rows(arch: str) -> Iterator[Row]:
    """Yield the differences of a backbone with its occlusion head, in float32, fp16 and int8."""
    torch.manual_seed(0)
    model = FaceModel(NetworkOptions(arch=arch))
    crops, _ = render_identities("export-parity", PEOPLE, IMAGES)
    settle(model.eval().model, to_tensor(torch.from_numpy(crops)))
    for form, name in ((Form(), "float32"), (Form(half=True), "fp16")):
        module = WrappedModel(model, form).eval()
        graph = graphs.export_describe(model, form)
        yield _row(arch, name, graph.ByteSize(), parity.compare_model(graph, model, module, name))
        if name == "float32":
            small, _ = precision.quantized(graph, crops, form)
            yield _row(arch, "int8", small.ByteSize(), parity.compare_model(small, model, module, "int8"))


def detector_row(arch: str) -> Row:
    """Return the differences of a detector in float32, at three sizes."""
    torch.manual_seed(0)
    module = WrappedDetector(nets.build_detector(arch).eval(), Form(preprocess=True))
    graph = graphs.export_detector(module.detector, module.form)
    return _row(arch, "float32", graph.ByteSize(), parity.compare_module(graph, arch, module, parity.SIZES))


def _row(arch: str, name: str, num_bytes: int, differences: Sequence[Difference]) -> Row:
    parity.refuse_wrong(differences, {"float32": parity.TOLERANCES["float32"]})
    cosines = [each.cosine for each in differences if each.cosine is not None]
    worst = {f"batch_{batch}": max(each.relative for each in differences if each.batch == batch) for batch in BATCHES}
    cosine = min(cosines) if cosines else None
    return {"what": arch, "precision": name, **worst, "cosine": cosine, "mib": num_bytes / 2**20}


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    for arch in args.archs or (*nets.MODELS, *nets.DETECTORS):
        rows = (detector_row(arch),) if arch in nets.DETECTORS else recognizer_rows(arch)
        for row in rows:
            yield TABLE, row


BENCHMARK = Benchmark((TABLE,), _measure)
