"""What a checkpoint of ours must hold of the model: options, weights, color order, fusion statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from evaluation.protocols.normalization import NUM_TERMS
from ops import MAX_WEIGHT, Rule, at_least, each, either, first_fault, named, nonfinite
from options.names import DIVISIONS

_PRIMITIVE = either(None, False, 0.0, "")
_MATCHERS = {"adaface", "qaconv"}
PRIMITIVES = named(either(_PRIMITIVE, each(_PRIMITIVE)))  # options, for their sections to judge


def state_rules(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Return the rules for a state dict like an example: shapes, dtypes, usable numbers, variances not negative."""
    return {name: _weights(tensor, name.endswith("running_var")) for name, tensor in state.items()}


def _weights(example: Tensor, is_variance: bool) -> Rule:
    expected = not_negative(example) if is_variance else example

    def rule(found: object, place: str) -> str | None:
        if fault := first_fault(expected, found, place):
            return fault
        assert isinstance(found, Tensor)
        return nonfinite(found, place, MAX_WEIGHT)

    return rule


def options_rule() -> Rule:
    """Return the rule for `hyper_parameters`: primitives, for `Config` to judge."""
    required = {"config": PRIMITIVES, "num_classes": _num_classes}
    alignment = {"template": "", "detector": ""}
    others = {"identities": named(""), "division": _division, "alignment": alignment}
    return at_least(required, others)


def equal_to(expected: object) -> Rule:
    """Return the rule for a value of the same structure and the same numbers."""
    return lambda found, place: (
        first_fault(expected, found, place) or (None if found == expected else f"{place}: other numbers expected")
    )


def _division(found: object, place: str) -> str | None:
    return None if isinstance(found, str) and found in DIVISIONS else f"{place}: one of {', '.join(DIVISIONS)} expected"


def _num_classes(found: object, place: str) -> str | None:
    if fault := named(_at_least_one)(found, place):
        return fault
    return None if found else f"{place}: a data set or more expected"


def _at_least_one(found: object, place: str) -> str | None:
    return first_fault(0, found, place) or (None if found else f"{place}: 1 or more expected")


def indices(example: Tensor, size: int) -> Rule:
    """Return the rule for a tensor like an example with numbers from 0 to below `size`."""
    return lambda found, place: first_fault(example, found, place) or _range_fault(found, place, size - 1)


def not_negative(example: Tensor) -> Rule:
    """Return the rule for a tensor like an example without negative numbers."""
    return lambda found, place: first_fault(example, found, place) or _range_fault(found, place, math.inf)


def _range_fault(found: object, place: str, largest: float) -> str | None:
    assert isinstance(found, Tensor)
    sound = not found.numel() or (found.min() >= 0 and found.max() <= largest)
    return None if sound else f"{place}: numbers from 0 to {largest} expected"


def _fusion_statistics(found: object, place: str) -> str | None:
    numbers = {name: 0.0 for name in _MATCHERS}

    def of_matchers(found: object, place: str) -> str | None:
        return at_least({}, numbers)(found, place)

    expected = {"mean": of_matchers, "std": of_matchers, "weights": of_matchers, "source": "", "num_impostors": 0}
    if fault := first_fault(expected, found, place):
        return fault
    assert isinstance(found, dict)
    parts = [set(found[name]) for name in ("mean", "std", "weights")]
    sound = parts[0] == parts[1] == parts[2] and parts[0] <= _MATCHERS
    return None if sound else f"{place}: mean, std and weights of the same matchers expected"


def _score_normalization(found: object, place: str) -> str | None:
    terms = [0.0] * NUM_TERMS

    def of_matchers(found: object, place: str) -> str | None:
        return named(terms)(found, place)

    numbers = at_least({}, {name: 0.0 for name in _MATCHERS})
    expected = {
        "mean": of_matchers, "log_std": of_matchers, "correlation": either([], terms), "center": terms, "scale": terms,
        "least": [0.0, 0.0], "weights": numbers, "source": "", "num_impostors": 0,
    }  # fmt: skip
    if fault := first_fault(expected, found, place):
        return fault
    assert isinstance(found, dict)
    sound = set(found["mean"]) == set(found["log_std"]) == set(found["weights"]) <= _MATCHERS
    sound = sound and bool(found["correlation"]) == (len(found["mean"]) == 2) and min(found["scale"]) > 0
    return None if sound else f"{place}: numbers of the same matchers and positive scales expected"


# Beside the weights.
ENTRIES = {"color_space": equal_to("rgb"), "fusion_statistics": either(None, _fusion_statistics)}
# That older checkpoints have not.
LATER_ENTRIES = {"score_normalization": either(None, _score_normalization)}
