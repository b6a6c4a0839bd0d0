"""The runs of a study, the words of the commands that train them, and whether they have ended."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from engine import runs
from models.loading import read_content


class Run(NamedTuple):
    """A run below the folder of all runs: what its folder's name begins with, and the words after main.py."""

    root: Path
    name: str
    words: tuple[str, ...]

    @property
    def folder(self) -> Path | None:
        """The newest run folder that was finished; None if there is none."""
        return next((folder for folder in runs.run_folders(self.root, self.name) if is_finished(folder)), None)

    @property
    def command(self) -> str:
        """The words in a line as a shell reads it, those that name the run and go on with it included."""
        return shlex.join((*self.words, "--prefix", self.name, "--resume_from_checkpoint", "auto"))


def is_finished(folder: Path) -> bool:
    """Return whether a run has ended: a recognizer's with its report, a pretraining's with its last epoch."""
    checkpoint = folder / "last.ckpt"
    if (folder / "report/results.json").is_file() or not checkpoint.is_file():
        return checkpoint.is_file()
    content = read_content(checkpoint)
    assert isinstance(content, dict)
    done = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return bool(done >= content["hyper_parameters"]["config"]["epochs"])
