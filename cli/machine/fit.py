"""Find the largest batch and the fastest flags for this machine: `python main.py fit --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.answers.shared import check_writable
from cli.machine.fitting import KNOBS, Fitting, TrialFailedError
from config import Config, add_task_arguments
from options.command import FlagParser, as_typed, interruptible, user_errors
from options.flags import Options, add_flags, flag
from options.names import COUNT, IMAGES_PER_IDENTITY, NOT_NEGATIVE, POSITIVE
from system.cores import bound_waiting
from system.launch import find_launch
from system.terminal import printable

_DESCRIPTION = """Find the largest batch that a training can have on this machine, and the flags that are fastest there.
The flags of the training are given as to main.py, its data too. Each trial is a training of some steps in a process of
its own, which may run out of memory. Prints the flags to copy, and how long training, embedding and matching take.
Interrupted, the same command goes on. Exit code: 0 done, 1 a trial failed, 2 a mistake in the input, or nothing fits,
130 interrupted."""


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Fit."""

    margin: float = flag(0.1, "share of the memory that is left free", within="[0, 0.9]")
    memory_limit: float | None = flag(
        None, "MiB of memory to fit into, of the GPU where one computes; else what is free when the fit begins",
        within=POSITIVE,
    )  # fmt: skip
    max_batch: int = flag(4096, "largest batch to try", within=f"[{IMAGES_PER_IDENTITY}, inf)")
    trial_seconds: float = flag(
        300.0, "seconds that three steps may take once the data are ready; a batch that takes longer is too large",
        within=POSITIVE,
    )  # fmt: skip
    timed_steps: int = flag(
        8, "steps of a trial whose time counts, after warm-up; on a GPU at least two a worker", within="[2, 10000]"
    )
    vary: tuple[str, ...] = flag(KNOBS, "flags to try values of, at the largest batch; none: none", choices=KNOBS)
    table_seconds: float = flag(
        1.0, "seconds for each row of the tables of embedding and matching; 0: no tables", within=NOT_NEGATIVE
    )
    table_batches: tuple[int, ...] = flag((1, 8, 64), "batches of these two tables", within=COUNT)
    snapshot: bool = flag(
        False, "on a GPU: write what its memory held when it last ran out, for pytorch.org/memory_viz"
    )
    output: str = flag("fit.json", "file to keep all trials in; the same command goes on from it")


def main(argv: Sequence[str] | None = None, prog: str = "main.py fit") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} --data_root my_faces --arch ir_50 --margin 0.15")
    add_flags(parser, FitOptions, defaults=False)
    add_task_arguments(parser, defaults=False)
    with user_errors(prog), interruptible(prog):
        given = parser.read(argv)
        own = {option.name for option in FitOptions.options()}
        options = FitOptions(**{name: value for name, value in given.items() if name in own})
        config = Config(**{name: value for name, value in given.items() if name not in own})
        refuse_other_runs(config)
        check_writable(Path(options.output))
        bound_waiting()  # is read when torch is imported
        fitting = Fitting(options, config, start="batch_size" in given)
        try:
            fitting.run()
        except TrialFailedError as error:
            sys.stderr.write(f"{prog}: {printable(str(error), 1000)}\n")
            return 1
    return 0


def refuse_other_runs(config: Config) -> None:
    """Refuse options of runs that fit does not begin.

    Raises:
        ValueError: one line that names the flag.
    """
    for name in ("evaluate", "resume_from_checkpoint", "override", "check_mode", "fast_dev_run"):
        if getattr(config, name):
            raise ValueError(f"--{name} conflicts with fit, which begins short trainings of its own; leave it out")
    if find_launch() is not None or config.num_processes > 1 or config.gpus > 1:
        raise ValueError(
            "fit measures one rank: start it alone, with --gpus 1 or 0 and --num_processes 1; a run of several ranks"
            " takes --batch_size times their number"
        )
