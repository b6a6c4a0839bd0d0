"""Folders and files are called what people call them: every program works on them and shows nothing raw."""

import csv
import json
import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from full_disk import full_disk
from programs import SMALL_RUN
from safetensors.torch import save_file
from short_runs import write_faces
from untrained import write_checkpoint

import main
import main_eval
from cli.data import check, convert
from nets.files.weight_file import read_state_dict
from options.command import user_errors
from system.files import naming
from system.terminal import printable

pytestmark = pytest.mark.usefixtures("drawn_pictures")

NAMES = [
    b"Zo\xeb",
    b"a\x1b[2Jb",
    b"A$AP_$0",
    b"p0_$$",
    "\u202egnp".encode(),
    "王菲".encode(),
    b"[red]x",
    b"\xff",
]
UNFIT_FOR_LISTS = [b"l\nine", b"t\tab", b"c\rr"]


def write_people(root, names):
    """Write identity folders with these names, one image of them broken."""
    plain = root.parent / "plain"
    write_faces(plain, identities=len(names), pairs=0)
    root.mkdir()
    for folder, name in zip(sorted((plain / "train").iterdir()), names, strict=True):
        folder.rename(root / os.fsdecode(name))
    try:
        (root / "A$AP_$0/0.png").rename(root / "A$AP_$0" / "0\n\udce9.png")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    (root / os.fsdecode(names[0]) / "1.png").write_bytes(b"broken")
    return root


def assert_nothing_raw(*texts):
    for text in texts:
        raw = {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {"\n", "\t"}
        assert not raw and "Logging error" not in text and "Traceback" not in text


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_are_read_from_any_path(suffix, tmp_path):
    weights, plain = {"a.weight": torch.ones(3)}, tmp_path / f"plain.{suffix}"
    torch.save(weights, plain) if suffix == "pt" else save_file(weights, plain)
    for name in ("caf\udce9", "\x1b\n", "王菲"):
        plain = plain.rename(tmp_path / f"{name}.{suffix}")
        torch.testing.assert_close(read_state_dict(plain).state_dict, weights)


@pytest.fixture
def people(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_people(tmp_path / "caf\udce9", NAMES + UNFIT_FOR_LISTS)


@pytest.mark.slow
def test_training_draws_lists_and_reports_them(people, tmp_path, capsys):
    argv = [*SMALL_RUN, "--embedding_size", "16", "--epochs", "1", "--val_occlusion", "none", "--val_identities", "0.4"]
    assert main.main([*argv, "--data_root", str(people)]) == 0
    (folder,) = (tmp_path / "experiments").iterdir()
    log = (folder / "run.log").read_text(encoding="utf-8")
    said = capsys.readouterr()
    assert_nothing_raw(log, said.err, (folder / "command.txt").read_text(encoding="utf-8"))
    assert_nothing_raw((folder / "report/report.txt").read_text(encoding="utf-8"))
    assert (folder / "samples.png").exists()
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["data_root"] == str(people)
    if (folder / "unreadable.txt").exists():  # the broken image may be one of those held out
        (line,) = (folder / "unreadable.txt").read_text(encoding="utf-8").splitlines()
        assert line.startswith(printable(people / os.fsdecode(NAMES[0]) / "1.png") + "\t")


def test_evaluation_reports_them_also_from_a_list(people, tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "m\udce9.ckpt")
    argv = ["--model-path", str(checkpoint), "--data-path", str(people), "--output-dir", "out\udce9"]
    assert main_eval.main(argv) == 0
    folder = tmp_path / "out\udce9"
    said = capsys.readouterr()
    assert_nothing_raw(said.out, said.err, *(folder.joinpath(n).read_text("utf-8") for n in ("run.log", "report.txt")))
    facts = json.loads((folder / "results.json").read_text(encoding="utf-8"))["protocol"]
    assert facts["data"] == str(people)
    paths = np.load(folder / "scores.npz")["paths"]
    assert len(paths) == 43 and {Path(path).parent.name for path in paths} == set(
        map(os.fsdecode, NAMES + UNFIT_FOR_LISTS)
    )


def test_the_doctor_names_them(people, tmp_path, capsys):
    assert check.main([str(people), "--output-dir", "out"]) == 0
    said = capsys.readouterr()
    text = (tmp_path / "out/findings.csv").read_text(encoding="utf-8")
    assert_nothing_raw(said.out, said.err, text.replace("\r\n", "\n"))
    (row,) = (row for row in csv.DictReader(text.splitlines()) if row["kind"] == "unreadable")
    assert row["image"] == printable(people / os.fsdecode(NAMES[0]) / "1.png")


def test_names_that_are_not_utf8_go_into_records_and_come_back(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [b"Zo\xeb", b"A$AP_$0", b"\xff", "王菲".encode()]
    people = write_people(tmp_path / "people", names)
    (people / "A$AP_$0" / "0\n\udce9.png").rename(people / "A$AP_$0" / "0\udce9.png")
    assert convert.main([str(people), "rec", "--to", "records"]) == 1
    assert convert.main(["rec", "back", "--to", "folder", "--names-from", "list"]) == 0
    said = capsys.readouterr()
    assert_nothing_raw(said.out, said.err, (tmp_path / "rec.unreadable.tsv").read_text(encoding="utf-8"))
    written = {path.relative_to("back") for path in Path("back").rglob("*.png")}
    assert written == {path.relative_to(people) for path in people.rglob("*.png")} - {Path("Zo\udceb/1.png")}
    assert all(cv2.imdecode(np.fromfile(f"back/{path}", np.uint8), 1) is not None for path in written)


@pytest.mark.parametrize("name", UNFIT_FOR_LISTS)
def test_a_name_that_a_list_cannot_hold_is_refused_in_one_line(name, tmp_path, capsys):
    people = write_people(tmp_path / "people", [b"A$AP_$0", name])
    with pytest.raises(SystemExit) as stop:
        convert.main([str(people), str(tmp_path / "rec"), "--to", "records"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "rename" in line
    assert_nothing_raw(line)


# ---------------------------------------------------------------- errors name the file


def test_an_error_of_the_system_says_the_file_and_then_what_is_wrong(tmp_path, capsys):
    for error in (lambda: (tmp_path / "no\x1b\udce9").open(encoding="utf-8"), lambda: tmp_path.open(encoding="utf-8")):
        with pytest.raises(SystemExit), user_errors("p"):
            error()
    missing, folder = capsys.readouterr().err.splitlines()
    assert missing == rf"p: error: {tmp_path}/no\x1b\xe9: No such file or directory"
    assert folder == f"p: error: {tmp_path}: Is a directory"


def test_a_full_disk_says_what_could_not_be_written(tmp_path, capsys):
    with pytest.raises(SystemExit), user_errors("p"), naming(tmp_path), full_disk(10):
        (tmp_path / "a").write_text("x" * 100, encoding="utf-8")
    assert capsys.readouterr().err == f"p: error: {tmp_path}: File too large\n"
