"""A hand in front of the face."""

from __future__ import annotations

from typing import Final

from transforms.painting.assets import Relief
from transforms.painting.cutout import VARIANTS, held_cutout
from transforms.painting.occluder import DrawnOccluder
from transforms.painting.paint import paint
from transforms.painting.palette import scaled, skin_color
from transforms.painting.placement import CENTER, LANDMARK_JITTER, MAX_SHIFT
from transforms.painting.scene import Scene

# A template and the point of it that goes to the chosen part of the face.
_TEMPLATES: Final = (
    ("hand_spread", (56.0, 66.0)),
    ("hand_together", (56.0, 62.0)),
    ("hand_pointing", (50.0, 56.0)),
    ("hand_fist", (56.0, 78.0)),
)
_RELIEF: Final = Relief("grain", 0.15)
# Mouth, nose, both cheeks, both eyes, chin, and forehead.
_TARGETS: Final = ((56, 92), (56, 74), (28, 76), (84, 76), (38, 54), (74, 54), (56, 100), (56, 34))
_REACH: Final = LANDMARK_JITTER + MAX_SHIFT
_MARGIN: Final = 34 + _REACH  # as far as a hand moves: to the chin from the center of the face


@DrawnOccluder
def hand(scene: Scene) -> None:
    """Cover a part of the face with a hand of any skin color, the face's own included.

    A hand is not worn: it does not follow the five points as a whole but lies on one part of the face, the arm coming
    from below or from a side.
    Draws: template, variant, target, move (2), skin color, nail tint (3), paint.
    """
    dice = scene.dice
    name, anchor = _TEMPLATES[dice.index(len(_TEMPLATES))]
    cutout = held_cutout(name, dice.index(VARIANTS), _RELIEF, _MARGIN, anchor)
    x, y = _TARGETS[dice.index(len(_TARGETS))]
    cutout = cutout.moved(x - int(CENTER[0]) + dice.whole(_REACH), y - int(CENTER[1]) + dice.whole(_REACH))
    red, green, blue = skin = skin_color(scene)
    nails = (
        red * dice.uniform(1.0, 1.2) + 10,
        green * dice.uniform(0.9, 1.1) + 4,
        blue * dice.uniform(0.9, 1.1) + 4,
    )
    paint(scene, cutout, (scaled(skin, 1.08), nails, nails))
