"""Images that cannot be read: replaced, listed, kept in the list by a run that goes on, and too many of them."""

import pytest
from short_runs import Recorder, fit, write_faces

from engine.callbacks import TooManyUnreadableError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_unreadable_images_are_replaced_listed_once_and_kept_in_the_list_when_resumed(tmp_path, caplog):
    root = write_faces(tmp_path / "data", identities=4)
    first, second = root / "train/person_01/2.png", root / "train/person_00/0.png"
    first.write_bytes(b"")
    recorder = Recorder()
    options = {"data_root": str(root), "epochs": 2}
    _, datamodule, _ = fit(tmp_path, recorder, **options)
    assert datamodule.unreadable == {str(first): "the file is empty"}
    assert (tmp_path / "unreadable.txt").read_text() == f"{first}\tthe file is empty\n"
    used = [index for indices in recorder.indices for index in indices]
    assert len(used) == 2 * 16 and 4 + 2 not in used
    warnings = [record.getMessage() for record in caplog.records if record.getMessage().startswith("unreadable")]
    assert warnings == [f"unreadable image {first} (the file is empty): another image took its place"]

    second.write_bytes(b"no image")
    first.unlink()
    fit(tmp_path, ckpt_path=tmp_path / "last.ckpt", **{**options, "epochs": 3, "max_bad_fraction": 0.2})
    lines = (tmp_path / "unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(second), str(first)]
    assert lines[0].endswith("\tnot an image that OpenCV reads, or damaged")
    assert not list(tmp_path.glob("*.tmp"))


def test_an_identity_whose_only_image_is_unreadable_does_not_end_the_run(tmp_path):
    root = write_faces(tmp_path / "data", identities=4)
    for number in (1, 2, 3):
        (root / f"train/person_03/{number}.png").unlink()
    (root / "train/person_03/0.png").write_bytes(b"")
    _, datamodule, trainer = fit(tmp_path, data_root=str(root))
    assert trainer.global_step == 1
    assert list(datamodule.unreadable) == [str(root / "train/person_03/0.png")]


@pytest.mark.flag("max_bad_fraction")
def test_more_unreadable_images_than_max_bad_fraction_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.callbacks.unreadable_list._COUNT_EVERY", 1)
    root = write_faces(tmp_path / "data", identities=8)
    broken = [root / f"train/person_0{identity}/1.png" for identity in (1, 4, 6)]
    for path in broken:
        path.write_bytes(b"no image")
    options = {"data_root": str(root), "epochs": 2}
    with pytest.raises(TooManyUnreadableError, match=r"--max_bad_fraction 0.07: 3 of 32 training images .* 2 may"):
        fit(tmp_path, **options, max_bad_fraction=0.07)
    assert [line.split("\t")[0] for line in (tmp_path / "unreadable.txt").read_text().splitlines()] == [
        *map(str, broken)
    ]
    fit(tmp_path, **options, max_bad_fraction=0.1)

    for path in broken[1:]:
        path.write_bytes((root / "train/person_00/1.png").read_bytes())
    fit(tmp_path, **options)  # one image is no share worth a flag
    with pytest.raises(TooManyUnreadableError, match=r"1 of 32 .* 0 may"):
        fit(tmp_path, **options, max_bad_fraction=0.0)


def test_a_run_without_unreadable_images_writes_no_list(noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces)
    assert not (tmp_path / "unreadable.txt").exists()
