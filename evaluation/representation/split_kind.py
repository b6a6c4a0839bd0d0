"""Whether those who validate were seen in training, and so which figures mean anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

PER_PERSON: Final = "per person"
DISJOINT: Final = "disjoint"
MIXED: Final = "mixed"
Kind = Literal["per person", "disjoint", "mixed"]


class SplitKind(NamedTuple):
    """How training and validation divide people.

    Attributes:
        kind: "per person": everyone who validates was trained on; "disjoint": nobody was; "mixed": some were.
        num_train, num_val: people.
        num_known: of num_val, those in training.
    """

    kind: Kind
    num_train: int
    num_val: int
    num_known: int

    def explanation(self) -> str:
        """Return which figures are meaningful for such a split, in sentences."""
        who = f"{self.num_known} of {self.num_val} people who validate are among the {self.num_train} of training"
        if self.kind == DISJOINT:
            return (
                f"{who} (disjoint): verification, rank-1 and Cllr say how strangers are recognized. Class accuracy and "
                "bits over the classes' prior mean nothing, since no right answer is a class; they are left out."
            )
        if self.kind == PER_PERSON:
            return (
                f"{who} (per person): class accuracy and bits over the classes' prior count everyone. Verification and "
                "rank-1 are of people who were learned by heart, and better than strangers' will be."
            )
        return (
            f"{who} (mixed): class accuracy and bits over the classes' prior are of these {self.num_known} alone. "
            "Verification and rank-1 mix people learned by heart with strangers: read them for each part, or divide "
            "the data anew."
        )


def split_kind(train_people: Iterable[str], val_people: Iterable[str]) -> SplitKind:
    """Recognize the split from people's names, which may repeat.

    Raises:
        ValueError: if either side has nobody.
    """
    train, val = set(train_people), set(val_people)
    if not train or not val:
        raise ValueError(
            f"split_kind: people to train on and to validate on are needed, got {len(train)} and {len(val)}"
        )
    num_known = len(train & val)
    kind: Kind = PER_PERSON if num_known == len(val) else MIXED if num_known else DISJOINT
    return SplitKind(kind, len(train), len(val), num_known)
