"""WIDER FACE's evaluation against published figures, a naive reference, and files that are no such files."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from evaluation import WiderTruth, read_predictions, read_wider_truth, wider_ap, wider_curves, write_predictions
from evaluation.detection import mat_file
from evaluation.detection.mat_file import read_mat

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden/detection/wider"
REAL = ROOT.parent / "shared/data/detectors/wider_val_gt"


@pytest.fixture(scope="module")
def truth():
    return read_wider_truth(GOLDEN / "gt")


@pytest.fixture(scope="module")
def predictions(truth):
    return [read_predictions(GOLDEN / "pred" / f"{name}.txt") for name in truth.names]


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "wider")
    return tmp_path / "wider"


def some_file(folder):
    return folder / "pred/0--Parade/0_Parade_Parade_3_290.txt"


# ---------------------------------------------------------------- the figures


@pytest.mark.parametrize("iou", [0.5, 0.3])
def test_figures_and_curves_are_those_of_the_published_evaluation(truth, predictions, iou):
    with np.load(GOLDEN / "expected.npz", allow_pickle=False) as expected:
        for subset, curve in wider_curves(truth, predictions, iou).items():
            name = f"iou{100 * iou:.0f}_{subset}"
            assert curve.ap == expected[f"{name}_ap"] and curve.num_faces == expected[f"{name}_faces"]
            both = np.column_stack([curve.precision, curve.recall])
            assert np.array_equal(both, expected[f"{name}_curve_precision_recall"], equal_nan=True)


def test_one_call_over_two_folders_gives_the_figures(truth, predictions):
    found = wider_ap(GOLDEN / "gt", str(GOLDEN / "pred"))
    assert found == {subset: curve.ap for subset, curve in wider_curves(truth, predictions).items()}
    assert list(found) == ["easy", "medium", "hard"]


def naive_ap(truth, predictions, subset, iou):
    """The protocol, one detection and one threshold after the other."""
    scores = [row[4] for image in predictions for row in image]
    low, high = min(scores), max(scores)
    images = []
    for boxes, counted, detections in zip(truth.boxes, truth.counted[subset], predictions, strict=True):
        if not len(boxes) or not len(detections):
            continue
        state, rows = {}, []
        for x, y, w, h, score in sorted(detections.tolist(), key=lambda row: -row[4]):
            shared = []
            for a, b, c, d in boxes.tolist():
                wide, high_ = min(x + w, a + c) - max(x, a) + 1, min(y + h, b + d) - max(y, b) + 1
                both = wide * high_ if wide > 0 and high_ > 0 else 0.0
                shared.append(both / ((w + 1) * (h + 1) + (c + 1) * (d + 1) - both) if both else 0.0)
            face = shared.index(max(shared))
            judged = 1
            if shared[face] >= iou:
                judged = int(counted[face])
                state.setdefault(face, bool(counted[face]))
            scaled = (score - low) / (high - low) if high > low else 1.0
            rows.append((scaled, judged, sum(state.values())))
        images.append(rows)
    num_faces, points = sum(int(flags.sum()) for flags in truth.counted[subset]), [(0.0, 0.0)]
    for step in range(1000):
        kept = [[row for row in rows if row[0] >= 1 - (step + 1) / 1000] for rows in images]
        judged = sum(row[1] for rows in kept for row in rows)
        found = sum(rows[-1][2] for rows in kept if rows)
        points.append((found / num_faces, found / judged if judged else 0.0))
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return area


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_figures_are_those_of_a_naive_reference(seed):
    rng = np.random.default_rng(seed)
    boxes = [rng.integers(0, 40, (n, 4)).astype(float) for n in rng.integers(0, 5, 4)]
    boxes[0] = np.array([[1.0, 2.0, 30.0, 30.0]])
    counted = [rng.random(len(faces)) < 0.6 for faces in boxes]
    counted[0][:] = True
    predictions = []
    for faces in boxes:
        near = faces[rng.integers(0, len(faces), 6)] if len(faces) else rng.uniform(0, 40, (6, 4))
        moved = np.maximum(near + rng.integers(-4, 5, near.shape), 0)
        # Few values, so that scores tie.
        predictions.append(np.column_stack([moved, rng.integers(0, 5, 6) / 7])[: rng.integers(0, 7)])
    predictions[0] = np.array([[2.0, 2.0, 28.0, 31.0, 0.4]])
    truth = WiderTruth(["a", "b", "c", "d"], boxes, {"some": counted})
    iou = rng.choice([0.3, 0.5])
    assert wider_curves(truth, predictions, iou)["some"].ap == pytest.approx(naive_ap(truth, predictions, "some", iou))


@pytest.mark.skipif(not REAL.is_dir(), reason="the ground truth of WIDER FACE is not at hand")
def test_the_real_ground_truth_is_read_whole():
    truth = read_wider_truth(REAL)
    assert len(truth.names) == 3226 and sum(map(len, truth.boxes)) == 39708
    counts = {subset: sum(int(flags.sum()) for flags in truth.counted[subset]) for subset in truth.counted}
    assert counts == {"easy": 7211, "medium": 13319, "hard": 31958}
    perfect = [np.column_stack([faces, np.linspace(1, 0.5, len(faces))]) for faces in truth.boxes]
    # Faces that lie in each other are first choices of two detections; no size, no overlap.
    assert all(curve.ap > 0.98 for curve in wider_curves(truth, perfect).values())
    some = slice(100, 112)
    part = WiderTruth(truth.names[some], truth.boxes[some], {"hard": truth.counted["hard"][some]})
    rng = np.random.default_rng(1)
    noisy = [faces + np.append(rng.normal(0, 2, 4), 0) for faces in perfect[some]]
    assert wider_curves(part, noisy)["hard"].ap == pytest.approx(naive_ap(part, noisy, "hard", 0.5))


def test_a_detector_that_finds_nothing_has_zero_and_equal_scores_become_one(truth):
    nothing = [np.zeros((0, 5))] * len(truth.names)
    curve = wider_curves(truth, nothing)["hard"]
    assert curve.ap == 0.0 and np.isnan(curve.precision).all() and (curve.recall == 0).all()
    same = [np.column_stack([faces, np.full(len(faces), 0.7)]) for faces in truth.boxes]
    assert wider_curves(truth, same)["easy"].recall[0] > 0.9


def test_what_cannot_be_measured_is_refused(truth, predictions):
    with pytest.raises(ValueError, match="detections of 17 images, but 18 have a truth"):
        wider_curves(truth, predictions[1:])
    with pytest.raises(ValueError, match=r"detections must be \[M, 5\]"):
        wider_curves(truth, [np.zeros((2, 4)), *predictions[1:]])
    with pytest.raises(ValueError, match="a score is not finite"):
        wider_curves(truth, [np.full((1, 5), np.nan), *predictions[1:]])
    nobody = {"easy": [np.zeros(len(faces), bool) for faces in truth.boxes]}
    with pytest.raises(ValueError, match="no face counts in 'easy'"):
        wider_curves(truth._replace(counted=nobody), predictions)
    with pytest.raises(ValueError, match="iou must be in"):
        wider_curves(truth, predictions, 0.0)


# ---------------------------------------------------------------- files of detections


def test_written_detections_are_read_again_sorted(tmp_path):
    boxes, scores = np.array([[1.25, 2, 11.5, 9], [-3, 0, 4, 4]], np.float32), np.array([0.1, 0.7], np.float32)
    path = write_predictions(tmp_path, "0--Parade/some_image.2", boxes, scores)
    assert path == tmp_path / "0--Parade/some_image.2.txt" and path.read_text().splitlines()[:2] == [
        "some_image.2",
        "2",
    ]
    expected = np.array([[-3, 0, 7, 4, 0.7], [1.25, 2, 10.25, 7, 0.1]], np.float32)
    assert np.array_equal(read_predictions(path).astype(np.float32), expected)
    write_predictions(tmp_path, "0--Parade/some_image.2", [], [])
    assert read_predictions(path).shape == (0, 5)


@pytest.mark.parametrize("name", ["e/a.jpg", "e/ a ", "e/a\x0bb\x85", "e/\u2028é.b", "e/a.txt"])
def test_whatever_name_is_written_is_read(tmp_path, name):
    path = write_predictions(tmp_path, name, [[0, 0, 1, 1]], [0.5])
    assert path.parent.parent == tmp_path and read_predictions(path).shape == (1, 5)


@pytest.mark.parametrize("name", ["e/.a", ".e/a", "e//a", "e/../a", "e/a\\b", "e/a\nb", "e/a\rb", "e/\udcff", "e/a\0"])
def test_no_other_name_is_written(tmp_path, name):
    with pytest.raises(ValueError, match="no name of an image below a folder"):
        write_predictions(tmp_path, name, [], [])
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines[:-2], "line 2: 5 detections promised, 3 lines follow"),
        (lambda lines: [*lines[:-1], "1 2 3"], "line 7: x y width height score expected"),
        (lambda lines: [*lines[:3], "1 2 3 nan 0.5", *lines[4:]], "line 4: x y width"),
        (lambda lines: ["another", *lines[1:]], "line 1: the detections of 'another'"),
        (lambda lines: [lines[0], "five", *lines[2:]], "line 2: the number of detections expected"),
        (lambda lines: lines[:1], "cut off"),
    ],
)
def test_a_damaged_file_of_detections_is_named_with_its_line(folder, edit, message):
    path = some_file(folder)
    path.write_text("\n".join(edit(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
        wider_ap(folder / "gt", folder / "pred")


def test_an_image_without_a_file_and_bad_things_to_write_are_refused(folder):
    some_file(folder).unlink()
    with pytest.raises(ValueError, match=r"3_290.txt: no detections of this image; one without any needs a file"):
        wider_ap(folder / "gt", folder / "pred")
    with pytest.raises(ValueError, match="no folder of detections"):
        wider_ap(folder / "gt", folder / "nowhere")
    with pytest.raises(ValueError, match="no name of an image below a folder"):
        write_predictions(folder, "../escape", [], [])
    with pytest.raises(ValueError, match="1 finite scores expected"):
        write_predictions(folder, "a", [[0, 0, 1, 1]], [np.nan])
    with pytest.raises(ValueError, match="box 0 is"):
        write_predictions(folder, "a", [[0, 0, -1, 1]], [0.5])


# ---------------------------------------------------------------- MATLAB's files


def same(ours, scipys):
    if isinstance(ours, list):
        return all(map(same, ours, scipys.ravel(order="F"))) and len(ours) == scipys.size
    if isinstance(ours, str):
        return ours == (str(scipys[0]) if scipys.size else "")
    return ours.shape == scipys.shape and np.array_equal(ours, scipys)


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_those_that_scipy_reads(tmp_path, compressed):
    cells = np.empty((2, 3), object)
    cells[:] = [["a", "grüße", ""], [np.arange(6.0).reshape(2, 3), np.int16([[-5]]), np.zeros((0, 4))]]
    content = {"cells": cells, "unwanted": {"a": 1}, "number": 7, "uint": np.uint8([[1, 200, 3]])}
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    ours, theirs = read_mat(tmp_path / "a.mat", ["cells", "number", "uint"]), loadmat(tmp_path / "a.mat")
    assert all(same(ours[name], theirs[name]) for name in ("cells", "number", "uint"))
    with pytest.raises(ValueError, match="neither numbers nor text nor cells"):
        read_mat(tmp_path / "a.mat", ["unwanted"])
    with pytest.raises(ValueError, match="holds no other"):
        read_mat(tmp_path / "a.mat", ["other"])


HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(kind, shape, body=b""):
    parts = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, parts + element(1, b"a") + body)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no heading of version 5"),
        (b"MATLAB 7.3 MAT-file".ljust(128) + b"\x89HDF", "version 7.3, which is HDF5; save it in MATLAB with '-v7'"),
        (b"\x89HDF\r\n", "version 7.3"),
        (HEADER + array(1, (2**31 - 1, 1)), "0 of the 2147483647 cells are there"),
        (HEADER + array(1, (50000, 50000)), "0 of the 2500000000 cells"),
        (HEADER + array(6, (-1, 1), element(9, b"")), "shape"),
        (HEADER + array(6, (2**30, 2), element(9, bytes(8))), "has 8 bytes of type 9"),
        (HEADER + array(4, (1, 3), element(16, b"ab")), "text of 2 characters"),
        (HEADER + array(6, (1, 1), element(9, bytes(8)))[:-4], "cut off"),
        (HEADER + element(15, b"no zlib"), "incorrect header check"),
        (HEADER + element(15, zlib.compress(bytes(2**21))), "expands to more than"),
    ],
)
def test_damaged_and_foreign_files_are_refused_without_taking_memory(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(mat_file, "MAX_BYTES", 2**20)
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.mat: no MATLAB file that can be read.*{message}"):
        read_mat(tmp_path / "a.mat", ["a"])


def test_deep_cells_end():
    inner = array(6, (1, 1), element(9, bytes(8)))
    for _ in range(mat_file._MAX_DEPTH + 1):
        inner = array(1, (1, 1), inner)
    with pytest.raises(ValueError, match="nested deeper"):
        dict(mat_file._arrays(memoryview(HEADER + inner), ["a"]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path_factory, data):
    original = (GOLDEN / "gt/wider_easy_val.mat").read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(128, len(original) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.mat"
    path.write_bytes(damaged)
    try:
        read_mat(path, ["gt_list"])
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places.append(np.uint8([[200]])), "names a face that is not there"),
        (lambda places: places.append(np.uint8([[0]])), "names a face that is not there"),
        (lambda places: places.pop(), "lists of 17 images, but there are 18"),
    ],
)
def test_ground_truth_that_does_not_fit_is_refused(folder, change, message):
    content = loadmat(folder / "gt/wider_hard_val.mat")["gt_list"]
    last = list(content[-1, 0].ravel())
    last.pop() if "names" in message else None
    change(last)
    cells = np.empty((len(last), 1), object)
    cells[:, 0] = last
    content[-1, 0] = cells
    savemat(folder / "gt/wider_hard_val.mat", {"gt_list": content})
    with pytest.raises(ValueError, match=f"wider_hard_val.mat.*{message}"):
        read_wider_truth(folder / "gt")


def test_names_in_the_ground_truth_stay_below_the_folder_of_detections(folder):
    path = folder / "gt/wider_face_val.mat"
    content = loadmat(path)
    content["event_list"][0, 0] = np.array(["../.."])
    savemat(path, {name: content[name] for name in ("event_list", "file_list", "face_bbx_list")})
    with pytest.raises(ValueError, match="is no name of an image below a folder"):
        read_wider_truth(folder / "gt")
