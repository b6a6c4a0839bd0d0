"""A gallery that grows for hours: what is done outlives an interruption and a kill, and the same call goes on."""

import numpy as np
import pytest
from portraits import load_model, write_people

from cli.answers import calibrate, enrol
from models import AS_GIVEN, Gallery, gallery


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), num=6, images=2)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(gallery, "_PHOTOGRAPHS_AT_ONCE", 3)


class KilledError(BaseException):
    """The end of a process that nothing can catch."""


def stopping(error, after):
    """Return an aligner that raises the error at a photograph after so many."""
    crops = []

    def crop(face):
        if len(crops) == after:
            raise error
        crops.append(face)
        return AS_GIVEN.crop(face)

    return AS_GIVEN._replace(crop=crop)


@pytest.mark.parametrize(("error", "seconds"), [(KeyboardInterrupt, 1e9), (KilledError, -1.0)])
def test_whole_blocks_outlive_the_end_and_the_same_call_goes_on(
    model, people, small_blocks, monkeypatch, tmp_path, error, seconds
):
    monkeypatch.setattr(gallery, "_SAVE_EVERY", seconds)
    monkeypatch.setattr(gallery.time, "monotonic", lambda: 0.0)
    file, growing = tmp_path / "gallery.npz", Gallery(model, stopping(error, after=8))
    with pytest.raises(error):
        growing.enrol(people, file)
    assert len(growing) == 0
    kept = Gallery.load(file, model)
    assert len(kept.photographs) == 6 and kept.names == ["p0", "p1", "p2"]  # two blocks of three
    assert kept.enrol(people, file)[:3] == (3, 6, 6)
    whole = Gallery(model)
    whole.enrol(people)
    again = Gallery.load(file, model)
    assert again.names == whole.names and again.photographs == whole.photographs
    np.testing.assert_allclose(again._templates.embedding, whole._templates.embedding, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.npz"]
    found, expected = (each.identify(people / "p4" / "0.png") for each in (again, whole))
    assert found.threshold == pytest.approx(expected.threshold, abs=1e-3)  # strangers are looked up when needed


def test_the_programs_say_how_to_go_on_and_show_a_bar(people, small_blocks, monkeypatch, tmp_path, capsys):
    load_model(tmp_path / "last.ckpt")
    file, flags = str(tmp_path / "g.npz"), ["--model_path", str(tmp_path / "last.ckpt"), "--align", "no"]
    with monkeypatch.context() as patch:
        for program, argv, words in [
            (enrol, [file, str(people)], "what is done is kept, and the same command goes on"),
            (calibrate, [str(people)], "nothing is written, and the same command begins anew"),
        ]:
            patch.setattr("cli.answers.shared.choose_aligner", lambda *_: stopping(KeyboardInterrupt, after=5))
            with pytest.raises(SystemExit) as stop:
                program.main([*argv, *flags])
            assert stop.value.code == 130 and f": interrupted; {words}\n" in capsys.readouterr().err
    assert not (tmp_path / "last.calibration.json").exists()
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes a terminal of any stream
    assert enrol.main([file, str(people), *flags]) == 0
    shown = capsys.readouterr()
    assert "Enrolling photographs" in shown.err and "added 9 photographs, 4 new people; 3 were there" in shown.out
    assert calibrate.main([str(people), *flags, "--fars", "0.5", "--draws", "100"]) == 0
    shown = capsys.readouterr().err
    for bar in ("Reading photographs", "Describing faces", "Describing faces behind masks", "Testing thresholds"):
        assert bar in shown
