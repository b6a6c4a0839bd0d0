"""Tests of the renderer of synthetic faces: geometry against independent solutions, color order, determinism."""

from dataclasses import astuple, replace

import cv2
import numpy as np
import pytest

import datasets.synthetic.camera
from datasets.synthetic.camera import align_camera, project_curves, rotation_matrix, surface_depth, unproject
from datasets.synthetic.canvas import Canvas
from datasets.synthetic.parameters import Mark, Nuisance, sample_identity, sample_nuisance
from datasets.synthetic.renderer import encode_face, render_face
from datasets.synthetic.shape import age_identity, face_curves
from transforms.landmarks import TEMPLATE

EVEN_LIGHT = Nuisance(ambient=1.2, light_y=0.0)


def identity_of(seed):
    return sample_identity(np.random.default_rng(seed))


def landmarks(identity, nuisance):
    solid = face_curves(age_identity(identity, nuisance.age), nuisance)
    flat = project_curves(align_camera(solid, nuisance), solid)
    lips = flat["lip_line"]
    return np.stack([flat["eye-1"].mean(0), flat["eye+1"].mean(0), flat["nose_ridge"][-1], lips[0], lips[-1]])


def test_render_face_is_a_function_of_its_arguments():
    identity, nuisance = identity_of(1), sample_nuisance(np.random.default_rng(2))
    first = render_face(identity, nuisance)
    render_face(identity_of(3), Nuisance())
    assert first.dtype == np.uint8 and first.shape == (112, 112, 3)
    assert np.array_equal(first, render_face(identity, nuisance))
    assert not np.array_equal(first, render_face(identity, replace(nuisance, seed=nuisance.seed + 1)))


def test_render_face_is_the_encoded_file_in_rgb():
    identity, nuisance = identity_of(1), Nuisance(warmth=0.25)
    image = render_face(identity, nuisance)
    file = cv2.imdecode(np.frombuffer(encode_face(identity, nuisance), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(image, file[..., ::-1])
    red, _, blue = image[40:100, 30:82].reshape(-1, 3).mean(axis=0)
    assert red > blue + 30


def test_jpeg_quality_sets_the_size_of_the_file():
    identity = identity_of(1)
    assert len(encode_face(identity, Nuisance(jpeg_quality=30))) < len(encode_face(identity, Nuisance(jpeg_quality=95)))


@pytest.mark.parametrize("yaw", [0.0, 0.5, -1.0])
def test_alignment_is_the_least_squares_similarity(yaw):
    nuisance = Nuisance(yaw=yaw, pitch=0.15)
    found = landmarks(identity_of(4), nuisance)
    # The best similarity on top of the alignment, solved as four unknowns, must be the identity. What moves is the
    # perspective of an eye's center, which is not the center of the projected eye.
    x, y = found.T
    ones, zeros = np.ones(5), np.zeros(5)
    system = np.concatenate([np.column_stack([x, -y, ones, zeros]), np.column_stack([y, x, zeros, ones])])
    solution = np.linalg.lstsq(system, TEMPLATE.T.ravel(), rcond=None)[0]
    assert system @ solution == pytest.approx(np.concatenate([x, y]), abs=0.05)


def test_frontal_faces_lie_near_the_template_and_jitter_moves_them():
    errors = [np.abs(landmarks(identity_of(seed), Nuisance()) - TEMPLATE).max() for seed in range(50)]
    assert np.mean(errors) < 3.0 and max(errors) < 6.0
    moved = landmarks(identity_of(5), Nuisance(shift=(2.0, -1.0))) - landmarks(identity_of(5), Nuisance())
    assert moved == pytest.approx(np.tile([2.0, -1.0], (5, 1)))


def test_rotation_turns_the_nose_to_larger_x_and_y():
    nose = np.array([0.0, 0.0, 1.0])
    assert (rotation_matrix(0.4, 0.0) @ nose)[0] == pytest.approx(np.sin(0.4))
    assert (rotation_matrix(0.0, 0.3) @ nose)[1] == pytest.approx(np.sin(0.3))
    rotation = rotation_matrix(0.4, 0.3)
    assert rotation @ rotation.T == pytest.approx(np.eye(3))


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.6, 0.1), (-0.7, -0.1)])
def test_unproject_inverts_the_projection_of_the_surface(monkeypatch, yaw, pitch):
    monkeypatch.setattr(datasets.synthetic.camera, "CAMERA_DISTANCE", 1e9)
    identity, nuisance = identity_of(6), Nuisance(yaw=yaw, pitch=pitch)
    camera = align_camera(face_curves(identity, nuisance), nuisance)
    x, y = unproject(camera, identity.outline, 112)
    grid = [(column, row) for row in range(45, 95, 7) for column in range(45, 70, 7)]
    seen = np.array([(x[row, column], y[row, column]) for column, row in grid], dtype=np.float64)
    surface = np.column_stack([seen, surface_depth(identity.outline, seen[:, 0], seen[:, 1])])
    assert np.abs(camera.project(surface) - grid).max() < 0.6


def test_fill_agrees_with_the_area_of_a_circle():
    angles = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
    canvas = Canvas(np.zeros((112, 112), np.uint8))
    canvas.fill(56.3 + 30.0 * np.column_stack([np.cos(angles), np.sin(angles)]), 255.0)
    assert canvas.image.sum() / 255.0 == pytest.approx(np.pi * 30.0**2, rel=0.05)


def test_light_from_the_left_brightens_the_left_cheek():
    identity = identity_of(7)
    left, right = slice(30, 48), slice(64, 82)
    image = render_face(identity, Nuisance(light_x=-1.0, ambient=0.3)).mean(axis=2)[60:85]
    mirrored = render_face(identity, Nuisance(light_x=1.0, ambient=0.3)).mean(axis=2)[60:85]
    assert image[:, left].mean() > image[:, right].mean() + 10
    assert mirrored[:, right].mean() > mirrored[:, left].mean() + 10


def test_age_grays_the_hair():
    identity = identity_of(8)
    identity = replace(identity, colors=replace(identity.colors, hair=0.2, hair_redness=0.8, graying=1.0))
    young, old = (render_face(identity, replace(EVEN_LIGHT, age=age))[4:14, 46:66].astype(float) for age in (0.1, 1.0))
    assert np.ptp(old.mean(axis=(0, 1))) < 12 < np.ptp(young.mean(axis=(0, 1)))
    assert old.mean() > young.mean() + 30


def test_a_mark_stays_on_the_skin_when_the_head_turns():
    identity = replace(identity_of(9), marks=())
    marked = replace(identity, marks=(Mark(-20.0, 8.0, 1.5, 0.8),))
    for yaw in (0.0, 0.4):
        nuisance = replace(EVEN_LIGHT, yaw=yaw)
        change = render_face(identity, nuisance).astype(int) - render_face(marked, nuisance)
        row, column = np.unravel_index(change.sum(axis=2).argmax(), (112, 112))
        solid = face_curves(age_identity(marked, nuisance.age), nuisance)
        expected = project_curves(align_camera(solid, nuisance), solid)["mark0"][0]
        assert change.max() > 30 and np.hypot(*(expected - (column, row))) < 2.5


@pytest.mark.parametrize("rows", [slice(10, 45), slice(45, 65), slice(62, 82), slice(82, 108)])
def test_identity_shows_in_every_band_of_the_face(rows):
    nuisance = replace(EVEN_LIGHT, seed=3)
    bands = np.stack([render_face(identity_of(seed), nuisance)[rows, 24:88] for seed in range(12)]).astype(float)
    gray = bands.mean(axis=3)
    gray -= gray.mean(axis=(1, 2), keepdims=True)  # skin tone does not count
    assert gray.std(axis=0).mean() > 8


def test_identity_and_nuisance_are_drawn_in_their_ranges():
    rng = np.random.default_rng(0)
    nuisances = [sample_nuisance(rng, yaw=(0.2, 0.5), age=(0.7, 0.9)) for _ in range(200)]
    yaws = np.array([nuisance.yaw for nuisance in nuisances])
    assert np.abs(yaws).min() >= 0.2 and np.abs(yaws).max() <= 0.5 and 60 < (yaws > 0).sum() < 140
    assert all(0.7 <= nuisance.age <= 0.9 for nuisance in nuisances)
    assert sample_identity(np.random.default_rng(1)) == sample_identity(np.random.default_rng(1))
    widths = [astuple(sample_identity(rng).nose) for _ in range(50)]
    assert len(set(widths)) == 50
