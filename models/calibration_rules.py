"""What the JSON of a calibration must hold."""

from __future__ import annotations

from ops import Rule, each, either, first_fault

_SHARE_OF_TOTAL = 1e-9  # rounding of a quotient


def _share(found: object, place: str) -> str | None:
    if fault := first_fault(0.0, found, place):
        return fault
    assert isinstance(found, int | float)
    return None if 0 <= found <= 1 else f"{place}: a share from 0 to 1 expected, found {found:g}"


def _rate(found: object, place: str) -> str | None:
    shares = dict.fromkeys(("value", "lower", "upper", "exact_lower", "exact_upper"), _share)
    if fault := first_fault({**shares, "accepted": 0, "pairs": 0}, found, place):
        return fault
    assert isinstance(found, dict)
    pairs, is_counted = found["pairs"], found["accepted"] <= found["pairs"]
    sound = pairs > 0 and is_counted and abs(found["value"] * pairs - found["accepted"]) <= _SHARE_OF_TOTAL * pairs
    return None if sound else f"{place}: accepted, pairs and their quotient contradict each other"


def _far(found: object, place: str) -> str | None:
    return _share(found, place) or (None if found else f"{place}: a share above 0 expected")


def _one_of(*words: str) -> Rule:
    return lambda found, place: None if found in words else f"{place}: one of {', '.join(words)} expected"


def _checksum(found: object, place: str) -> str | None:
    is_hex = isinstance(found, str) and len(found) == 64 and set(found) <= set("0123456789abcdef")
    return None if is_hex else f"{place}: a SHA-256 in 64 hexadecimal digits expected"


def _schema(found: object, place: str) -> str | None:
    known = type(found) is int and found == 1
    return None if known else f"{place}: 1 expected, found {str(found)[:20]}; was it written by another version?"


_POINT = {
    "score": _one_of("fused", "adaface", "qaconv"),
    "condition": _one_of("clean", "masked"),
    "far": _far,
    "threshold": 0.0,
    "found_far": _rate,
    "tar": either(None, _rate),
}
ORIGIN = {"model": _checksum, "template": "", "detector": ""}
RULES = {
    "schema": _schema,
    "origin": ORIGIN,
    "data": _checksum,
    "source": "",
    "num_people": [0, 0],
    "covered_below": either(None, _share),
    "points": each(_POINT),
    "unresolved": each(_far),
    "notes": each(""),
}
