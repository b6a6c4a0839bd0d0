"""The 3-D curves of a synthetic face, from its parameters, its age and its expression.

A curve is a float64 [n, 3] array of control points; the renderer smooths it after projection.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from datasets.synthetic.camera import Array, Curves, surface_depth
from datasets.synthetic.parameters import FaceIdentity, Nuisance, Outline

SIDES = (-1.0, 1.0)


def age_identity(identity: FaceIdentity, age: float) -> FaceIdentity:
    """Return the same person's shape at `age` in [0, 1]; 0.4 leaves it as it is."""
    years = age - 0.4
    outline, eyes, brows, nose, mouth = identity.outline, identity.eyes, identity.brows, identity.nose, identity.mouth
    return replace(
        identity,
        outline=replace(
            outline,
            jaw=outline.jaw + 0.09 * years,
            hairline=outline.hairline - 6.0 * years,
            hair_volume=outline.hair_volume - 2.0 * years,
            chin_length=outline.chin_length + 1.5 * years,
        ),
        eyes=replace(
            eyes, upper=eyes.upper - 1.3 * years, bags=eyes.bags + 0.25 * max(years, 0.0), fold=eyes.fold - 1.2 * years
        ),
        brows=replace(brows, lift=brows.lift - 1.8 * years, density=brows.density - 0.2 * years),
        nose=replace(
            nose, length=nose.length + 1.5 * years, width=nose.width + 0.9 * years, tip=nose.tip + 1.4 * years
        ),
        mouth=replace(
            mouth,
            upper=mouth.upper * (1.0 - 0.45 * years),
            lower=mouth.lower * (1.0 - 0.35 * years),
            fold=mouth.fold + 0.5 * max(years, 0.0),
            corner=mouth.corner + 0.8 * years,
        ),
    )


def _on_surface(outline: Outline, points: Array, lift: float | Array = 0.0) -> Array:
    """Return [n, 2] points as [n, 3], `lift` above the face's surface."""
    solid = np.empty((len(points), 3))
    solid[:, :2] = points
    solid[:, 2] = surface_depth(outline, points[:, 0], points[:, 1]) + lift
    return solid


@lru_cache(maxsize=1)
def _unit_sphere() -> Array:
    """Return 60 points spread over the unit sphere (a Fibonacci lattice)."""
    index = np.arange(60) + 0.5
    height, turn = 1.0 - index / 30.0, index * np.pi * (1.0 + 5.0**0.5)
    radius = np.sqrt(1.0 - height**2)
    return np.column_stack([radius * np.cos(turn), height, radius * np.sin(turn)])


def _head(face: FaceIdentity, nuisance: Nuisance) -> Curves:
    """Return outline and hairline of the face, the skull with its hair, ears and neck."""
    o = face.outline
    w, top, length = o.width, o.hairline, o.chin_length
    half = np.array([[w * o.temple, -30.0], [w, o.cheek_height], [w * o.jaw, o.jaw_height], [w * o.chin, length - 5.0]])
    skew = np.array([[0.0, 0.0], [0.0, 0.0], [o.skew, 0.0], [o.skew, 0.0]])
    right, left = half + skew, half * [-1.0, 1.0] + skew
    fringe = 1.5 * nuisance.hair_change
    hairline = np.array(
        [
            [-0.72 * w, 0.84 * top + o.hairline_corner - o.hairline_skew + fringe],
            [-0.36 * w, top - o.hairline_skew - fringe],
            [0.0, top + o.hairline_peak],
            [0.36 * w, top + o.hairline_skew + fringe],
            [0.72 * w, 0.84 * top + o.hairline_corner + o.hairline_skew - fringe],
        ]
    )
    boundary = np.concatenate([hairline, right, [[o.skew, length]], left[::-1]])
    face_curve = _on_surface(o, boundary)
    face_curve[:, 2] = np.maximum(face_curve[:, 2], -10.0)
    inner = _on_surface(
        o, np.concatenate([right, left, 0.8 * right, 0.8 * left, 0.5 * right, 0.5 * left, [[o.skew, length]]])
    )
    inner[:, 2] = np.maximum(inner[:, 2], -10.0)
    volume = o.hair_volume + 1.5 * nuisance.hair_change
    radii = np.array([w * 1.0 + 0.6 * volume, 50.0 + volume, 46.0 + 0.5 * volume])
    skull = _unit_sphere() * radii + [0.0, -20.0, -24.0]
    fall = 62.0 * max(0.0, o.hair_length + 0.25 * nuisance.hair_change)
    strands = np.array([[side * (w + volume), fall - 12.0, z] for side in SIDES for z in (-20.0, -45.0)])
    ear = np.array([[0.0, -13.0], [3.5, -15.0], [5.0, -8.0], [3.5, 3.0], [0.5, 8.0]])
    ears = {
        f"ear{side:+.0f}": np.column_stack([side * (w - 1.0 + o.ears * ear[:, 0]), ear[:, 1], np.full(5, -14.0)])
        for side in SIDES
    }
    neck = np.array(
        [[-0.6 * w, 20.0, -28.0], [0.6 * w, 20.0, -28.0], [0.66 * w, 95.0, -34.0], [-0.66 * w, 95.0, -34.0]]
    )
    return {"face": face_curve, "inner": inner, "skull": np.concatenate([skull, strands]), "neck": neck, **ears}


def _eye(face: FaceIdentity, nuisance: Nuisance, side: float) -> Curves:
    """Return lids, fold, bag, iris and pupil of one eye."""
    e = face.eyes
    closing = 1.0 - 0.75 * nuisance.eye_closing - 0.12 * nuisance.smile
    center = np.array([side * e.spacing, e.height + side * e.uneven])
    t = np.array([-1.0, -0.55, 0.0, 0.55, 1.0])
    rise = np.array([0.0, 0.8, 1.0, 0.8, 0.0]) * (1.0 + e.peak * t)
    upper = np.column_stack([t * e.width, -np.maximum(e.upper * closing, 0.4) * rise])
    lower = np.column_stack([t[3:0:-1] * e.width, e.lower * (0.4 + 0.6 * closing) * rise[3:0:-1]])
    sine, cosine = np.sin(e.tilt), np.cos(e.tilt)
    turn = np.array([[cosine, sine], [-sine, cosine]])  # raises the outer corner for a positive tilt

    def place(points: Array, lift: float = -3.0) -> Array:
        turned = points @ turn.T * [side, 1.0] + center
        return _on_surface(face.outline, turned, lift)

    angles = np.linspace(0.0, 2.0 * np.pi, 8, endpoint=False)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    look = np.array([2.2 * nuisance.gaze * side, -0.3])
    fold = upper * [1.05, 1.0] - [0.0, e.fold]
    bag = np.column_stack([t * e.width * 0.9, e.lower + 2.6 - 1.2 * t**2])
    feet = np.array([[e.width + 3.0, -3.0], [e.width + 8.5, -5.0], [e.width + 3.2, 0.0], [e.width + 9.0, 0.6]])
    return {
        f"eye{side:+.0f}": place(np.concatenate([upper, lower])),
        f"lid{side:+.0f}": place(upper),
        f"fold{side:+.0f}": place(fold, -2.0),
        f"bag{side:+.0f}": place(bag, -2.0),
        f"iris{side:+.0f}": place(e.iris * circle + look),
        f"pupil{side:+.0f}": place(0.42 * e.iris * circle + look),
        f"feet{side:+.0f}": place(feet, -1.0),
    }


def _brow(face: FaceIdentity, nuisance: Nuisance, side: float) -> Array:
    """Return the closed outline of one eyebrow."""
    b = face.brows
    along = np.array([0.0, 0.3, b.arch_place, 1.0])
    bump = np.array([0.0, 0.55, 1.0, 0.1])
    level = face.eyes.height - b.lift - 1.8 * nuisance.brow_raise + side * b.uneven
    x = b.inner + (b.outer - b.inner) * along
    y = level - b.arch * bump + b.tilt * (along - 0.5)
    half = b.thickness * (1.0 - (1.0 - b.taper) * along**2)
    points = np.column_stack([np.concatenate([x, x[::-1]]), np.concatenate([y - half, (y + half)[::-1]])])
    return _on_surface(face.outline, points * [side, 1.0], 1.0)


def _nose(face: FaceIdentity) -> Curves:
    """Return the nose's planes, wings and nostrils."""
    n = face.nose

    def at(x: float, y: float, lift: float) -> list[float]:
        return [x, y, surface_depth(face.outline, x, y) + lift]

    root, middle = at(0.0, -20.0, 1.0), at(0.6 * n.bend, -10.0, 0.5 * n.length + n.hump)
    tip, base = at(n.bend, n.tip, n.length), at(0.6 * n.bend, n.tip + 5.0, 0.45 * n.length)
    curves = {"nose_ridge": np.array([root, middle, tip])}
    for side in SIDES:
        wing = at(side * n.width + 0.5 * n.bend, n.tip + 3.0, 1.0)
        bridge_side = at(side * n.bridge, -18.0, -2.0)
        flank = at(side * (n.bridge + 0.35 * n.width), -7.0, 0.0)
        bulb = at(side * n.bulb + n.bend, n.tip + 0.5, 0.8 * n.length)
        curves[f"nose_side{side:+.0f}"] = np.array([root, middle, tip, bulb, wing, flank, bridge_side])
        curves[f"nose_base{side:+.0f}"] = np.array([tip, bulb, wing, base])
        outer = side * n.width + 0.5 * n.bend
        curves[f"wing{side:+.0f}"] = np.array(
            [
                at(outer - side * 1.5, n.tip + 3.2 - n.wing, 2.0),
                at(outer + side * 0.3, n.tip + 3.2 - 0.4 * n.wing, 1.5),
                at(outer + side * 0.2, n.tip + 4.2, 1.0),
                at(outer - side * 2.0, n.tip + 5.0, 2.0),
            ]
        )
        cx, cy = side * 0.52 * n.width + 0.6 * n.bend, n.tip + 4.2
        tilt = side * n.nostril_tilt
        ring = [(n.nostril, -n.nostril * tilt), (0.0, -1.1), (-n.nostril, n.nostril * tilt), (0.0, 1.1)]
        curves[f"nostril{side:+.0f}"] = np.array([at(cx + dx, cy + dy, 0.5 * n.length) for dx, dy in ring])
    return curves


def _mouth(face: FaceIdentity, nuisance: Nuisance) -> Curves:
    """Return both lips, the opening between them, and the folds around the mouth."""
    m = face.mouth
    w = m.width * (1.0 + 0.12 * nuisance.smile - 0.08 * nuisance.mouth_open)
    lift = -1.6 * nuisance.smile + m.corner
    gap = 5.0 * nuisance.mouth_open
    t = np.array([-1.0, -0.62, -m.bow_width / 14.6, 0.0, m.bow_width / 14.6, 0.62, 1.0])
    corner = lift * t**2 + m.skew * t
    bow = np.array([0.0, -0.62, -1.0, -1.0 + 0.5 * m.bow / max(m.upper, 1.0), -1.0, -0.62, 0.0])
    shut = np.array([0.0, 0.75, 1.0, 1.0, 1.0, 0.75, 0.0])
    thin = 1.0 - 0.2 * max(nuisance.smile, 0.0)

    def line(offset: Array) -> Array:
        return np.column_stack([w * t, m.height + corner + offset])

    top, above = line(m.upper * thin * bow), line(-0.3 * gap * shut + 0.4 * m.bow * (1.0 - np.abs(t)) ** 2)
    below, bottom = (
        line(0.7 * gap * shut + 0.3),
        line(0.7 * gap * shut + m.lower * thin * np.array([0.0, 0.7, 0.97, 1.0, 0.97, 0.7, 0.0])),
    )
    low = m.height + m.lower + 0.7 * gap
    flat = {
        "lip_upper": np.concatenate([top, above[::-1]]),
        "lip_lower": np.concatenate([below, bottom[::-1]]),
        "opening": np.concatenate([above, below[::-1]]),
        "lip_line": above,
        "crease": np.array([[-6.0, low + 4.0], [0.0, low + 3.0], [6.0, low + 4.0]]),
        "philtrum-1": np.array([[-1.8, face.nose.tip + 7.0], [-2.2, m.height - m.upper - 0.5]]),
        "philtrum+1": np.array([[1.8, face.nose.tip + 7.0], [2.2, m.height - m.upper - 0.5]]),
    }
    curves = {name: _on_surface(face.outline, points, 2.0) for name, points in flat.items()}
    for side in SIDES:
        fold = [
            [face.nose.width + 2.5, face.nose.tip + 1.0],
            [m.width + 2.5, 11.0],
            [w + 4.0, m.height],
            [w + 2.5, m.height + 6.0],
        ]
        curves[f"cheek_fold{side:+.0f}"] = _on_surface(face.outline, np.array(fold) * [side, 1.0], 1.0)
    return curves


def _skin(face: FaceIdentity, nuisance: Nuisance) -> Curves:
    """Return marks, wrinkles, beard and glasses."""
    place = face.colors.wrinkle_place
    curves = {}
    for row in range(3):
        y = -34.0 - 4.0 * row + place - 1.5 * nuisance.brow_raise
        points = np.array([[-17.0, y + 0.4 * place], [-6.0, y - 0.8], [6.0, y], [17.0, y - 0.4 * place]])
        curves[f"forehead{row}"] = _on_surface(face.outline, points, 0.0)
    for side in SIDES:
        frown = np.array([[2.6 + 0.3 * place, -32.0], [2.2 - 0.2 * place, -26.0]])
        curves[f"frown{side:+.0f}"] = _on_surface(face.outline, frown * [side, 1.0], 1.0)
    for index, mark in enumerate(face.marks):
        curves[f"mark{index}"] = _on_surface(face.outline, np.array([[mark.x, mark.y]]), 0.5)
    o, m = face.outline, face.mouth
    half = np.array(
        [[0.97 * o.width, 4.0], [0.93 * o.jaw * o.width, o.jaw_height], [0.9 * o.chin * o.width, o.chin_length - 4.0]]
    )
    inner = np.array([[m.width + 9.0, 12.0], [8.0, face.nose.tip + 7.5]])
    beard = np.concatenate([half, half[::-1] * [-1.0, 1.0], inner * [-1.0, 1.0], inner[::-1]])
    curves["beard"] = _on_surface(o, beard, 0.5)
    return curves


def face_curves(face: FaceIdentity, nuisance: Nuisance) -> Curves:
    """Return every curve of a face with its expression, before pose; `face` is already aged."""
    curves = _head(face, nuisance)
    for side in SIDES:
        curves |= _eye(face, nuisance, side)
        curves[f"brow{side:+.0f}"] = _brow(face, nuisance, side)
    return curves | _nose(face) | _mouth(face, nuisance) | _skin(face, nuisance)
