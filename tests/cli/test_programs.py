"""One door for all programs: the table, the names they are called by, and torch.hub."""

import sys
from importlib import import_module

import pytest
import torch
from programs import ROOT, program

import hubconf
import main
import nets
from cli import programs
from cli.programs import PROGRAMS


@pytest.fixture
def called(monkeypatch):
    """Replace every program by one that notes what it is given."""
    calls = []

    class Stand:
        def __init__(self, name):
            self.main = lambda argv, prog: calls.append((name, argv, prog)) or 7

    monkeypatch.setattr(programs, "import_module", Stand)
    return calls


@pytest.mark.parametrize(
    ("argv", "call"),
    [
        ([], ("cli.train", [], "main.py")),
        (["--epochs", "2"], ("cli.train", ["--epochs", "2"], "main.py")),
        (["@demo.args", "check"], ("cli.train", ["@demo.args", "check"], "main.py")),
        (["train", "--epochs", "2"], ("cli.train", ["--epochs", "2"], "main.py train")),
        (["evaluate", "--seed", "1"], ("cli.evaluate", ["--seed", "1"], "main.py evaluate")),
        (["bench", "step"], ("benchmarks.__main__", ["step"], "main.py bench")),
    ],
)
def test_the_first_word_names_the_program_and_the_default_trains(called, argv, call):
    assert main.main(argv) == 7
    assert called == [call]


def test_an_installed_command_calls_itself_by_its_name(called, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/maskwise", "check", "faces"])
    with pytest.raises(SystemExit) as end:
        main.start()
    assert end.value.code == 7
    assert called == [("cli.data.check", ["faces"], "maskwise check")]


@pytest.mark.parametrize(("word", "hint"), [("evalute", "did you mean evaluate?"), ("x", "choose from train, ")])
def test_an_unknown_program_is_one_line(word, hint, capsys):
    assert main.main([word, "--epochs", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"main.py: error: unknown program '{word}'; {hint}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_a_main_and_stands_in_the_help(name, capsys):
    assert callable(import_module(PROGRAMS[name].module).main)
    with pytest.raises(SystemExit):
        main.main(["--help"])
    width = max(map(len, PROGRAMS))
    assert f"\n  {name:<{width}}  {PROGRAMS[name].help}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["check", "convert"])
def test_older_names_of_programs_go_on_working(name, tmp_path):
    def run(*command):
        words = ["nowhere", *(["out", "--to", "records"] if name == "convert" else [])]
        done = program(*command, *words, cwd=tmp_path, check=False)
        return done.returncode, done.stderr.partition("error: ")[2]

    assert run("main.py", name) == run(f"-m datasets.{name}")
    assert run("main.py", name)[0] == 2


def test_torch_hub_builds_every_backbone():
    model = torch.hub.load(str(ROOT), "ir_tiny", source="local", embedding_size=16)
    assert set(nets.MODELS) <= vars(hubconf).keys()
    assert isinstance(model, nets.Backbone) and not model.training
    assert model(torch.zeros(1, 3, 112, 112)).embedding.shape == (1, 16)
