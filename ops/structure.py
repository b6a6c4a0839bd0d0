"""Nested data compared with what they are expected to be: the first place that differs, in words.

What is expected is written as an example: a dict has these keys, a list or a tuple these members, a tensor (on any
device, "meta" included) this shape and dtype, every other value this type. A count is never negative, and no number is
NaN or infinite. Where an example cannot say it, a function (value, place) -> fault or None does; those below make such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

Rule = Callable[[object, str], str | None]

_MAX_DEPTH = 32
_MAX_TEXT = 4096
MAX_WEIGHT = 1e18  # the square of a number ten times as large overflows in float32
_INT64 = 2**63


def first_fault(expected: object, found: object, place: str) -> str | None:
    """Return the first place at which `found` is not as `expected`, and how; None if there is none.

    Args:
        expected: see the module.
        found: anything at all.
        place: name of the whole.
    """
    if isinstance(expected, Tensor):
        return _tensor_fault(expected, found, place)
    if isinstance(expected, Mapping):
        return _mapping_fault(expected, found, place)
    if isinstance(expected, list | tuple):
        return _sequence_fault(expected, found, place)
    if callable(expected):
        return cast(Rule, expected)(found, place)
    if type(found) is not type(expected) and not (isinstance(expected, float) and type(found) is int):
        return f"{place}: {_kind(expected)} expected, found {_kind(found)}"
    return _value_fault(found, place)


def at_least(entries: Mapping[Any, object], perhaps: Mapping[Any, object] | None = None) -> Rule:
    """Return the rule for a dict that has these entries, those of `perhaps` if any, and others nobody looks at."""

    def rule(found: object, place: str) -> str | None:
        if not isinstance(found, dict):
            return f"{place}: a dict expected, found {_kind(found)}"
        known = dict(entries) | {key: value for key, value in (perhaps or {}).items() if key in found}
        return _mapping_fault(known, {key: found[key] for key in known if key in found}, place)

    return rule


def each(expected: object, least: int = 0) -> Rule:
    """Return the rule for a list of members that are all alike."""

    def rule(found: object, place: str) -> str | None:
        if not isinstance(found, list) or len(found) < least:
            return f"{place}: a list of {least} or more expected, found {_kind(found)}"
        return _sequence_fault([expected] * len(found), found, place)

    return rule


def named(expected: object) -> Rule:
    """Return the rule for a dict from names to values that are all alike."""

    def rule(found: object, place: str) -> str | None:
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            return f"{place}: a dict from names expected, found {_kind(found)}"
        return _mapping_fault(dict.fromkeys(found, expected), found, place)

    return rule


def either(*expected: object) -> Rule:
    """Return the rule for what is as one of several examples."""

    def rule(found: object, place: str) -> str | None:
        faults = [first_fault(example, found, place) for example in expected]
        return None if None in faults else faults[-1]

    return rule


def foreign_tensor(content: object) -> str | None:
    """Return the place of the first tensor that is not stored in full in plain numbers, or of what nests too deeply.

    A tensor that repeats what is stored can claim 10^12 elements, and a list can hold itself: who walks through what
    a file holds asks here first.
    """
    seen: set[int] = set()

    def walk(value: object, place: str, depth: int) -> str | None:
        if isinstance(value, Tensor):
            return _storage_fault(value, place)
        if not isinstance(value, Mapping | list | tuple | set) or id(value) in seen:
            return None
        if depth > _MAX_DEPTH:
            return f"{place[:80]}...: nested too deeply"
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        faults = (walk(member, _join(place, key), depth + 1) for key, member in items)
        return next((fault for fault in faults if fault is not None), None)

    return walk(content, "", 0)


def _storage_fault(tensor: Tensor, place: str) -> str | None:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        what = "quantized" if tensor.is_quantized else f"{str(tensor.layout).removeprefix('torch.')} {tensor.device}"
        return f"{place}: a {what} tensor, expected a dense one with its numbers"
    if tensor.is_floating_point() and tensor.element_size() == 1:  # no operator knows them
        return f"{place}: {str(tensor.dtype).removeprefix('torch.')} numbers, expected float16 or wider ones"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{place}: a tensor of shape {[*tensor.shape]}, of which only a part is stored"
    return None


def _tensor_fault(expected: Tensor, found: object, place: str) -> str | None:
    if not isinstance(found, Tensor):
        return f"{place}: a tensor {[*expected.shape]} expected, found {_kind(found)}"
    if found.shape != expected.shape:
        return f"{place}: shape {[*expected.shape]} expected, found {[*found.shape]}"
    if found.dtype != expected.dtype:
        return f"{place}: {_dtype(expected)} expected, found {_dtype(found)}"
    return nonfinite(found, place)


def nonfinite(found: Tensor, place: str, largest: float = math.inf) -> str | None:
    """Return that a tensor holds NaN, infinity or a number beyond `largest`; needs no memory of the tensor's size."""
    if not found.numel() or not found.is_floating_point():
        return None
    low, high = torch.aminmax(found.detach())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        return f"{place}: holds NaN or infinity"
    return None if max(-low, high) <= largest else f"{place}: holds numbers beyond {largest:g}"


def _mapping_fault(expected: Mapping[Any, object], found: object, place: str) -> str | None:
    if not isinstance(found, Mapping):
        return f"{place}: a dict expected, found {_kind(found)}"
    for key, example in expected.items():
        if key not in found:
            return f"{_join(place, key)}: missing"
        if fault := first_fault(example, found[key], _join(place, key)):
            return fault
    extra = next((key for key in found if key not in expected), None)
    return None if extra is None else f"{_join(place, extra)}: unexpected"


def _sequence_fault(expected: Sequence[object], found: object, place: str) -> str | None:
    if type(found) is not type(expected):
        return f"{place}: a {type(expected).__name__} expected, found {_kind(found)}"
    assert isinstance(found, list | tuple)
    if len(found) != len(expected):
        return f"{place}: {len(expected)} members expected, found {len(found)}"
    faults = (first_fault(e, f, f"{place}[{i}]") for i, (e, f) in enumerate(zip(expected, found, strict=True)))
    return next((fault for fault in faults if fault is not None), None)


def _value_fault(found: object, place: str) -> str | None:
    if isinstance(found, str) and (len(found) > _MAX_TEXT or "\0" in found):
        return f"{place}: no sound text"
    if isinstance(found, int) and not 0 <= found < _INT64:
        return f"{place}: a count from 0 to 2^63 expected"
    if isinstance(found, float) and not math.isfinite(found):
        return f"{place}: a finite number expected, found {found}"
    return None


def _join(place: str, key: object) -> str:
    if isinstance(key, str) and key.replace(".", "").replace("_", "").isalnum() and not key.isdigit():
        return f"{place}.{key}"[:200] if place else key[:200]
    return f"{place}[{str(key)[:60] if isinstance(key, int) and abs(key) < _INT64 else repr(key)[:60]}]"


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {[*value.shape]}"
    length = f" of {len(value)}" if isinstance(value, list | tuple | dict | str) else ""
    return f"{type(value).__name__}{length}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
