"""The table of programs: what `python main.py <program>` and `maskwise <program>` start."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

DEFAULT = "train"
COMMAND = "maskwise"  # the console script of an installation


class Program(NamedTuple):
    """A program: a module with `main(argv, prog) -> exit code`, imported when it is started."""

    help: str  # one line
    module: str


PROGRAMS = {
    "train": Program("train, validate, test and resume a recognizer; what starts without a name", "cli.train"),
    "pretrain": Program("train a backbone on faces without labels, to begin a recognizer with", "cli.pretrain"),
    "evaluate": Program("evaluate a checkpoint on people of your own; also main_eval.py", "cli.evaluate"),
    "compare": Program("say whether one of two evaluations is better, with interval and p-value", "cli.compare"),
    "fit": Program("find the largest batch and the fastest flags for this machine", "cli.machine.fit"),
    "report": Program("write the pages of runs anew, and one that compares them", "cli.report"),
    "status": Program("say how runs are, on one page and in the terminal", "cli.watching.status"),
    "verify": Program("say whether two photographs show one person, and how sure that is", "cli.answers.verify"),
    "calibrate": Program("find thresholds for a model on people of your own", "cli.answers.calibrate"),
    "quantize": Program("make a model compute in eight bits, and say what that costs", "cli.quantize"),
    "export": Program("hand a model to programs without torch, as ONNX with a reader", "cli.deployment.export"),
    "check-model": Program(
        "check a model before it is used: weights, behavior, drawn people", "cli.deployment.check_model"
    ),
    "enrol": Program("put people into a gallery, or take them out", "cli.answers.enrol"),
    "identify": Program("look photographs up in a gallery", "cli.answers.identify"),
    "cluster": Program("guess which images of a set show one person, from their embeddings", "cli.data.cluster"),
    "embed": Program("embed a whole data set into a folder", "cli.embedding.embed"),
    "probe": Program("judge embeddings by a linear probe and by nearest neighbors", "cli.embedding.probe"),
    "check": Program("say what is in a data set and what looks wrong with it", "cli.data.check"),
    "convert": Program("turn a data set from one format into another", "cli.data.convert"),
    "split": Program("divide a data set into training and validation, by images or by people", "cli.data.split"),
    "align": Program("find the face in photographs and cut it out as recognizers expect it", "cli.data.align"),
    "detect": Program("find all faces in photographs; train and evaluate detectors", "cli.detection.program"),
    "fetch": Program("get a face detector that is not embedded, and check it", "cli.data.fetch"),
    "bench": Program("measure speed and memory against the usual way", "benchmarks.__main__"),
}


def run(argv: Sequence[str]) -> int:
    """Start the program that the first word names, else the default one, and return its exit code."""
    name, words = DEFAULT, list(argv)
    if words and not words[0].startswith(("-", "@")):
        name = words.pop(0)
    program = PROGRAMS.get(name)
    if program is None:
        close = difflib.get_close_matches(name, PROGRAMS, 1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(PROGRAMS)}"
        sys.stderr.write(f"{door()}: error: unknown program {name!r}; {hint}\n")
        return 2
    is_named = len(words) < len(argv)
    code: int = import_module(program.module).main(words, f"{door()} {name}" if is_named else door())
    return code


def door() -> str:
    """Return the name that the programs were called by: "maskwise" where that was it, else "main.py"."""
    return COMMAND if Path(sys.argv[0]).stem == COMMAND else "main.py"


def listing() -> str:
    """Return the table as text, a program a line."""
    width = max(map(len, PROGRAMS))
    return "\n".join(f"  {name:<{width}}  {program.help}" for name, program in PROGRAMS.items())
