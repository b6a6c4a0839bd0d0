"""Occluders of aligned faces, each with the exact mask of what it hides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from transforms.occluders.block import block
from transforms.occluders.cap import cap
from transforms.occluders.cloth_mask import cloth_mask
from transforms.occluders.hair_fringe import hair_fringe
from transforms.occluders.hand import hand
from transforms.occluders.niqab import niqab
from transforms.occluders.respirator import respirator
from transforms.occluders.scarf import scarf
from transforms.occluders.sunglasses import sunglasses
from transforms.occluders.surgical_mask import surgical_mask
from transforms.painting.occluder import DrawnOccluder
from transforms.view import Image, View

OCCLUDERS: Final[dict[str, DrawnOccluder]] = {
    "surgical": surgical_mask,
    "cloth": cloth_mask,
    "respirator": respirator,
    "niqab": niqab,
    "scarf": scarf,
    "sunglasses": sunglasses,
    "cap": cap,
    "fringe": hair_fringe,
    "hand": hand,
    "block": block,
}

#: Occluders that look alike: an ablation leaves a whole family out of training to call it unseen.
OCCLUDER_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "mask": ("surgical", "cloth", "respirator"),
    "veil": ("niqab", "scarf"),
    "eyes": ("sunglasses",),
    "hair": ("cap", "fringe"),
    "hand": ("hand",),
    "block": ("block",),
}


def check_occluders(names: Sequence[str], place: str) -> None:
    """Raise ValueError if one of `names` is not in OCCLUDERS."""
    unknown = [name for name in names if name not in OCCLUDERS]
    if unknown:
        raise ValueError(f"{place}: unknown occluders {unknown}; choose from {', '.join(OCCLUDERS)}.")


def occlude(image: Image, rng: np.random.Generator, names: Sequence[str]) -> View:
    """Return `image` behind one of the occluders `names`, each equally likely.

    Args:
        image: uint8 [112, 112, 3], RGB; not changed.
        rng: draws the index, then what the occluder draws.
        names: keys of OCCLUDERS, at least one.
    Raises:
        ValueError: if names is empty or holds an unknown one, or the image has another shape.
        TypeError: if the image is not uint8.
    """
    if not names:
        raise ValueError(
            f"occlude: names must hold at least one occluder, got none; choose from {', '.join(OCCLUDERS)}."
        )
    check_occluders(names, "occlude")
    return _draw_one(rng, names)(image, rng)


def occlude_all(images: Image, rngs: Iterable[np.random.Generator], names: Sequence[str]) -> tuple[Image, Image]:
    """Return images uint8 [N, 112, 112, 3] behind an occluder each, as `occlude`, and what is visible, [N, 112, 112].

    Args:
        images: N >= 1.
        rngs: one for each image, whose occluder follows it alone.
        names: as of `occlude`, which says what is raised.
    """
    views = [occlude(image, rng, names) for image, rng in zip(images, rngs, strict=True)]
    return np.stack([view.image for view in views]), np.stack([view.visibility for view in views])


def occlude_in_place(view: View, rng: np.random.Generator, names: Sequence[str]) -> None:
    """Put one of the occluders `names`, which are known, before a view, all of it visible so far; as `occlude`."""
    _draw_one(rng, names).cover(view, rng)


def _draw_one(rng: np.random.Generator, names: Sequence[str]) -> DrawnOccluder:
    return OCCLUDERS[names[int(rng.integers(len(names)))]]
