"""Graphs in a second instead of twenty, by torch's older exporter, for tests of what is done with a graph.

Graphs of the exporter that the programs use are those of the slow tests.
"""

import io
import warnings

import onnx
import torch

import qaconv.matcher
from models.onnx import graphs
from qaconv.correlation import Maxima


def quick(monkeypatch):
    """Let everything that is exported go through the older exporter."""
    monkeypatch.setattr(graphs, "to_onnx", _to_onnx)


def _to_onnx(module, example, dynamic, opset):
    stream, kept = io.BytesIO(), qaconv.matcher.best_matches
    qaconv.matcher.best_matches = _plain_matches
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(), tuple(example.values()), stream, dynamo=False, opset_version=opset,
                input_names=[*example], output_names=[*module.names], dynamic_axes=dynamic,
            )  # fmt: skip
    finally:
        qaconv.matcher.best_matches = kept
    return graphs.stripped(onnx.load_from_string(stream.getvalue()))


def _plain_matches(probe, gallery, block_bytes=None, with_cells=True, half=False):
    """Say what `qaconv.correlation.best_matches` says, with all correlations in memory."""
    sim = torch.einsum("lpsc,lgrc->lpsgr", probe.features, gallery.features)
    if probe.hidden is not None:
        sim = sim.masked_fill(probe.hidden[:, :, :, None, None] | gallery.hidden[:, None, None], -torch.inf)

    def best(dim):
        values, cells = sim.max(dim)
        return values.masked_fill(values == -torch.inf, 0), cells.masked_fill(values == -torch.inf, 0)

    of_probe, of_gallery = best(4), best(2)
    return Maxima(*of_probe, *(each.permute(0, 2, 3, 1) for each in of_gallery))
