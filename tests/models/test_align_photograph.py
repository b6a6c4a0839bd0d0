"""A photograph in Python: file or array, in any orientation, or one error."""

import cv2
import numpy as np
import pytest
from photographs import FakeDetector, photograph, write

import models
from datasets.photos.given_points import GivenPoints


def test_a_file_and_its_array_are_aligned_alike(tmp_path):
    placed = photograph(0)
    detector = models.open_detector()
    of_file = models.align_photograph(write(tmp_path / "a.png", placed.image), detector)
    of_array = models.align_photograph(placed.image, detector)
    assert np.array_equal(of_file.crop, of_array.crop) and of_file.crop.shape == (112, 112, 3)
    assert of_file.look == "as is" and of_file.num_faces == 1
    assert models.align_photograph(placed.image, size=224).crop.shape == (224, 224, 3)


def test_the_orientation_tag_is_obeyed(tmp_path):
    placed = photograph(0)
    stored = np.ascontiguousarray(np.rot90(placed.image))  # shown turned back, by tag 6: a quarter clockwise
    done, data = cv2.imencode(".jpg", stored[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert done
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    raw = data.tobytes()
    (tmp_path / "turned.jpg").write_bytes(raw[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2) + tag + raw[2:])
    found = models.align_photograph(tmp_path / "turned.jpg")
    assert found.look == "as is"
    assert np.linalg.norm(found.points - placed.points, axis=1).mean() < 10 * placed.scale


def test_points_of_a_table_are_those_of_the_path(tmp_path):
    placed = photograph(3)
    path = write(tmp_path / "a.png", placed.image)
    (tmp_path / "points.csv").write_text(f"{path},{','.join(map(str, placed.points.ravel()))}\n")
    found = models.align_photograph(path, GivenPoints(tmp_path / "points.csv"))
    assert found.residual < 1e-3 and found.look == "given"


def test_no_face_is_one_error_with_the_file(tmp_path):
    path = write(tmp_path / "a.png", np.full((60, 60, 3), 90, np.uint8))
    with pytest.raises(models.NoFaceError, match=r"a\.png: no face found, 8 ways of looking tried") as caught:
        models.align_photograph(path, FakeDetector())
    assert caught.value.aligned.status == "no face"
    with pytest.raises(models.NoFaceError, match=r"^photograph: 9 x 9 pixels: too small"):
        models.align_photograph(np.zeros((9, 9, 3), np.uint8), FakeDetector())
    with pytest.raises(ValueError, match=r"nothing\.jpg: No such file"):
        models.align_photograph(tmp_path / "nothing.jpg", FakeDetector())
    with pytest.raises(TypeError, match="uint8 in RGB order"):
        models.align_photograph(np.zeros((99, 99, 3)), models.open_detector())
