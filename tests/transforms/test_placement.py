"""Placement, cutting out, painting and printing, the parts under the occluders."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import TEMPLATE, View
from transforms.painting import palette
from transforms.painting.assets import Relief, load_relief, load_template
from transforms.painting.cutout import VARIANTS, Cutout, held_cutout, worn_cutout
from transforms.painting.dice import Dice
from transforms.painting.paint import OPAQUE, cover, paint
from transforms.painting.placement import (
    CANVAS_MARGIN,
    CANVAS_SCALE,
    CANVAS_SIZE,
    MAX_SHIFT,
    Box,
    box_around,
    face_placement,
    free_placement,
    turn,
    warp,
)
from transforms.painting.scene import Scene, look_at
from transforms.painting.wear import print_sheet, printed

SEEDS = st.integers(0, 2**32 - 1)


CROP = Box(0, 112, 0, 112)
PLAIN = Relief("grain", 0.0)


class FixedDraws:
    """A generator whose every draw lies at the same share of its range."""

    def __init__(self, share: float) -> None:
        self.share = share

    def random(self, size: int) -> np.ndarray:
        return np.full(size, self.share)


def fixed(share: float) -> Dice:
    return Dice(FixedDraws(share))  # type: ignore[arg-type]


def dice(seed: int) -> Dice:
    return Dice(np.random.default_rng(seed))


def all_visible(image: np.ndarray) -> View:
    return View(image, np.ones((112, 112), np.uint8))


def scene_of(image: np.ndarray, seed: int = 0) -> Scene:
    return look_at(all_visible(image), np.random.default_rng(seed))


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return where `matrix` [3, 3] sends `points` [N, 2], one by one."""
    images = [matrix @ [x, y, 1.0] for x, y in points]
    return np.array([[u / w, v / w] for u, v, w in images])


def canvas_points(points: np.ndarray) -> np.ndarray:
    return (np.asarray(points, float) + CANVAS_MARGIN + 0.5) * CANVAS_SCALE - 0.5


def test_middle_draws_only_enlarge_about_the_face_center() -> None:
    # Not mirrored (0.5 is not below 0.5), no jitter, no rotation, no tilt; the middle of the scales is 1.025.
    placed = project(face_placement(fixed(0.5)), canvas_points(TEMPLATE))
    center = np.array([56.0, 66.0])
    np.testing.assert_allclose(placed, center + 1.025 * (TEMPLATE - center), atol=1e-5)


@settings(max_examples=200)
@given(seed=SEEDS)
def test_placed_landmarks_stay_near_the_template(seed: int) -> None:
    placed = project(face_placement(dice(seed)), canvas_points(TEMPLATE))
    mirrored = TEMPLATE[[1, 0, 2, 4, 3]]
    moved = min(np.abs(placed - TEMPLATE).max(), np.abs(placed - mirrored).max())
    # Jitter 3 (a least-squares fit moves no point further than the jitter of all five), rotation and scale 8.
    assert moved < 12.0


def test_placements_vary_as_much_as_they_are_said_to() -> None:
    placed = np.array([project(face_placement(dice(seed)), canvas_points(TEMPLATE)) for seed in range(400)])
    center = placed.mean(axis=1)
    assert 1.0 < np.abs(center[:, 0] - TEMPLATE[:, 0].mean()).max() < 4.0
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
    weight = warp(template, to_crop, CROP)[..., 3].astype(float)
    rows, columns = np.mgrid[0:112, 0:112]
    assert abs((rows * weight).sum() / weight.sum() - 60) < 0.5
    assert abs((columns * weight).sum() / weight.sum() - 40) < 0.5


@settings(max_examples=50)
@given(seed=SEEDS, angle=st.floats(-180, 180))
def test_turn_keeps_its_center_and_scales_lengths_there(seed: int, angle: float) -> None:
    rng = np.random.default_rng(seed)
    scale, (x, y, u, v), (p, q) = rng.uniform(0.5, 2), rng.uniform(0, 112, 4), rng.uniform(-1e-3, 1e-3, 2)
    center, target = (x, y), (u, v)
    matrix = turn(scale, angle, center, target, (p, q))
    np.testing.assert_allclose(project(matrix, np.array([center]))[0], target, atol=1e-9)
    near = project(matrix, np.array([center]) + np.array([1e-4, 0.0]))[0] - target
    radians = np.radians(angle)
    np.testing.assert_allclose(near / 1e-4, scale * np.array([np.cos(radians), np.sin(radians)]), atol=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_free_placement_puts_the_anchor_on_the_center_mirrored_or_not(share: float) -> None:
    matrix = free_placement(fixed(share), (50.0, 62.0))
    np.testing.assert_allclose(project(matrix, canvas_points(np.array([[50.0, 62.0]])))[0], [56, 66], atol=1e-6)


@settings(max_examples=60)
@given(seed=SEEDS, variant=st.integers(0, VARIANTS - 1), name=st.sampled_from(["surgical", "niqab", "scarf_high"]))
def test_a_cutout_is_the_whole_template_and_moves_as_it_is(seed: int, variant: int, name: str) -> None:
    cutout = worn_cutout(name, variant, PLAIN, MAX_SHIFT)
    placement = face_placement(Dice(np.random.default_rng([zlib.crc32(name.encode()), variant])))
    around = Box(-MAX_SHIFT, 112 + MAX_SHIFT, -MAX_SHIFT, 112 + MAX_SHIFT)
    whole = warp(load_template(name), placement, around)[..., 3] > OPAQUE
    across, down = np.random.default_rng(seed).integers(-MAX_SHIFT, MAX_SHIFT + 1, 2).tolist()
    expected = whole[MAX_SHIFT - down : 112 + MAX_SHIFT - down, MAX_SHIFT - across : 112 + MAX_SHIFT - across]
    covered = np.zeros((112, 112), bool)
    moved = cutout.moved(across, down)
    covered[moved.box.slices] = 255 - moved.uncovered > OPAQUE
    # Softening an edge moves its middle only in corners and thin straps.
    assert (covered != expected).mean() < 0.02


@pytest.mark.parametrize(("across", "down"), [(-200, 0), (200, 0), (0, -200), (0, 200), (-200, 200)])
def test_a_cutout_that_leaves_the_crop_keeps_a_pixel_in_it(across: int, down: int) -> None:
    cutout = Cutout(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8), Box(50, 70, 40, 70))
    moved = cutout.moved(across, down)
    top, bottom, left, right = moved.box
    assert 0 <= top < bottom <= 112 and 0 <= left < right <= 112
    assert moved.uncovered.shape == (bottom - top, right - left)


def test_every_process_cuts_out_the_same() -> None:
    first = held_cutout("hand_fist", 3, PLAIN, 42, (56.0, 78.0))
    held_cutout.cache_clear()
    again = held_cutout("hand_fist", 3, PLAIN, 42, (56.0, 78.0))
    assert first is not again
    np.testing.assert_array_equal(first.materials, again.materials)
    assert not first.materials.flags.writeable and not first.uncovered.flags.writeable


@given(points=st.lists(st.tuples(st.floats(-300, 300), st.floats(-300, 300)), min_size=1), margin=st.integers(0, 40))
def test_a_box_holds_its_points_and_stays_near_the_crop(points: list[tuple[float, float]], margin: int) -> None:
    top, bottom, left, right = box_around(points, margin)
    assert -margin <= top < bottom <= 112 + margin and -margin <= left < right <= 112 + margin
    for x, y in points:
        if -margin <= x < 112 + margin and -margin <= y < 112 + margin:
            assert left <= x < right and top <= y < bottom


def test_paint_gives_each_material_its_rgb_color() -> None:
    materials = np.zeros((112, 112, 3), np.uint8)
    for material in range(3):
        materials[:, 40 * material : 40 * material + 30, material] = 200
    cutout = Cutout(materials, np.zeros((112, 112), np.uint8), CROP)
    view = all_visible(np.full((112, 112, 3), [90, 80, 70], np.uint8))
    paint(scene_of(view.image)._replace(view=view), cutout, [(250, 0, 0), (0, 250, 0), (0, 0, 250)])
    for material in range(3):
        patch = view.image[20:90, 40 * material + 5 : 40 * material + 25].reshape(-1, 3)
        assert (patch.argmax(axis=1) == material).all()
    assert not view.visibility.any()


def test_cover_keeps_uncovered_pixels_and_counts_only_more_than_half_as_occluded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    coverage = np.zeros((20, 112), np.uint8)
    coverage[0], coverage[1], coverage[2] = 127, 128, 255
    covering = np.repeat((30 * (coverage / 255)).astype(np.uint8)[..., None], 3, axis=2)
    view = all_visible(image.copy())
    cover(view, Box(10, 30, 0, 112), covering, 255 - coverage)
    np.testing.assert_array_equal(view.image[:10], image[:10])
    np.testing.assert_array_equal(view.image[13:], image[13:])
    assert (view.image[12] == 30).all()
    assert (view.visibility.sum(axis=1) == 112).nonzero()[0].tolist() == [*range(11), *range(13, 112)]


def test_a_print_moves_the_first_material_to_the_second_and_no_more() -> None:
    materials = np.random.default_rng(0).integers(0, 128, (60, 80, 3), dtype=np.uint8)
    cutout = Cutout(materials, np.full((60, 80), 255, np.uint8), Box(10, 70, 20, 100))
    changed = 0
    for seed in range(20):
        after = printed(cutout, dice(seed), probability=1).materials
        np.testing.assert_array_equal(after[..., 2], materials[..., 2])
        np.testing.assert_array_equal(after[..., :2].sum(axis=2), materials[..., :2].sum(axis=2))
        changed += (after != materials).any()
    assert changed == 20
    assert printed(cutout, dice(0), probability=0) is cutout


def test_a_print_sheet_has_ground_and_ink_everywhere() -> None:
    for variant in range(16):
        sheet = print_sheet("checks", variant)
        assert all(part.min() < 64 and part.max() > 192 for row in np.split(sheet, 2) for part in np.split(row, 2, 1))


def test_a_flat_relief_keeps_only_a_light_that_changes_by_a_fifth() -> None:
    sheet = load_relief(Relief("grain", 0.0))[..., 0] / 128.0
    assert 0.7 < sheet.min() < 0.9 and 1.1 < sheet.max() < 1.3
    assert np.abs(np.diff(sheet, axis=0)).max() < 0.02


def test_skin_and_hair_span_human_tones() -> None:
    image = np.full((112, 112, 3), [0, 255, 255], np.uint8)  # no skin: what is red was not taken from it
    scenes = [scene_of(image, seed) for seed in range(300)]
    skins = np.array([palette.skin_color(scene) for scene in scenes])
    skins = skins[skins[:, 0] > 0]
    assert (skins[:, 0] > skins[:, 2]).all()
    assert skins[:, 0].min() < 90 and skins[:, 0].max() > 220
    hairs = np.array([palette.hair_color(scene) for scene in scenes])
    hairs = hairs[hairs[:, 0] > 0]
    assert hairs.max(axis=1).min() < 40 and hairs.max(axis=1).max() > 200


def test_exposure_follows_the_mean_luminance() -> None:
    grays = [np.full((112, 112, 3), level, np.uint8) for level in (0, 40, 118, 255)]
    values = [scene_of(gray).exposure for gray in grays]
    assert values == sorted(values) and values[0] == pytest.approx(0.45) and values[2] == pytest.approx(1.0, abs=0.01)


def test_only_an_image_without_color_is_gray() -> None:
    image = np.full((112, 112, 3), 90, np.uint8)
    assert scene_of(image).is_gray
    image[:, 60:, 2] = 91
    assert not scene_of(image).is_gray


def test_templates_are_read_as_rgba() -> None:
    # OpenCV's files are BGRA; a swapped template would paint straps where the cloth is.
    red, green = load_template("surgical")[120:180, 100:140, :2].mean(axis=(0, 1))
    assert red > 4 * green


@given(seed=SEEDS)
def test_dice_draw_from_all_of_their_ranges(seed: int) -> None:
    draws = dice(seed)
    assert {draws.index(3) for _ in range(200)} == {0, 1, 2}
    assert {draws.whole(2) for _ in range(200)} == {-2, -1, 0, 1, 2}
    assert all(-0.5 <= value < 0.5 for value in draws.around_zero(0.5, 100))
    assert 0 < sum(draws.chance(0.5) for _ in range(200)) < 200
