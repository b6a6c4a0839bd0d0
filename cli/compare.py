"""Compare two evaluations on the same pairs: `python main.py compare --help`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from options.command import FlagParser, as_typed, user_errors
from options.evaluation import FARS_HELP, RATE
from options.flags import Options, add_flags, flag, path_word
from options.names import SEEDS
from system.files import naming, write_text
from system.terminal import printable, show

if TYPE_CHECKING:  # numpy and torch are imported only after the options are known to be right
    from cli.pairs.score_files import ScoreFile

_DESCRIPTION = """Compare two evaluations of the same pairs. A and B are folders that main_eval.py wrote, or their
scores.npz. Of every score that both have, accuracy, AUC and the TAR at each FAR that the pairs resolve are told for
both, with the difference A minus B, its 95 % interval and a two-sided p-value. Both are resampled together, over people
where they are known, thresholds anew each time. A p-value is that of one comparison: of twenty rows one falls below
0.05 by chance. Exit code: 0 done, 2 a mistake in the input."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Comparison."""

    fars: tuple[float, ...] = flag((), FARS_HELP, within=RATE)
    resamples: int = flag(
        1000, "bootstrap resamples; a p-value is at least 2 / (1 + resamples)", within="[20, 1000000]"
    )
    seed: int = flag(42, "of the resamples", within=SEEDS)
    output: str | None = flag(None, "JSON file to write the comparison to as well")


def main(argv: Sequence[str] | None = None, prog: str = "main.py compare") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} experiments/before experiments/after")
    parser.usage = f"{prog} A B [--flag value ...]"
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=path_word, help="folder of an evaluation, or its scores")
    add_flags(parser, CompareOptions, separator="-")
    with user_errors(prog):
        values = parser.read(argv)
        paths = values.pop("a"), values.pop("b")
        options = CompareOptions(**values)
        rows = [row for pair in _matching_files(*paths) for row in _compare(*pair, options)]
        if options.output is not None:
            facts = {"a": str(paths[0]), "b": str(paths[1]), "resamples": options.resamples, "seed": options.seed}
            with naming(Path(options.output)):
                write_text(Path(options.output), json.dumps({**facts, "rows": rows}, indent=1, allow_nan=False) + "\n")
    show(_table(rows))
    return 0


def _matching_files(a: Path, b: Path) -> list[tuple[str, ScoreFile, ScoreFile]]:
    """Return the sets that both have, by name."""
    from cli.pairs.score_files import find_score_files, read_scores

    first, second = find_score_files(a), find_score_files(b)
    if len(first) == len(second) == 1:  # a set alone may be called otherwise
        names = [(*first, *second)]
    else:
        names = [(name, name) for name in first if name in second]
    if not names:
        raise ValueError(f"{a} and {b} have no set in common: {', '.join(first)} and {', '.join(second)}")
    pairs = [(name.removeprefix("scores_"), first[name], second[other]) for name, other in names]
    return [(name, *_check(read_scores(one), read_scores(other))) for name, one, other in pairs]


def _check(a: ScoreFile, b: ScoreFile) -> tuple[ScoreFile, ScoreFile]:
    """Refuse files of different pairs, or without a score in common."""
    import numpy as np

    if a.issame.size != b.issame.size:
        raise ValueError(f"{a.path} has {a.issame.size:,} pairs, {b.path} {b.issame.size:,}: evaluate both on the same")
    for name in ("issame", "first", "second"):
        differing = np.flatnonzero(getattr(a, name) != getattr(b, name))
        if differing.size:
            raise ValueError(
                f"{a.path} and {b.path}: pair {differing[0]} is another one ({name}); evaluate both on the same"
            )
    if a.images and b.images and list(a.images) != list(b.images):
        raise ValueError(f"{a.path} and {b.path} name other images; evaluate both on the same")
    if not a.scores.keys() & b.scores.keys():
        raise ValueError(f"{a.path} has {', '.join(a.scores)} and {b.path} {', '.join(b.scores)}: no score in common")
    return a, b


def _compare(name: str, a: ScoreFile, b: ScoreFile, options: CompareOptions) -> list[dict[str, Any]]:
    from evaluation import FARS, Resampling, accuracy_measure, auc_measure, compare_scores, tar_measure, usual_folds

    num_impostor = int((~a.issame).sum())
    fars = options.fars or [far for far in FARS if far * num_impostor >= 1]
    folds = usual_folds(a.issame) if a.folds is None else a.folds
    measures = {"accuracy": accuracy_measure(folds), "AUC": auc_measure()}
    measures |= {f"TAR@FAR {far:g}": tar_measure(far) for far in fars}
    resampling = Resampling(a.identities, options.resamples, options.seed)
    rows = []
    for key in [key for key in a.scores if key in b.scores]:
        for title, measure in measures.items():
            found = compare_scores(a.scores[key], b.scores[key], a.issame, measure, resampling)
            condition, _, method = key.partition("_")
            values = [found.first, found.second, *found.difference[:3], found.p_value]
            columns = ("a", "b", "difference", "lower", "upper", "p_value")
            numbers = {c: v if math.isfinite(v) else None for c, v in zip(columns, values, strict=True)}
            rows.append({"set": name, "condition": condition, "method": method, "measure": title, **numbers}
                        | {"method_of_interval": resampling.describe()})  # fmt: skip
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    from evaluation.report.results import METHOD_NAMES, aligned

    def number(value: float | None, digits: int = 4) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    table = [["set", "condition", "score", "measure", "A", "B", "A - B", "95 % interval", "p"]]
    for row in rows:
        ends = f"[{number(row['lower'])}, {number(row['upper'])}]"
        numbers = [number(row[name]) for name in ("a", "b", "difference")]
        names = [printable(row["set"]), row["condition"], METHOD_NAMES[row["method"]], row["measure"]]
        table.append([*names, *numbers, ends, number(row["p_value"])])
    unresolved = sorted({row["measure"] for row in rows if row["a"] is None})
    notes = [f"not resolved by these pairs: {', '.join(unresolved)}"] if unresolved else []
    return "\n".join([*aligned(table), "", *notes, rows[0]["method_of_interval"]])
