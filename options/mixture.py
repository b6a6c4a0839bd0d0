"""Options: several data sets in one training, each with labels and a head of its own."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from options.flags import MAY_CHANGE, Options, flag, parse_value
from options.names import CURRICULA, NO_CURRICULUM, NOT_NEGATIVE, POSITIVE, SHARE, TOLD_CURRICULA
from options.words.data_set import FORM, OWN, WEIGHTS, DataSet, read_data_set

Section = TypeVar("Section", bound="MixtureOptions")


def _one_set(text: str) -> tuple[str, ...]:
    try:
        read_data_set(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return (text,)


@dataclass(frozen=True, kw_only=True)
class MixtureOptions(Options):
    """Several data sets."""

    data: tuple[str, ...] = flag(
        (), f"{FORM}, once for each of several sets: every batch holds all of them, each has labels and a margin head"
        f" of its own. What a set may have of its own: {', '.join((*OWN, *WEIGHTS))}; lists are written with +",
        parse=_one_set, on_resume=MAY_CHANGE,
    )  # fmt: skip
    data_balance: float = flag(
        0.5, "share of a set in a batch: its weight times its images to this power; 1: as many as it has, 0: alike",
        within=SHARE,
    )  # fmt: skip

    merge_identities: str | None = flag(
        None, "file of the people who are in several of these sets: web/n000123 = masked/Ann_Lee a line; of others the"
        " matcher concludes nothing across sets", on_resume=MAY_CHANGE,
    )  # fmt: skip

    curriculum: str = flag(
        NO_CURRICULUM, "draw easy images first: those that hold more detail, or more contrast, or by --difficulty show"
        " more of the face, have a longer embedding or a lower loss; none: final weights of --data alone, if any are"
        " given", choices=CURRICULA,
    )  # fmt: skip
    difficulty: str | None = flag(
        None, "what a network told of the images, for --curriculum visible, norm or loss: the folder that `embed` wrote"
        " of them; for loss also a table (CSV) with the columns name and loss", on_resume=MAY_CHANGE,
    )  # fmt: skip
    curriculum_epochs: tuple[float, ...] = flag(
        (0.0, 0.0), "epoch in which the curriculum begins, and from which on all images and sets weigh what they do in"
        " the end", within=NOT_NEGATIVE,
    )  # fmt: skip
    curriculum_floor: float = flag(0.1, "weight of the hardest image at first, of 1 for the easiest", within=SHARE)
    curriculum_gamma: float = flag(1.0, "power of an image's ease: the higher, the fewer are easy", within=POSITIVE)
    epoch_share: float = flag(
        1.0, "images of an epoch, of all: below 1 a curriculum leaves hard ones out", within="(0, 1]"
    )

    @property
    def has_curriculum(self) -> bool:
        """Whether what is drawn follows a curriculum, or is not all of it an epoch."""
        moves = any(each.final_weight is not None for each in self.data_sets())
        return self.curriculum != NO_CURRICULUM or moves or self.epoch_share < 1

    def check_curriculum(self) -> None:
        """Refuse numbers that make no curriculum.

        Raises:
            ValueError: one line that names the flag.
        """
        if len(self.curriculum_epochs) != 2 or self.curriculum_epochs[0] > self.curriculum_epochs[1]:
            given = ",".join(f"{epoch:g}" for epoch in self.curriculum_epochs)
            raise ValueError(f"--curriculum_epochs: expected two epochs that rise, as 0,8; got {given or 'none'}")
        if self.curriculum_epochs == (0.0, 0.0) and self.has_curriculum and self.epoch_share == 1:
            raise ValueError("--curriculum_epochs 0,0 ends the curriculum before it begins: give epochs, as 0,8")
        if self.difficulty is not None and (self.data or self.curriculum not in TOLD_CURRICULA):
            fault = f"--curriculum {self.curriculum} reads none; there are {', '.join(TOLD_CURRICULA)}"
            own = "with several sets each has its own: --data NAME=PATH,difficulty=..."
            raise ValueError(f"--difficulty: {own if self.data else fault}")

    def data_sets(self) -> tuple[DataSet, ...]:
        """Return the sets of --data.

        Raises:
            ValueError: one line, if two have one name or all loss weights are 0.
        """
        sets = []
        for word in self.data:
            try:
                sets.append(read_data_set(word))
            except ValueError as error:
                raise ValueError(f"--data: {error}") from None
        names = [each.name.casefold() for each in sets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"--data: two sets are called {twice!r}; give each a name of its own")
        if sets and all(each.loss_weight == 0 for each in sets):
            raise ValueError("--data: the loss weights sum to 0; nothing would be learned")
        return tuple(sets)


def options_of_set(options: Section, data_set: DataSet) -> Section:
    """Return the options of a training as they are for one of its sets, which is then the only one.

    Raises:
        ValueError: one line that names the set, if a value is not allowed.
    """
    known = {option.name: option for option in options.options()}
    # Of the mixture, not of one of its sets.
    values: dict[str, object] = {option.name: option.default for option in MixtureOptions.options()}
    values |= {"data_root": data_set.path, "val_data_path": None, "val_sets": ()}
    values |= {name: getattr(options, name) for name in ("curriculum", "curriculum_epochs")}
    try:
        for word, text in data_set.options:
            option = known[OWN[word]]
            values[option.name] = parse_value(option, text.replace("+", ",") if option.many else text)
        return dataclasses.replace(options, **values)  # type: ignore[arg-type]  # names and types are those of options
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ValueError(f"--data {data_set.name}: {error}") from None


def refuse_other_sets(before: MixtureOptions, after: MixtureOptions) -> None:
    """Refuse other data sets for a run that goes on: their places may change, nothing else of them.

    Raises:
        ValueError: one line with what the run has.
    """
    places = [[each._replace(path="") for each in options.data_sets()] for options in (before, after)]
    if places[0] != places[1]:
        raise ValueError(
            f"--data: the run has {' '.join(before.data) or 'one set'}; only the paths may change when it goes on"
        )
