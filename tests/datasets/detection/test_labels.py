"""Files of labels: every form, what is left out of them, and files that are none."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.detection.coco_json import read_coco, write_coco
from datasets.detection.label_text import write_label_txt
from datasets.detection.labels import LabeledPhoto
from datasets.detection.photos import read_labels
from transforms import face_boxes

NAN = float("nan")

RETINAFACE = """\
# 0--Parade/a.jpg
10 20 30 40 15.5 30 0.0 30 31 1.0 -1 -1 -1.0 16 50 0.0 30 51 0.0 0.82
50 60 7 8 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.2
# 0--Parade/nobody.jpg
# 1--Handshaking/b c.jpg
1 2 3 4
"""
LABELV2 = """\
# a.jpg 100 80
10 20 40 60 15.5 30 0.0 30 31 1.0 -1 -1 -1.0 16 50 0.0 30 51 0.0
5 6 7 8
5 6 9 9 1
# b.jpg 60 50
"""
ORIGINAL = """\
0--Parade/a.jpg
2
10 20 30 40 2 1 0 0 1 1
50 60 7 8 0 0 1 1 2 0
0--Parade/nobody.jpg
0
0 0 0 0 0 0 0 0 0 0
b.jpg
1
1 2 3 4 0 0 0 0 0 0
"""


def coco(**changes):
    keypoints = [15.5, 30, 2, 30, 31, 1, 0, 0, 0, 16, 50, 2, 30, 51, 2]
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 7, "bbox": [10, 20, 30, 40], "keypoints": keypoints, "category_id": 1, "occlusion": 0.25},
            {"image_id": 7, "bbox": [1, 1, 5, 5], "category_id": 1, "iscrowd": 1},
        ],
    }
    return content | changes


@pytest.fixture
def read(tmp_path):
    def of(content, name="label.txt"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_labels(path)

    return of


def test_retinafaces_form_has_sides_and_points(read):
    labels = read(RETINAFACE)
    assert [photo.name for photo in labels.photos] == [
        "0--Parade/a.jpg",
        "0--Parade/nobody.jpg",
        "1--Handshaking/b c.jpg",
    ]
    first = labels.photos[0]
    assert first.faces.boxes.tolist() == [[10, 20, 40, 60], [50, 60, 57, 68]] and first.places.tolist() == [2, 3]
    expected = np.float32([[15.5, 30], [30, 31], [NAN, NAN], [16, 50], [30, 51]])
    assert np.array_equal(first.faces.points[0], expected, equal_nan=True)
    assert np.isnan(first.faces.points[1]).all() and first.size is None
    assert (labels.num_faces, labels.num_empty) == (3, 1)


def test_labelv2_has_corners_sizes_and_faces_to_ignore(read):
    labels = read(LABELV2)
    faces = labels.photos[0].faces
    assert faces.boxes.tolist() == [[10, 20, 40, 60], [5, 6, 7, 8], [5, 6, 9, 9]]
    assert faces.ignored.tolist() == [False, False, True] and labels.photos[0].size == (100, 80)
    assert np.isnan(faces.points[1:]).all() and faces.points[0, 1].tolist() == [30, 31]


def test_the_original_form_has_attributes_and_images_without_faces(read):
    labels = read(ORIGINAL, "wider_face_train_bbx_gt.txt")
    faces = labels.photos[0].faces
    assert faces.boxes.tolist() == [[10, 20, 40, 60], [50, 60, 57, 68]]
    assert faces.attributes.tolist() == [[2, 1, 0, 1, 1], [0, 0, 1, 2, 0]] and faces.ignored.tolist() == [False, True]
    assert [len(photo.places) for photo in labels.photos] == [2, 0, 1] and labels.photos[2].places.tolist() == [10]


def test_coco_has_keypoints_crowds_and_shares(read):
    labels = read(coco(), "a.json")
    first, second = labels.photos
    assert first.faces.boxes.tolist() == [[10, 20, 40, 60], [1, 1, 6, 6]] and first.faces.ignored.tolist() == [
        False,
        True,
    ]
    assert first.faces.hidden[0] == 0.25 and np.isnan(first.faces.hidden[1])
    assert first.faces.points[0, 1].tolist() == [30, 31] and np.isnan(first.faces.points[0, 2]).all()
    assert second.size is None and labels.num_empty == 1 and labels.unit == "annotation"
    categories = [{"id": 1, "name": "car"}, {"id": 3, "name": "Face"}]
    assert read(coco(categories=categories), "b.json").num_faces == 0


def test_what_is_written_is_read_again(tmp_path):
    points = np.float32([[[1.25, 2], [3, 4], [NAN, NAN], [5, 6], [7, 8.125]], [[NAN, NAN]] * 5])
    faces = face_boxes([[10.5, 20, 40, 60.25], [1, 2, 3, 4]], points, hidden=[0.5, 0.0], ignored=[False, True])
    photos = [
        LabeledPhoto("x/a.png", faces, np.zeros(2, np.int64), (64, 80), ("cap", "")),
        LabeledPhoto("b.png", face_boxes([]), np.zeros(0, np.int64), (32, 32), ()),
    ]
    write_label_txt(tmp_path / "label.txt", photos)
    write_coco(tmp_path / "faces.json", photos)
    for name in ("label.txt", "faces.json"):
        again = read_labels(tmp_path / name).photos
        assert [photo.name for photo in again] == ["x/a.png", "b.png"]
        assert np.array_equal(again[0].faces.boxes, faces.boxes)
        assert np.array_equal(again[0].faces.points, faces.points, equal_nan=True)
    assert again[0].faces.hidden.tolist() == [0.5, 0.0] and again[0].size == (64, 80)
    assert again[0].faces.ignored.tolist() == [False, True] and again[0].occluders == ("cap", "")


def test_single_bad_faces_are_left_out_and_said_once(read, caplog):
    text = "# a.jpg 100 80\n5 6 5 9\n200 6 210 9\nnan 6 9 9\n5 6 9 9" + " nan 3 0.0" * 5 + "\n5 6 9 9\n-5 -6 9 9\n"
    with caplog.at_level(logging.WARNING):
        labels = read(text)
    assert labels.photos[0].places.tolist() == [6, 7] and [skip.place for skip in labels.skipped] == [2, 3, 4, 5]
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "label.txt: 4 faces left out: 1 with no width or no height, 1 outside the photograph, "
        "1 with a number that is not finite or too large, 1 with points that are not finite or too large; "
        "the first: line 2"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no labels"),
        (RETINAFACE.rsplit(" ", 3)[0], "line 6: 4, 19 or 20 numbers of a face expected, got 1; cut off"),
        (RETINAFACE.replace(" 0.82", "").replace(" 51 0.0", ""), "line 2: 4, 19 or 20 numbers"),
        (RETINAFACE.replace("50 60", "fifty"), "line 3: numbers of a face expected"),
        (RETINAFACE.replace("nobody", "a"), "line 4: '0--Parade/a.jpg' is on line 1 already"),
        (RETINAFACE.replace("0--Parade/a", "../a"), "line 1: ' ../a.jpg' is no path of a photograph below"),
        (RETINAFACE.replace("0--Parade/a", "/etc/a"), "line 1: .* is no path of a photograph below"),
        (LABELV2.replace("# b.jpg 60 50", "# b.jpg 60"), "line 5: '# image width height' expected"),
        (LABELV2.replace("5 6 7 8", "5 6 7 8 1 2"), "line 3: 4, 5, 19 or 20 numbers"),
        (
            ORIGINAL.replace("1 2 3 4 0 0 0 0 0 0\n", ""),
            "line 8: 1 faces promised, 0 lines follow; the file is cut off",
        ),
        (ORIGINAL.replace("b.jpg\n1", "b.jpg\n2"), "line 8: 2 faces promised, 1 lines follow"),
        (ORIGINAL.replace("a.jpg\n2", "a.jpg\n1"), "line 5: the number of faces of '50 60 7 8 0 0 1 1 2 0' expected"),
        (ORIGINAL.replace("2 1 0 0 1 1", "2 1 0"), "line 3: 10 numbers"),
        (ORIGINAL.replace("2 1 0 0 1 1", "9 1 0 0 1 1"), "line 3: blur, expression and the like"),
    ],
)
def test_files_of_another_form_are_refused_with_their_line(read, text, message):
    with pytest.raises(ValueError, match=f"label.txt.*{message}") as error:
        read(text)
    assert "\n" not in str(error.value)


def altered(**changes):
    annotation = coco()["annotations"][0] | changes
    return coco(annotations=[annotation])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(coco())[:-40], "line 1: no JSON"),
        ("[" * 100000, "nested too deep"),
        ([1], "an object with images and annotations"),
        ({"images": []}, "list of objects 'annotations'"),
        (coco(images=[{"id": 1}]), "annotation 1: there is no image '7'"),
        (coco(images=[{"id": 7}]), "image 1: has no 'file_name'"),
        (coco(images=coco()["images"] * 2), "image 3: the id '7' is no id or comes twice"),
        (coco(images=[{"id": [7], "file_name": "a"}]), "is no id"),
        (coco(images=[{"id": 7, "file_name": "../a"}]), "is no path"),
        (coco(images=[{"id": 7, "file_name": "a", "width": 0, "height": 3}]), "width and height are whole"),
        (altered(bbox=[1, 2, 3]), "annotation 1: bbox has 4 numbers"),
        (altered(bbox=[1, 2, 3, "4"]), "annotation 1: bbox has 4 numbers"),
        (altered(keypoints=[1, 2, 2]), "annotation 1: keypoints has 15 numbers"),
        (altered(occlusion=3), "occlusion is a share"),
        (altered(occlusion="much"), "occlusion is a share"),
        (altered(occluder=["cap"]), "occluder is one word"),
        (coco(images=[], annotations=[]), "no photographs in it"),
        (coco(categories=[{"name": "car"}, {"name": "cat"}]), "of its 2 categories none is called 'face'"),
    ],
)
def test_json_of_another_form_is_refused(read, content, message):
    with pytest.raises(ValueError, match=f"a.json.*{message}") as error:
        read(content, "a.json")
    assert "\n" not in str(error.value)


def test_numbers_too_large_for_a_float_are_no_box(read):
    assert len(read(altered(bbox=[1, 2, 10**400, 4]), "a.json").skipped) == 1


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory, data):
    name, text = data.draw(
        st.sampled_from(
            [("a.txt", RETINAFACE), ("a.txt", LABELV2), ("a.txt", ORIGINAL), ("a.json", json.dumps(coco()))]
        )
    )
    place, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
    inserted = data.draw(
        st.sampled_from(["", "1e400 ", "-", "nan ", "#", "\n", "[]", "9" * 30, "null", "\u2028", "1e38,"])
    )
    path = tmp_path_factory.getbasetemp() / name
    path.write_text(text[:place] + inserted + text[place + length :], encoding="utf-8")
    try:
        labels = read_labels(path)
    except ValueError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        for photo in labels.photos:
            assert np.isfinite(photo.faces.boxes).all() and not np.isinf(photo.faces.points).any()
            assert len(photo.places) == len(photo.faces.boxes) == len(photo.occluders)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read the labels"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="it is a folder"):
        read_coco(tmp_path)
