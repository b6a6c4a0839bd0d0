"""`python -m datasets.convert` as users run it."""

import os
import pickle
import shutil

import pytest
from converted_faces import contents, write_face
from programs import ROOT, program
from record_files import faces, write_records

from cli.data import convert
from cli.data.convert import main
from datasets.conversion import encoding
from datasets.synthetic.prepare import render_identities


@pytest.fixture(scope="module")
def images():
    return render_identities("convert program", 4, 40)[0]


@pytest.fixture
def folder(tmp_path, images):
    root = tmp_path / "faces"
    for number, image in enumerate(images):
        write_face(root / f"person {number // 40}" / f"{number:03d}.bmp", image)
    return root


@pytest.mark.convert_flag("jobs")
def test_the_command_converts_with_any_number_of_jobs(folder, tmp_path):
    (folder / "person 1/050.bmp").write_bytes(b"broken")
    done = program("-m datasets.convert", folder, "two", "--to", "records", "--jobs", 2, cwd=tmp_path, check=False)
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout == ("two: 159 images of 4 identities\nunreadable: 1 image, listed in two.unreadable.tsv\n")
    assert main([str(folder), str(tmp_path / "one"), "--to", "records"]) == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one")["property"] == b"4,112,112"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = program("-m datasets.convert", "nowhere", "out", "--to", "records", cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "python -m datasets.convert: error: nowhere does not exist\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def sources(tmp_path):
    """A folder of identities, records, a set, a file of text and a folder of nothing."""
    write_face(tmp_path / "folder/a/0.png", render_identities("convert program", 1, 1)[0][0])
    write_records(tmp_path / "records", faces([2, 1]))
    (tmp_path / "one.bin").write_bytes(pickle.dumps(([b"x", b"y"], [True])))
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["folder", "out"], "--to is needed: records, folder, bin, memmap"),
        (["folder", "out", "--to", "mxnet"], "'mxnet' is not one of"),
        (["folder", "out", "--to", "folder"], "takes a record file"),
        (["records", "out", "--to", "records"], "this holds records"),
        (["records/train.rec", "out", "--to", "bin"], "this holds records"),
        (["one.bin", "out", "--to", "records"], "this is a file"),
        (["text.txt", "out", "--to", "memmap"], "this is a file"),
        (["empty", "out", "--to", "memmap"], "no benchmark set"),
        (["empty", "out", "--to", "records"], "expected one folder of images per identity"),
        (["folder", "out", "--to", "bin"], "ends in .bin"),
        (["folder", "out.bin", "--to", "bin"], "pairs.txt or pairs.csv"),
        (["one.bin", "out", "--to", "memmap"], "image 0 at byte"),
        (["records", "out", "--to", "folder", "--names-from", "list"], "name them by label"),
        (["folder", "out", "--to", "records", "--jobs", "0"], "--jobs must be in [1, inf)"),
        (["folder", "out", "--to", "records", "--quality", "101"], "--quality must be in [1, 100]"),
        (["folder", "text.txt/out", "--to", "records"], "Not a directory"),
        (["folder"], "OUTPUT"),
    ],
)
def test_every_mistake_is_one_line(sources, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(sources)
    before = contents(sources)
    with pytest.raises(SystemExit) as caught:
        main(argv)
    *warnings, error = capsys.readouterr().err.splitlines()  # a test before this one may have begun a log
    assert caught.value.code == 2 and message in error
    assert error.startswith("main.py convert: error: ") and all(" WARNING " in line for line in warnings)
    after = contents(sources)
    after.pop("records/train.maskwise-index", None)
    assert after == before and not list(sources.rglob("*.converting"))


@pytest.mark.convert_flag("to", "names_from", "pairs", "set_name")
def test_every_direction_through_the_program(tmp_path, capsys):
    for number, image in enumerate(render_identities("convert program", 2, 2)[0]):
        write_face(tmp_path / f"in/{'ab'[number // 2]}/{number % 2 + 1}.png", image)
    (tmp_path / "pairs.txt").write_text("a 1 2\na 1 b 1\n")
    words = [
        ["in", "rec", "--to", "records", "--encoding", "jpeg", "--quality", "90"],
        ["rec", "out", "--to", "folder", "--names_from", "list"],
        ["out", "set.bin", "--to", "bin", "--pairs", "pairs.txt"],
        ["set.bin", "sets", "--to", "memmap", "--set-name", "mine"],
    ]
    os.chdir(tmp_path)
    try:
        assert [main(line) for line in words] == [0, 0, 0, 0]
    finally:
        os.chdir(ROOT)
    assert capsys.readouterr().out.splitlines() == [
        "rec: 4 images of 2 identities", "out: 4 images of 2 identities", "set.bin: 2 pairs, 1 of them genuine",
        "sets/mine: 2 pairs",
    ]  # fmt: skip
    assert contents(tmp_path / "out") == contents(tmp_path / "in")


@pytest.mark.convert_flag("encoding", "quality", "follow_links", "overwrite")
def test_records_are_encoded_as_asked_links_followed_and_results_replaced(tmp_path):
    write_face(tmp_path / "elsewhere/0.bmp", render_identities("convert program", 1, 1)[0][0])
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").symlink_to(tmp_path / "elsewhere")
    words, sizes = [str(tmp_path / "in"), str(tmp_path / "out"), "--to", "records"], []
    with pytest.raises(SystemExit):
        main(words)
    for more in ([], ["--encoding", "jpeg"], ["--encoding", "jpeg", "--quality", "10"]):
        assert main([*words, "--follow-links", "--overwrite", *more]) == 0
        sizes.append((tmp_path / "out/train.rec").stat().st_size)
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]
    with pytest.raises(SystemExit):
        main([*words, "--follow-links"])


def test_what_is_left_out_is_said_on_stderr(folder, tmp_path):
    (folder / "note.txt").write_text("beside the identities")
    (next(path for path in sorted(folder.iterdir()) if path.is_dir()) / "note.txt").write_text("mine")
    run = program("-m datasets.convert", folder, "out", "--to", "records", cwd=tmp_path)
    assert "1 file left out: 1 .txt (not an image)" in run.stderr


def test_interrupted_by_hand_it_says_how_to_go_on(folder, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("datasets.conversion.encoding.decode_payload", interrupt)
        with pytest.raises(SystemExit) as stop:
            main([str(folder), str(tmp_path / "rec"), "--to", "records"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "main.py convert: interrupted; the same command goes on\n"
    shutil.rmtree(folder / "person 3")
    assert main([str(folder), str(tmp_path / "rec"), "--to", "records"]) == 0


def test_a_full_disk_is_one_line_and_no_result(folder, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr("datasets.conversion.to_records.encode_record", fail)
        main([str(folder), str(tmp_path / "rec"), "--to", "records"])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "rec/train.rec").exists()
    assert main([str(folder), str(tmp_path / "rec"), "--to", "records"]) == 0


def test_the_encodings_of_the_flag_are_those_of_the_encoder():
    assert convert.ENCODINGS == encoding.ENCODINGS
