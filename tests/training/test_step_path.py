"""A stranger who follows one training step reads few files."""

import re
import sys
from pathlib import Path

from programs import ROOT
from short_runs import build

from train_val import Recognizer

# The score matrix has a file of its own beside the terms: both together were too long for one.
MOST_MODULES, MOST_LINES = 14, 220


def test_a_training_step_passes_through_few_modules_outside_the_matcher(noise_faces, tmp_path, monkeypatch):
    passed = set()

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and not {".venv", "site-packages", "tests"} & {*path.parts}:
            passed.add(path.relative_to(ROOT).as_posix())

    step = Recognizer.optimizer_step

    def watched(self, *args):
        sys.setprofile(note)
        try:
            step(self, *args)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(Recognizer, "optimizer_step", watched)
    model, datamodule, trainer = build(tmp_path, data_root=noise_faces, log_every_n_steps=50)
    trainer.fit(model, datamodule=datamodule)
    # What the batch's memory does when Python lets go of it is no part of the step.
    ours = {path for path in passed if not path.startswith(("qaconv/", "datasets/"))}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## One training step")[1].split("\n## ")[0]
    assert ours == set(re.findall(r"^ *([\w/]+\.py) ", section, re.MULTILINE)), "docs/architecture.md draws the step"
    assert len(ours) <= MOST_MODULES


def test_the_recognizer_is_read_in_one_sitting():
    assert len((ROOT / "train_val.py").read_text().splitlines()) <= MOST_LINES
