"""Pictures: right files, right pixels, from a result that went through JSON."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from evaluation import evaluate_pairs
from evaluation.report import plots
from evaluation.report.plots import (
    METHOD_COLORS,
    draw_accuracies,
    draw_histograms,
    draw_roc,
    plot_report,
    prediction_panel,
    sample_sheet,
)
from evaluation.report.results import Results, to_primitive

pytestmark = pytest.mark.usefixtures("drawn_pictures")

WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}


@pytest.fixture(scope="module")
def results():
    rng = np.random.default_rng(0)
    issame = np.arange(200) % 2 == 0
    scores = {name: rng.normal(size=200) + 2 * issame for name in WEIGHTS}
    entries = {name: result.to_dict() for name, result in evaluate_pairs(scores, issame, WEIGHTS).items()}
    benchmark = {"checksum": "-", "conditions": {"clean": entries, "occluded": entries}}
    made = Results(schema=3, synthetic=True, missing=[], protocol={}, benchmarks={"lfw": benchmark, "cplfw": benchmark})
    return json.loads(json.dumps(to_primitive(made), allow_nan=False))


def words_of(figure):
    texts = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(artist.get_text() for artist in texts)


def test_pictures_speak_of_the_embedding_and_of_the_head_that_trained_it(results, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(words_of(figure)))
    plot_report(tmp_path, {**results, "protocol": {"head": "cosface"}})
    assert len(drawn) == 5
    for words in drawn:
        assert "embedding" in words and "AdaFace" not in words and "(synthetic, margin head cosface)" in words


def read_rgb(path):
    return cv2.imread(str(path))[..., ::-1]


def test_plot_report_writes_small_pictures(results, tmp_path):
    one = {**results, "benchmarks": {"lfw": results["benchmarks"]["lfw"]}}
    paths = plot_report(tmp_path / "plots", one)
    assert [path.name for path in paths] == ["accuracy.png", "roc_lfw.png", "scores_lfw.png"]
    for path in paths:
        assert read_rgb(path).std() > 10 and path.stat().st_size < 150_000


def test_roc_is_drawn_per_method_and_condition_on_a_log_axis(results):
    (axes,) = draw_roc(results["benchmarks"]["lfw"]["conditions"], "lfw (synthetic)").axes
    assert axes.get_xscale() == "log" and axes.get_xlim() == (0.01, 1)
    assert len(axes.lines) == 6
    assert {line.get_color() for line in axes.lines} == set(METHOD_COLORS.values())
    assert {line.get_linestyle() for line in axes.lines} == {"-", "--"}
    entry = results["benchmarks"]["lfw"]["conditions"]["clean"]["qaconv"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), entry["roc"]["tar"])
    assert axes.get_xlabel() and axes.get_ylabel() and "synthetic" in axes.get_title()


def test_intervals_are_whiskers_of_accuracies_and_rates_and_stand_beside_the_auc(results):
    interval = {"estimate": 0.8, "lower": 0.7, "upper": 0.85, "num_resamples": 9}
    entry = json.loads(json.dumps(results["benchmarks"]["lfw"]["conditions"]["clean"]["qaconv"]))
    rate = {**entry["tar_at_far"]["0.1"], "interval": interval}
    entry |= {"accuracy": 0.8, "accuracy_interval": interval, "auc_interval": interval, "tar_at_far": {"0.1": rate}}
    conditions = {"clean": {"qaconv": entry}}
    (axes,) = draw_roc(conditions, "lfw").axes
    assert axes.get_legend().get_texts()[0].get_text().endswith("[0.700, 0.850])")
    (whisker,) = axes.collections
    np.testing.assert_allclose(whisker.get_segments(), [[[0.1, 0.7], [0.1, 0.85]]])
    benchmark = {"checksum": "-", "conditions": conditions}
    for with_interval, ends in ((interval, [70, 85]), (None, [80 - 100 * entry["std"], 80 + 100 * entry["std"]])):
        entry["accuracy_interval"] = with_interval
        axes = draw_accuracies({**results, "benchmarks": {"lfw": benchmark}}).axes[0]
        np.testing.assert_allclose(axes.collections[0].get_segments()[0][:, 1], ends)


def test_histograms_show_shares_of_each_kind(results):
    figure = draw_histograms(results["benchmarks"]["lfw"]["conditions"], "lfw")
    assert len(figure.axes) == 6
    for axes in figure.axes:
        totals = [patch.get_data().values.sum() for patch in axes.patches]
        np.testing.assert_allclose(totals, 1)


def test_accuracies_are_the_heights_of_the_bars(results):
    panels = draw_accuracies(results).axes
    assert [axes.get_title() for axes in panels] == ["clean (synthetic)", "occluded (synthetic)"]
    heights = [bar.get_height() for bar in panels[0].patches]
    entries = results["benchmarks"]["lfw"]["conditions"]["clean"]
    np.testing.assert_allclose(heights, np.repeat([100 * entries[name]["accuracy"] for name in METHOD_COLORS], 2))


def test_the_answer_that_needs_no_network_is_a_line_where_pairs_are_unbalanced(results):
    assert not any(axes.collections and "answer" in words_of(axes.figure) for axes in draw_accuracies(results).axes)
    unbalanced = json.loads(json.dumps(results))
    for entry in unbalanced["benchmarks"]["cplfw"]["conditions"]["clean"].values():
        entry |= {"num_genuine": 25, "num_impostor": 175, "constant_accuracy": 0.875}
    figure = draw_accuracies(unbalanced)
    lines = [artist for artist in figure.axes[0].collections if artist.get_label() == "the same answer to every pair"]
    ((start, end),) = lines[0].get_segments()
    assert len(lines) == 1 and start[1] == end[1] == 87.5 and 0.5 < start[0] < 1 < end[0] < 1.5
    assert "the same answer to every pair" in words_of(figure.legends[0])


@pytest.mark.parametrize("with_masks", [True, False])
def test_sample_sheet_shows_every_pixel(tmp_path, with_masks):
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    masks = np.ones((5, 20, 24), dtype=np.uint8)
    masks[4, :, :12] = 0
    path = tmp_path / "sheet.png"
    sample_sheet(path, images, masks if with_masks else None, [""] * 5, columns=3)
    sheet = read_rgb(path)
    height = 40 if with_masks else 20
    top = 6 + height + 18 + 6  # the second row, under a gutter, a cell with its caption, and a gutter
    left = 6 + 24 + 6
    np.testing.assert_array_equal(sheet[6:26, 6:30], images[0])
    np.testing.assert_array_equal(sheet[top : top + 20, left : left + 24], images[4])
    if with_masks:
        mask = sheet[top + 20 : top + 40, left : left + 24].astype(int).sum(2)
        assert mask[:, :12].max() < 150 and mask[:, 12:].min() > 600


def test_captions_are_drawn_and_cut(tmp_path):
    images = np.zeros((1, 112, 112, 3), dtype=np.uint8)
    for name, caption in (("none", ""), ("long", "n" * 500)):
        sample_sheet(tmp_path / f"{name}.png", images, None, [caption])
    without, drawn = read_rgb(tmp_path / "none.png"), read_rgb(tmp_path / "long.png")
    assert without.shape == drawn.shape
    assert without[118:136].min() == 255 and drawn[118:136].min() < 128


NAMES = [
    "A$AP_$0", "p0_$$", "$_$", "$x$", "a\\$b$c", "\\frac{", "$\\frac$", "100 %", "_^{}", "王菲", "محمد", "😀", "தமிழ்",
    "<b>", "caf\udce9", "\x1b[2J\n\r\t", "\ud800", "{}", "",
]  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_a_name_is_drawn_whatever_it_is(results, tmp_path):
    images, masks = np.zeros((len(NAMES), 24, 24, 3), np.uint8), np.ones((len(NAMES), 24, 24), np.uint8)
    sample_sheet(tmp_path / "sheet.png", images, masks, NAMES)
    prediction_panel(tmp_path / "panel.png", images, masks, np.ones((len(NAMES), 7, 7)), NAMES, "".join(NAMES))
    one = {**results, "benchmarks": {"$\\frac{$王\x1b\udce9": results["benchmarks"]["lfw"]}}
    assert [path.name for path in plot_report(tmp_path, one)][1] == r"roc_$\frac{$王\x1b\xe9.png"


def test_dollar_signs_are_drawn_as_they_are(results):
    for name in ("A$AP_$0", "a\\$b$c"):
        (axes,) = draw_roc(results["benchmarks"]["lfw"]["conditions"], name).axes
        # matplotlib's own rule for what is drawn: no mathematics, and the escapes taken off.
        assert axes.title._preprocess_math(axes.title.get_text()) == (name, False)


def test_prediction_panel_enlarges_the_visibility(tmp_path):
    images = np.full((2, 112, 112, 3), 90, dtype=np.uint8)
    masks = np.ones((2, 112, 112), dtype=np.uint8)
    visibility = np.ones((2, 7, 7))
    visibility[1, 4:] = 0
    prediction_panel(tmp_path / "panel.png", images, masks, visibility)
    panel = read_rgb(tmp_path / "panel.png").astype(int).sum(2)
    left, top = 18 + 6 + 112 + 6, 6 + 2 * (112 + 6)
    predicted = panel[top : top + 112, left : left + 112]
    assert predicted[:56].min() > 600 and predicted[74:].max() < 150
    assert 150 < predicted[64, 50] < 600  # between the rows of cells


def test_captions_and_title_of_a_panel_stand_above_it_and_move_nothing_else(tmp_path):
    images = np.full((2, 112, 112, 3), 90, dtype=np.uint8)
    masks, visibility = np.ones((2, 112, 112), dtype=np.uint8), np.ones((2, 7, 7))
    prediction_panel(tmp_path / "bare.png", images, masks, visibility)
    prediction_panel(tmp_path / "full.png", images, masks, visibility, ["scarf", "hand"], "synthetic faces")
    bare, full = read_rgb(tmp_path / "bare.png"), read_rgb(tmp_path / "full.png")
    np.testing.assert_array_equal(full[36:, 24:], bare[:, 24:])  # two lines of text; names of the rows are at the left
    assert full[:18].min() < 128 and full[18:36].min() < 128


def test_unequal_lengths_are_refused(tmp_path):
    images, masks = np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros((2, 8, 8), dtype=np.uint8)
    for arguments in ((images, masks[:1], ["a", "b"]), (images, None, ["a"]), (images[:0], None, [])):
        with pytest.raises(ValueError, match="sample_sheet: as many"):
            sample_sheet(tmp_path / "x.png", *arguments)
    with pytest.raises(ValueError, match="prediction_panel: as many"):
        prediction_panel(tmp_path / "x.png", images, masks, np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="prediction_panel: as many"):
        prediction_panel(tmp_path / "x.png", images, masks, np.zeros((2, 2, 2)), ["a"])
    assert not list(tmp_path.iterdir())


def test_evaluation_without_plots_loads_no_matplotlib():
    code = "import sys, evaluation, evaluation.report.results; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("ease", [None, 0.5])
def test_the_picture_of_a_mixture_grows_by_a_panel_where_ease_is_known(tmp_path, ease, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append((figure, path)))
    shares = {"web": [0.75, 0.5, 0.25], "a$b$": [0.25, 0.5, 0.75]}
    plots.mixture(
        tmp_path / "mixture.png", shares, {name: values[:1] for name, values in shares.items()}, {0: 0.8}, ease
    )
    (figure, path) = figures[0]
    lines = figure.axes[0].get_lines()
    assert path.name == "mixture.png" and len(figure.axes) == (1 if ease is None else 2)
    assert [list(line.get_ydata()) for line in lines] == [[0.75, 0.5, 0.25], [0.75], [0.25, 0.5, 0.75], [0.25]]
    assert lines[3].get_label() == r"a\$b\$, drawn"
