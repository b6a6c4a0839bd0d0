"""Placement, painting and texture mapping, the parts under the occluders."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import TEMPLATE
from transforms.occluders import palette, wear
from transforms.occluders.paint import blend, paint
from transforms.occluders.placement import (
    CANVAS_MARGIN,
    CANVAS_SCALE,
    CANVAS_SIZE,
    face_placement,
    free_placement,
    turn,
    warp,
)

SEEDS = st.integers(0, 2**32 - 1)


class FixedDraws:
    """A generator whose every uniform draw lies at the same share of its range."""

    def __init__(self, share: float) -> None:
        self.share = share

    def uniform(self, low: Any, high: Any, size: Any = None) -> Any:
        value = np.asarray(low) + self.share * (np.asarray(high) - np.asarray(low))
        return np.broadcast_to(value, size) if size is not None else float(value)

    def random(self) -> float:
        return self.share


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return where `matrix` [3, 3] sends `points` [N, 2], one by one."""
    images = [matrix @ [x, y, 1.0] for x, y in points]
    return np.array([[u / w, v / w] for u, v, w in images])


def canvas_points(points: np.ndarray) -> np.ndarray:
    return (np.asarray(points, float) + CANVAS_MARGIN + 0.5) * CANVAS_SCALE - 0.5


def test_middle_draws_only_enlarge_about_the_face_centre() -> None:
    # Not mirrored (0.5 is not below 0.5), no jitter, no shift, no rotation, no tilt; the middle of the scales is 1.025.
    placed = project(face_placement(FixedDraws(0.5)), canvas_points(TEMPLATE))
    centre = np.array([56.0, 66.0])
    np.testing.assert_allclose(placed, centre + 1.025 * (TEMPLATE - centre), atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_placed_landmarks_stay_near_the_template(seed: int) -> None:
    placed = project(face_placement(np.random.default_rng(seed)), canvas_points(TEMPLATE))
    mirrored = TEMPLATE[[1, 0, 2, 4, 3]]
    moved = min(np.abs(placed - TEMPLATE).max(), np.abs(placed - mirrored).max())
    # Jitter 3 (a least-squares fit moves no point further than the jitter of all five), shift 5, rotation and scale 8.
    assert moved < 17.0


def test_placements_vary_as_much_as_they_are_said_to() -> None:
    placed = np.array(
        [project(face_placement(np.random.default_rng(seed)), canvas_points(TEMPLATE)) for seed in range(400)]
    )
    centre = placed.mean(axis=1)
    assert 4.0 < np.abs(centre[:, 0] - TEMPLATE[:, 0].mean()).max() < 9.0
    eyes = np.sort(placed[:, :2], axis=1)
    angles = np.degrees(np.arctan2(placed[:, 1, 1] - placed[:, 0, 1], np.abs(placed[:, 1, 0] - placed[:, 0, 0])))
    assert 6.0 < np.abs(angles).max() < 20.0
    widths = eyes[:, 1, 0] - eyes[:, 0, 0]
    assert widths.min() < 0.95 * 35.2 and widths.max() > 1.08 * 35.2


def test_template_of_an_unmoved_canvas_lands_on_its_face_coordinates() -> None:
    # A cross drawn at canvas pixels of face coordinate (40, 60), seen without any change of place.
    template = np.zeros((CANVAS_SIZE, CANVAS_SIZE, 4), np.uint8)
    x, y = np.rint(canvas_points(np.array([40.0, 60.0]))).astype(int)
    template[y - 1 : y + 2, x - 1 : x + 2] = 255
    offset = 0.5 / CANVAS_SCALE - 0.5 - CANVAS_MARGIN
    to_crop = np.array([[1 / CANVAS_SCALE, 0, offset], [0, 1 / CANVAS_SCALE, offset], [0, 0, 1]])
    weight = warp(template, to_crop)[..., 3].astype(float)
    rows, columns = np.mgrid[0:112, 0:112]
    assert abs((rows * weight).sum() / weight.sum() - 60) < 0.5
    assert abs((columns * weight).sum() / weight.sum() - 40) < 0.5


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, angle=st.floats(-180, 180))
def test_turn_keeps_its_centre_and_scales_lengths_there(seed: int, angle: float) -> None:
    rng = np.random.default_rng(seed)
    scale, centre, target = rng.uniform(0.5, 2), tuple(rng.uniform(0, 112, 2)), rng.uniform(0, 112, 2)
    matrix = turn(scale, angle, centre, target, rng.uniform(-1e-3, 1e-3, 2))
    np.testing.assert_allclose(project(matrix, np.array([centre]))[0], target, atol=1e-9)
    near = project(matrix, np.array([centre]) + np.array([1e-4, 0.0]))[0] - target
    radians = np.radians(angle)
    np.testing.assert_allclose(near / 1e-4, scale * np.array([np.cos(radians), np.sin(radians)]), atol=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_free_placement_puts_the_anchor_on_its_target_mirrored_or_not(share: float) -> None:
    matrix = free_placement(FixedDraws(share), (50.0, 62.0), np.array([30.0, 80.0]), 40.0)
    np.testing.assert_allclose(project(matrix, canvas_points(np.array([[50.0, 62.0]])))[0], [30, 80], atol=1e-6)


def test_paint_gives_each_material_its_rgb_colour() -> None:
    layers = np.zeros((112, 112, 4), np.uint8)
    for material in range(3):
        layers[:, 40 * material : 40 * material + 30, material] = 200
    layers[..., 3] = 255
    colours = np.array([[250.0, 0, 0], [0, 250.0, 0], [0, 0, 250.0]])
    image = np.full((112, 112, 3), [90, 80, 70], np.uint8)
    view = paint(image, layers, colours, np.random.default_rng(0))
    for material in range(3):
        patch = view.image[20:90, 40 * material + 5 : 40 * material + 25].reshape(-1, 3)
        assert (patch.argmax(axis=1) == material).all()
    assert not view.visibility.any()


def test_blend_keeps_pixels_without_alpha_and_counts_only_more_than_half_as_occluded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    alpha = np.zeros((112, 112), np.uint8)
    alpha[10], alpha[11], alpha[12] = 127, 128, 255
    view = blend(image, np.full((112, 112, 3), 30.0, np.float32), alpha)
    np.testing.assert_array_equal(view.image[:10], image[:10])
    np.testing.assert_array_equal(view.image[13:], image[13:])
    assert (view.image[12] == 30).all()
    assert (view.visibility.sum(axis=1) == 112).nonzero()[0].tolist() == [*range(11), *range(13, 112)]


def test_a_print_never_reaches_beyond_its_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wear, "load_texture", lambda name: np.full((512, 512), 255, np.uint8))
    for seed in range(300):
        assert (wear.draw_pattern(np.random.default_rng(seed)) == 255).all()


def test_skin_and_hair_span_human_tones() -> None:
    image = np.full((112, 112, 3), [0, 255, 255], np.uint8)  # no skin: what is red was not taken from it
    skins = np.array([palette.skin_colour(image, np.random.default_rng(seed)) for seed in range(300)])
    skins = skins[skins[:, 0] > 0]
    assert (skins[:, 0] > skins[:, 2]).all()
    assert skins[:, 0].min() < 90 and skins[:, 0].max() > 220
    hairs = np.array([palette.hair_colour(image, np.random.default_rng(seed)) for seed in range(300)])
    hairs = hairs[hairs[:, 0] > 0]
    assert hairs.max(axis=1).min() < 40 and hairs.max(axis=1).max() > 200


def test_exposure_follows_the_mean_luminance() -> None:
    values = [palette.exposure(np.full((112, 112, 3), level, np.uint8)) for level in (0, 40, 118, 255)]
    assert values == sorted(values) and values[0] == pytest.approx(0.45) and values[2] == pytest.approx(1.0, abs=0.01)


def test_cv2_reads_templates_as_rgba() -> None:
    # OpenCV's files are BGRA; a swapped template would paint straps where the cloth is.
    template = wear.load_template("surgical")
    red, green, _ = cv2.mean(template[120:180, 100:140])[:3]
    assert red > 4 * green
