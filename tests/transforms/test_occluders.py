"""Every occluder: where it sits, what it hides, and that its mask is exactly what it hides."""

import importlib
import multiprocessing
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from programs import ROOT

import transforms
from transforms import OCCLUDER_FAMILIES, OCCLUDERS, TEMPLATE, View, occlude

NAMES = tuple(OCCLUDERS)
SEEDS = st.integers(0, 2**32 - 1)
LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)


def make_face(seed: int = 0) -> np.ndarray:
    """Return a smooth, skin-colored image with some noise, uint8 [112, 112, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:112, 0:112] / 111.0
    light = 0.7 + 0.3 * np.cos(3 * (columns - 0.5)) * np.cos(2 * (rows - 0.4))
    image = light[..., None] * [205, 160, 130] + rng.normal(0, 4, (112, 112, 3))
    return image.clip(0, 255).astype(np.uint8)


def make_checkerboard(phase: int) -> np.ndarray:
    """Return one of two complementary images with equal means, far apart in every pixel and channel."""
    even = (np.indices((112, 112)).sum(axis=0) + phase) % 2 == 0
    return np.where(even[..., None], [40, 80, 200], [210, 230, 50]).astype(np.uint8)


def draw(name: str, seed: int, image: np.ndarray | None = None) -> View:
    return OCCLUDERS[name](make_face() if image is None else image, np.random.default_rng(seed))


def visible_share(view: View, point: int) -> int:
    x, y = np.rint(TEMPLATE[point]).astype(int)
    return int(view.visibility[y, x])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seed=SEEDS)
@example(seed=274)  # a glaring block: clipped channels show less of the image than its transparency says
def test_mask_is_exactly_where_less_than_half_of_the_image_shows_through(name: str, seed: int) -> None:
    # The same occluder over two images that differ everywhere: the share of the difference that is left is 1 - alpha.
    images = [make_checkerboard(phase) for phase in (0, 1)]
    first, second = (draw(name, seed, image) for image in images)
    np.testing.assert_array_equal(first.visibility, second.visibility)
    left = (first.image.astype(float) - second.image) / (images[0].astype(float) - images[1])
    left[((first.image == 255) | (second.image == 255)).any(axis=2)] = 0.5
    # Colors taken from the image itself differ a little between the two, hence the band around one half.
    assert (first.visibility[left.max(axis=2) < 0.44] == 0).all()
    assert (first.visibility[left.min(axis=2) > 0.56] == 1).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seed=SEEDS)
def test_a_view_is_a_new_image_and_a_mask_of_zeros_and_ones(name: str, seed: int) -> None:
    image = make_face()
    image.flags.writeable = False
    view = draw(name, seed, image)
    assert view.image.dtype == view.visibility.dtype == np.uint8
    assert view.image.shape == (112, 112, 3) and view.visibility.shape == (112, 112)
    assert set(np.unique(view.visibility)) == {0, 1}
    assert not np.shares_memory(view.image, image)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seed=SEEDS)
def test_a_visible_pixel_away_from_the_soft_edge_is_unchanged(name: str, seed: int) -> None:
    image = make_face(1)
    view = draw(name, seed, image)
    changed = (view.image != image).any(axis=2)
    # A soft edge is at most a few pixels wide: nothing may change without an occluded pixel within three of it, except
    # along thin straps that never cover half of a pixel, which are few.
    covered = np.pad(view.visibility == 0, 3)
    near = np.zeros((112, 112), bool)
    for dy in range(7):
        for dx in range(7):
            near |= covered[dy : dy + 112, dx : dx + 112]
    assert (changed & ~near).mean() < 0.02


AREAS = {  # hidden share of the image, in every draw
    "surgical": (0.24, 0.55),
    "cloth": (0.20, 0.50),
    "respirator": (0.19, 0.45),
    "niqab": (0.45, 0.92),
    "scarf": (0.15, 0.50),
    "sunglasses": (0.065, 0.25),  # lenses that clear downwards hide less
    "cap": (0.12, 0.45),
    "fringe": (0.22, 0.50),
    "hand": (0.05, 0.50),
    "block": (0.045, 0.33),
}


@pytest.mark.parametrize("name", NAMES)
def test_hidden_area_is_plausible(name: str) -> None:
    lowest, highest = AREAS[name]
    hidden = [1 - draw(name, seed).visibility.mean() for seed in range(150)]
    assert lowest < min(hidden) and max(hidden) < highest
    assert np.std(hidden) > 0.01


LANDMARKS = {  # hidden in at least nine draws of ten, visible in at least nine of ten
    "surgical": ([NOSE, LEFT_MOUTH, RIGHT_MOUTH], [LEFT_EYE, RIGHT_EYE]),
    "cloth": ([NOSE, LEFT_MOUTH, RIGHT_MOUTH], [LEFT_EYE, RIGHT_EYE]),
    "respirator": ([NOSE, LEFT_MOUTH, RIGHT_MOUTH], [LEFT_EYE, RIGHT_EYE]),
    "niqab": ([NOSE, LEFT_MOUTH, RIGHT_MOUTH], [LEFT_EYE, RIGHT_EYE]),
    "scarf": ([], [LEFT_EYE, RIGHT_EYE]),
    "sunglasses": ([LEFT_EYE, RIGHT_EYE], [LEFT_MOUTH, RIGHT_MOUTH]),
    "cap": ([], [LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH]),
    "fringe": ([], [NOSE, LEFT_MOUTH, RIGHT_MOUTH]),
}


@pytest.mark.parametrize("name", LANDMARKS)
def test_worn_occluders_follow_the_landmarks(name: str) -> None:
    views = [draw(name, seed) for seed in range(80)]
    hidden, visible = LANDMARKS[name]
    for point in hidden:
        assert np.mean([visible_share(view, point) for view in views]) <= 0.1, point
    for point in visible:
        assert np.mean([visible_share(view, point) for view in views]) >= 0.9, point


@pytest.mark.parametrize("name", ["cap", "fringe"])
def test_headwear_hides_the_top_of_the_image(name: str) -> None:
    assert np.mean([draw(name, seed).visibility[:12, 30:82].mean() for seed in range(60)]) < 0.2


@pytest.mark.parametrize("name", ["hand", "block"])
def test_a_free_occluder_may_hide_any_part_of_the_face(name: str) -> None:
    mean_visibility = np.mean([draw(name, seed).visibility for seed in range(150)], axis=0)
    assert mean_visibility[20:100, 20:92].max() < 1.0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_gives_the_same_view_and_another_one_does_not(name: str) -> None:
    first, again, other = draw(name, 7), draw(name, 7), draw(name, 8)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.visibility, again.visibility)
    assert (first.visibility != other.visibility).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_gray_image_stays_gray(name: str) -> None:
    gray = np.repeat(make_face()[..., :1], 3, axis=2)
    for seed in range(12):
        image = draw(name, seed, gray).image
        assert (image == image[..., :1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_occluder_is_darker_in_a_dark_image_or_takes_its_colors(name: str) -> None:
    bright, dark = make_face(), make_face() // 5
    values = []
    for image in (bright, dark):
        views = [draw(name, seed, image) for seed in range(40)]
        values.append(np.mean([view.image[view.visibility == 0].mean() for view in views]))
    assert values[1] < values[0]


@pytest.mark.parametrize("name", ["hand", "block"])
def test_some_occluders_have_the_color_of_the_face_itself(name: str) -> None:
    blue_skin = np.full((112, 112, 3), [30, 60, 200], np.uint8)
    views = [draw(name, seed, blue_skin) for seed in range(60)]
    means = np.array([view.image[view.visibility == 0].mean(axis=0) for view in views])
    own = (means[:, 2] > 2.5 * means[:, 0]) & (means[:, 2] > 2 * means[:, 1])
    assert 2 <= own.sum() < 55


def sunglasses_with(
    monkeypatch: pytest.MonkeyPatch, reflecting: float, gradient: float, image: np.ndarray
) -> list[View]:
    module = importlib.import_module("transforms.occluders.sunglasses")
    monkeypatch.setattr(module, "_REFLECTING", reflecting)
    monkeypatch.setattr(module, "_GRADIENT", gradient)
    return [draw("sunglasses", seed, image) for seed in range(40)]


def test_some_lenses_clear_downwards_and_what_is_seen_through_them_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    def through(gradient: float) -> list[np.ndarray]:
        """Return of each pair of glasses where more is seen than hidden, and not at an edge alone."""
        pairs = [sunglasses_with(monkeypatch, 0.0, gradient, make_checkerboard(phase)) for phase in (0, 1)]
        difference = make_checkerboard(0).astype(float) - make_checkerboard(1)
        seen = [((a.image.astype(float) - b.image) / difference).min(axis=2) for a, b in zip(*pairs, strict=True)]
        clear = [cv2.erode(((0.56 < s) & (s < 0.97)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for s in seen]
        for view, part in zip(pairs[0], clear, strict=True):
            assert view.visibility[part].all()
        return clear

    # A soft edge is no more than two pixels wide.
    assert sum(part.sum() > 20 for part in through(0.0)) == 0
    cleared = through(1.0)
    assert sum(part.sum() > 20 for part in cleared) > 10
    rows = np.concatenate([part.nonzero()[0] for part in cleared])
    assert rows.mean() > TEMPLATE[[LEFT_EYE, RIGHT_EYE], 1].mean(), "the eyes stay hidden"


def test_some_lenses_reflect_a_bright_sky_over_darker_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("transforms.occluders.sunglasses")
    for variant in range(module._SCENES):
        scene = module._surroundings(variant).astype(float)
        assert scene[:32].mean() > scene[-32:].mean() + 60
    plain, reflecting = (sunglasses_with(monkeypatch, share, 0.0, make_face()) for share in (0.0, 1.0))
    gains = []
    for without, seen in zip(plain, reflecting, strict=True):
        np.testing.assert_array_equal(without.visibility, seen.visibility)
        gain = (seen.image.astype(float) - without.image)[seen.visibility == 0]
        gains.append((gain.mean(), gain.std()))
    brighter, uneven = np.mean(gains, axis=0)
    assert brighter > 10 and uneven > 15


def test_families_hold_every_occluder_once() -> None:
    assert sorted(name for family in OCCLUDER_FAMILIES.values() for name in family) == sorted(OCCLUDERS)


def test_occlude_draws_each_of_the_names_it_is_given_and_no_other() -> None:
    image, names = make_face(), ("sunglasses", "scarf", "cap")
    counts = dict.fromkeys(names, 0)
    for seed in range(150):
        view = occlude(image, np.random.default_rng(seed), names)
        # What follows the choice must be the chosen occluder, going on with the same generator.
        rng = np.random.default_rng(seed)
        name = names[rng.integers(3)]
        np.testing.assert_array_equal(view.image, OCCLUDERS[name](image, rng).image)
        counts[name] += 1
    assert min(counts.values()) > 30


@pytest.mark.parametrize("name", NAMES)
def test_an_occluder_in_place_does_what_a_call_does(name: str) -> None:
    called = draw(name, 3)
    view = View(make_face(), np.ones((112, 112), np.uint8))
    OCCLUDERS[name].cover(view, np.random.default_rng(3))
    np.testing.assert_array_equal(view.image, called.image)
    np.testing.assert_array_equal(view.visibility, called.visibility)


def test_occlude_names_the_choices_for_an_unknown_occluder() -> None:
    with pytest.raises(ValueError, match=r"unknown occluders \['visor'\]; choose from surgical, .*block"):
        occlude(make_face(), np.random.default_rng(0), ("cap", "visor"))
    with pytest.raises(ValueError, match="at least one occluder"):
        occlude(make_face(), np.random.default_rng(0), ())


@pytest.mark.parametrize("name", NAMES)
def test_an_occluder_refuses_what_is_not_an_aligned_image(name: str) -> None:
    with pytest.raises(TypeError, match=r"must be a numpy array of uint8, got float32"):
        draw(name, 0, make_face().astype(np.float32))
    with pytest.raises(ValueError, match=r"must be \[112, 112, 3\], got \[112, 112\]"):
        draw(name, 0, make_face()[..., 0])
    with pytest.raises(ValueError, match=r"got \[96, 112, 3\]"):
        draw(name, 0, make_face()[:96])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_draw_what_this_process_draws(method: str) -> None:
    image = make_face()
    here = [occlude(image, np.random.default_rng(seed), NAMES) for seed in range(4)]
    with multiprocessing.get_context(method).Pool(1) as pool:
        jobs = [pool.apply_async(occlude, (image, np.random.default_rng(seed), NAMES)) for seed in range(4)]
        there = [job.get(timeout=60) for job in jobs]
    for mine, theirs in zip(here, there, strict=True):
        np.testing.assert_array_equal(mine.image, theirs.image)
        np.testing.assert_array_equal(mine.visibility, theirs.visibility)


def test_importing_transforms_reads_no_asset() -> None:
    code = (
        "import transforms; from transforms.painting.assets import load_template, load_texture;"
        "assert load_template.cache_info().currsize == load_texture.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_public_names_are_exported() -> None:
    assert all(hasattr(transforms, name) for name in transforms.__all__)
