"""Run the ablation and write its tables, as `make ablation` does.

Finished runs are kept, so the program can be stopped and started again.
"""

from __future__ import annotations

import multiprocessing
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ablation.variants import EPOCHS, FULL, HEAD, IDENTITIES, IMAGES, VARIANTS, Variant
from options.command import FlagParser, launch

if TYPE_CHECKING:  # torch is imported only after the options are known to be right
    from benchmarks.ablation.runner import Run

PROGRAM = "python -m benchmarks.ablation"
ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then write the tables; return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --jobs 2 --only full head")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every run (%(default)s)")
    parser.add_argument("--people", type=int, default=100, help="of each group that is scored (%(default)s)")
    parser.add_argument("--only", nargs="*", help="names of variants (all)")
    parser.add_argument("--output", type=Path, default=Path("experiments/ablation"), help="(%(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/ablation.md", help="page whose tables are rewritten")
    args = parser.parse_args(argv)
    from benchmarks.ablation.report import write_tables
    from benchmarks.ablation.runner import Run, score_fused_maps
    from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic

    chosen = [variant for variant in VARIANTS if args.only is None or variant.name in args.only]
    data = prepare_synthetic(spec=SyntheticSpec(IDENTITIES, IMAGES, benchmark_pairs=40))
    for same_steps in (True, False):  # equal time is known once the others have run
        stage = [variant for variant in chosen if (variant.time_of is None) == same_steps]
        run_all([Run.of(variant, seed, args.output) for variant in stage for seed in variant.seeds], args, data)
    in_parallel([partial(score_fused_maps, run) for run in unfused_runs(chosen, args.output)], args)
    write_tables(args.docs, args.output, args.people)
    return 0


def run_all(planned: list[Run], args: Namespace, data: Path) -> None:
    """Perform the runs that are not done, `--jobs` at a time."""
    from benchmarks.ablation.runner import perform_in_worker

    missing = [run for run in planned if not run.is_done]
    in_parallel([partial(perform_in_worker, run, data, epochs_of(run, args)) for run in missing], args)


def in_parallel(tasks: list[partial[None]], args: Namespace) -> None:
    """Carry out the tasks, `--jobs` at a time."""
    if not tasks:
        return
    from rich.progress import track

    from benchmarks.ablation.runner import prepare_worker

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, context, prepare_worker, (args.people,)) as pool:
        futures = [pool.submit(task) for task in tasks]
        for future in track(as_completed(futures), "training and scoring", len(futures)):
            future.result()


def unfused_runs(chosen: Sequence[Variant], output: Path) -> list[Run]:
    """Return the runs of FULL on which map fusion has not been tried."""
    from benchmarks.ablation.runner import FUSED_MAPS, Run

    planned = [Run.of(FULL, seed, output) for seed in FULL.seeds if FULL in chosen]
    return [run for run in planned if not (run.folder / f"{FUSED_MAPS}.npz").exists()]


def epochs_of(run: Run, args: Namespace) -> int:
    """Return `--epochs`, or as many as fit into the processor time of the variant that the run is to equal."""
    if run.variant.time_of is None:
        return int(args.epochs)
    from benchmarks.ablation.runner import Run

    variants = run.variant.time_of, HEAD
    longer, own = (Run.of(variant, run.seed, args.output).record()["processor_seconds"] for variant in variants)
    return round(args.epochs * longer / own)


if __name__ == "__main__":
    launch(PROGRAM, main)
