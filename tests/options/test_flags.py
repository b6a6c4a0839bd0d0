import dataclasses
import subprocess
import sys

import pytest
from programs import ROOT

from config import explicit_flags, get_args
from options.flags import Options, flag, parse_value, user_errors


def refusal(capsys, argv):
    """Return the one line on stderr of a command that is refused with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        get_args(argv)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1
    return line


def test_argument_file_takes_comments_lines_quotes_and_nesting(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "head.args").write_text("--head cosface\n@more.args\n")
    (tmp_path / "parts" / "more.args").write_text("--m 0.35 # nested once more\n")
    recipe = tmp_path / "run.args"
    recipe.write_text("# a recipe\n--epochs 3 --lr 0.5\n\n--prefix 'two words'\n@parts/head.args\n--compile\n")
    config = get_args([f"@{recipe}", "--lr", "0.25"])
    assert (config.epochs, config.lr, config.prefix, config.head, config.m) == (3, 0.25, "two words", "cosface", 0.35)
    assert config.compile
    assert explicit_flags([f"@{recipe}"]) == {"epochs", "lr", "prefix", "head", "m", "compile"}
    assert get_args(["--lr", "0.25", f"@{recipe}"]).lr == 0.5, "the last one wins"


def test_argument_file_faults_are_one_line(tmp_path, capsys):
    loop = tmp_path / "loop.args"
    loop.write_text("@loop.args\n")
    assert "includes itself" in refusal(capsys, [f"@{loop}"])
    assert "No such file" in refusal(capsys, [f"@{tmp_path / 'absent.args'}"])
    loop.write_text("--prefix 'open\n")
    assert "No closing quotation" in refusal(capsys, [f"@{loop}"])


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("two\n lines\n"), r"two\n lines"), (FileNotFoundError("one line"), "one line")]
)
def test_bad_input_ends_in_one_line_and_exit_code_2(error, line, capsys):
    with pytest.raises(SystemExit) as stop, user_errors("main.py"):
        raise error
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"main.py: error: {line}\n"


def test_defects_keep_their_traceback():
    with pytest.raises(TypeError, match="ours"), user_errors("main.py"):
        raise TypeError("ours")


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [("[0, 1]", (0, 1, 0.5), (-0.1, 1.1)), ("(0, 1)", (0.5,), (0, 1)), ("[2, inf)", (2, 1e9), (1.9, float("inf")))],
)
def test_intervals(within, inside, outside):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Section(Options):
        """Numbers."""

        x: float = flag(0.5 if within != "[2, inf)" else 2.0, "a number", within=within)

    for value in inside:
        assert Section(x=value).x == value
    for value in outside:
        with pytest.raises(ValueError, match="--x must be in"):
            Section(x=value)


def test_config_loads_the_standard_library_only():
    code = "import sys, config; config.get_args([]); print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = set(loaded.stdout.split()) - sys.stdlib_module_names - {"config", "flags"}
    assert not {"torch", "numpy", "pytorch_lightning", "cv2"} & ours


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--data_root=~/faces"], "data_root", "HOME/faces"),
        (["--data_root", "~"], "data_root", "HOME"),
        (["--data_root", "./~/faces"], "data_root", "./~/faces"),
        (["--prefix", "a~b"], "prefix", "a~b"),
        (["@~/own.args"], "data_root", "HOME/listed"),
    ],
)
def test_a_tilde_that_no_shell_has_replaced_is_the_home_folder(words, field, value, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.args").write_text("--data_root ~/listed\n")
    assert getattr(get_args(words), field) == value.replace("HOME", str(tmp_path))


def test_a_tilde_is_replaced_in_every_path_of_a_list(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    program = dataclasses.make_dataclass(
        "Program", [("sets", tuple[str, ...], flag((), "paths"))], bases=(Options,), frozen=True, kw_only=True
    )
    (option,) = program.options()
    assert parse_value(option, "~/a, ~/b,c") == (f"{tmp_path}/a", f"{tmp_path}/b", "c")
