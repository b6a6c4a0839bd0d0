"""The report: table, JSON without NaN, facts of the protocol, and files that are whole or absent."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from evaluation import Resampling, evaluate_pairs, stratified_folds
from evaluation.report.page import Run, build_comparison, build_page
from evaluation.report.results import (
    PROTOCOL_FACTS,
    Results,
    format_report,
    format_table,
    read_results,
    tell_unhelped,
    to_primitive,
    write_report,
)

WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}
METHODS = ("adaface", "qaconv", "combined")


def entries(seed, with_matcher=True, resampling=None, share=2):
    """Return the entries of 400 pairs, of which one in `share` is genuine."""
    rng = np.random.default_rng(seed)
    issame = np.arange(400) % share == 0
    scores = {name: rng.normal(size=400) + 2 * issame for name in (WEIGHTS if with_matcher else ["adaface"])}
    results = evaluate_pairs(scores, issame, WEIGHTS, stratified_folds(issame))
    return {method: result.to_dict(resampling, (0.01, 1e-3)) for method, result in results.items()}


@pytest.fixture
def results():
    benchmarks = {
        "lfw": {"checksum": "sha256:11", "conditions": {"clean": entries(0), "occluded": entries(1)}},
        "cfp_fp": {"checksum": "sha256:22", "conditions": {"clean": entries(2), "occluded": entries(3)}},
    }
    protocol = {fact: f"value of {fact}" for fact in PROTOCOL_FACTS} | {"fusion_weights": WEIGHTS}
    return Results(schema=3, synthetic=True, missing=["calfw"], protocol=protocol, benchmarks=benchmarks)


def cells(table, name):
    return next(line for line in table.splitlines() if line.startswith(name)).split()[1:]


def accuracy(results, benchmark, condition, method):
    return results["benchmarks"][benchmark]["conditions"][condition][method]["accuracy"]


def test_table_holds_every_accuracy_their_mean_and_what_is_missing(results):
    table = format_table(results)
    columns = [(c, m) for c in ("clean", "occluded") for m in METHODS]
    for name in ("lfw", "cfp_fp"):
        assert cells(table, name) == [f"{100 * accuracy(results, name, *column):.2f}" for column in columns]
    means = [np.mean([accuracy(results, name, *column) for name in ("lfw", "cfp_fp")]) for column in columns]
    assert cells(table, "mean") == [f"{100 * mean:.2f}" for mean in means]
    assert "missing sets: calfw" in table
    header = table.splitlines()
    assert header[2].split() == ["clean", "occluded"]
    assert header[3].split() == ["benchmark", *["embedding", "QAConv", "combined"] * 2]


def test_the_embedding_is_named_as_such_and_its_head_beside_it(results):
    """Whatever head trained it: the method's key in results.json is "adaface" for all of them."""
    assert "head" not in format_report(results)  # results of before know of none
    results["protocol"]["head"] = "cosface"
    difference = {"estimate": 0.02, "lower": 0.01, "upper": 0.034, "num_resamples": 9}
    results["comparisons"] = {"combined minus embedding, accuracy, clean": difference}
    text = format_report(results)
    assert text.splitlines()[0].endswith("synthetic faces, margin head cosface")
    assert "AdaFace" not in text and "  head: cosface" in text.splitlines()


def test_columns_line_up(results):
    lines = format_table(results).splitlines()[3:7]  # names of the columns, two sets, mean
    ends = [[match.end() for match in re.finditer(r"\S+", line)][1:] for line in lines]
    assert all(places == ends[0] for places in ends)


def test_the_answer_that_needs_no_network_stands_beside_the_accuracy(results):
    balanced = '200 genuine and 200 impostor pairs; always answering "different" already gets 50.00 %'
    assert format_report(results).count(balanced) == 4  # two sets, clean and occluded
    assert "always answering" not in format_table(results)
    results["benchmarks"]["lfw"]["conditions"] = {"clean": entries(0, share=8)}
    note = '50 genuine and 350 impostor pairs; always answering "different" already gets 87.50 %'
    assert f"\nlfw: {note}. Balanced accuracy, AUC, EER and TAR@FAR" in format_table(results)
    assert f"\nlfw, clean, synthetic faces: {note}\n" in format_report(results)
    lines = format_table(results).splitlines()
    (row,) = [number for number, line in enumerate(lines) if line.startswith("  balanced")]
    assert lines[row - 1].startswith("lfw") and lines[row + 1].startswith("cfp_fp")
    shares = [results["benchmarks"]["lfw"]["conditions"]["clean"][name]["balanced_accuracy"] for name in METHODS]
    assert cells(format_table(results), "  balanced")[:3] == [f"{100 * share:.2f}" for share in shares]


def test_identification_follows_the_condition_it_belongs_to(results):
    entry = {"rank_accuracy": {"1": 0.5, "5": 0.75}, "num_probes": 1200, "num_strangers": 3}
    assert "identification" not in format_report(results)
    results["benchmarks"]["lfw"]["conditions"]["occluded"]["adaface"]["identification"] = entry
    text = format_report(results)
    facts = "1,200 images searched among all others, 3 more that are their identity's only one"
    assert text.count(f"lfw, occluded, synthetic faces, identification: {facts}") == 1
    assert text.index("lfw, occluded, synthetic faces: ") < text.index("identification") < text.index("cfp_fp, clean")
    assert "  embedding   50.00   75.00" in text.splitlines()


def test_the_more_frequent_answer_may_be_same(results):
    for entry in (clean := entries(0)).values():
        entry |= {"num_genuine": 300, "num_impostor": 100, "constant_accuracy": 0.75}
    results["benchmarks"]["lfw"]["conditions"] = {"clean": clean}
    assert 'always answering "same" already gets 75.00 %' in format_table(results)


def test_a_mean_over_unequal_sets_is_not_shown(results):
    results["benchmarks"]["cfp_fp"] = {"checksum": "-", "conditions": {"clean": entries(2, with_matcher=False)}}
    table = format_table(results)
    assert cells(table, "cfp_fp")[1:] == ["-"] * 5
    assert cells(table, "mean")[1:] == ["-"] * 5 and cells(table, "mean")[0] != "-"


def test_synthetic_is_said_only_of_synthetic_faces(results):
    assert "synthetic" in format_table(results) and "synthetic" in format_report(results)
    results["synthetic"] = False
    assert "synthetic" not in format_report(results)


def test_report_says_what_cannot_be_resolved_and_how_it_was_measured(results):
    difference = {"estimate": 0.02, "lower": 0.01, "upper": 0.034, "num_resamples": 9}
    results["comparisons"] = {"combined - adaface": difference}
    report = format_report(results)
    assert "FAR 0.001 needs at least 1,000 impostor pairs, there are 200" in report
    assert "combined - adaface: 0.0200 [0.0100, 0.0340]" in report
    assert "fusion_weights: adaface 0.5, qaconv 0.5" in report
    for fact in (
        "value of flip_fusion",
        "value of color_space",
        "value of interval_method",
        "checksum of lfw: sha256:11",
    ):
        assert fact in report


def test_intervals_are_shown_where_there_are_any(results):
    results["benchmarks"]["lfw"]["conditions"]["clean"] = entries(0, resampling=Resampling(num_resamples=20))
    interval = results["benchmarks"]["lfw"]["conditions"]["clean"]["qaconv"]["auc_interval"]
    text = format_report(results)
    assert f"[{interval['lower']:.4f}, {interval['upper']:.4f}]" in text
    entry = results["benchmarks"]["lfw"]["conditions"]["clean"]["qaconv"]
    for value, interval in (
        (entry["accuracy"], entry["accuracy_interval"]),
        (entry["tar_at_far"]["0.01"]["tar"], entry["tar_at_far"]["0.01"]["interval"]),
    ):
        assert f"{100 * value:.2f} [{100 * interval['lower']:.2f}, {100 * interval['upper']:.2f}]" in text


def test_results_from_before_there_were_intervals_of_all_measures_are_shown_without(results):
    for benchmark in results["benchmarks"].values():
        for conditions in benchmark["conditions"].values():
            for entry in conditions.values():
                del entry["accuracy_interval"]
                for rate in entry["tar_at_far"].values():
                    del rate["interval"]
    assert "[" not in format_report(results)


def test_warnings_stand_below_the_table(results):
    assert "warning" not in format_report(results)
    results["warnings"] = ["lfw: one person holds 80 % of the 100 genuine pairs\x1b[2J"]
    assert "\nwarning: lfw: one person holds 80 % of the 100 genuine pairs" in format_table(results)
    assert "\x1b" not in format_table(results)


def test_a_training_that_raised_nothing_is_told_in_numbers_text_and_pages(results, tmp_path):
    tell_unhelped(results, {})
    assert "unhelped" not in results
    tell_unhelped(results, {"val_lr_hr_auc": 0.98})
    write_report(tmp_path, results)
    assert read_results(tmp_path / "results.json")["unhelped"] == {"val_lr_hr_auc": 0.98}
    told = "the training did not help: val_lr_hr_auc was never larger than before the first step, 0.9800"
    assert told in (tmp_path / "report.txt").read_text()
    assert told in build_page(tmp_path, results, None)
    runs = [Run("tuned", results, {}), Run("other", {**results, "unhelped": {}}, {})]
    assert f"tuned: {told}" in build_comparison(runs)


def test_written_json_is_strict_and_complete(results, tmp_path):
    results["benchmarks"]["lfw"]["conditions"]["clean"]["adaface"]["auc"] = float("nan")
    write_report(tmp_path / "new" / "report", results)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (tmp_path / "new" / "report" / "results.json").read_text()
    read = json.loads(text, parse_constant=refuse)
    assert read["benchmarks"]["lfw"]["conditions"]["clean"]["adaface"]["auc"] is None
    assert read["benchmarks"]["cfp_fp"] == to_primitive(results["benchmarks"]["cfp_fp"])
    assert (tmp_path / "new" / "report" / "report.txt").read_text() == format_report(results)
    assert format_report(read) == format_report(results)
    assert read_results(tmp_path / "new" / "report" / "results.json") == read
    assert sorted(path.name for path in (tmp_path / "new" / "report").iterdir()) == ["report.txt", "results.json"]


def test_a_failed_write_leaves_the_old_report(results, tmp_path, monkeypatch):
    write_report(tmp_path, results)
    before = (tmp_path / "results.json").read_text()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    results["synthetic"] = False
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, results)
    assert (tmp_path / "results.json").read_text() == before


def test_to_primitive():
    value = {
        1: np.float32(0.5),
        "a": (np.arange(2), np.bool_(True)),
        "b": [float("inf"), np.nan, None],
        "c": Path("x/y"),
    }
    assert to_primitive(value) == {"1": 0.5, "a": [[0, 1], True], "b": [None, None, None], "c": "x/y"}


def test_a_report_that_could_not_be_reproduced_is_refused(results, tmp_path):
    del results["protocol"]["flip_fusion"]
    with pytest.raises(ValueError, match=r"\['flip_fusion'\] are missing"):
        write_report(tmp_path, results)
    assert not list(tmp_path.iterdir())


def test_groups_are_a_table_of_rates_with_both_kinds_of_interval(results):
    rate = {"estimate": 0.9, "lower": 0.8, "upper": 0.95, "num_resamples": 400}
    none = {"estimate": None, "lower": None, "upper": None, "num_resamples": 0}
    group = {"num_genuine": 1200, "num_impostor": 0, "num_people": None, "accuracy": rate, "tar": rate, "far": none}
    group |= {"tar_exact": [0.88, 0.92], "far_exact": [None, None]}
    results["benchmarks"]["lfw"]["conditions"]["clean"]["adaface"]["groups"] = {"--groups": {"mask\x1b": group}}
    lines = format_report(results).splitlines()
    (row,) = [line for line in lines if line.strip().startswith("mask")]
    assert "\x1b" not in row and "1,200" in row and row.count("0.9000 [0.8000, 0.9500]") == 2
    assert "[0.8800, 0.9200]" in row and "- [-, -]" in row and row.endswith("[-, -]")


def test_results_of_schema_1_are_read_and_reported_without_what_they_lack(results, tmp_path):
    found = {"rank_accuracy": {"1": 0.5, "5": 0.75}, "num_probes": 1200, "num_strangers": 3}
    results["benchmarks"]["lfw"]["conditions"]["clean"]["qaconv"]["identification"] = found
    old = to_primitive(results | {"schema": 1})
    for benchmark in old["benchmarks"].values():
        for methods in benchmark["conditions"].values():
            for entry in methods.values():
                del entry["balanced_accuracy"], entry["eer"]
    del old["benchmarks"]["lfw"]["conditions"]["clean"]["qaconv"]["identification"]
    old["benchmarks"]["lfw"]["identification"] = {"clean": {"qaconv": found}}
    (tmp_path / "results.json").write_text(json.dumps(old))
    read = read_results(tmp_path / "results.json")
    assert read["schema"] == 3 and "identification" not in read["benchmarks"]["lfw"]
    for name, benchmark in results["benchmarks"].items():
        for condition, methods in benchmark["conditions"].items():
            for method, entry in methods.items():
                entry |= {"balanced_accuracy": None, "eer": None}
                assert read["benchmarks"][name]["conditions"][condition][method] == to_primitive(entry)
    assert format_report(read) == format_report(results)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema": 4}', '{"schema": 1}', '{"schema": 1, "benchmarks": {"lfw": 3}}']
)
def test_what_is_no_result_is_refused_with_its_file(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json: ") as caught:
        read_results(tmp_path / "results.json")
    assert "\n" not in str(caught.value)
