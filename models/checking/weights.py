"""Checks of what a file holds, before any of it is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

import nets
from models.checking.counts import EMBEDDING_SIZE, PARAMETERS
from models.checking.subject import DETECTOR, Subject
from models.checking.verdict import Verdict, failed, passed, skipped
from nets.files.fit import differences_of, listed, shapes

_BACKBONE = "model."
_MEAN, _VARIANCE = "running_mean", "running_var"


def check_keys(subject: Subject) -> Verdict:
    """Every tensor of the network comes from the file, and every one of the file is used."""
    differences = differences_of(shapes(subject.template.state_dict()), subject.state)
    del differences["of another shape"]
    differences["of no part of a run"] = list(subject.unknown)
    if found := listed(differences):
        return failed(f"against {subject.arch}: {found}")
    beside = f"; {subject.beside} more are not for this network" if subject.beside else ""
    return passed(f"{len(subject.state)} tensors, all used{beside}")


def check_parameters(subject: Subject) -> Verdict:
    """The backbone or the detector has as many parameters as its architecture is known to have."""
    if subject.arch not in PARAMETERS:
        return skipped("a detector of another form than those of nets.DETECTORS")
    prefix = "" if subject.kind == DETECTOR else _BACKBONE
    names = [
        name for name, _ in subject.template.named_parameters() if name.startswith(prefix) and not nets.is_adapter(name)
    ]
    found = sum(subject.state[name].numel() for name in names if name in subject.state)
    expected = PARAMETERS[subject.arch] + _of_embedding(subject)
    if found != expected:
        return failed(f"{subject.arch} has {expected:,}, the file {found:,}")
    return passed(f"{found:,}, as {subject.arch} has")


def _of_embedding(subject: Subject) -> int:
    """Return by how many parameters another size of the embedding changes the count."""
    if subject.kind == DETECTOR:
        return 0
    size = int(subject.template.model.embedding_size)  # type: ignore[union-attr, arg-type]  # a FaceModel
    with torch.device("meta"):
        counts = [_count(nets.build_model(subject.arch, each)) for each in (size, EMBEDDING_SIZE)]
    return counts[0] - counts[1]


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_tensors(subject: Subject) -> Verdict:
    """Every tensor has the shape and the dtype that it should have."""
    expected, state = subject.template.state_dict(), subject.state
    wrong = differences_of(shapes(expected), state)["of another shape"]
    if wrong:
        name = wrong[0]
        return failed(f"{name}: {[*expected[name].shape]} expected, found {[*state[name].shape]}{_more(wrong)}")
    wrong = [name for name in expected if name in state and not _fits(state[name], expected[name], subject.dtype)]
    if wrong:
        wanted = subject.dtype if expected[wrong[0]].is_floating_point() and subject.dtype else expected[wrong[0]].dtype
        return failed(f"{wrong[0]}: {_plain(wanted)} expected, found {_plain(state[wrong[0]].dtype)}{_more(wrong)}")
    kinds = sorted({_plain(tensor.dtype) for tensor in state.values() if tensor.is_floating_point()})
    return passed(f"shapes as in {subject.arch}, {', '.join(kinds)}")


def _fits(found: Tensor, expected: Tensor, dtype: torch.dtype | None) -> bool:
    if not expected.is_floating_point():
        return found.dtype == expected.dtype
    return found.is_floating_point() and dtype in (None, found.dtype)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def check_finite(subject: Subject) -> Verdict:
    """Every number is finite."""
    wrong = [name for name, tensor in subject.state.items() if not bool(tensor.isfinite().all())]
    if wrong:
        count = int((~subject.state[wrong[0]].isfinite()).sum())
        return failed(f"{wrong[0]}: {count} of {subject.state[wrong[0]].numel()} not finite{_more(wrong)}")
    largest = max((float(tensor.abs().max()) for tensor in _floating(subject.state)), default=0.0)
    return passed(f"all, at most {largest:.3g} in size")


def _floating(state: Mapping[str, Tensor]) -> Iterable[Tensor]:
    return (tensor for name, tensor in state.items() if tensor.is_floating_point() and tensor.numel())


def check_batch_norms(subject: Subject) -> Verdict:
    """Running variances are positive, and no layer's statistics are still those that it was built with."""
    state = subject.state
    layers = [key.removesuffix(_VARIANCE) for key in state if key.endswith(f".{_VARIANCE}")]
    if not layers:
        return skipped("it has no running statistics")
    smallest = {layer: float(state[layer + _VARIANCE].min()) for layer in layers}
    wrong = [layer for layer, least in smallest.items() if not least > 0]
    if wrong:
        return failed(f"{wrong[0]}{_VARIANCE}: {smallest[wrong[0]]:.3g} is no variance{_more(wrong)}")
    initial = [layer for layer in layers if _is_initial(state, layer)]
    if initial:
        return failed(
            f"{len(initial)} of {len(layers)} have the statistics they were built with, which no training moved: "
            f"{initial[0].rstrip('.')}"
        )
    return passed(f"{len(layers)} with statistics of their own, least variance {min(smallest.values()):.3g}")


def _is_initial(state: Mapping[str, Tensor], layer: str) -> bool:
    mean = state.get(layer + _MEAN)
    return bool((state[layer + _VARIANCE] == 1).all()) and (mean is None or not bool(mean.any()))


def check_dead_layers(subject: Subject) -> Verdict:
    """No layer's weights are all zero, and no row of a matrix or filter is one number throughout."""
    names = [name for name, _ in subject.template.named_parameters() if name in subject.state]
    weights = {name: subject.state[name] for name in names if not name.endswith("bias")}
    zero = [name for name, tensor in weights.items() if not bool(tensor.any())]
    if zero:
        return failed(f"{zero[0]}: all zero{_more(zero)}")
    rows = {name: _constant_rows(tensor) for name, tensor in weights.items()}
    if constant := [name for name, count in rows.items() if count]:
        count, total = rows[constant[0]], weights[constant[0]].shape[0]
        return failed(f"{constant[0]}: {count} of {total} rows are one number throughout{_more(constant)}")
    return passed(f"{len(weights)} weights, none of them zero or constant")


def _constant_rows(tensor: Tensor) -> int:
    if tensor.ndim < 2 or tensor[0].numel() == 1:
        return 0
    rows = tensor.flatten(1)
    return int((rows == rows[:, :1]).all(dim=1).sum())
