"""The page: every number is that of results.json, nothing is asked of a network, and what is missing is left out."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from page_results import DIFFERENCE, Page, at, build, write_report_of

from evaluation.report.page import PAGE, Run, build_comparison, build_page, read_metrics, write_page
from evaluation.report.page.document import MAX_SCRIPT
from evaluation.report.page.pairs import read_picture
from evaluation.report.results import read_results
from system.page.charts import Frame, linear_axis, log_axis
from system.page.courses import MAX_POINTS, thin

SCALES = {"percent": 100, "share": 1, "points": 100, "count": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_report_of(tmp_path_factory.mktemp("report"), build())
    write_page(folder, read_results(folder / "results.json"))
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / PAGE).read_text(encoding="utf-8"))


def test_every_number_is_that_of_results_json_to_the_digit(folder, page):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert len(page.figures) > 80
    for pointer, form, exact, text in page.figures:
        value = at(results, pointer)
        assert json.loads(exact) == value
        shown = float(text.replace(",", ""))
        if form == "score":
            assert shown == float(f"{value:.4g}")
        else:
            digits = len(text.partition(".")[2])
            assert digits == {"percent": 2, "points": 2, "share": 4, "count": 0}[form]
            assert abs(shown - SCALES[form] * value) <= 0.5 * 10**-digits * (1 + 1e-9)


def test_every_measure_with_its_interval_is_told(page):
    told = {pointer for pointer, *_ in page.figures}
    for condition in ("clean", "occluded"):
        for method in ("adaface", "qaconv", "combined"):
            entry = f"/benchmarks/lfw/conditions/{condition}/{method}"
            for measure in ("accuracy", "balanced_accuracy", "eer", "auc", "num_genuine", "num_impostor"):
                assert f"{entry}/{measure}" in told
            for measure in ("accuracy_interval", "auc_interval", "tar_at_far/0.1/interval"):
                assert {f"{entry}/{measure}/lower", f"{entry}/{measure}/upper"} <= told
            assert {f"{entry}/tar_at_far/0.1/tar", f"{entry}/tar_at_far/0.1/threshold"} <= told
    assert {f"/comparisons/{DIFFERENCE}/{key}" for key in ("estimate", "lower", "upper")} <= told
    assert "/benchmarks/lfw/hardest/clean/impostor/1/score" in told


@pytest.mark.parametrize("key", ["accuracy_interval", "interval"])
def test_intervals_of_accuracy_and_tar_stand_in_place_of_the_spread_where_there_are_any(tmp_path, key):
    results, bounds = build(), {"estimate": 0.9, "lower": 0.8125, "upper": 0.96875, "num_resamples": 9}
    entry = results["benchmarks"]["lfw"]["conditions"]["clean"]["combined"]
    entry["accuracy_interval"] = None
    (entry if key == "accuracy_interval" else entry["tar_at_far"]["0.1"])[key] = bounds
    page = Page(build_page(tmp_path, results))
    place = "accuracy_interval" if key == "accuracy_interval" else "tar_at_far/0.1/interval"
    found = [text for pointer, _, _, text in page.figures if pointer.endswith(f"clean/combined/{place}/lower")]
    assert found and set(found) == {"81.25"}
    spreads = [pointer for pointer, *_ in page.figures if pointer.endswith("clean/combined/std")]
    assert len(spreads) == (0 if key == "accuracy_interval" else 1)


def test_the_script_is_given_the_curves_as_results_json_has_them(folder, page):
    results = read_results(folder / "results.json")
    sliders = json.loads(page.scripts["application/json"])["sliders"]
    assert len(sliders) == 6 == sum(tag == "input" for tag, _ in page.tags)
    for slider in sliders.values():
        det = at(results, slider["from"])
        assert {key: slider[key] for key in det} == det and slider["genuine"] == slider["impostor"] == 30


def test_the_page_asks_for_nothing_and_its_policy_lets_nothing_in(folder, page):
    text = (folder / PAGE).read_text(encoding="utf-8")
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style"
            if name in {"src", "href", "srcset", "action", "data"}:
                assert value.startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for kind, content in (("style-src", style), ("script-src", page.scripts[None])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(page.scripts[None].encode()) <= MAX_SCRIPT == 15_000


def test_the_answer_comes_first_and_the_sections_follow_in_order(page):
    order = [
        "Evaluation", "Answer", "The combined score is right about", "Set lfw", "ROC and DET", "Scores and thresholds",
        "Hardest pairs", "Paired differences", "Not resolved", "Protocol",
    ]  # fmt: skip
    text = page.words[page.words.index("Skip to the answer") :]
    text = text[text.index("Answer", text.index("Protocol")) - 1 :]  # behind the table of contents
    places = [text.index(words) for words in order[1:]]
    assert places == sorted(places) and "Training" not in text
    for said in ("FAR 1e-06 needs at least 1,000,000 impostor pairs, there are 30", "Sets that were not found: calfw",
                 "rendered, not photographed", "of lfw"):  # fmt: skip
        assert said in text


def test_thresholds_stand_in_the_histograms(folder, page):
    results = read_results(folder / "results.json")
    entry = results["benchmarks"]["lfw"]["conditions"]["clean"]["combined"]
    folds = sum(tag == "line" and a["class"] == "fold" for tag, a in page.tags)
    assert folds == sum(
        threshold is not None
        for entries in results["benchmarks"]["lfw"]["conditions"].values()
        for each in entries.values()
        for threshold in each["fold_threshold"]
    )
    assert f"FAR 0.1: {entry['tar_at_far']['0.1']['threshold']:.4g}" in page.words


def test_results_of_schema_2_have_no_det_no_slider_and_no_hardest_pairs(tmp_path):
    results = build()
    benchmark = results["benchmarks"]["lfw"]
    del benchmark["hardest"]
    for methods in benchmark["conditions"].values():
        for entry in methods.values():
            del entry["det"]
    page = Page(build_page(tmp_path, results))
    assert "DET of lfw" not in str(page.tags) and "ROC of lfw" in str(page.tags)
    assert "Hardest pairs" not in page.words and not any(tag == "input" for tag, _ in page.tags)


def test_an_anonymous_page_holds_neither_pictures_nor_names_nor_paths(folder, tmp_path):
    results = build(person="jane_doe", data="/home/jane_doe/faces", model="/home/jane_doe/last.ckpt", run="jane_doe_0")
    write_report_of(tmp_path, results)
    (tmp_path / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shown, hidden = (build_page(tmp_path, results, tmp_path, anonymous) for anonymous in (False, True))
    assert "jane_doe" in shown and shown.count("data:image/jpeg") == 4 and shown.count("data:image/png") == 1
    assert "jane_doe" not in hidden and "data:image" not in hidden
    assert "left out" in hidden and "pair 1" in hidden and "Hardest pairs" in hidden


def test_only_pictures_that_we_write_are_taken_in(tmp_path):
    folder = write_report_of(tmp_path, build())
    assert read_picture(folder, "pairs/001.jpg").startswith("data:image/jpeg;base64,/9j/")
    (tmp_path / "outside.jpg").write_bytes((folder / "pairs" / "001.jpg").read_bytes())
    (folder / "pairs" / "7.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder / "pairs" / "8.jpg").write_bytes(b"<svg onload=alert(1)>")
    (folder / "pairs" / "9.jpg").write_bytes(b"\xff\xd8\xff" + bytes(2**18))
    for name in ("pairs/7.jpg", "pairs/8.jpg", "pairs/9.jpg", "pairs/10.jpg", "../outside.jpg", "pairs/../outside.jpg",
                 "outside.jpg", "pairs/001.jpg\n", None, 3):  # fmt: skip
        assert read_picture(folder, name) is None


def test_groups_of_the_pairs_are_told_where_results_json_has_them(tmp_path):
    results = build(methods=("adaface",))
    assert "By group" not in build_page(tmp_path, results)
    entry = results["benchmarks"]["lfw"]["conditions"]["occluded"]["adaface"]
    bounds = {"estimate": 0.8125, "lower": 0.5, "upper": 1.0, "num_resamples": 9}
    empty = dict.fromkeys(("estimate", "lower", "upper", "num_resamples"))
    group = {"num_genuine": 7, "num_impostor": 9, "num_people": None, "accuracy": bounds, "tar": bounds, "far": empty}
    share = "visible share of the lesser face, predicted"
    entry["groups"] = {share: {"20-40 %": group, "80-100 %": group, "0-20 %": group | {"accuracy": empty}}}
    entry["groups"]["--groups"] = {"<b>tall</b>": group}
    page = Page(build_page(tmp_path, results))
    assert f"By group: {share}" in page.words and "By group: --groups" in page.words and "<b>tall" in page.words
    told = {pointer: text for pointer, _, _, text in page.figures}
    base = "/benchmarks/lfw/conditions/occluded/adaface/groups"
    assert told[f"{base}/{share}/20-40 %/accuracy/estimate"] == "81.25"
    assert told[f"{base}/--groups/<b>tall<~1b>/tar/lower"] == "50.00"
    (chart,) = [number for number, (tag, a) in enumerate(page.tags) if "visible share" in str(a.get("aria-label"))]
    dots = [float(a["cx"]) for tag, a in page.tags[chart:] if tag == "circle"]
    assert dots == pytest.approx([58 + 0.3 * (480 - 72), 58 + 0.9 * (480 - 72)], abs=0.06)


def test_warnings_and_the_spread_over_draws_are_told(tmp_path):
    results = build(methods=("adaface",)) | {"warnings": ["the people of <lfw> trained the network"]}
    entry = results["benchmarks"]["lfw"]["conditions"]["occluded"]["adaface"]
    spread = {"accuracy": 0.0125, "balanced_accuracy": 0.02, "eer": 0.03, "auc": 0.0375, "tar_at_far": {"0.1": 0.05}}
    entry["occlusion_draws"] = {"num": 5, "std": spread}
    page = Page(build_page(tmp_path, results))
    assert "the people of <lfw> trained the network." in page.words
    told = {pointer.rpartition("occlusion_draws/")[2]: text for pointer, _, _, text in page.figures}
    assert (told["std/accuracy"], told["std/auc"], told["std/tar_at_far/0.1"], told["num"]) == (
        "1.25",
        "0.0375",
        "5.00",
        "5",
    )


METRICS = "step,epoch,lr,train_loss,val_acc\n1,0,0.1,3,\n2,0,0.1,2,0.5\n3,0,0.05,nan,\n4,1,0.05,1,0.75\n"


def test_a_run_has_its_training_and_its_samples(tmp_path, folder):
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9))
    page = Page(build_page(folder, read_results(folder / "results.json"), tmp_path))
    names = [a.get("aria-label") for tag, a in page.tags if tag == "svg"]
    assert [name for name in names if name in ("Accuracy in validation", "Losses in training", "Learning rate")]
    assert "Every value is drawn" in page.words and any(tag == "img" for tag, _ in page.tags)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,x\n1,word\n", 'step,x\n1,"2\n', "step,x\n\xff,1\n"])
def test_a_file_that_is_no_metrics_is_named(tmp_path, text):
    (tmp_path / "metrics.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metrics\.csv: not the metrics\.csv of a run"):
        read_metrics(tmp_path / "metrics.csv")


@pytest.mark.parametrize("number", [1, MAX_POINTS, MAX_POINTS + 1, 12_345])
def test_a_line_is_thinned_to_means_of_equal_blocks(number):
    values = np.random.default_rng(0).normal(size=number)
    line = thin(list(zip(range(number), values.tolist(), strict=True)))
    assert len(line.values) <= MAX_POINTS and line.block == -(-number // MAX_POINTS)
    np.testing.assert_allclose(line.values[0], values[: line.block].mean())
    np.testing.assert_allclose(line.values[-1], values[(len(line.values) - 1) * line.block :].mean())
    assert thin([(1, np.nan), (2, np.inf)]).values == []


def test_points_lie_where_their_values_say():
    frame = Frame(log_axis("x", 1e-4), linear_axis("y", 0, 1), width=172, height=158)  # 100 x 100 between the axes
    assert frame.place(1e-2, 0.25) == pytest.approx((58 + 50, 12 + 75))
    assert frame.place(1e-4, 0) == pytest.approx((58, 112)) and frame.place(1, 1) == pytest.approx((158, 12))
    assert frame.place(0, 0.5) is None and frame.place(0.5, 1.1) is None and frame.place(float("nan"), 0.5) is None
    assert [round(tick, 12) for tick in frame.x.ticks] == [1e-4, 1e-3, 1e-2, 1e-1, 1]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 12.2), (5, 5), (0, 3e-7), (-1e9, 1e9)])
def test_ticks_are_few_round_and_within_the_axis(low, high):
    axis = linear_axis("x", low, high)
    assert 2 <= len(axis.ticks) <= 8 and all(axis.low <= tick <= axis.high for tick in axis.ticks[1:-1])
    assert len(set(np.diff(axis.ticks).round(9))) <= 1 or high < 1e-5


def test_runs_are_compared_and_what_differs_is_said(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    first, second = build(seed=0), build(seed=5, fusion_source="another", occlude="both")
    second["benchmarks"]["lfw"]["checksum"] = "of another"
    metrics = read_metrics(tmp_path / "metrics.csv")
    page = Page(build_comparison([Run("<first>", first, metrics), Run("second", second, {})]))
    assert "lfw is not the same set in every run" in page.words and "<first>" in page.words
    assert "occlude" in page.words and "fusion_source" not in page.words.split("Different facts")[-1]
    assert sum(tag == "svg" and a.get("aria-label") == "train_loss" for tag, a in page.tags) == 1
    clean = "/benchmarks/lfw/conditions/clean/combined/accuracy"
    shown = [json.loads(exact) for pointer, _, exact, _ in page.figures if pointer == clean]
    assert shown == [at(first, clean), at(second, clean)]


# ---------------------------------------------------------------- colors

# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009,
# severity 1.0, of linear RGB.
VISION = {
    "usual": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TOGETHER = [("adaface", "qaconv", "combined"), ("genuine", "impostor")]


def themes(folder):
    text = (folder / PAGE).read_text(encoding="utf-8")
    light, dark, *_ = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    colors = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in (light, dark)]
    return {"light": colors[0], "dark": colors[0] | colors[1]}


def linear(color):
    value = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(color, vision):
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]] @ (
        np.clip(VISION[vision] @ linear(color), 0, 1)
    )
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a, b):
    bright = sorted(float([0.2126, 0.7152, 0.0722] @ linear(color)) for color in (a, b))
    return (bright[1] + 0.05) / (bright[0] + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_colors_of_a_chart_are_told_apart_with_every_kind_of_color_vision(folder, theme, vision):
    colors = themes(folder)[theme]
    for names in TOGETHER:
        for place, a in enumerate(names):
            for b in names[place + 1 :]:
                assert np.linalg.norm(lab(colors[a], vision) - lab(colors[b], vision)) > 20, (a, b)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_text_stand_out_from_the_page(folder, theme):
    colors = themes(folder)[theme]
    for name in ("adaface", "qaconv", "combined", "genuine", "impostor", "limit", *(f"s{n}" for n in range(8))):
        assert contrast(colors[name], colors["back"]) >= 3, name
    for name in ("text", "soft", "link"):
        assert contrast(colors[name], colors["back"]) >= 4.5, name
