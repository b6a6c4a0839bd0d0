"""What is measured on the scores: one threshold, set on clean pairs, and what it does under every condition."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.scores import CONDITIONS, MAPS, Columns
from evaluation import ScoreNormalization, Shares, auc, fit_normalization, fit_statistics, fuse_with, tar_at_far

FAR = 1e-2
WEIGHTS = {"adaface": 0.7, "qaconv": 0.3}  # the default, the best of 0.5, 0.6, 0.7 on development people
NUM_RESAMPLES = 400
_RESAMPLES_AT_ONCE = 50

Scores = NDArray[np.float64]
Arm = dict[str, list[Scores]]  # by condition, by draw of occluders


class Pairs(NamedTuple):
    """The pairs of a group: people int64 [N, 2], and bool [N] which show one person."""

    people: NDArray[np.int64]
    issame: NDArray[np.bool_]


def arms_of_method(test: Columns, dev: Columns, dev_pairs: Pairs) -> dict[str, Arm]:
    """Return the scores of a run of the method: as they come, as the checkpoint normalizes them, and with other maps.

    "raw" scores are z-scores by clean development pairs. "as saved" are what evaluation gives. Of the others the
    normalization is fitted on development people with the map of their name, so that maps are compared alike.
    """
    arms = {"embedding, raw": _raw(test, ("adaface",), dev, dev_pairs)}
    arms["fused, raw"] = _raw(test, ("adaface", "qaconv predicted"), dev, dev_pairs)
    arms["matcher, raw"] = _raw(test, ("qaconv predicted",), dev, dev_pairs)
    arms["matcher, no map"] = _raw(test, ("qaconv none",), dev, dev_pairs)
    arms["fused, no map"] = _raw(test, ("adaface", "qaconv none"), dev, dev_pairs)
    saved = ScoreNormalization.from_dict(json.loads(str(test["normalization"])))
    arms |= _named(_normalized(test, saved, "predicted"), "{}")
    for kind in MAPS:
        shares = "predicted" if kind == "none" else kind
        fitted = _fit(dev, dev_pairs, {"adaface": "adaface", "qaconv": f"qaconv {kind}"}, shares)
        arms |= _named(
            _normalized(test, fitted, kind, shares),
            {"none": "{}, map in the norm alone"}.get(kind, f"{{}}, {kind} map"),
        )
    return arms


def arms_of_head(test: Columns, dev: Columns, dev_pairs: Pairs, seen: Columns, dev_seen: Columns) -> dict[str, Arm]:
    """Return the scores of a run of the margin head alone, raw and normalized by the shares that the method sees."""
    raw = _raw(test, ("adaface",), dev, dev_pairs)
    shares = {key: values for key, values in dev_seen.items() if "shares" in key}
    fitted = _fit(dev | shares, dev_pairs, {"adaface": "adaface"}, "predicted")
    others = {key: values for key, values in seen.items() if "shares" in key}
    normalized = _normalized(test | others, fitted, "predicted")["adaface"]
    return {"head only, raw": raw, "head only, normalized": normalized}


def _named(arms: Mapping[str, Arm], form: str) -> dict[str, Arm]:
    names = {"adaface": "embedding", "qaconv": "matcher", "combined": "fused"}
    return {form.format(names[name]): arm for name, arm in arms.items()}


def _draws(columns: Columns, condition: str) -> list[str]:
    """Return "<condition>/<draw>" of all draws."""
    return sorted({key.rpartition("/")[0] for key in columns if key.rpartition("/")[0].split("/")[0] == condition})


def _raw(test: Columns, names: tuple[str, ...], dev: Columns, pairs: Pairs) -> Arm:
    weights = dict.fromkeys(names, 1.0)
    statistics = fit_statistics({name: dev[f"clean/0/{name}"] for name in names}, pairs.issame, weights, "dev")

    def fused(draw: str) -> Scores:
        return fuse_with({name: test[f"{draw}/{name}"] for name in names}, statistics)

    return {condition: [fused(draw) for draw in _draws(test, condition)] for condition in CONDITIONS}


def _fit(dev: Columns, pairs: Pairs, columns: Mapping[str, str], shares: str) -> ScoreNormalization:
    """Return the normalization by development people, clean, one and both occluded by the families of the training."""
    draws = [draw for condition in ("clean", "one", "both") for draw in _draws(dev, condition)]
    scores = {name: np.concatenate([dev[f"{draw}/{of}"] for draw in draws]) for name, of in columns.items()}
    seen = Shares(*np.concatenate([dev[f"{draw}/shares {shares}"] for draw in draws]).astype(np.float64).T)
    fitted = fit_normalization(scores, seen, np.tile(pairs.issame, len(draws)), WEIGHTS, "development people")
    assert fitted is not None
    return fitted


def _normalized(test: Columns, by: ScoreNormalization, kind: str, shares: str | None = None) -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for condition in CONDITIONS:
        for draw in _draws(test, condition):
            seen = Shares(*test[f"{draw}/shares {shares or kind}"].astype(np.float64).T)
            columns = {"adaface": "adaface", "qaconv": f"qaconv {kind}"}
            found = by.apply({name: test[f"{draw}/{columns[name]}"] for name in by.mean}, seen)
            for name, values in found.items():
                arms.setdefault(name, {}).setdefault(condition, []).append(values)
    return arms


def clean_threshold(arm: Arm, pairs: Pairs) -> float:
    """Return the threshold at which the largest share of clean impostors up to 1 % is accepted."""
    impostors = np.sort(arm["clean"][0][~pairs.issame])[::-1]
    return float(impostors[int(FAR * len(impostors)) - 1])


class Rates(NamedTuple):
    """Rates in percent at the clean threshold [1 + R]: on the data, and on each resample of people and draws."""

    far: NDArray[np.float64]
    tar: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Balanced accuracy."""
        return (self.tar + 100 - self.far) / 2


def rates(arms: Sequence[Mapping[str, Arm]], pairs: Pairs, condition: str) -> dict[str, Rates]:
    """Return the rates of every arm under a condition, mean over the runs of a seed each.

    A resample holds the same people for all arms and seeds, so that their error is not averaged away, and draws of
    occluders drawn anew.

    Args:
        arms: by name, a mapping for every seed.
        pairs: of test people.
        condition: one of CONDITIONS.
    """
    names, num_draws = list(arms[0]), len(arms[0][next(iter(arms[0]))][condition])
    accepted = np.stack([
        values >= clean_threshold(by[name], pairs) for name in names for by in arms for values in by[name][condition]
    ]).astype(np.float32)  # fmt: skip
    found = np.concatenate(list(_resampled(accepted, pairs)))  # [1 + R, 2, arms * seeds * draws]
    found = 100 * found.reshape(len(found), 2, len(names), len(arms), num_draws).mean(axis=3)
    rng = np.random.default_rng(1)
    chosen = [np.arange(num_draws), *(rng.integers(num_draws, size=num_draws) for _ in range(len(found) - 1))]
    over_draws = np.stack([one[..., draws].mean(-1) for one, draws in zip(found, chosen, strict=True)])
    return {name: Rates(over_draws[:, 0, place], over_draws[:, 1, place]) for place, name in enumerate(names)}


def _resampled(accepted: NDArray[np.float32], pairs: Pairs) -> Iterator[NDArray[np.float32]]:
    """Yield (FAR, TAR) of each row of accepted [M, N]: [1, 2, M] with every person once, then of the resamples."""
    num_people = int(pairs.people.max()) + 1
    rng = np.random.default_rng(0)
    counts = np.ones((1, num_people), np.float32)
    for start in range(0, NUM_RESAMPLES + 1, _RESAMPLES_AT_ONCE):
        if start:
            counts = rng.multinomial(num_people, [1 / num_people] * num_people, _RESAMPLES_AT_ONCE).astype(np.float32)
        weights = counts[:, pairs.people[:, 0]]
        impostor = weights * counts[:, pairs.people[:, 1]] * ~pairs.issame
        genuine = weights * pairs.issame
        yield np.stack([w @ accepted.T / w.sum(1, keepdims=True) for w in (impostor, genuine)], axis=1)


class Interval(NamedTuple):
    """A figure with its 95 % interval."""

    estimate: float
    lower: float
    upper: float


def interval(values: NDArray[np.float64]) -> Interval:
    """Return the estimate, which is first, and the percentiles of the resamples behind it."""
    return Interval(float(values[0]), *np.percentile(values[1:], [2.5, 97.5]).tolist())


def own_figures(arms: Sequence[Mapping[str, Arm]], pairs: Pairs, condition: str) -> dict[str, tuple[float, float]]:
    """Return AUC, and TAR at the threshold of 1 % on the condition's own impostors, in percent; means."""
    found = {}
    for name in arms[0]:
        values = [scores for by in arms for scores in by[name][condition]]
        areas = [auc(scores, pairs.issame) for scores in values]
        tars = [tar_at_far(scores, pairs.issame, [FAR])[FAR] for scores in values]
        found[name] = (100 * float(np.mean(areas)), 100 * float(np.mean(tars)))
    return found


def by_share(
    arms: Sequence[Mapping[str, Arm]],
    tests: Sequence[Columns],
    pairs: Pairs,
    names: Sequence[str],
    edges: Sequence[float],
) -> dict[str, list[dict[str, float]]]:
    """Return FAR, TAR and balanced accuracy at the clean threshold in bins of the true co-visible share.

    Args:
        arms, tests: of the runs, a seed each.
        pairs: of test people.
        names: of the arms.
        edges: of the bins.
    """  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {}
    for name in names:
        kept: list[list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]] = [[] for _ in edges[1:]]
        for by, test in zip(arms, tests, strict=True):
            threshold = clean_threshold(by[name], pairs)
            for condition in CONDITIONS:
                for draw, scores in zip(_draws(test, condition), by[name][condition], strict=True):
                    places = np.digitize(test[f"{draw}/shares true"][:, 2], edges[1:-1])
                    for place, bin_of in enumerate(kept):
                        bin_of.append((scores[places == place] >= threshold, pairs.issame[places == place]))
        found[name] = [
            _bin_figures(parts, low, high) for parts, low, high in zip(kept, edges[:-1], edges[1:], strict=True)
        ]
    return found


def _bin_figures(
    parts: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]], low: float, high: float
) -> dict[str, float]:
    accepted, issame = (np.concatenate(column) for column in zip(*parts, strict=True))
    far, tar = 100 * float(accepted[~issame].mean()), 100 * float(accepted[issame].mean())
    return {"from": low, "to": high, "far": far, "tar": tar, "accuracy": (tar + 100 - far) / 2, "pairs": issame.size}
