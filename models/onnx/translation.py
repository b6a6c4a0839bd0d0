"""The operator `maskwise::best_matches` in ONNX's own operators: one product, two maxima.

Legend of the shape suffixes: as of `qaconv.correlation`.
"""

# ruff: noqa: N803, N806  (shape suffixes are capitals)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Value = Any  # a tensor of the graph that is being built

_FEW_CELLS = 256  # up to so many, indices are uint8


def translations(opset_version: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the table of translations that `torch.onnx.export` needs for a matcher.

    The whole correlation [L, P, S, G, R] is held at a time; hidden cells are set to -inf before the maxima and matches
    that do not exist to 0 after them, so that values, cells and ties are those of `qaconv.correlation.best_matches`.

    Args:
        opset_version: of the graph, at least 18 (reductions with axes as inputs).
    """
    import onnxscript

    op = getattr(onnxscript, f"opset{opset_version}")

    def best_matches(
        features: Sequence[Value],
        hidden: Sequence[Value],
        with_cells: bool,
        block_bytes: int | None = None,
        half: bool = False,
    ) -> Sequence[Value]:
        return _Matches(op, features, hidden).outputs(with_cells)

    return {torch.ops.maskwise.best_matches.default: best_matches}


class _Matches:
    """The matches of one node; one side is a set against itself."""

    def __init__(self, op: Any, features: Sequence[Value], hidden: Sequence[Value]) -> None:
        self.op, self.num_sides = op, len(features)
        self.probe, self.gallery = features[0], features[-1]
        self.hidden = (hidden[0], hidden[-1]) if hidden else None
        self.S, self.R = (int(side.shape[2]) for side in (self.probe, self.gallery))
        self.channels = int(self.probe.shape[3])

    def outputs(self, with_cells: bool) -> list[Value]:
        sim_LNM = self._correlations()
        directions = [self._of_probe(sim_LNM, with_cells), self._of_gallery(sim_LNM, with_cells)][: self.num_sides]
        return [best for best, _ in directions] + ([cell for _, cell in directions] if with_cells else [])

    def _correlations(self) -> Value:
        """Return [L, P * S, G * R], -inf where either cell is hidden."""
        op = self.op
        rows, columns = (op.Reshape(side, self._ints(0, -1, self.channels)) for side in (self.probe, self.gallery))
        sim_LNM = op.MatMul(rows, op.Transpose(columns, perm=[0, 2, 1]))
        if self.hidden is None:
            return sim_LNM
        in_row, in_column = (op.Reshape(side, self._ints(0, -1)) for side in self.hidden)
        is_hidden = op.Or(op.Unsqueeze(in_row, self._ints(2)), op.Unsqueeze(in_column, self._ints(1)))
        return op.Where(is_hidden, op.CastLike(op.Constant(value_float=float("-inf")), sim_LNM), sim_LNM)

    def _of_probe(self, sim_LNM: Value, with_cells: bool) -> tuple[Value, Value]:
        """Return best and cell [L, P, S, G]: over R, the innermost."""
        op = self.op
        sim_LNGR = op.Reshape(sim_LNM, self._ints(0, 0, -1, self.R))
        shape = op.Concat(self._size(self.probe, 0, 3), self._size(self.gallery, 1, 2), axis=0)
        return self._maximum(sim_LNGR, 3, self.R, lambda values: op.Reshape(values, shape), with_cells)

    def _of_gallery(self, sim_LNM: Value, with_cells: bool) -> tuple[Value, Value]:
        """Return best and cell [L, G, R, P]: over S."""
        op = self.op
        sim_LPSM = op.Reshape(sim_LNM, op.Concat(self._size(self.probe, 0, 3), self._ints(-1), axis=0))
        shape = op.Concat(self._size(self.probe, 0, 2), self._size(self.gallery, 1, 3), axis=0)

        def arranged(values: Value) -> Value:
            return op.Transpose(op.Reshape(values, shape), perm=[0, 2, 3, 1])

        return self._maximum(sim_LPSM, 2, self.S, arranged, with_cells)

    def _maximum(
        self, sim: Value, axis: int, num_cells: int, arranged: Callable[[Value], Value], with_cells: bool
    ) -> tuple[Value, Value]:
        op = self.op
        best = op.ReduceMax(sim, self._ints(axis), keepdims=0)
        matched = op.Not(op.IsInf(best)) if self.hidden is not None else None
        if matched is not None:
            best = op.Where(matched, best, op.CastLike(op.Constant(value_float=0.0), best))
        if not with_cells:
            return arranged(best), None
        cell = op.ArgMax(sim, axis=axis, keepdims=0)  # the first one that reaches it
        if matched is not None:
            cell = op.Where(matched, cell, op.Constant(value_int=0))
        # Maxima are float32 or float64, so positions are exact in whichever type the operator gives.
        return arranged(best), op.Cast(arranged(cell), to=2 if num_cells <= _FEW_CELLS else 5)  # uint8, int16

    def _ints(self, *values: int) -> Value:
        return self.op.Constant(value_ints=[*values])

    def _size(self, side: Value, start: int, end: int) -> Value:
        return self.op.Shape(side, start=start, end=end)
