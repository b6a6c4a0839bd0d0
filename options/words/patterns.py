"""Words that give parameters something by patterns of their names: rates, penalties and the stages of a run.

A pattern is one of fnmatch, as `--freeze` has them: model.* or model.body.0.*.weight. Which parameters it fits is known
where there is a model: `engine.optim.matched`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

KINDS = ("l1", "group", "l2")  # of penalties, in the order in which their proximal steps follow each other
Factors: TypeAlias = tuple[tuple[str, float], ...]
_RAMP = re.compile(r"ramp_(\d{1,9})_(\d{1,9})")


@dataclass(frozen=True)
class Penalty:
    """What is charged for the size of weights.

    Attributes:
        pattern: of the parameters' names.
        kind: one of KINDS.
        strength: factor of the penalty, > 0.
        is_proximal: whether it is a step of its own after each update; else a term of the loss.
        ramp: epochs between which the strength rises from 0, and stays; None: it is there from the start.
    """

    pattern: str
    kind: str
    strength: float
    is_proximal: bool = False
    ramp: tuple[int, int] | None = None

    def strength_in(self, epoch: int) -> float:
        """Return the strength in an epoch, from 0."""
        if self.ramp is None:
            return self.strength
        first, last = self.ramp
        return self.strength * min(1.0, max(0.0, (epoch - first) / (last - first)))


@dataclass(frozen=True)
class Stage:
    """A part of a run in which some of the parameters are trained.

    Attributes:
        epochs: how many, >= 1.
        rates: (pattern, learning rate) of what is trained; None: --lr.
    """

    epochs: int
    rates: tuple[tuple[str, float | None], ...]


def read_factors(words: Iterable[str]) -> Factors:
    """Return (pattern, factor) of the words of --lr_factors, PATTERN=FACTOR each.

    Raises:
        ValueError: one line with the word.
    """
    return tuple(_assignment("--lr_factors", word, "FACTOR, as in model.*=0.1") for word in words)


def read_penalties(words: Iterable[str]) -> tuple[Penalty, ...]:
    """Return the penalties of the words of --penalty, PATTERN=KIND:STRENGTH[:prox][:ramp_FIRST_LAST] each.

    Raises:
        ValueError: one line with the word.
    """
    return tuple(_penalty(word) for word in words)


def read_stages(words: Iterable[str]) -> tuple[Stage, ...]:
    """Return the stages of the words of --stages, EPOCHS:PATTERN[=RATE],PATTERN[=RATE],... each.

    Raises:
        ValueError: one line with the word.
    """
    return tuple(_stage(word) for word in words)


def stage_at(stages: Sequence[Stage], epoch: int) -> int:
    """Return the number of the stage that an epoch >= 0 belongs to; what follows the last one belongs to it."""
    ends = [sum(stage.epochs for stage in stages[: number + 1]) for number in range(len(stages))]
    return min(sum(end <= epoch for end in ends), len(stages) - 1)


def _penalty(word: str) -> Penalty:
    pattern, _, text = word.rpartition("=")
    kind, *rest = text.split(":")
    is_proximal = rest[1:2] == ["prox"]
    left = rest[1 + is_proximal :]
    ramp = _RAMP.fullmatch(left[0]) if len(left) == 1 else None
    if not pattern or kind not in KINDS or not rest or (left and ramp is None):
        raise ValueError(
            f"--penalty: expected PATTERN=KIND:STRENGTH[:prox][:ramp_FIRST_LAST] with a KIND of {', '.join(KINDS)}, as "
            f"in model.*=l1:1e-4:prox; got {word!r}"
        )
    epochs = None if ramp is None else (int(ramp[1]), int(ramp[2]))
    if epochs is not None and epochs[0] >= epochs[1]:
        raise ValueError(f"--penalty {word}: a ramp rises from one epoch to a later one, as ramp_3_8")
    return Penalty(pattern, kind, _positive("--penalty", word, rest[0]), is_proximal, epochs)


def _stage(word: str) -> Stage:
    text, separator, parts = word.partition(":")
    if not separator or not re.fullmatch(r"0*[1-9]\d{0,8}", text) or not all(parts.split(",")):
        raise ValueError(
            "--stages: expected EPOCHS:PATTERN[=RATE],PATTERN[=RATE],... for each stage, as in"
            f" 25:model.*=1e-4,heads.*=1e-3; got {word!r}"
        )
    rates = [
        _assignment("--stages", part, "RATE") if "=" in part else (part.strip(), None) for part in parts.split(",")
    ]
    return Stage(int(text), tuple(rates))


def _assignment(name: str, word: str, what: str) -> tuple[str, float]:
    pattern, separator, text = word.rpartition("=")
    if not separator or not pattern.strip():
        raise ValueError(f"{name}: expected PATTERN={what}; got {word!r}")
    return pattern.strip(), _positive(name, word, text)


def _positive(name: str, word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {word}: expected a number above 0, got {text!r}")
    return value
