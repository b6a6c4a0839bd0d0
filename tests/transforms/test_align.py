"""The fit of five points against executed references, by its properties, and what it refuses."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transforms import IMAGE_SIZE, TEMPLATE, align, fit_similarity, template_points

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detection/alignment.npz")
SIZES = (112, 128, 224, 256)
ORDINARY, SQUEEZED, MIRRORED, OUTLIER = range(4)

POINTS = arrays(np.float64, (5, 2), elements=st.floats(-500, 500, width=32)).filter(
    lambda p: np.ptp(p, axis=0).min() > 1
)


def similarity(angle, factor, shift):
    rotation = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([rotation, np.asarray(shift, float)[:, None]], axis=1)


@pytest.mark.parametrize("size", SIZES)
def test_templates_and_matrices_are_those_of_the_reference(size):
    assert np.array_equal(template_points(size).astype(np.float32), GOLDEN[f"template_{size}"])
    for points, matrix, corners in zip(
        GOLDEN["landmarks"], GOLDEN[f"matrix_{size}"], GOLDEN[f"corners_in_photo_{size}"], strict=True
    ):
        fitted = fit_similarity(points, size)
        assert fitted.dtype == np.float64
        np.testing.assert_allclose(fitted[:, :2], matrix[:, :2], rtol=1e-4, atol=1e-6)
        frame = [[0, 0], [size, 0], [0, size], [size, size], [size / 2, size / 2]]
        np.testing.assert_allclose(align.moved(corners, fitted), frame, atol=1e-2)


def test_residual_and_scale_are_those_of_the_reference():
    for points, residual, scale in zip(GOLDEN["landmarks"], GOLDEN["rms_112"], GOLDEN["scale_112"], strict=True):
        matrix = fit_similarity(points)
        assert align.residual(points, matrix) == pytest.approx(residual, abs=1e-4)
        assert align.scale(matrix) == pytest.approx(scale, rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_residual_is_in_pixels_of_112_whatever_the_size(size):
    points = GOLDEN["landmarks"][-1]
    assert align.residual(points, fit_similarity(points, size), size) == pytest.approx(GOLDEN["rms_112"][-1], abs=1e-4)


def test_the_solver_of_adaface_differs_by_the_squared_correlation():
    for points, other, rho2 in zip(GOLDEN["landmarks"], GOLDEN["matrix_112_cp2tform"], GOLDEN["rho2"], strict=True):
        if np.linalg.det(other[:, :2]) > 0:  # it mirrors others
            assert align.scale(fit_similarity(points)) == pytest.approx(align.scale(other) * rho2, rel=1e-4)


def test_the_crop_is_that_of_the_reference():
    matrix = fit_similarity(GOLDEN["image_landmarks"])
    crop = align.warp(GOLDEN["image"], matrix)
    assert crop.dtype == np.uint8
    assert np.abs(crop.astype(int) - GOLDEN["image_crop"].astype(int)).max() <= 1


def test_only_ordinary_and_squeezed_points_are_a_face():
    kinds = GOLDEN["kind"].tolist()
    faults = [align.fit_fault(points, fit_similarity(points)) for points in GOLDEN["landmarks"]]
    assert sorted(kind for kind, fault in zip(kinds, faults, strict=True) if fault) == [MIRRORED] * 6 + [OUTLIER]
    assert all("off the template's shape" in fault for fault in filter(None, faults))


@given(POINTS)
def test_no_fit_mirrors_and_none_is_better(points):
    matrix = fit_similarity(points)
    assert np.linalg.det(matrix[:, :2]) > 0
    source = np.concatenate([points, np.ones((5, 1))], axis=1)
    best = ((align.moved(points, matrix) - TEMPLATE) ** 2).sum()
    # The general solver over (a, b, x, y), which has no closed form in common with ours.
    rows = np.concatenate(
        [
            np.stack([points[:, 0], -points[:, 1], source[:, 2], 0 * source[:, 2]], axis=1),
            np.stack([points[:, 1], points[:, 0], 0 * source[:, 2], source[:, 2]], axis=1),
        ]
    )
    target = TEMPLATE.T.ravel().astype(float)
    solution = np.linalg.lstsq(rows, target, rcond=None)[0]
    assert best == pytest.approx(((rows @ solution - target) ** 2).sum(), rel=1e-6, abs=1e-6)


@given(st.floats(-3.1, 3.1), st.floats(0.05, 20), st.tuples(st.floats(-900, 900), st.floats(-900, 900)))
def test_a_moved_template_comes_back(angle, factor, shift):
    points = align.moved(TEMPLATE, similarity(angle, factor, shift))
    matrix = fit_similarity(points)
    np.testing.assert_allclose(align.moved(points, matrix), TEMPLATE, atol=1e-6)
    assert align.scale(matrix) == pytest.approx(1 / factor)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((5, 2), 7.0), "coincide"),
        (np.full((5, 2), 1e9) + np.eye(5, 2) * 1e-4, "coincide"),
        (np.where(np.eye(5, 2), np.nan, TEMPLATE), "not finite"),
        (np.where(np.eye(5, 2), np.inf, TEMPLATE), "not finite"),
        (TEMPLATE[:4], r"five points \[5, 2\] are needed, got \[4, 2\]"),
        (TEMPLATE.ravel(), r"got \[10\]"),
    ],
)
def test_points_without_a_fit_are_named(points, message):
    with pytest.raises(ValueError, match=message):
        fit_similarity(points)


def test_points_that_no_turn_brings_nearer_are_named():
    template = TEMPLATE.astype(float) - TEMPLATE.mean(axis=0)
    z = template[:, 0] + 1j * template[:, 1]
    other = np.conj(z)
    other -= z * np.vdot(z, other) / np.vdot(z, z)  # nothing of the template is left in it
    with pytest.raises(ValueError, match="nothing of the template's shape"):
        fit_similarity(np.stack([other.real, other.imag], axis=1))


@pytest.mark.parametrize("size", [0, -112, 100, 111, 192])
def test_a_size_without_a_template_is_refused(size):
    with pytest.raises(ValueError, match=f"size {size}: multiples of 112 and 128"):
        template_points(size)


def test_a_tiny_or_huge_face_is_named():
    for factor in (1 / 0.04, 1 / 5.2):
        points = align.moved(TEMPLATE, similarity(0, factor, (0, 0)))
        assert "scaled by" in align.fit_fault(points, fit_similarity(points))


def test_inside_counts_the_pixels_that_a_white_photograph_fills():
    rng = np.random.default_rng(3)
    for _ in range(20):
        matrix = similarity(rng.uniform(-3, 3), rng.uniform(0.5, 2), rng.uniform(-40, 80, 2))
        white = np.full((90, 70), 255, np.uint8)
        share = (align.warp(white, matrix) > 127).mean()
        assert align.inside(matrix, white.shape) == pytest.approx(share, abs=0.02)
    assert align.inside(similarity(0, 1, (500, 0)), (90, 70)) == 0


def test_the_crop_is_black_where_the_photograph_ends():
    crop = align.warp(np.full((40, 40, 3), 200, np.uint8), similarity(0, 1, (0, 0)))
    assert crop.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert (crop[:39, :39] == 200).all() and not crop[41:].any()
    resized = cv2.resize(np.full((9, 9), 5, np.uint8), (3, 3))  # one channel stays one
    assert align.warp(resized, similarity(0, 1, (0, 0)), 128).shape == (128, 128)
