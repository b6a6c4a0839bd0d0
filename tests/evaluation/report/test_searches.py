"""Searches in the report: their entries against plain counting, as text, and on the page to the digit."""

import json

import numpy as np
import pytest
from page_results import Page, at, build

from evaluation import identify
from evaluation.protocols.identification import open_set_points
from evaluation.report import format_report, read_results, write_report
from evaluation.report.page import Run, build_comparison, build_page
from evaluation.report.results import to_primitive
from evaluation.report.searches import FPIRS, Roles, search_entry, search_results

HOSTILE = 'tiny"><script>alert(1)</script>'


def searched(strangers=200, seed=0):
    """Return (scores of probes, their people, those of the gallery): 60 people, probes of whom 40 are enrolled."""
    rng = np.random.default_rng(seed)
    gallery, known = np.arange(40), np.repeat(np.arange(40), 3)
    people = np.concatenate([known, 100 + np.arange(strangers)])
    scores = rng.normal(size=(people.size, 40)).round(1)
    scores[np.arange(known.size), known] += 2.5
    return scores, people, gallery


def entry_of(strangers=200, **roles):
    scores, people, gallery = searched(strangers)
    chosen = Roles(**{"probes": "masked", "gallery": "neutral", "num_gallery": 40, **roles})
    return search_entry(identify(scores, people, gallery), people, chosen, seed=3)


def results_of(*strangers, name="rof", model="/home/me/model.ckpt"):
    entries = {f"masked of {number}": to_primitive(entry_of(number)) for number in strangers}
    found = {"checksum": "crc32:0", "ranks_count": "people", "entries": entries}
    protocol = {"flip_fusion": "sum", "fusion_weights": {"adaface": 1.0}, "fusion_source": "alone", "seed": 3}
    return search_results(name, found, {**protocol, "model": model})


def test_an_entry_is_what_counting_gives():
    scores, people, gallery = searched()
    entry = entry_of()
    own = scores[np.arange(120), people[:120]]
    others = np.where(gallery == people[:120, None], -np.inf, scores[:120])
    rank = 1 + (others >= own[:, None]).sum(1)
    assert entry["cmc"]["5"]["estimate"] == np.mean(rank <= 5)
    assert entry["cmc"]["5"]["lower"] < np.mean(rank <= 5) < entry["cmc"]["5"]["upper"]
    np.testing.assert_allclose(entry["cmc_curve"]["share"], [np.mean(rank <= r) for r in entry["cmc_curve"]["rank"]])
    at_limit = entry["tpir_at_fpir"]["0.01"]
    threshold, best = at_limit["threshold"], scores[120:].max(1)
    assert np.mean(best >= threshold) <= 0.01 < np.mean(best >= threshold - 0.1)
    assert at_limit["rank_1"] == np.mean((own >= threshold) & (rank == 1))
    assert at_limit["any_rank"] == np.mean(own >= threshold) >= at_limit["rank_1"]
    assert at_limit["rank_1_interval"]["estimate"] == at_limit["rank_1"] <= at_limit["rank_1_interval"]["upper"]
    assert np.isnan(entry["tpir_at_fpir"]["0.003"]["rank_1"])  # 200 strangers do not resolve it
    assert (entry["num_people"], entry["num_probes"], entry["num_strangers"]) == (40, 120, 200)
    assert "tpir_at_fpir" not in entry_of(0)


def test_points_of_the_open_set_are_those_of_the_curve_and_hold_its_ends():
    scores, people, gallery = searched()
    curve = identify(scores, people, gallery).open_set(1)
    few = open_set_points(curve, 7)
    whole = set(zip(*(side.tolist() for side in curve), strict=True))
    points = list(zip(*(side.tolist() for side in few), strict=True))
    assert set(points) <= whole and 2 < len(points) <= 9
    assert points[0] == tuple(side[0] for side in curve) and points[-1] == tuple(side[-1] for side in curve)


def test_the_page_of_searches_tells_every_rate_as_results_json_has_it(tmp_path):
    write_report(tmp_path, results_of(200, 0))
    results = read_results(tmp_path / "results.json")
    page = Page(build_page(tmp_path, results))
    told = {pointer for pointer, *_ in page.figures}
    for pointer, _, exact, _ in page.figures:
        assert json.loads(exact) == at(results, pointer)
    first = "/searches/rof/entries/masked of 200"
    for rank in ("1", "5", "10", "20"):
        assert {f"{first}/cmc/{rank}/{key}" for key in ("estimate", "lower", "upper")} <= told
    assert {f"{first}/tpir_at_fpir/0.1/{key}" for key in ("rank_1", "any_rank", "rank_1_interval/lower")} <= told
    assert len(FPIRS) == 3 and f"{first}/tpir_at_fpir/0.003/rank_1" not in told
    for words in ("neutral", "CMC", "Open set", "FPIR 0.003 needs more than 200 strangers", "no probe is a stranger"):
        assert words in page.words
    assert "/home/me" in page.words
    assert "/home/me" not in build_page(tmp_path, results, anonymous=True)
    text = format_report(results)
    assert text.startswith("rof: searches") and "FPIR 0.003: not resolved by 200 strangers" in text


@pytest.mark.parametrize("anonymous", [False, True])
def test_hostile_names_of_sets_stay_text_and_runs_are_compared(tmp_path, anonymous):
    results = json.loads(json.dumps(to_primitive(results_of(5, name=HOSTILE))))
    page = Page(build_page(tmp_path, results, anonymous=anonymous))
    assert HOSTILE in page.words and len(page.scripts) == 2
    other = json.loads(json.dumps(to_primitive(results_of(5, name=HOSTILE))))
    other["searches"][HOSTILE]["checksum"] = "another"
    compared = Page(build_comparison([Run("a", results, {}), Run("b", other, {})], anonymous))
    assert "the checksums differ" in compared.words and len(compared.figures) == 2 * 4 * 3
    mixed = Page(build_comparison([Run("searched", results, {}), Run("pairs", build(), {})], anonymous))
    assert "was not evaluated in every run" in mixed.words and "Set lfw" in mixed.words
