"""Whether a model that is exported says what it said."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from models.checking.faces import LARGE
from models.checking.subject import DETECTOR, Subject
from models.checking.verdict import Verdict, failed, passed, skipped

_ROOM = "models.onnx"  # looked for, not imported above: it needs packages that not everybody has
_BATCH = 3


def check_export(subject: Subject) -> Verdict:
    """The ONNX graph of the network gives what the network gives."""
    if find_spec(_ROOM) is None:
        return skipped("this version exports nothing")
    if not subject.is_float:
        return skipped("it is quantized; its float32 net is what is exported")
    if sum(parameter.numel() for parameter in subject.network.parameters()) > LARGE:
        return skipped(f"to export over {LARGE:,} parameters takes a minute; the program that does compares them too")
    try:
        differences, parity = _differences(subject)
    except ModuleNotFoundError as error:
        return skipped(str(error))
    try:
        parity.refuse_wrong(differences)
    except ValueError as error:
        return failed(str(error))
    worst = max(differences, key=lambda difference: difference.relative)
    return passed(f"{worst.output} within {worst.relative:.1e} of the largest number, the others nearer")


def _differences(subject: Subject) -> tuple[list[Any], Any]:
    """Return how graph and network differ on a batch, and the module that judges it."""
    graphs, parity, wrapped = (import_module(f"{_ROOM}.{name}") for name in ("graphs", "parity", "wrapped"))
    if subject.kind == DETECTOR:
        module = wrapped.WrappedDetector(subject.network)
        graph = graphs.export_detector(subject.network)
        return parity.compare_module(graph, DETECTOR, module, batches=(_BATCH,)), parity
    module = wrapped.WrappedModel(subject.recognizer)
    graph = graphs.export_describe(subject.recognizer)
    return parity.compare_model(graph, subject.recognizer, module, "float32", (_BATCH,)), parity
