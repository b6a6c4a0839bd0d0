"""What a synthetic face is made of: the identity's shape and colors, and what varies from image to image.

Lengths are pixels of the 112 x 112 aligned crop, with the origin between the eyes and the mouth, x to the right, y down
and z towards the viewer.
"""

from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np

Range = tuple[float, float]
Color = tuple[float, float, float]
Part = TypeVar("Part")

#: Widens every range of an identity's parameters. Against the nuisance below it decides how hard the faces are: a small
#: network verifies unseen people at about 91 % after 13,000 images and 96 % after 45,000.
IDENTITY_SPREAD = 1.45


def _spread(mean: float, half_range: float) -> float:
    """Declare a parameter that identities draw uniformly from mean +- IDENTITY_SPREAD * half_range."""
    return field(metadata={"mean": mean, "half_range": half_range})


def _draw(part: type[Part], rng: np.random.Generator) -> Part:
    """Return an instance of a dataclass whose every field was declared with `_spread`."""
    spreads = [entry.metadata for entry in fields(part)]  # type: ignore[arg-type]
    offsets = rng.uniform(-1.0, 1.0, len(spreads)).tolist()
    return part(
        *(
            spread["mean"] + IDENTITY_SPREAD * spread["half_range"] * offset
            for spread, offset in zip(spreads, offsets, strict=True)
        )
    )


@dataclass(frozen=True)
class Outline:
    """Outline of the head; jaw, chin and temple widths are relative to `width`."""

    width: float = _spread(39.0, 3.6)
    temple: float = _spread(0.92, 0.05)
    cheek_height: float = _spread(-3.0, 5.0)
    jaw: float = _spread(0.80, 0.10)
    jaw_height: float = _spread(21.0, 4.0)
    chin: float = _spread(0.38, 0.12)
    chin_length: float = _spread(42.0, 4.0)
    depth: float = _spread(24.0, 4.0)
    hairline: float = _spread(-43.0, 6.0)
    hairline_peak: float = _spread(0.0, 3.5)
    hairline_corner: float = _spread(0.0, 4.0)
    hairline_skew: float = _spread(0.0, 3.0)
    hair_volume: float = _spread(4.5, 3.0)
    hair_length: float = _spread(0.0, 1.0)
    ears: float = _spread(1.0, 0.35)
    skew: float = _spread(0.0, 1.3)


@dataclass(frozen=True)
class Eyes:
    """Both eyes: position, opening, lids and iris."""

    spacing: float = _spread(17.6, 1.5)
    height: float = _spread(-20.2, 1.2)
    width: float = _spread(8.2, 1.3)
    upper: float = _spread(4.1, 1.3)
    lower: float = _spread(2.5, 0.9)
    tilt: float = _spread(0.03, 0.17)
    peak: float = _spread(0.0, 0.35)
    iris: float = _spread(3.6, 0.6)
    fold: float = _spread(2.7, 1.4)
    fold_strength: float = _spread(0.5, 0.45)
    lash: float = _spread(1.0, 0.6)
    socket: float = _spread(0.12, 0.12)
    bags: float = _spread(0.12, 0.12)
    uneven: float = _spread(0.0, 0.7)


@dataclass(frozen=True)
class Brows:
    """Both eyebrows, relative to the eyes."""

    lift: float = _spread(10.0, 2.4)
    inner: float = _spread(6.5, 2.6)
    outer: float = _spread(28.5, 2.8)
    arch: float = _spread(2.4, 2.3)
    arch_place: float = _spread(0.6, 0.16)
    tilt: float = _spread(0.0, 2.6)
    thickness: float = _spread(1.9, 1.0)
    taper: float = _spread(0.45, 0.35)
    density: float = _spread(0.72, 0.25)
    uneven: float = _spread(0.0, 1.2)


@dataclass(frozen=True)
class Nose:
    """Nose: bridge, tip, wings and nostrils."""

    tip: float = _spread(0.5, 2.6)
    length: float = _spread(11.5, 3.5)
    width: float = _spread(8.0, 1.9)
    bridge: float = _spread(3.3, 1.2)
    hump: float = _spread(0.0, 2.2)
    bulb: float = _spread(4.0, 1.4)
    nostril: float = _spread(2.2, 0.7)
    nostril_tilt: float = _spread(0.0, 0.35)
    wing: float = _spread(3.2, 1.2)
    bend: float = _spread(0.0, 1.6)
    definition: float = _spread(0.5, 0.35)


@dataclass(frozen=True)
class Mouth:
    """Mouth: width, lips, and the folds beside and below it."""

    width: float = _spread(14.6, 2.6)
    height: float = _spread(20.8, 1.8)
    upper: float = _spread(3.3, 1.5)
    lower: float = _spread(4.6, 1.7)
    bow: float = _spread(1.1, 1.0)
    bow_width: float = _spread(3.8, 1.3)
    corner: float = _spread(0.0, 1.3)
    color: float = _spread(0.5, 0.35)
    fold: float = _spread(0.35, 0.35)
    crease: float = _spread(0.3, 0.3)
    philtrum: float = _spread(0.3, 0.3)
    skew: float = _spread(0.0, 1.2)


@dataclass(frozen=True)
class Colors:
    """Colors, deliberately close together: light and exposure vary more than they do."""

    skin: float = _spread(0.42, 0.30)
    redness: float = _spread(0.0, 0.10)
    hair: float = _spread(0.35, 0.35)
    hair_redness: float = _spread(0.3, 0.3)
    iris: float = _spread(0.5, 0.5)
    beard: float = _spread(0.1, 0.25)
    relief: float = _spread(1.0, 0.25)
    freckles: float = _spread(-0.2, 0.6)
    wrinkles: float = _spread(1.0, 0.35)
    wrinkle_place: float = _spread(0.0, 2.5)
    graying: float = _spread(0.8, 0.3)


@dataclass(frozen=True)
class Mark:
    """A mole or a scar at a fixed place of the face: x, y and radius in pixels, darkness in [0, 1]."""

    x: float
    y: float
    radius: float
    darkness: float


@dataclass(frozen=True)
class FaceIdentity:
    """One person: everything about a face that stays the same from image to image.

    `texture_seed` names the skin's own relief and pigmentation.
    """

    outline: Outline
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    colors: Colors
    marks: tuple[Mark, ...]
    texture_seed: int


@dataclass(frozen=True)
class Nuisance:
    """One image of a person: everything that says nothing about who it is.

    Angles are radians (yaw > 0 turns the face to the image's right, pitch > 0 downwards), lengths are pixels, the age
    runs from 0 (young) to 1 (old), the seed drives background and noise.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    age: float = 0.3
    smile: float = 0.0
    mouth_open: float = 0.0
    brow_raise: float = 0.0
    eye_closing: float = 0.0
    gaze: float = 0.0
    hair_change: float = 0.0
    stubble: float = 0.0
    glasses: bool = False
    light_x: float = 0.0
    light_y: float = -0.3
    ambient: float = 0.55
    gain: float = 1.0
    warmth: float = 0.0
    tint: float = 0.0
    contrast: float = 1.0
    background: tuple[Color, Color] = ((120.0, 120.0, 120.0), (90.0, 90.0, 90.0))
    shift: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg_quality: int = 90
    seed: int = 0


MARK_PLACES: tuple[tuple[Range, Range], ...] = (
    ((-28.0, 28.0), (-40.0, -31.0)),
    ((-33.0, -16.0), (-10.0, 14.0)),
    ((16.0, 33.0), (-10.0, 14.0)),
    ((-22.0, 22.0), (26.0, 37.0)),
)


def _draw_marks(rng: np.random.Generator) -> tuple[Mark, ...]:
    """Return up to four marks, at most one each on the forehead, either cheek and the chin."""
    marks = []
    for x_range, y_range in MARK_PLACES:
        x, y, radius, darkness = (
            rng.uniform(*x_range),
            rng.uniform(*y_range),
            rng.uniform(0.6, 1.5),
            rng.uniform(0.3, 0.8),
        )
        if rng.random() < 0.4:
            marks.append(Mark(x, y, radius, darkness))
    return tuple(marks)


def sample_identity(rng: np.random.Generator) -> FaceIdentity:
    """Return a new person; the same generator state gives the same person."""
    outline, eyes, brows, nose = _draw(Outline, rng), _draw(Eyes, rng), _draw(Brows, rng), _draw(Nose, rng)
    mouth, colors = _draw(Mouth, rng), _draw(Colors, rng)
    return FaceIdentity(outline, eyes, brows, nose, mouth, colors, _draw_marks(rng), int(rng.integers(2**31)))


def _draw_yaw(rng: np.random.Generator, yaw: Range) -> float:
    """Return a yaw whose size is drawn from the range, more often near its lower end, to either side."""
    size = yaw[0] + (yaw[1] - yaw[0]) * rng.random() ** 1.5
    return float(size if rng.random() < 0.5 else -size)


def _draw_color(rng: np.random.Generator) -> Color:
    red, green, blue = (rng.uniform(20.0, 230.0) + rng.uniform(-45.0, 45.0, 3)).tolist()
    return red, green, blue


def sample_nuisance(rng: np.random.Generator, yaw: Range = (0.0, 1.0), age: Range = (0.0, 1.0)) -> Nuisance:
    """Return what one image adds to a face.

    Args:
        rng: the only source of randomness.
        yaw: range of the size of the head's turn in radians, within [0, 1.1]; the side is drawn.
        age: range of the age, within [0, 1].
    """
    uniform = rng.uniform
    light_x, light_y = _draw_light(rng)
    return Nuisance(
        yaw=_draw_yaw(rng, yaw),
        pitch=uniform(-0.2, 0.2),
        age=uniform(*age),
        smile=uniform(-0.4, 0.8),
        mouth_open=max(0.0, uniform(-1.0, 1.0)),
        brow_raise=uniform(-1.0, 1.0),
        eye_closing=max(0.0, uniform(-0.6, 0.6)),
        gaze=uniform(-1.0, 1.0),
        hair_change=uniform(-1.0, 1.0),
        stubble=uniform(0.0, 1.0),
        glasses=rng.random() < 0.08,
        light_x=light_x,
        light_y=light_y,
        ambient=uniform(0.45, 0.8),
        gain=float(np.exp(uniform(-0.4, 0.25))),
        warmth=uniform(-0.2, 0.2),
        tint=uniform(-0.08, 0.08),
        contrast=uniform(0.8, 1.2),
        background=(_draw_color(rng), _draw_color(rng)),
        shift=(uniform(-1.5, 1.5), uniform(-1.5, 1.5)),
        rotation=uniform(-0.05, 0.05),
        scale=uniform(0.96, 1.05),
        blur=max(0.0, uniform(-0.6, 1.2)),
        noise=uniform(1.0, 6.0),
        jpeg_quality=int(rng.integers(45, 96)),
        seed=int(rng.integers(2**31)),
    )


def _draw_light(rng: np.random.Generator) -> Range:
    """Return the light's direction: sideways anywhere, from above more than from below."""
    return rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.3)
