"""The commands of the README: every flag and target of them exists; its Python runs."""

import re
import shlex
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from photographs import background, faces, place
from portraits import write_people
from untrained import write_checkpoint

import models
from cli.programs import PROGRAMS
from config import get_args, get_eval_args
from options.answers import CalibrateOptions, EnrolOptions, IdentifyOptions, VerifyOptions
from options.command import FlagParser
from options.flags import add_flags

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
ANSWERS = {
    "verify": VerifyOptions,
    "calibrate": CalibrateOptions,
    "enrol": EnrolOptions,
    "identify": IdentifyOptions,
}
READ_BY = {"train": get_args, "evaluate": get_eval_args}  # check and convert read theirs when they run


def commands(word):
    return [words for words in map(shlex.split, LINES) if any(each.endswith(word) for each in words)]


def test_programs_and_their_flags_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    called = []
    for words in commands("bin/maskwise"):
        argv = [word.replace("$MODEL", "last.ckpt") for word in words[words.index(".venv/bin/maskwise") + 1 :]]
        name = "train" if argv[0].startswith(("-", "@")) else argv.pop(0)
        called.append(name)
        assert name in PROGRAMS
        if name in READ_BY:
            READ_BY[name](argv)
        if name in ANSWERS:
            parser = FlagParser(name, "")
            add_flags(parser, ANSWERS[name])
            ANSWERS[name](**parser.read(argv[first_flag(argv) :]))
    assert {"train", "evaluate", "check", "convert", "align", *ANSWERS} <= set(called)


def first_flag(argv):
    return next(place for place, word in enumerate(argv) if word.startswith("--"))


def test_targets_of_make_exist():
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert commands("make")
    for words in commands("make"):
        assert {word for word in words[1:] if "=" not in word} <= set(targets)


def test_modules_that_are_run_exist():
    for words in commands("-m"):
        module = ROOT / words[words.index("-m") + 1].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()


def test_the_python_sections_run(tmp_path, monkeypatch, capsys):
    write_checkpoint(tmp_path / "last.ckpt")
    write_people(tmp_path / "my_people", num=4)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((112, 112, 3), 128, np.uint8))
    for person, face in enumerate(faces()[:4]):
        for path in (f"photographs/p{person}/0.jpg", f"photographs/p{person}/1.jpg", "a.jpg", "b.jpg"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            photograph = background(np.random.default_rng(len(path) + person))
            place(face, photograph, scale=1.3 if path.endswith("0.jpg") else 1.5)
            cv2.imwrite(str(tmp_path / path), photograph[..., ::-1])
    monkeypatch.chdir(tmp_path)
    describing, answering = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    names = {"images": torch.zeros(2, 3, 112, 112)}
    exec(describing, names)
    assert names["scores"].qaconv is not None and names["faces"].visibility.shape == (2, 1, 7, 7)
    assert len(names["paths"]) == 8
    # Four people resolve no rate below a whole: what README's people would, these need not.
    monkeypatch.setattr("models.calibrate", partial(models.calibrate, plan=models.Plan(fars=(1.0,), num_draws=100)))
    exec(answering.replace("my_people", "photographs"), answers := {})
    assert answers["embedding"].shape[0] == 1
    text = capsys.readouterr().out
    assert "same person: score adaface" in text and text.count("\n1. ") == 1
