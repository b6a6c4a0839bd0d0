"""`main.py split`: what goes where, that nothing half-written has the name of the output, and what is refused."""

import hashlib
import json
import os

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import refusal

import main
from cli.data import split
from datasets import ImageFolderDataset, PairedFaces
from datasets.conversion import splitting
from datasets.conversion.splitting import SplitJob, divide

COUNTS = {"ann": 5, "ben": 10, "cia": 4, "dan": 7, "eve": 6, "fay": 5, "gil": 1}


def write(path, seed, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def people(tmp_path):
    for person, count in COUNTS.items():
        for number in range(count):
            write(tmp_path / f"faces/{person}/{number}.png", len(person) + 100 * ord(person[0]) + number)
    return tmp_path / "faces"


@pytest.fixture
def pairs(people):
    """The same people with partners of other suffixes in lr and dsr."""
    root = people.parent / "both"
    for path in sorted(people.glob("*/*")):
        for folder, suffix, side in (("hr", ".png", 16), ("lr", ".bmp", 8), ("dsr", ".png", 16)):
            write((root / folder / path.parent.name / path.name).with_suffix(suffix), len(list(root.rglob("*"))), side)
    return root


def run(*argv):
    return main.main(["split", *map(str, argv)])


def sides(out):
    """Return `<person>/<image>` of each side."""
    return [
        {path.relative_to(out / side).as_posix() for path in (out / side).rglob("*.*")} for side in ("train", "val")
    ]


def test_every_person_is_divided_and_the_manifest_tells_all(people, tmp_path, capsys):
    assert run(people, "--out", tmp_path / "out") == 0
    train, val = sides(tmp_path / "out")
    assert not train & val and len(train | val) == sum(COUNTS.values())
    for person, count in COUNTS.items():
        expected = count if count < 5 else int(0.8 * count)
        assert sum(name.startswith(f"{person}/") for name in train) == expected
    manifest = json.loads((tmp_path / "out/split.json").read_text())
    assert manifest["counts"] == {
        "train_images": 30, "val_images": 8, "train_people": 7, "val_people": 5, "files_on_both_sides": 0,
    }  # fmt: skip
    assert manifest["few"] == ["cia", "gil"] and manifest["settings"]["seed"] == 42
    for name, checksum in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == checksum
    assert len(manifest["files"]) == 38
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'out'}: train 30 images of 7 identities, val 8 images of 5 identities",
        "fewer than 5 images: 2 identities, which are in train alone: cia, gil",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "out"]
    assert len(ImageFolderDataset(tmp_path / "out/train")) == 30  # hard links need no flag


@pytest.mark.parametrize(
    ("flags", "check"),
    [
        (("--share", "0.5"), lambda train, val: len(train) == 2 + 5 + 3 + 3 + 2 + 4 + 1),
        (("--by", "people"), lambda train, val: not people_of(train) & people_of(val) and len(people_of(val)) == 2),
        (("--few", "out"), lambda train, val: people_of(train) == people_of(val) == {*COUNTS} - {"cia", "gil"}),
        (("--few", "out", "--by", "people"), lambda train, val: len(people_of(train)) == 3),
        (("--min-images", "7"), lambda train, val: people_of(val) == {"ben", "dan"}),
    ],
)  # fmt: skip
def test_a_flag_does_what_its_help_says(flags, check, people, tmp_path):
    assert run(people, "--out", tmp_path / "out", *flags) == 0
    assert check(*sides(tmp_path / "out"))


def people_of(files):
    return {name.partition("/")[0] for name in files}


def test_the_seed_decides_alone(people, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(people, "--out", tmp_path / name, "--seed", seed)
    assert sides(tmp_path / "a") == sides(tmp_path / "b") != sides(tmp_path / "c")


@pytest.mark.parametrize("mode", ["link", "symlink", "copy"])
def test_files_are_linked_or_copied(mode, people, tmp_path, capsys):
    run(people, "--out", tmp_path / "out", "--mode", mode)
    name = next(iter((tmp_path / "out/val").rglob("*.png")))
    source = people / name.parent.name / name.name
    assert name.is_symlink() == (mode == "symlink") and name.samefile(source) == (mode != "copy")
    assert name.read_bytes() == source.read_bytes()
    assert ("--follow_links" in capsys.readouterr().out) == (mode == "symlink")


def test_links_out_of_the_folder_are_followed_when_asked(people, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (people / "ann").rename(tmp_path / "elsewhere/ann")
    (people / "ann").symlink_to(tmp_path / "elsewhere/ann")
    run(people, "--out", tmp_path / "without")
    run(people, "--out", tmp_path / "with", "--follow-links")
    assert [("ann" in people_of(sides(tmp_path / out)[1])) for out in ("without", "with")] == [False, True]


def test_partners_are_divided_alike(pairs, tmp_path, capsys):
    assert run(pairs, "--out", tmp_path / "out") == 0
    assert "train 30 images of 7 identities, val 8 images of 5 identities, each in 3 folders" in capsys.readouterr().out
    for side, count in (("train", 30), ("val", 8)):
        for partner in ("lr", "dsr"):
            assert len(PairedFaces(tmp_path / "out" / side, partner)) == count  # which pairs them, or refuses
    (pairs / "lr/ben/3.bmp").unlink()
    assert "1 image of hr without a partner in lr, the first ben/3" in refusal(
        capsys, split.main, pairs, "--out", tmp_path / "other"
    )


def test_a_file_on_both_sides_is_said(people, tmp_path, capsys):
    for number in range(10):
        (people / f"ben/{number}.png").write_bytes((people / "ben/0.png").read_bytes())
    run(people, "--out", tmp_path / "out")
    assert "1 file of val to the byte the same as one of train" in capsys.readouterr().out


def test_an_interrupted_division_leaves_nothing_and_a_killed_one_is_begun_again(people, tmp_path, capsys, monkeypatch):
    copy = splitting.MODES["copy"]

    def stop(source, target):
        if source.parent.name == "dan":
            raise KeyboardInterrupt
        copy(source, target)

    monkeypatch.setitem(splitting.MODES, "copy", stop)
    with pytest.raises(SystemExit) as end:
        run(people, "--out", tmp_path / "out", "--mode", "copy")
    assert end.value.code == 130 and "nothing is left" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces"]
    monkeypatch.undo()
    write(tmp_path / ".out.converting/result/train/ann/killed.png", 0)
    (tmp_path / "out").mkdir()
    assert run(people, "--out", tmp_path / "out") == 0
    assert len(sides(tmp_path / "out")[0]) == 30 and not (tmp_path / ".out.converting").exists()


def full(path):
    path.mkdir()
    (path / "file").touch()


@pytest.mark.parametrize(
    ("prepare", "flags", "message"),
    [
        (full, (), "--out {out} is not empty; give a new folder"),
        (lambda path: path.write_text("x"), (), "--out {out} is no folder; give a new folder"),
        (None, ("--min-images", "11"), "none of 7 identities has 11 images; lower --min-images"),
        (None, ("--share", "0.1"), "--share 0.1 of 5 images is none, as ann has; raise --min-images"),
        (None, ("--share", "1"), "--share must be in (0, 1), got 1.0"),
        (None, ("--min-images", "7", "--by", "people"), "2 identities cannot be divided"),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line_and_leaves_nothing(
    prepare, flags, message, people, tmp_path, capsys
):
    out = tmp_path / "out"
    if prepare:
        prepare(out)
    before = sorted(tmp_path.rglob("*"))
    assert message.format(out=out) in refusal(capsys, split.main, people, "--out", out, *flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_that_cannot_be_are_refused(people, tmp_path, capsys, monkeypatch):
    assert "--out is needed" in refusal(capsys, split.main, people)
    assert "lies in the data folder" in refusal(capsys, split.main, people, "--out", people / "out")
    assert "gone does not exist" in refusal(capsys, split.main, tmp_path / "gone", "--out", tmp_path / "out")

    def other_disk(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    line = refusal(capsys, split.main, people, "--out", tmp_path / "out")
    assert "cannot be linked (Invalid cross-device link): --mode symlink or copy" in line and ".png" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces"]


def test_the_share_is_exact_and_people_are_divided_by_chance():
    job = SplitJob("in", "out", share=0.29)
    images = {person: [f"{number:02}.png" for number in range(100)] for person in ("ann", "ben")}
    train = divide(images, job).train
    assert len(train) == 2 * 29  # 28.999... to a float
    ann, ben = ({file[4:] for file in train if file.startswith(person)} for person in images)
    assert ann != ben


def test_choices_are_those_of_the_library():
    assert split.KINDS == (splitting.IMAGES, splitting.PEOPLE) and split.MODES == tuple(splitting.MODES)


IMAGES = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 40).map(lambda n: [f"{i:02}.png" for i in range(n)]),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=60)
@given(IMAGES, st.integers(20, 99), st.integers(5, 12), st.booleans(), st.integers(0, 99))
def test_a_division_counts_exactly_and_no_person_depends_on_another(images, percent, least, few_to_train, seed):
    job = SplitJob("in", "out", share=percent / 100, min_images=least, few_to_train=few_to_train, seed=seed)
    enough = {person: names for person, names in images.items() if len(names) >= least}
    if not enough:
        with pytest.raises(ValueError, match="lower --min-images"):
            divide(images, job)
        return
    train, val, few = divide(images, job)
    assert set(few) == images.keys() - enough.keys() and not set(train) & set(val)
    for person, names in images.items():
        mine = [sum(file.startswith(f"{person}/") for file in side) for side in (train, val)]
        if person in enough:
            assert mine == [percent * len(names) // 100, len(names) - percent * len(names) // 100]
            alone = divide({person: names}, job)
            assert alone.val == [file for file in val if file.startswith(f"{person}/")]
        else:
            assert mine == [len(names) * few_to_train, 0]
