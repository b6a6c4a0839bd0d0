"""Draws a synthetic face: polygons for the features, one light for the relief, and a camera's flaws on top.

Drawing is 8-bit OpenCV with anti-aliasing; the result depends on nothing but the identity and the nuisance.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from datasets.synthetic.camera import Array, Camera, Curves, align_camera, five_points, project_curves
from datasets.synthetic.canvas import Canvas, Image, Rgb, scalar
from datasets.synthetic.lighting import Floats, Vector, light_direction, lit_skin, plane_shade
from datasets.synthetic.parameters import FaceIdentity, Nuisance
from datasets.synthetic.shape import SIDES, age_identity, face_curves
from transforms.landmarks import IMAGE_SIZE

#: Part of the cache's name: raise it whenever a rendered pixel changes.
RENDERER_VERSION = 3

LIGHT_SKIN, DARK_SKIN = np.array([240.0, 204.0, 180.0]), np.array([110.0, 74.0, 54.0])
DARK_HAIR, FAIR_HAIR = np.array([26.0, 20.0, 18.0]), np.array([176.0, 138.0, 92.0])
RED_HAIR, GRAY_HAIR = np.array([128.0, 62.0, 34.0]), np.array([188.0, 186.0, 182.0])
BROWN_IRIS, BLUE_IRIS = np.array([62.0, 40.0, 26.0]), np.array([96.0, 132.0, 152.0])
LIP_RED = np.array([176.0, 70.0, 74.0])

HEAD_BORDER = 36  # pixels around the aligned crop that a whole head needs at any yaw
HEAD_SIZE = IMAGE_SIZE + 2 * HEAD_BORDER


@dataclass(frozen=True)
class Palette:
    """Colors of one image before light, RGB float64 [3] each."""

    skin: Rgb
    hair: Rgb
    lips: Rgb
    iris: Rgb


# Its every part is white on a mask, also what is drawn darker than the skin.
_WHITE = Palette(*(np.full(3, 400.0) for _ in range(4)))


class _Subject(NamedTuple):
    """What is drawn: the aged face, the camera, and the curves and five points that it sees."""

    face: FaceIdentity
    camera: Camera
    curves: Curves
    points: Array


class Head(NamedTuple):
    """A whole head, its aligned crop in the middle of HEAD_SIZE x HEAD_SIZE pixels.

    Attributes:
        image: uint8 [184, 184, 3] RGB.
        cover: uint8 [184, 184], 255 where hair, ears, neck or face are.
        skin: uint8 [184, 184], 255 where the face is, from hairline to chin.
        points: float64 [5, 2], x and y of the five points, pixel centers on integers.
    """

    image: Image
    cover: Image
    skin: Image
    points: Array


def _palette(face: FaceIdentity, age: float) -> Palette:
    """Return the face's colors at an age."""
    c = face.colors
    skin = _mix(LIGHT_SKIN, DARK_SKIN, c.skin) * [1.0 + c.redness, 1.0, 1.0 - 0.5 * c.redness]
    hair = _mix(_mix(DARK_HAIR, FAIR_HAIR, c.hair), RED_HAIR, 0.6 * c.hair_redness)
    gray = min(1.0, max(0.0, 2.0 * age - 1.0) * c.graying)
    lips = _mix(skin, LIP_RED * (1.0 - 0.35 * c.skin), (0.35 + 0.5 * face.mouth.color) * (1.0 - 0.4 * age))
    return Palette(skin, _mix(hair, GRAY_HAIR, gray), lips, _mix(BROWN_IRIS, BLUE_IRIS, c.iris**2))


def _mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Return `second` mixed into `first` by `share`."""
    return first + (second - first) * share


def _draw_background(nuisance: Nuisance, rng: np.random.Generator) -> Image:
    """Return two colors that run into each other, with a few large blobs."""
    first, second = (np.array(color) for color in nuisance.background)
    corners = np.clip(np.stack([first, second, _mix(first, second, rng.random()), second * rng.random()]), 0, 255)
    image = cv2.resize(corners.reshape(2, 2, 3)[:, rng.permutation(2)].astype(np.uint8), (IMAGE_SIZE, IMAGE_SIZE))
    for x, y, radius, share in rng.uniform([0, 0, 5, -0.5], [112, 112, 40, 1.5], (4, 4)):
        color = scalar(_mix(first, second, share))
        cv2.circle(image, (int(x), int(y)), int(radius), color, -1)
    return image


def _skin_mask(curves: Curves, size: int) -> Image:
    """Return the visible skin as an anti-aliased mask: the face's boundary, its bulge and the nose's silhouette."""
    canvas = Canvas(np.zeros((size, size), np.uint8))
    canvas.fill(curves["face"], 255.0)
    for name in ("inner", "nose_side-1", "nose_side+1"):
        hull = cv2.convexHull(curves[name].astype(np.float32))[:, 0].astype(np.float64)
        canvas.polygon(hull, 255.0)
    return canvas.image


def _draw_head(canvas: Canvas, curves: Curves, palette: Palette, face: FaceIdentity) -> None:
    """Draw neck, hair and ears, which the face is painted over."""
    hull = cv2.convexHull(curves["skull"].astype(np.float32))[:, 0].astype(np.float64)
    canvas.fill(hull, palette.hair)
    canvas.polygon(curves["neck"], 0.8 * palette.skin)
    if face.outline.hair_length < 0.35:
        for side in SIDES:
            canvas.fill(curves[f"ear{side:+.0f}"], 0.88 * palette.skin)


def _draw_eye(canvas: Canvas, curves: Curves, palette: Palette, face: FaceIdentity, side: str) -> None:
    """Draw one eye: white, iris and pupil cut by the lids, lashes and fold."""
    opening = np.zeros(canvas.image.shape[:2], np.uint8)
    Canvas(opening).fill(curves["eye" + side], 255.0)
    ball = Canvas(canvas.image.copy())
    ball.fill(curves["eye" + side], np.array([226.0, 220.0, 214.0]))
    ball.fill(curves["iris" + side], palette.iris)
    ball.fill(curves["pupil" + side], np.array([14.0, 12.0, 12.0]))
    cv2.copyTo(ball.image, opening, canvas.image)
    lash = _mix(palette.skin, np.array([22.0, 16.0, 14.0]), min(1.0, 0.55 + 0.3 * face.eyes.lash))
    canvas.stroke(curves["lid" + side], lash, 2 if face.eyes.lash > 1.1 else 1)
    canvas.stroke(curves["fold" + side], palette.skin * (1.0 - 0.45 * face.eyes.fold_strength))


def _draw_mouth(canvas: Canvas, curves: Curves, palette: Palette, nuisance: Nuisance) -> None:
    """Draw the opening with teeth, then both lips."""
    if nuisance.mouth_open > 0.05:
        canvas.fill(curves["opening"], np.array([58.0, 24.0, 26.0]))
        half = len(curves["opening"]) // 2
        teeth = curves["opening"].copy()
        teeth[half:] = 0.5 * (teeth[half:] + teeth[:half][::-1])
        canvas.fill(teeth, np.array([224.0, 216.0, 204.0]))
    canvas.polygon(curves["lip_upper"], 0.86 * palette.lips)
    canvas.polygon(curves["lip_lower"], palette.lips)
    canvas.stroke(curves["lip_line"], 0.55 * palette.lips)


def _draw_features(canvas: Canvas, curves: Curves, palette: Palette, face: FaceIdentity, nuisance: Nuisance) -> None:
    """Draw eyes, brows, nostrils, mouth and marks onto the skin."""
    for side in ("-1", "+1"):
        _draw_eye(canvas, curves, palette, face, side)
        canvas.fill(curves["brow" + side], _mix(palette.skin, 0.8 * palette.hair, min(1.0, face.brows.density)))
        canvas.fill(curves["nostril" + side], 0.35 * palette.skin)
        canvas.stroke(curves["wing" + side], (0.8 - 0.25 * face.nose.definition) * palette.skin)
    _draw_mouth(canvas, curves, palette, nuisance)
    for index, mark in enumerate(face.marks):
        canvas.disc(curves[f"mark{index}"][0], mark.radius, palette.skin * (1.0 - mark.darkness))
    if nuisance.glasses:
        _draw_glasses(canvas, curves)


def _draw_glasses(canvas: Canvas, curves: Curves) -> None:
    """Draw thin frames around the eyes and a bridge between them."""
    centers = [curves["eye" + side].mean(axis=0) for side in ("-1", "+1")]
    dark = np.array([40.0, 36.0, 36.0])
    angles = np.linspace(0.0, 2.0 * np.pi, 13)
    ring = np.column_stack([np.cos(angles), np.sin(angles)]) * [13.0, 10.0]
    for center in centers:
        canvas.stroke(center + ring + [0.0, 1.0], dark)
    canvas.stroke(np.stack([centers[0] + [12.5, -1.0], centers[1] + [-12.5, -1.0]]), dark)


def _shade_layer(subject: _Subject, nuisance: Nuisance, light: Vector, size: int) -> Image:
    """Return local brightness, 128 = unchanged: nose planes, sockets, folds and wrinkles."""
    face, camera, curves, _ = subject
    canvas = Canvas(np.full((size, size), 128, np.uint8))
    slope = 0.06 * face.nose.length + 0.05 * (10.0 - face.nose.width)
    for side, name in zip(SIDES, ("-1", "+1"), strict=True):
        canvas.fill(
            curves["brow" + name] * 0.35 + curves["eye" + name].mean(axis=0) * 0.65,
            128.0 * (1.0 - 2.0 * face.eyes.socket),
        )
        canvas.stroke(curves["bag" + name], 128.0 * (1.0 - 1.6 * face.eyes.bags), 2)
        canvas.polygon(curves["nose_side" + name], plane_shade((side * slope, -0.1, 1.0), camera, light))
        canvas.polygon(curves["nose_base" + name], plane_shade((side * 0.3, 0.8, 0.8), camera, light))
        canvas.stroke(curves["cheek_fold" + name], 128.0 * (1.0 - 0.55 * face.mouth.fold), 2)
        canvas.stroke(curves["philtrum" + name], 128.0 * (1.0 - 0.5 * face.mouth.philtrum))
    canvas.stroke(curves["crease"], 128.0 * (1.0 - 0.8 * face.mouth.crease), 2)
    beard = face.colors.beard * nuisance.stubble
    if beard > 0.02:
        canvas.polygon(curves["beard"], 128.0 * (1.0 - beard))
    image = cv2.GaussianBlur(canvas.image, (5, 5), 1.1).astype(np.uint8)
    wrinkles = min(1.0, max(0.0, nuisance.age - 0.35) * 0.75 * face.colors.wrinkles)
    if wrinkles > 0.03:
        _draw_wrinkles(Canvas(image), curves, 128.0 * (1.0 - wrinkles))
    return image


def _draw_wrinkles(canvas: Canvas, curves: Curves, value: float) -> None:
    """Draw the lines of age: forehead, between the brows, beside the eyes."""
    for row in range(3):
        canvas.stroke(curves[f"forehead{row}"], value)
    for side in ("-1", "+1"):
        canvas.stroke(curves["frown" + side], value)
        feet = curves["feet" + side]
        canvas.stroke(feet[:2], value)
        canvas.stroke(feet[2:], value)


def _expose(image: Floats, nuisance: Nuisance, rng: np.random.Generator) -> Image:
    """Return the image as a camera takes it: exposure, color temperature, contrast, focus, noise."""
    warm, tint = nuisance.warmth, nuisance.tint
    gain = nuisance.gain * np.array([1.0 + warm, 1.0 + tint, 1.0 - warm])
    contrast = nuisance.contrast
    image = image * (gain * contrast).astype(np.float32) + np.float32(110.0 * (1.0 - contrast))
    if nuisance.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), nuisance.blur).astype(np.float32, copy=False)
    grain = rng.standard_normal((*image.shape[:2], 1), np.float32) * np.float32(nuisance.noise)
    return np.clip(image + grain, 0.0, 255.0).astype(np.uint8)


def render_raw(identity: FaceIdentity, nuisance: Nuisance) -> Image:
    """Return the face before JPEG compression, uint8 [112, 112, 3] RGB."""
    rng = np.random.default_rng(nuisance.seed)
    return _draw_subject(_draw_background(nuisance, rng), _pose(identity, nuisance, 0), nuisance, rng)


def render_head(identity: FaceIdentity, nuisance: Nuisance) -> Head:
    """Return the whole head around the face that `render_raw` draws; its background does not matter.

    Deterministic: equal arguments give equal pixels. They have not been through JPEG.
    """
    subject = _pose(identity, nuisance, HEAD_BORDER)
    hair = np.clip(_palette(subject.face, nuisance.age).hair, 0, 255).astype(np.uint8)
    background = np.broadcast_to(hair, (HEAD_SIZE, HEAD_SIZE, 3)).copy()
    image = _draw_subject(background, subject, nuisance, np.random.default_rng(nuisance.seed))
    skin = _skin_mask(subject.curves, HEAD_SIZE)
    cover = Canvas(skin.copy())
    _draw_head(cover, subject.curves, _WHITE, subject.face)
    return Head(image, cover.image, skin, subject.points)


def _pose(identity: FaceIdentity, nuisance: Nuisance, border: int) -> _Subject:
    """Return what is drawn, with a border in pixels around the aligned crop."""
    face = age_identity(identity, nuisance.age)
    solid = face_curves(face, nuisance)
    camera = align_camera(solid, nuisance)
    camera = replace(camera, offset=camera.offset + complex(border, border))
    return _Subject(face, camera, project_curves(camera, solid), camera.project(five_points(solid)))


def _draw_subject(background: Image, subject: _Subject, nuisance: Nuisance, rng: np.random.Generator) -> Image:
    """Draw head and face onto a square background, in place, and return what a camera takes of it."""
    face, camera, curves, _ = subject
    size = len(background)
    palette, light = _palette(face, nuisance.age), light_direction(nuisance)
    canvas = Canvas(background)
    _draw_head(canvas, curves, palette, face)
    mask = _skin_mask(curves, size)
    cv2.copyTo(np.full_like(canvas.image, np.clip(palette.skin, 0, 255).astype(np.uint8)), mask, canvas.image)
    _draw_features(canvas, curves, palette, face, nuisance)
    shade = _shade_layer(subject, nuisance, light, size).astype(np.float32) / 128.0
    cover = cv2.GaussianBlur(mask, (3, 3), 0.8).astype(np.float32) / 255.0
    flat = np.float32(nuisance.ambient + 0.5 * (1.2 - nuisance.ambient))
    brightness = flat + cover * (lit_skin(camera, face, nuisance, light, size) * shade - flat)
    return _expose((canvas.image * brightness[..., None]).astype(np.float32, copy=False), nuisance, rng)


def encode_face(identity: FaceIdentity, nuisance: Nuisance) -> bytes:
    """Return the face as a JPEG file of the nuisance's quality."""
    bgr = cv2.cvtColor(render_raw(identity, nuisance), cv2.COLOR_RGB2BGR)
    written, buffer = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, nuisance.jpeg_quality])
    assert written, "OpenCV could not encode an 8-bit image"
    return buffer.tobytes()


def render_face(identity: FaceIdentity, nuisance: Nuisance) -> Image:
    """Return one synthetic image of a person, uint8 [112, 112, 3] RGB, aligned to the five-point template.

    Deterministic: equal arguments give equal pixels. The image has been through JPEG, as real ones have.
    """
    decoded = cv2.imdecode(np.frombuffer(encode_face(identity, nuisance), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV could not decode its own JPEG"
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
