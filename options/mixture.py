"""Options: several data sets in one training, each with labels and a head of its own."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from options.command import at_home
from options.flags import MAY_CHANGE, Options, flag, parse_value
from options.names import SHARE

Section = TypeVar("Section", bound="MixtureOptions")

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# What a set may have of its own: by the word in --data, the option that it stands for.
OWN = {
    name: name
    for name in (
        *("data_format", "swap_color_channel", "follow_links", "align", "detector"),
        *("low_res_augmentation_prob", "crop_augmentation_prob", "photometric_augmentation_prob"),
        *("grayscale_augmentation_prob", "occlusion_prob", "occluders", "head", "m", "h", "s", "t_alpha"),
    )
} | {"val": "val_data_path", "subset": "train_data_subset"}
LOSS_WEIGHT = "loss_weight"
FORM = "NAME=PATH[:WEIGHT][,OPTION=VALUE...]"


class DataSet(NamedTuple):
    """One of several training sets.

    Attributes:
        name: letters, digits, _ and -; of its head in checkpoints and of its columns in metrics.csv.
        path: of its folder.
        weight: > 0, of its share of every batch.
        loss_weight: >= 0, of its mean loss; None: its share of the batches.
        options: of the command, those that it has of its own, by name.
    """

    name: str
    path: str
    weight: float = 1.0
    loss_weight: float | None = None
    options: tuple[tuple[str, str], ...] = ()


def read_data_set(word: str) -> DataSet:
    """Return the set that a word of --data describes: NAME=PATH[:WEIGHT][,OPTION=VALUE...].

    Raises:
        ValueError: one line, if it describes none.
    """
    place, *extras = word.split(",")
    name, equals, path = place.partition("=")
    start, colon, last = path.rpartition(":")
    weight = _number(last) if colon else None
    path, weight = (path, 1.0) if weight is None else (start, weight)
    if not (equals and path and NAME.fullmatch(name)):
        raise ValueError(
            f"expected NAME=PATH[:WEIGHT][,OPTION=VALUE...], as web=faces:0.7,occlusion_prob=0; got {word!r}"
        )
    if not 0 < weight < math.inf:
        raise ValueError(f"{name}: the weight must be above 0, got {weight:g}; leave the set out instead")
    pairs = [extra.partition("=") for extra in extras]
    given = {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}
    unknown = [key for key in given if key not in OWN and key != LOSS_WEIGHT]
    if unknown or len(given) < len(pairs):
        what = f"{unknown[0]!r} is nothing that a set can have of its own" if unknown else "an option is given twice"
        raise ValueError(f"{name}: {what}; there are {', '.join((*OWN, LOSS_WEIGHT))}")
    loss_weight = given.pop(LOSS_WEIGHT, None)
    found = None if loss_weight is None else _number(loss_weight)
    if loss_weight is not None and (found is None or not 0 <= found < math.inf):
        raise ValueError(f"{name}: {LOSS_WEIGHT} must be a number from 0, got {loss_weight!r}")
    return DataSet(name, at_home(path), weight, found, tuple(given.items()))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
        f" of its own. What a set may have of its own: {', '.join((*OWN, LOSS_WEIGHT))}; lists are written with +",
        parse=_one_set, on_resume=MAY_CHANGE,
    )  # fmt: skip
    data_balance: float = flag(
        0.5, "share of a set in a batch: its weight times its images to this power; 1: as many as it has, 0: alike",
        within=SHARE,
    )  # fmt: skip

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
    values: dict[str, object] = {"data": (), "data_root": data_set.path, "val_data_path": None, "val_sets": ()}
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
