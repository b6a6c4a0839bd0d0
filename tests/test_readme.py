"""The commands of the README: every flag and target of them exists."""

import re
import shlex
from pathlib import Path

import pytest

from config import get_args, get_eval_args

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
PROGRAMS = {"main.py": get_args, "main_eval.py": get_eval_args}


def commands(word):
    return [words for words in map(shlex.split, LINES) if any(each.endswith(word) for each in words)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_flags_of_a_program_exist(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert commands(name)
    for words in commands(name):
        place = next(number for number, word in enumerate(words) if word.endswith(name))
        PROGRAMS[name](words[place + 1 :])


def test_targets_of_make_exist():
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert commands("make")
    for words in commands("make"):
        assert {word for word in words[1:] if "=" not in word} <= set(targets)


def test_modules_that_are_run_exist():
    for words in commands("-m"):
        module = ROOT / words[words.index("-m") + 1].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
