"""`main.py detect evaluate`: what it keeps, how it goes on, what it refuses."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from programs import refusal

import models.detectors
from cli.detection import evaluate
from datasets.photos.detection import Detection
from datasets.synthetic.scene_set import SceneSpec, prepare_scenes
from evaluation import coco_ap, read_predictions, write_predictions
from evaluation.detection.boxes import Found, Truth

GOLDEN = Path(__file__).parents[1] / "golden/detection/wider"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return (
        prepare_scenes(tmp_path_factory.mktemp("cache"), SceneSpec(1, 5, 160, seed=3), jobs=1, progress=False) / "val"
    )


class Corner:
    """Answers with the faces that labels have, of the sure ones those alone that are large, and counts its looks."""

    threshold = 0.5

    def __init__(self, scenes):
        content = json.loads((scenes / "faces.json").read_text())
        self.images = {cv2.imread(str(scenes / one["file_name"])).tobytes(): one["id"] for one in content["images"]}
        self.faces = content["annotations"]
        self.name, self.looks, self.stop_at, self.scale = "labels", 0, None, 1.0

    def detect(self, image, threshold=None):
        if threshold is None:
            self.looks += 1
            if self.looks == self.stop_at:
                raise KeyboardInterrupt
        shape = (160, 160)
        if image.shape[:2] != shape:  # shrunk: the same as far as this detector goes
            self.scale = image.shape[0] / 160
            self.next = getattr(self, "next", 0) + (threshold is None)
            key = self.next
        else:
            key = self.images[image[..., ::-1].tobytes()]
        found = []
        for face in self.faces:
            x, y, width, height = face["bbox"]
            score = 0.9 if width > 20 else 0.1
            if face["image_id"] == key and score >= (threshold or 0.5):
                # Labels are edges, detections have the centers of pixels on integers.
                box = np.array([x, y, x + width, y + height]) * self.scale - 0.5
                points = np.array(face["keypoints"]).reshape(5, 3)[:, :2] * self.scale - 0.5
                found.append(Detection(box, score, points))
        return found


@pytest.fixture
def detector(scenes, monkeypatch):
    made = Corner(scenes)
    monkeypatch.setattr(models.detectors, "open_detector", lambda word: made)
    return made


def words(scenes, tmp_path, *more):
    return ["--photos", str(scenes), "--labels", str(scenes / "faces.json"), "--output_dir", str(tmp_path / "out"),
            "--detectors", "own=any", "--num_resamples", "20", *more]  # fmt: skip


def results(tmp_path):
    return json.loads((tmp_path / "out/results.json").read_text())


def test_an_interrupted_run_goes_on_and_a_second_look_costs_nothing(scenes, tmp_path, detector, capsys):
    detector.stop_at = 3
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(words(scenes, tmp_path))
    assert stopped.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    (kept,) = (tmp_path / "out/detections").glob("*.jsonl")
    kept.write_bytes(kept.read_bytes()[:-7])  # killed while it wrote the second photograph
    detector.looks, detector.stop_at = 0, None
    assert evaluate.main(words(scenes, tmp_path)) == 0
    assert detector.looks == 4
    said = capsys.readouterr().out
    assert "| own " in said and "tested at: the photographs' own size" in said
    first = results(tmp_path)["detectors"]["own"]
    assert first["ap"]["estimate"] == 1 and first["num_mistakes"] == 0 and 0 < first["recall"]["estimate"] < 1
    assert first["points"]["found"]["mean"] < 1e-4
    assert evaluate.main(words(scenes, tmp_path, "--threshold", "0.05")) == 0
    assert detector.looks == 4 and results(tmp_path)["detectors"]["own"]["recall"]["estimate"] == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "Tested at: the photographs&#x27; own size" in page and "data:image/jpeg" not in page  # nothing is wrong
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join([lines[0], lines[1][:-9], *lines[2:]]) + "\n")
    assert "line 2: damaged; delete the file" in refusal(capsys, evaluate.main, *words(scenes, tmp_path))
    kept.write_text("other\n")
    assert "line 1: not what this program writes" in refusal(capsys, evaluate.main, *words(scenes, tmp_path))


def test_boxes_of_shrunk_photographs_are_those_of_the_photographs(scenes, tmp_path, detector):
    assert evaluate.main(words(scenes, tmp_path, "--max_side", "100", "--worst", "2")) == 0
    found = results(tmp_path)
    assert detector.scale == 100 / 160 and found["detectors"]["own"]["ap"]["estimate"] == 1
    assert found["protocol"]["test size"] == "longer side 100 pixels at most"
    assert found["worst"]["own"] and "data:image/jpeg" in (tmp_path / "out/report.html").read_text()


def test_several_sizes_and_mirror_images_are_looked_at_and_stated(scenes, tmp_path, monkeypatch):
    seen = []

    class Watcher:
        name, threshold = "watcher", 0.5

        def detect(self, image, threshold=None):
            seen.append(image)
            return []

    monkeypatch.setattr(models.detectors, "open_detector", lambda word: Watcher())
    several = ["--max_side", "80", "--scales", "1,2", "--mirror"]
    assert evaluate.main(words(scenes, tmp_path, *several)) == 0
    sides = [image.shape[0] for image in seen[:4]]
    assert sides == [80, 80, 160, 160] and np.array_equal(seen[2][:, ::-1], seen[3])
    first = json.loads((scenes / "faces.json").read_text())["images"][0]["file_name"]
    # The larger view is the photograph, no enlargement of the smaller one.
    assert np.array_equal(seen[2], cv2.imread(str(scenes / first))[..., ::-1])
    stated = "longer side 80 pixels at most, times 1, 2, each mirrored too"
    assert results(tmp_path)["protocol"]["test size"] == stated
    before = len(seen)
    assert evaluate.main(words(scenes, tmp_path, *several)) == 0 and len(seen) == before
    assert evaluate.main(words(scenes, tmp_path)) == 0 and len(seen) > before  # what is kept is of another size


def test_files_of_detections_stand_beside_a_detector_and_wider_face_has_its_own_figures(tmp_path, capsys):
    photos, labels = tmp_path / "photos", []
    truth = evaluate_wider_truth()
    for name, boxes in zip(truth.names, truth.boxes, strict=True):
        path = photos / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        wide, high = np.ceil((boxes[:, :2] + boxes[:, 2:]).max(axis=0, initial=8)).astype(int)
        cv2.imwrite(str(path), np.zeros((high, wide, 3), np.uint8))
        labels += [f"# {name}.jpg", *(" ".join(f"{value:g}" for value in box) for box in boxes)]
    (tmp_path / "label.txt").write_text("\n".join(labels) + "\n")
    given = ["--photos", photos, "--labels", tmp_path / "label.txt", "--output_dir", tmp_path / "out",
             "--detectors", f"theirs={GOLDEN / 'pred'}", "--num_resamples", "5", "--worst", "1"]  # fmt: skip
    given = list(map(str, given))
    assert evaluate.main([*given, "--wider", str(GOLDEN / "gt")]) == 0
    found = results(tmp_path)
    with np.load(GOLDEN / "expected.npz") as expected:
        assert found["wider"]["theirs"] == {key: expected[f"iou50_{key}_ap"] for key in ("easy", "medium", "hard")}
    assert (
        "seconds_ratio" not in found["detectors"]["theirs"] and found["detectors"]["theirs"]["points"]["found"] is None
    )
    assert "WIDER FACE's AP" in capsys.readouterr().out
    rows = [read_predictions(GOLDEN / "pred" / f"{name}.txt") for name in truth.names]
    corners = [np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], axis=1) for boxes in rows]
    sound = [box[(box[:, 2:] > 0).all(axis=1)] for box in truth.boxes]
    truths = [Truth(np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1), np.zeros(len(b), bool)) for b in sound]
    wanted = coco_ap(truths, [Found(c, r[:, 4]) for c, r in zip(corners, rows, strict=True)])
    assert found["detectors"]["theirs"]["ap"]["estimate"] == pytest.approx(wanted.ap)
    # Files that are damaged, of other photographs, of another MATLAB.
    shutil.copytree(GOLDEN, tmp_path / "wider")
    cut = tmp_path / "wider/pred" / f"{truth.names[0]}.txt"
    cut.write_text("\n".join(cut.read_text().splitlines()[:-1]) + "\n")
    given[7] = str(tmp_path / "wider/pred")
    assert f"{cut}, line 2" in refusal(capsys, evaluate.main, *given)
    cut.unlink()
    assert "no detections of this image" in refusal(capsys, evaluate.main, *given)
    hdf = tmp_path / "wider/gt/wider_hard_val.mat"
    hdf.write_bytes(b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\x00\x02IM" + bytes(512))
    said = refusal(capsys, evaluate.main, *given, "--wider", tmp_path / "wider/gt")
    assert "wider_hard_val.mat" in said and "7.3" in said
    write_predictions(tmp_path / "few", "a/b", [[0, 0, 4, 4]], [0.5])
    (tmp_path / "one.txt").write_text("# a/b.jpg\n0 0 4 4\n")
    cv2.imwrite(str(photos / "b.jpg"), np.zeros((8, 8, 3), np.uint8))
    (photos / "a").mkdir()
    (photos / "b.jpg").rename(photos / "a/b.jpg")
    few = [*given[:3], str(tmp_path / "one.txt"), *given[4:7], str(tmp_path / "few"), "--wider", str(GOLDEN / "gt")]
    assert f"lacks {len(truth.names)} of its images" in refusal(capsys, evaluate.main, *few)


def evaluate_wider_truth():
    from evaluation import read_wider_truth

    return read_wider_truth(GOLDEN / "gt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--labels", "missing.json"], "missing.json"),
        (["--labels", "more.txt"], "more.txt: 1 of its photographs are not in"),
        (["--photos", "nowhere"], "nowhere: no folder of photographs"),
        (["--detectors", "text.onnx"], "text.onnx"),
        (["--detectors", "gone.onnx"], "gone.onnx: no such detector file"),
        (["--detectors", "points.csv"], "points.csv"),
        (["--detectors", "a=x.onnx,a=y.onnx"], "'a' comes twice"),
        (["--detectors", "none"], "--detectors: none is named"),
        (["--wider", "nowhere"], "nowhere"),
        (["--max_side", "-1"], "--max_side must be in"),
        (["--scales", "2"], "--scales above 1 need --max_side"),
        (["--max_side", "5000", "--scales", "1,2"], "is 10000 pixels, more than 8192"),
        (["--threshold", "0.01"], "--threshold 0.01 is below --least_score 0.02"),
    ],
)
def test_bad_input_is_one_line(scenes, tmp_path, capsys, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("hello\n")
    Path("points.csv").write_text("images/000000.jpg,1,1,2,1,1,2,1,3,2,3\n")
    Path("more.txt").write_text("# images/000000.jpg\n1 1 20 20\n# gone.jpg\n1 1 20 20\n")
    assert said in refusal(capsys, evaluate.main, *words(scenes, tmp_path), *change)
    assert not (tmp_path / "out/results.json").exists()


@pytest.mark.parametrize("alone", [["--photos", "x"], ["--labels", "x"], ["--wider", "x"]])
def test_photographs_and_labels_belong_together(capsys, alone):
    assert "give --photos" in (line := refusal(capsys, evaluate.main, *alone)) or "belong together" in line
