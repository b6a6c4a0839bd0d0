"""One of several data sets, as a word: "web=faces:0.7,occlusion_prob=0"."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from options.command import at_home

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# What a set may have of its own: by the word in --data, the option that it stands for.
OWN = {
    name: name
    for name in (
        *("data_format", "swap_color_channel", "follow_links", "align", "detector"),
        *("low_res_augmentation_prob", "crop_augmentation_prob", "photometric_augmentation_prob"),
        *("grayscale_augmentation_prob", "occlusion_prob", "occluders", "head", "m", "h", "s", "t_alpha"),
        *("partner", "degradation", "degradation_side", "difficulty"),
    )
} | {"val": "val_data_path", "subset": "train_data_subset"}
LOSS_WEIGHT, FINAL_WEIGHT = "loss_weight", "final_weight"
WEIGHTS = {LOSS_WEIGHT: "from 0", FINAL_WEIGHT: "above 0"}
FORM = "NAME=PATH[:WEIGHT][,OPTION=VALUE...]"


class DataSet(NamedTuple):
    """One of several training sets.

    Attributes:
        name: letters, digits, _ and -; of its head in checkpoints and of its columns in metrics.csv.
        path: of its folder.
        weight: > 0, of its share of every batch.
        loss_weight: >= 0, of its mean loss; None: its share of the batches.
        final_weight: > 0, what its weight is at the end of the curriculum; None: the same.
        options: of the command, those that it has of its own, by name.
    """

    name: str
    path: str
    weight: float = 1.0
    loss_weight: float | None = None
    final_weight: float | None = None
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
    unknown = [key for key in given if key not in OWN and key not in WEIGHTS]
    if unknown or len(given) < len(pairs):
        what = f"{unknown[0]!r} is nothing that a set can have of its own" if unknown else "an option is given twice"
        raise ValueError(f"{name}: {what}; there are {', '.join((*OWN, *WEIGHTS))}")
    found: dict[str, float] = {}
    for key in WEIGHTS.keys() & given.keys():
        text = given.pop(key)
        value = _number(text)
        if value is None or not 0 <= value < math.inf or (key == FINAL_WEIGHT and value == 0):
            raise ValueError(f"{name}: {key} must be a number {WEIGHTS[key]}, got {text!r}")
        found[key] = value
    loss, final = found.get(LOSS_WEIGHT), found.get(FINAL_WEIGHT)
    return DataSet(name, at_home(path), weight, loss, final, tuple(given.items()))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
