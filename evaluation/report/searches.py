"""What a search of probes in a gallery comes to, as a result dictionary holds it: see `evaluation.report.results`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols.bootstrap import Resampling, rate_intervals
from evaluation.protocols.identification import Identification, OpenPoint, open_set_points
from evaluation.report.results import SCHEMA, Results

RANKS = (1, 5, 10, 20)
FPIRS = (0.1, 0.01, 0.003)  # the last is the one of NIST's tables
MAX_RANK = 50  # of the curve
NUM_RESAMPLES = 1000


class Roles(NamedTuple):
    """What the images of a search are.

    Attributes:
        probes, gallery: which images, in words.
        num_gallery: entries of the gallery.
    """

    probes: str
    gallery: str
    num_gallery: int


def search_entry(found: Identification, people: NDArray[np.int64], roles: Roles, seed: int) -> dict[str, object]:
    """Return the entry of a search.

    Intervals resample the people of the probes that the gallery holds; the gallery and, of the open set, the threshold
    stay.

    Args:
        found: of P probes.
        people: int64 [P], of the probes.
        roles: of both sides.
        seed: of the intervals.
    Raises:
        ValueError: if the gallery holds no probe's person.
    """
    known = people[found.known]
    num_people = len(set(known.tolist()))
    resampling = Resampling(np.stack([known, known], axis=1), NUM_RESAMPLES, seed)
    resampling = resampling if num_people > 1 else Resampling(num_resamples=0)
    rank = found.rank()

    def share(hits: NDArray[np.bool_]) -> dict[str, float]:
        return rate_intervals(hits, np.ones(len(known), dtype=np.bool_), resampling).tar._asdict()

    curve = found.cmc(max(*RANKS, min(MAX_RANK, roles.num_gallery)))
    entry: dict[str, object] = {
        **{name: value for name, value in found.to_dict().items() if name.startswith("num_")},
        "num_people": num_people,
        **roles._asdict(),
        "ties": "pessimistic",
        "cmc": {str(limit): share(rank <= limit) for limit in RANKS},
        "cmc_curve": {"rank": list(range(1, len(curve) + 1)), "share": curve.round(8).tolist()},
    }
    if found.known.all():
        return entry
    own = found.own[found.known]

    def at(fpir: float) -> dict[str, object]:
        first, anywhere = found.point_at_fpir(fpir, 1), found.point_at_fpir(fpir)
        return {
            "rank_1": _tpir(first),
            "any_rank": _tpir(anywhere),
            "threshold": float("nan") if first is None else first.threshold,
            "rank_1_interval": None if first is None else share((own >= first.threshold) & (rank == 1)),
            "any_rank_interval": None if anywhere is None else share(own >= anywhere.threshold),
        }

    points = open_set_points(found.open_set(1))
    return entry | {
        "tpir_at_fpir": {f"{fpir:g}": at(fpir) for fpir in FPIRS},
        "open_set": {"fpir": points.fpir.round(10).tolist(), "fnir": points.fnir.round(10).tolist()},
    }


def search_results(name: str, searched: Mapping[str, object], protocol: Mapping[str, object], seed: int = 0) -> Results:
    """Return the result dictionary of an evaluation of searches alone.

    Args:
        name: of the set.
        searched: {checksum, ranks_count, entries}, as the dictionary has them.
        protocol: facts beside those that are known here.
        seed: of the intervals.
    """
    resampled = Resampling(np.empty((0, 2)), NUM_RESAMPLES, seed).describe()
    known = {
        "color_space": "rgb",
        "folds": "none: no threshold is chosen",
        "interval_method": f"{resampled}: those of the probes; the gallery and the thresholds stay",
    }
    return Results(
        schema=SCHEMA,
        synthetic=False,
        missing=[],
        protocol=known | dict(protocol),
        benchmarks={},
        searches={name: searched},
    )


def _tpir(point: OpenPoint | None) -> float:
    return float("nan") if point is None else point.tpir
