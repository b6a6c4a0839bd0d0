"""Whether a model that is exported says what it said."""

from __future__ import annotations

from importlib.util import find_spec

from models.checking.subject import Subject
from models.checking.verdict import Verdict, skipped

_ROOM = "models.onnx"


def check_export(subject: Subject) -> Verdict:
    """The exported graph gives what the network gives."""
    if find_spec(_ROOM) is None:
        return skipped("this version exports nothing")
    return skipped("not yet")
