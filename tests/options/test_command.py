"""What a shell, a terminal and a hurried user do to every program."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT
from test_architecture import declared, programs

from config import explicit_flags, get_args, get_eval_args
from options import command
from options.command import FlagParser


def start(program, *words, python=(sys.executable,), **options):
    """Run a program from the root and return the finished process."""
    options = {"capture_output": True, "text": True} | options
    return subprocess.run([*python, *program.split(), *words], cwd=ROOT, timeout=60, **options)


def shell(line, **options):
    """Run a line of the shell, in which `python` is this interpreter, and return the finished process."""
    script = f'python() {{ "{sys.executable}" "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", script], cwd=ROOT, timeout=60, capture_output=True, text=True, **options)


def refusal(capsys, argv, read=get_args):
    """Return the one line on stderr of a command that is refused with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        read(argv)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1
    assert all(c.isprintable() for c in line[:-1])
    return line


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--ephocs", "--epochs"), ("--batchsize", "--batch_size"), ("--batch-sise=8", "--batch_size"),
        ("--learning_rate_milestones", "--lr_milestones"), ("--lr_mile", "--lr_milestones"), ("--EPOCHS", "--epochs"),
        ("--no_compil", "--no_compile"), ("--hlep", "--help"), ("--epoch", "--epochs"),
    ],
)  # fmt: skip
def test_an_unknown_flag_is_answered_with_the_known_one_that_is_nearest(given, meant, capsys):
    line = refusal(capsys, [given, "3"])
    assert line == f"main.py: error: unknown flag {given.split('=')[0]}; did you mean {meant}?\n"


def test_an_evaluation_flag_is_suggested_as_its_help_spells_it(capsys):
    assert "did you mean --model-path?" in refusal(capsys, ["--model_pth", "x"], get_eval_args)


def test_a_flag_like_no_other_points_to_the_help(capsys):
    assert "unknown flag --qqq; main.py --help lists all" in refusal(capsys, ["--qqq"])


@pytest.mark.parametrize("read", [get_args, get_eval_args])
def test_words_without_a_flag_are_told_with_the_form(read, capsys):
    line = refusal(capsys, ["--gpus", "0", "last.ckpt", "my faces\x1b"], read)
    assert "no flag takes last.ckpt my faces\\x1b: write --flag before a value; " in line


def test_a_value_that_looks_like_a_number_is_no_unknown_flag(capsys):
    assert "--lr must be in" in refusal(capsys, ["--lr", "-1"])
    assert "--lr must be in" in refusal(capsys, ["--lr", "-.5"])


@pytest.mark.parametrize("program", programs())
def test_every_program_suggests_and_tells_its_version(program):
    wrong = start(program, "--hepl")
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("error: unknown flag --hepl; did you mean --help?\n") and wrong.stderr.count("\n") == 1
    told = start(program, "--version")
    assert told.returncode == 0
    assert re.fullmatch(r"maskwise \d+\.\d+\.\d+( \(git [0-9a-f]{7,}(-dirty)?\))?\n", told.stdout)


def test_outside_a_checkout_the_version_stands_alone(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert command.version() == "maskwise 1.2.3"


@pytest.mark.parametrize("word", ["--use_wandb", "--use-wandb"])
def test_adafaces_flag_for_wandb_is_taken_with_a_note(word, caplog):
    assert get_args([word]).wandb == "online"
    assert get_args([word, "--wandb", "offline"]).wandb == "offline", "the last one wins"
    assert caplog.records[0].getMessage() == "--use_wandb: --wandb online is its name here"
    assert explicit_flags([word]) == {"wandb"}


def test_adafaces_own_command_line_runs():
    flags = """--data_root d --train_data_path t --val_data_path v --use_mxrecord --train_data_subset
        --swap_color_channel --prefix p --gpus 0 --distributed_backend ddp --use_16bit --epochs 24 --seed 1
        --batch_size 256 --lr 0.1 --lr_milestones 8,12,14 --lr_gamma 0.1 --num_workers 16 --fast_dev_run
        --start_from_model_statedict w --evaluate --use_wandb --custom_num_class 10 --arch ir_18 --momentum 0.9
        --weight_decay 1e-4 --head adaface --m 0.5 --h 0.0 --s 64 --t_alpha 0.01 --low_res_augmentation_prob 0.1
        --crop_augmentation_prob 0.1 --photometric_augmentation_prob 0.1 --accumulate_grad_batches 1
        --save_all_models"""
    assert get_args(flags.split()).wandb == "online"


# ---------------------------------------------------------------- argument files


def make_binary(path):
    path.write_bytes(b"--lr\0\x01\x02")


def make_latin(path):
    path.write_bytes(b"--prefix gr\xfc\xdfe")


def make_large(path):
    path.write_text("# nothing\n" * 2**16)


def make_sparse(path):
    with path.open("wb") as stream:
        stream.truncate(2**40)


def make_loop(path):
    path.symlink_to(path)


def make_chain(path):
    for number in range(200):
        (path.parent / f"{number}.args").write_text(f"@{number + 1}.args\n")
    path.symlink_to(path.parent / "0.args")


def make_bush(path):
    for number in range(40):
        (path.parent / f"{number}.args").write_text(f"@{number + 1}.args @{number + 1}.args\n")
    (path.parent / "40.args").write_text("")
    path.symlink_to(path.parent / "0.args")


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, make_binary, make_latin, make_large, make_sparse, make_loop, make_chain, make_bush],
    ids=lambda make: make.__name__,
)
def test_an_argument_file_that_is_none_is_one_line_at_once(make, tmp_path, capsys):
    path = tmp_path / "flags.args"
    make(path)
    assert "argument file" in refusal(capsys, [f"@{path}"])


@pytest.mark.parametrize(
    "word", ["@/dev/zero", "@/dev/stdin", "@", "@a\0b", "@" + "x" * 5000, "@\udcff", "@/dev/null/x"]
)
def test_an_argument_file_that_cannot_be_is_one_line(word, capsys):
    assert "argument file" in refusal(capsys, [word])


def test_argument_files_of_very_many_words_are_one_line_at_once(tmp_path, capsys):
    (tmp_path / "flags.args").write_text("--lr 1 " * 30_000)
    assert "words in all" in refusal(capsys, [f"@{tmp_path / 'flags.args'}"])


def test_an_argument_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "flags.args").write_bytes(b"\xef\xbb\xbf--epochs 3")
    assert get_args([f"@{tmp_path / 'flags.args'}"]).epochs == 3


# ---------------------------------------------------------------- what a terminal gets


@pytest.mark.parametrize("word", ["--\x1b[31mred", "stray\x1b[2J", "--lr=\x1b[31m", "--arch=\udce9\r", "--epochs=\x9b"])
def test_an_error_about_a_word_shows_it_escaped(word, capsys):
    assert refusal(capsys, [word]).startswith("main.py: error: ")


def test_a_long_word_is_shortened_in_the_error(capsys):
    assert len(refusal(capsys, ["--lr", "9" * 100_000 + "x"])) < 1500


# ---------------------------------------------------------------- streams


# What stands behind one of them, as in `main.py verify`, has the streams that its door has opened.
DOORS = [name for name in programs() if len(name.removeprefix("-m ").split()) == 1]


@pytest.mark.parametrize("program", DOORS)
def test_a_reader_that_goes_away_is_no_error(program):
    done = shell(f"set -o pipefail; python {program} --help | head -1; exit ${{PIPESTATUS[0]}}")
    assert done.returncode in (0, 141)
    assert done.stdout.startswith("usage: ") and done.stderr == ""


def test_output_that_nobody_reads_ends_a_program_without_a_traceback():
    code = "import sys; from options import command; command.launch('p', lambda: sys.stdout.write('x' * 10**6) and 0)"
    done = shell(f'python -c "{code}" | true; exit ${{PIPESTATUS[0]}}')
    assert done.returncode in (0, 141) and done.stderr == ""


ALL_CLOSED = "<&- >&- 2>&-"


@pytest.mark.parametrize("program", ["main.py", "main_eval.py", "-m datasets.check"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ALL_CLOSED])
def test_closed_streams_do_not_matter(program, closed):
    assert shell(f"python {program} --help {closed}").returncode == 0
    done = shell(f"python {program} --nonsense {closed}")
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize("program", DOORS)
def test_no_program_needs_any_stream(program):
    assert shell(f"python {program} --help {ALL_CLOSED}").returncode == 0


def test_a_file_that_is_opened_does_not_get_the_number_of_a_closed_stream(tmp_path):
    path = tmp_path / "precious"
    body = f"file = open('{path}', 'w'); os.write(1, b'noise'); return 0"
    code = f"import os\nfrom options import command\ndef main(): {body}\ncommand.launch('p', main)"
    shell(f'python -c "{code}" <&- >&-')
    assert path.read_text() == ""


def test_stdout_that_cannot_be_written_is_one_line():
    done = shell("python main.py --version > /dev/full")
    assert done.returncode in (0, 74) and "Traceback" not in done.stderr and done.stderr.count("\n") <= 1


def test_an_interruption_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        command.launch("main.py", interrupted)
    assert stop.value.code == 130 and capsys.readouterr().err == "main.py: interrupted\n"


# ---------------------------------------------------------------- the wrong Python


@pytest.mark.parametrize(
    ("program", "words", "remedy"),
    [
        ("main.py", ["--gpus", "0"], "use .venv/bin/python main.py"),
        ("main_eval.py", ["--model-path", "m", "--data-path", "d"], "use .venv/bin/python main_eval.py"),
        ("-m datasets.check", ["."], "use .venv/bin/python -m datasets.check"),
        ("-m benchmarks.ablation", [], "use .venv/bin/python -m benchmarks.ablation"),
    ],
)
def test_a_python_without_the_packages_is_told_in_one_line(program, words, remedy):
    done = start(program, *words, python=(sys.executable, "-S"))
    assert done.returncode == 2
    assert "PyTorch is not installed for this Python; run `make setup`" in done.stderr
    assert done.stderr.endswith(f"{remedy}\n") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", sorted(declared() - {"torch"}))
def test_each_missing_package_is_named(name, capsys):
    def program():
        raise ModuleNotFoundError(f"No module named {name!r}", name=f"{name}.part")

    with pytest.raises(SystemExit) as stop:
        command.launch("main.py", program)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and f"error: {command.PACKAGE_NAMES.get(name, name)} is not installed" in line


def test_a_module_of_ours_that_is_missing_is_a_defect():
    def program():
        raise ModuleNotFoundError("No module named 'datasets.gone'", name="datasets.gone")

    with pytest.raises(ModuleNotFoundError):
        command.launch("main.py", program)


@pytest.mark.parametrize("program", ["main.py", "main_eval.py"])
def test_an_old_python_is_told_in_one_line(program):
    code = f"import sys, runpy; sys.version_info = (3, 9, 1); runpy.run_path({program!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "Python 3.11 or newer is needed" in done.stderr


# ---------------------------------------------------------------- the parser


def test_a_parser_shows_its_example_unwrapped(capsys):
    example = "python main.py " + "--flag word " * 20
    with pytest.raises(SystemExit):
        FlagParser("p", "First paragraph.\n\nSecond.", example).parse_args(["--help"])
    text = capsys.readouterr().out
    assert f"\nexample:\n  {example}\n" in text
    assert "First paragraph.\n\nSecond." in text


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda path: path.name)
def test_every_command_of_the_documents_names_the_environment(page):
    lines = [line for line in page.read_text().splitlines() if not line.startswith("| python ")]  # a measured table
    bare = [line for line in lines if re.search(r"(?<![/\w])(python3? (-m |main)|torchrun -)", line)]
    assert bare == []
