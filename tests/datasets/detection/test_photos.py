"""Labeled photographs and their training views."""

import logging
import shutil

import numpy as np
import pytest

from datasets.detection.label_text import read_label_text
from datasets.detection.photos import DetectionViews, LabeledPhotos, collate_detections
from datasets.faces.images import UnreadableImageError
from datasets.sample import SampleKey
from transforms import DetectionTransform

TEXT = """\
# a.png
10 10 20 20 15 15 0 25 15 0 20 20 0 15 25 0 25 25 0 1
90 50 20 20
300 10 20 20
# sub/b.png
5 5 20 30
# nobody.png
"""


@pytest.fixture
def photos(tmp_path, write_image):
    for number, name in enumerate(("a.png", "sub/b.png", "nobody.png")):
        write_image(tmp_path / name, size=(64, 100), seed=number)
    (tmp_path / "label.txt").write_text(TEXT)
    return lambda: LabeledPhotos(tmp_path, read_label_text(tmp_path / "label.txt"))


def test_boxes_end_at_the_border_and_those_outside_are_left_out_with_their_line(photos, caplog):
    with caplog.at_level(logging.WARNING):
        opened = photos()
    assert caplog.messages[0].endswith("label.txt: 1 face left out: 1 outside the photograph; the first: line 4")
    image, faces = opened.read(0)
    assert image.shape == (64, 100, 3) and faces.boxes.tolist() == opened.labels(0).faces.boxes.tolist()
    assert faces.boxes[1].tolist() == [90, 50, 110, 70]
    view = DetectionViews(opened, DetectionTransform(size=100, crop_prob=0.0, flip_prob=0.0), seed=3)[
        SampleKey(0, 0, 0, 0)
    ]
    assert view.faces.boxes.tolist() == [[10, 10, 30, 30], [90, 50, 100, 64]]
    assert len(opened) == 3 and opened.labels(1).name == "sub/b.png" and len(opened.labels(2).places) == 0


def test_a_view_follows_seed_epoch_and_position_alone(photos):
    views = DetectionViews(photos(), DetectionTransform(size=64), seed=3)
    key = SampleKey(0, 1, 2, 5)
    first = views[key]
    for other in (SampleKey(0, 0, 0, 0), SampleKey(0, 2, 9, 9)):
        assert views[other].image.shape == (64, 64, 3)
    again = DetectionViews(photos(), DetectionTransform(size=64), seed=3)[key]
    assert np.array_equal(first.image, again.image) and np.array_equal(first.faces.boxes, again.faces.boxes)
    assert any(not np.array_equal(first.image, views[key._replace(epoch=epoch)].image) for epoch in (3, 4))


def test_an_unreadable_photograph_is_replaced_and_named(photos, tmp_path):
    opened = photos()
    (tmp_path / "a.png").write_bytes(b"no image")
    views = DetectionViews(opened, DetectionTransform(size=32), seed=0)
    view = views[SampleKey(0, 0, 0, 0)]
    assert (view.index, view.unreadable) == (1, 0)
    (tmp_path / "nobody.png").unlink()
    (tmp_path / "sub/b.png").unlink()
    with pytest.raises(UnreadableImageError, match="nor can any other of the 3 images"):
        views[SampleKey(0, 0, 0, 0)]


def test_a_photograph_of_another_size_than_labeled_is_not_readable(tmp_path, write_image):
    write_image(tmp_path / "a.png", size=(64, 100))
    (tmp_path / "label.txt").write_text("# a.png 64 100\n1 1 9 9\n")
    with pytest.raises(UnreadableImageError, match="100 x 64 pixels, but its labels are of 64 x 100"):
        LabeledPhotos(tmp_path, read_label_text(tmp_path / "label.txt")).read(0)


def test_a_batch_has_a_list_of_faces(photos):
    views = DetectionViews(photos(), DetectionTransform(size=32, crop_prob=0.0), seed=0)
    batch = collate_detections([views[SampleKey(0, index, 0, index)] for index in range(3)])
    assert batch.images.shape == (3, 32, 32, 3) and [len(boxes) for boxes in batch.boxes] == [2, 1, 0]
    assert batch.points[2].shape == (0, 5, 2) and batch.index.tolist() == [0, 1, 2]
    assert batch.unreadable.tolist() == [-1, -1, -1] and batch.ignored[0].tolist() == [False, False]


def test_a_folder_without_the_photographs_is_refused(photos, tmp_path):
    photos()
    with pytest.raises(ValueError, match="no folder of photographs"):
        LabeledPhotos(tmp_path / "none", read_label_text(tmp_path / "label.txt"))
    shutil.rmtree(tmp_path / "sub")
    (tmp_path / "a.png").unlink()
    (tmp_path / "nobody.png").unlink()
    with pytest.raises(ValueError, match=r"has none of the 3 photographs of .*label.txt"):
        photos()
