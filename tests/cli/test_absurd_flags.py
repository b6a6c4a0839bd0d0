"""Whatever a flag says, the answer is one line and exit code 2, before anything large is built."""

from itertools import product

import pytest
from programs import SMALL_RUN, refusal

import main
import main_eval
from cli.data import check, convert
from config import Config

pytestmark = pytest.mark.usefixtures("in_empty_folder")

NUMBERS = [option for option in Config.options() if option.base in (int, float) and not option.many]
LISTS = [option for option in Config.options() if option.base is int and option.many]
# Each option has a range of its own; how a word is read follows from the kind of option alone.
OUTSIDE = ["1e308", "-1e308", "nan"]
UNREADABLE = ["9" * 400, "-" + "9" * 400, "9" * 5000, "1" + "0" * 30, "1e400", "inf", "-inf", ""]
KINDS = [next(option for option in NUMBERS if option.base is base) for base in (int, float)] + LISTS[:1]
CASES = [*((option, word) for option in NUMBERS + LISTS for word in OUTSIDE), *product(KINDS, UNREADABLE)]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(("option", "word"), CASES, ids=lambda value: getattr(value, "name", None))
def test_a_number_that_is_none_or_beyond_all_measure_is_refused(option, word, capsys):
    assert option.name in refusal(capsys, main.main, f"--{option.name}={word}")


@pytest.mark.parametrize("word", ["9" * 400, "1e308", "nan", "0", "-1"])
def test_the_other_programs_refuse_such_numbers_too(word, capsys, tmp_path):
    assert "batch" in refusal(capsys, main_eval.main, f"--batch-size={word}", "--model-path", "m", "--data-path", "d")
    assert "jobs" in refusal(capsys, check.main, tmp_path, f"--jobs={word}")
    assert "jobs" in refusal(capsys, convert.main, tmp_path, tmp_path / "out", "--to", "records", f"--jobs={word}")


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--embedding_size 1000000000", "--embedding_size"),
        ("--embedding_size 2147483647 --arch mobilefacenet", "--embedding_size"),
        ("--qaconv_channels 2000000000", "--qaconv_channels"),
        ("--batch_size 1000000000", "--batch_size"),
        ("--batch_size 1000000000000", "--batch_size"),
        ("--synthetic_identities 1000000000", "synthetic faces"),
        ("--synthetic_images 2000000000", "synthetic faces"),
        ("--num_processes 100000 --batch_size 400000", "--num_processes"),
        ("--custom_num_class 2000000000", "2000000000 identities"),
        ("--custom_num_class 2000000000 --class_embeddings", "--class_embeddings"),
        ("--epochs 1000000000000000000000000000000", "--epochs"),
    ],
)
def test_sizes_beyond_the_memory_or_the_disk_are_refused(flags, named, capsys):
    assert named in refusal(capsys, main.main, *SMALL_RUN, *flags.split())


@pytest.mark.parametrize("word", [2**31 - 1, 10**9, 10**8])
def test_an_evaluation_refuses_batches_beyond_the_memory_before_it_writes_or_reads(word, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.out_of_memory.available_memory", lambda: 4e12)
    argv = [f"--batch-size={word}", "--model-path=m", "--data-path=d", "--output-dir=out"]
    assert f"--batch-size {word}: needs at least " in refusal(capsys, main_eval.main, *argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["shortlist", "seed", "num-workers", "threads"])
def test_no_other_number_of_an_evaluation_asks_for_more_memory_than_there_is(name, faces, trained, capsys):
    argv = ["--model-path", trained / "last.ckpt", "--data-path", faces / "train", "--output-dir=out", "--gpus=0"]
    given = [*map(str, argv), f"--{name}={2**31 - 1}"]
    if name == "threads":
        assert "[0, 1024]" in refusal(capsys, main_eval.main, *given)
    else:
        assert main_eval.main(given) == 0


def test_more_workers_than_the_machine_has_cores_are_cut_down(capsys, tmp_path):
    line = refusal(capsys, main.main, *SMALL_RUN, "--num_workers", "1000000", "--data_root", tmp_path / "nowhere")
    assert "nowhere" in line


def test_sizes_that_fit_are_not_refused(monkeypatch):
    from cli.refusals import check_memory

    check_memory(Config(arch="ir_101"), {"0": 85_742})
    monkeypatch.setattr("engine.out_of_memory.available_memory", lambda: 5e8)
    with pytest.raises(ValueError, match=r"--arch ir_101 .* 0\.50 GB are available"):
        check_memory(Config(arch="ir_101", gpus=0), {"0": 1000})
    monkeypatch.setattr("engine.out_of_memory.available_memory", lambda: None)
    check_memory(Config(arch="ir_101"), {"0": 85_742})
