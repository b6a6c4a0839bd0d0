"""Every template and texture under assets/, by the function that draws it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.drawing import coverings, eyewear, hands, headwear, masks, textures
from transforms.landmarks import TEMPLATE

#: Path below assets/ -> drawing; occluders are uint8 [240, 240, 4] RGBA, textures uint8 [128, 128].
DRAWINGS: Final[dict[str, Callable[[], NDArray[np.uint8]]]] = {
    "occluders/surgical.png": masks.surgical,
    "occluders/surgical_loose.png": masks.surgical_loose,
    "occluders/cloth.png": masks.cloth,
    "occluders/bandana.png": masks.bandana,
    "occluders/gaiter.png": masks.gaiter,
    "occluders/respirator_cup.png": masks.respirator_cup,
    "occluders/respirator_fold.png": masks.respirator_fold,
    "occluders/respirator_valve.png": masks.respirator_valve,
    "occluders/niqab.png": coverings.niqab,
    "occluders/niqab_wide.png": coverings.niqab_wide,
    "occluders/half_niqab.png": coverings.half_niqab,
    "occluders/scarf_low.png": coverings.scarf_low,
    "occluders/scarf_high.png": coverings.scarf_high,
    "occluders/aviator.png": eyewear.aviator,
    "occluders/wayfarer.png": eyewear.wayfarer,
    "occluders/round_lenses.png": eyewear.round_lenses,
    "occluders/shield.png": eyewear.shield,
    "occluders/cap_brim.png": headwear.cap_brim,
    "occluders/cap_tilted.png": headwear.cap_tilted,
    "occluders/beanie.png": headwear.beanie,
    "occluders/straight_fringe.png": headwear.straight_fringe,
    "occluders/side_fringe.png": headwear.side_fringe,
    "occluders/curtain_fringe.png": headwear.curtain_fringe,
    "occluders/hand_spread.png": hands.spread,
    "occluders/hand_together.png": hands.together,
    "occluders/hand_pointing.png": hands.pointing,
    "occluders/hand_fist.png": hands.fist,
    "textures/folds.png": textures.folds,
    "textures/grain.png": textures.grain,
    "textures/strands.png": textures.strands,
    "textures/stripes.png": textures.stripes,
    "textures/checks.png": textures.checks,
    "textures/plaid.png": textures.plaid,
    "textures/dots.png": textures.dots,
    "textures/camouflage.png": textures.camouflage,
    "textures/flowers.png": textures.flowers,
}
LANDMARKS: Final = "landmarks_112.csv"


def landmarks_csv() -> str:
    """Return the landmark template as CSV text with the columns point, x, y."""
    points = ("left_eye", "right_eye", "nose", "left_mouth_corner", "right_mouth_corner")  # as the viewer sees them
    rows = [f"{name},{x:.4f},{y:.4f}" for name, (x, y) in zip(points, TEMPLATE.tolist(), strict=True)]
    return "\n".join(["point,x,y", *rows, ""])


def draw_all(folder: Path) -> None:
    """Write every template, texture and the landmark template below `folder`, over what is there."""
    for name, draw in DRAWINGS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing = draw()
        pixels = cv2.cvtColor(drawing, cv2.COLOR_RGBA2BGRA) if drawing.ndim == 3 else drawing
        path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
    (folder / LANDMARKS).write_text(landmarks_csv(), encoding="utf-8")
