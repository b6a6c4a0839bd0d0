"""The commands of the README: every flag and target of them exists; its Python runs."""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import torch
from untrained import write_checkpoint

from cli.programs import PROGRAMS
from config import get_args, get_eval_args

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
READ_BY = {"train": get_args, "evaluate": get_eval_args}  # check and convert read theirs when they run


def commands(word):
    return [words for words in map(shlex.split, LINES) if any(each.endswith(word) for each in words)]


def test_programs_and_their_flags_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    called = []
    for words in commands("bin/maskwise"):
        argv = words[words.index(".venv/bin/maskwise") + 1 :]
        name = "train" if argv[0].startswith(("-", "@")) else argv.pop(0)
        called.append(name)
        assert name in PROGRAMS
        if name in READ_BY:
            READ_BY[name](argv)
    assert {"train", "evaluate", "check", "convert", "align"} <= set(called)


def test_targets_of_make_exist():
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert commands("make")
    for words in commands("make"):
        assert {word for word in words[1:] if "=" not in word} <= set(targets)


def test_modules_that_are_run_exist():
    for words in commands("-m"):
        module = ROOT / words[words.index("-m") + 1].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()


def test_the_python_section_runs(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "my_people").mkdir()
    for name in ("a.png", "b.png", "my_people/c.png"):
        cv2.imwrite(str(tmp_path / name), np.full((112, 112, 3), 128, np.uint8))
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    names = {"images": torch.zeros(2, 3, 112, 112)}
    exec(program, names)
    assert names["scores"].qaconv is not None and names["faces"].visibility.shape == (2, 1, 7, 7)
    assert [path.name for path in names["paths"]] == ["c.png"]
