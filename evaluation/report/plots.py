"""Pictures of a result dictionary (see `evaluation.report.results`) and of images with their masks.

The only module that imports matplotlib. It uses figures as objects, not pyplot's global state, and needs no display.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.report.results import METHOD_NAMES, Entry, Results, head_facts
from system.files import replacing
from system.terminal import printable

# Okabe, Ito, "Color universal design", 2008: told apart with every kind of color vision.
METHOD_COLORS = {"adaface": "#0072B2", "qaconv": "#E69F00", "combined": "#009E73"}
KIND_COLORS = {"genuine": "#0072B2", "impostor": "#D55E00"}
SET_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
CONDITION_STYLES = {"clean": "-", "occluded": "--"}

UInt8Array = NDArray[np.uint8]
_DPI = 100
_GUTTER = 6  # pixels between the cells of a sheet
_CAPTION = 18  # pixels for a line of text
_CAPTION_LENGTH = 18
# Names in scripts that the font of the pictures lacks are boxes there.
_LACKS_LETTERS = (r"(?s)Glyph .* missing from", "Matplotlib currently does not support .* natively")
_VISIBLE, _HIDDEN = np.array([205, 222, 238]), np.array([20, 24, 40])  # light on the white canvas, and dark


def plot_report(folder: Path | str, results: Results) -> list[Path]:
    """Write accuracy.png and, per benchmark, roc_{name}.png and scores_{name}.png into folder; return their paths."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    drawn = [_save(draw_accuracies(results), target / "accuracy.png")]
    for name, benchmark in results["benchmarks"].items():
        title = f"{name}{_mark(results)}"
        drawn.append(_save(draw_roc(benchmark["conditions"], title), target / f"roc_{printable(name)}.png"))
        drawn.append(_save(draw_histograms(benchmark["conditions"], title), target / f"scores_{printable(name)}.png"))
    return drawn


def score_histograms(path: Path | str, conditions: Mapping[str, Mapping[str, Entry]], title: str) -> None:
    """Write the picture of `draw_histograms`; its folder is made where it is missing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _save(draw_histograms(conditions, title), target)


def draw_roc(conditions: Mapping[str, Mapping[str, Entry]], title: str) -> Figure:
    """Return the ROC of every method and condition on a log FAR axis that begins where the impostor pairs end.

    Whiskers: 95 % intervals of the TAR at the FARs of the report.
    """
    figure, axes = _figure_with_axes(6.4, 4.4)
    for condition, entries in conditions.items():
        for method, entry in entries.items():
            axes.plot(
                entry["roc"]["far"],
                entry["roc"]["tar"],
                CONDITION_STYLES.get(condition, ":"),
                color=METHOD_COLORS[method],
                label=f"{METHOD_NAMES[method]}, {condition} (AUC {_area(entry)})",
                drawstyle="steps-post",
            )
            _draw_rate_intervals(axes, entry, METHOD_COLORS[method])
    smallest = min(entry["roc"]["far"][0] for entries in conditions.values() for entry in entries.values())
    axes.set(xscale="log", xlim=(smallest, 1), ylim=(0, 1.01), title=_plain(title))
    axes.set(xlabel="false-accept rate (log scale)", ylabel="true-accept rate")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    return figure


def draw_histograms(conditions: Mapping[str, Mapping[str, Entry]], title: str) -> Figure:
    """Return the distribution of genuine and impostor scores: a row per condition, a column per method."""
    methods = list(next(iter(conditions.values())))
    figure = Figure(figsize=(3.2 * len(methods), 0.6 + 2.3 * len(conditions)), layout="constrained")
    figure.suptitle(_plain(title))
    grid = figure.subplots(len(conditions), len(methods), squeeze=False)
    for row, (condition, entries) in zip(grid, conditions.items(), strict=True):
        for axes, method in zip(row, methods, strict=True):
            _draw_histogram(axes, entries[method]["histogram"])
            axes.set_title(f"{METHOD_NAMES[method]}, {condition}", fontsize="medium")
        row[0].set_ylabel("share of pairs")
    for axes in grid[-1]:
        axes.set_xlabel("score")
    grid[0, 0].legend(fontsize="small")
    return figure


def draw_accuracies(results: Results) -> Figure:
    """Return bars of each method's accuracy on each benchmark, a panel per condition; whiskers: 95 % intervals.

    Results that have none have the standard deviation over the folds instead. The bars begin at chance, 50 %. Where a
    benchmark has more pairs of one kind, a line shows what giving all of them the more frequent answer gets.
    """
    benchmarks = results["benchmarks"]
    conditions = list(dict.fromkeys(c for benchmark in benchmarks.values() for c in benchmark["conditions"]))
    width = max(4.0, 1.2 + 1.15 * len(benchmarks))
    figure = Figure(figsize=(width * len(conditions), 3.9), layout="constrained")
    panels = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for axes, condition in zip(panels, conditions, strict=True):
        by_benchmark = [benchmark["conditions"].get(condition, {}) for benchmark in benchmarks.values()]
        for place, method in enumerate(METHOD_NAMES):
            _draw_bars(axes, by_benchmark, method, place)
        _draw_constant_answers(axes, by_benchmark)
        axes.set_xticks(np.arange(len(benchmarks)), [_plain(name) for name in benchmarks])
        axes.set(title=f"{condition}{_mark(results)}", ylim=(50, 104))
        axes.set_yticks(range(50, 101, 10))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("accuracy in %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(METHOD_NAMES), frameon=False)
    return figure


def sample_sheet(
    path: Path | str, images: UInt8Array, masks: UInt8Array | None, captions: Sequence[str], columns: int = 8
) -> None:
    """Write a sheet of images, under each its mask and its caption, pixel for pixel.

    Args:
        path: of the picture; its suffix decides the format.
        images: uint8 [N, H, W, 3] RGB.
        masks: uint8 [N, H, W], 1 = visible (drawn light), 0 = occluded (dark); None: images alone.
        captions: N texts; long ones are cut.
        columns: images per row.
    Raises:
        ValueError: if the lengths differ or there are no images.
    """
    if not 0 < len(images) == len(captions) == len(images if masks is None else masks):
        raise ValueError(
            f"sample_sheet: as many masks and captions as images are needed, got {len(images)} images,"
            f" {'no' if masks is None else len(masks)} masks and {len(captions)} captions."
        )
    cells = images if masks is None else np.concatenate([images, _tint(masks)], axis=1)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    texts = [captions[start : start + columns] for start in range(0, len(cells), columns)]
    canvas, places = _mosaic(rows, min(columns, len(cells)), _CAPTION)
    figure, axes = _pixel_figure(canvas)
    for row_places, row_texts in zip(places, texts, strict=True):
        for (top, left), text in zip(row_places, row_texts, strict=False):
            axes.text(left, top + cells.shape[1] + _CAPTION - 5, _plain(text, _CAPTION_LENGTH), fontsize=6.5)
    _save(figure, Path(path))


def prediction_panel(
    path: Path | str,
    images: UInt8Array,
    masks: UInt8Array,
    visibility: NDArray[np.floating],
    captions: Sequence[str] = (),
    title: str = "",
) -> None:
    """Write a panel with a column per image: the image, its true visibility mask, and the predicted visibility.

    Args:
        path: of the picture; its suffix decides the format.
        images: uint8 [N, H, W, 3] RGB.
        masks: uint8 [N, H, W], 1 = visible.
        visibility: floating [N, h, w] in [0, 1], enlarged bilinearly for the picture.
        captions: N texts above the columns, or none; long ones are cut.
        title: text above everything; empty: none.
    Raises:
        ValueError: if the lengths differ or there are no images.
    """
    if not 0 < len(images) == len(masks) == len(visibility) == len(captions or images):
        raise ValueError(
            "prediction_panel: as many masks, visibility maps and captions as images are needed, got"
            f" {len(images)}, {len(masks)}, {len(visibility)} and {len(captions)} for images, masks, maps and captions."
        )
    predicted = np.stack([_enlarge(shown, *images.shape[1:3]) for shown in visibility])
    canvas, places = _mosaic([images, _tint(masks), _tint(predicted)], len(images), caption=0)
    above = _CAPTION * (bool(title) + bool(captions))
    figure, axes = _pixel_figure(np.pad(canvas, ((above, 0), (_CAPTION, 0), (0, 0)), constant_values=255))
    for ((top, _), *_), name in zip(places, ("image", "true visibility", "predicted visibility"), strict=True):
        center = above + top + images.shape[1] / 2
        axes.text(_CAPTION / 2, center, name, rotation=90, ha="center", va="center", fontsize=7.5)
    for (_, left), text in zip(places[0], captions, strict=False):
        axes.text(
            _CAPTION + left + images.shape[2] / 2, above - 1, _plain(text, _CAPTION_LENGTH), ha="center", fontsize=7.5
        )
    if title:
        axes.text(_CAPTION + _GUTTER, _CAPTION - 4, _plain(title), fontsize=8.5)
    _save(figure, Path(path))


def _draw_histogram(axes: Axes, histogram: Mapping[str, Sequence[float]]) -> None:
    for kind, color in KIND_COLORS.items():
        share = np.asarray(histogram[kind], dtype=np.float64) / max(1.0, sum(histogram[kind]))
        axes.stairs(share, histogram["edges"], fill=True, alpha=0.45, color=color, label=kind)
        axes.stairs(share, histogram["edges"], color=color)
    axes.grid(alpha=0.3)


def _draw_bars(axes: Axes, by_benchmark: Sequence[Mapping[str, Entry]], method: str, place: int) -> None:
    present = [(index, entries[method]) for index, entries in enumerate(by_benchmark) if method in entries]
    if not present:
        return
    width = 0.8 / len(METHOD_NAMES)
    x = [index + (place - 1) * width for index, _ in present]
    accuracies = [100 * entry["accuracy"] for _, entry in present]
    spreads = np.array([_whisker(entry) for _, entry in present]).T
    axes.bar(x, accuracies, 0.92 * width, color=METHOD_COLORS[method], label=METHOD_NAMES[method])
    axes.errorbar(x, accuracies, spreads, fmt="none", ecolor="0.25", elinewidth=0.8)
    for left, accuracy in zip(x, accuracies, strict=True):
        axes.text(left, 51, f"{accuracy:.1f}", rotation=90, ha="center", va="bottom", fontsize="small")


def _whisker(entry: Entry) -> tuple[float, float]:
    """Return how far the whisker of an accuracy reaches down and up, in percent."""
    interval = entry.get("accuracy_interval")
    if interval is None or interval["lower"] is None:
        return 100 * entry["std"], 100 * entry["std"]
    ends = entry["accuracy"] - interval["lower"], interval["upper"] - entry["accuracy"]
    return 100 * max(0.0, ends[0]), 100 * max(0.0, ends[1])


def _area(entry: Entry) -> str:
    interval = entry["auc_interval"]
    if interval is None or interval["lower"] is None:
        return f"{entry['auc']:.3f}"
    return f"{entry['auc']:.3f} [{interval['lower']:.3f}, {interval['upper']:.3f}]"


def _draw_rate_intervals(axes: Axes, entry: Entry, color: str) -> None:
    for far, rate in entry["tar_at_far"].items():
        interval = rate.get("interval")
        if interval is not None and interval["lower"] is not None:
            axes.vlines(float(far), interval["lower"], interval["upper"], color, alpha=0.7, linewidth=1.2)


def _draw_constant_answers(axes: Axes, by_benchmark: Sequence[Mapping[str, Entry]]) -> None:
    label = "the same answer to every pair"
    for index, entries in enumerate(by_benchmark):
        entry = next(iter(entries.values()), None)
        if entry is not None and entry["num_genuine"] != entry["num_impostor"]:
            axes.hlines(100 * entry["constant_accuracy"], index - 0.45, index + 0.45, "0.1", "dashed", label=label)
            label = ""


def _figure_with_axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _pixel_figure(canvas: UInt8Array) -> tuple[Figure, Axes]:
    """Return a figure that shows the canvas pixel for pixel, and axes whose coordinates are its pixels."""
    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", extent=(0, width, height, 0), aspect="auto")
    axes.set_axis_off()
    return figure, axes


def _mosaic(rows: Sequence[UInt8Array], columns: int, caption: int) -> tuple[UInt8Array, list[list[tuple[int, int]]]]:
    """Return a white canvas with rows of cells [n, H, W, 3], caption pixels under each, and all cells' (top, left)."""
    height, width = rows[0].shape[1:3]
    step_down, step_right = height + caption + _GUTTER, width + _GUTTER
    canvas = np.full((len(rows) * step_down + _GUTTER, columns * step_right + _GUTTER, 3), 255, dtype=np.uint8)
    places = [
        [(_GUTTER + down * step_down, _GUTTER + right * step_right) for right in range(len(cells))]
        for down, cells in enumerate(rows)
    ]
    for row_places, cells in zip(places, rows, strict=True):
        for (top, left), cell in zip(row_places, cells, strict=True):
            canvas[top : top + height, left : left + width] = cell
    return canvas, places


def _tint(visibility: NDArray[np.generic]) -> UInt8Array:
    """Return visibility [N, H, W] in [0, 1] as images uint8 [N, H, W, 3], from the hidden to the visible color."""
    blend = visibility.astype(np.float64)[..., None]
    return np.rint(blend * _VISIBLE + (1 - blend) * _HIDDEN).astype(np.uint8)


def _enlarge(values: NDArray[np.floating], height: int, width: int) -> NDArray[np.float64]:
    """Return values [h, w] enlarged to [height, width], bilinearly between the centers of the cells."""
    return _interpolation(height, values.shape[0]) @ values @ _interpolation(width, values.shape[1]).T


def _interpolation(size: int, num_cells: int) -> NDArray[np.float64]:
    centers = (np.arange(size) + 0.5) * num_cells / size - 0.5
    return np.stack([np.interp(centers, np.arange(num_cells), column) for column in np.eye(num_cells)], axis=1)


def _plain(text: str, limit: int | None = None) -> str:
    """Return foreign text for a picture: matplotlib would set what stands between dollar signs as mathematics."""
    return printable(text, limit).replace("$", r"\$")


def _mark(results: Results) -> str:
    facts = ["synthetic"] * results["synthetic"] + head_facts(results)
    return f" ({', '.join(facts)})" if facts else ""


def _save(figure: Figure, path: Path) -> Path:
    """Write the figure as a whole, or nothing."""
    FigureCanvasAgg(figure)
    kind = path.suffix.removeprefix(".")
    with replacing(path) as temporary, warnings.catch_warnings():
        for message in _LACKS_LETTERS:
            warnings.filterwarnings("ignore", message)
        figure.savefig(temporary, format=kind, dpi=_DPI, metadata={"Software": None} if kind == "png" else None)
    return path


def plot_shares(series: Mapping[str, Sequence[Mapping[str, float]]], far: float, path: Path) -> None:
    """Draw false accepts and balanced accuracy at one threshold against what is visible in both images of a pair.

    Args:
        series: before and after, by name: bins with "from" and "to", shares in [0, 1], "far" and "accuracy" in percent.
        far: that the threshold is set for, on clean pairs.
        path: of the PNG file.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    for (name, bins), color, label in zip(series.items(), ("#888888", "#0072b2"), ("before", "after"), strict=True):
        middle = [50 * (one["from"] + min(one["to"], 1.0)) for one in bins]
        for axes, what in ((left, "far"), (right, "accuracy")):
            axes.plot(middle, [one[what] for one in bins], "o-", color=color, label=f"{label}: {name}")
    left.axhline(100 * far, color="black", linewidth=0.8, linestyle=":")
    left.set(title="False accepts at one threshold, %", ylim=(0, None))
    right.set(title="Balanced accuracy at it, %")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel("share of the face visible in both images, %")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def plot_bars(
    accuracies: Mapping[str, tuple[float, float, float]], path: Path, label: str = "verification accuracy, %"
) -> None:
    """Draw accuracies as bars with their intervals.

    Args:
        accuracies: by name: estimate, lower and upper end, in [0, 1].
        path: of the PNG file.
        label: what they are.
    """
    figure = Figure(figsize=(7, 0.5 * len(accuracies) + 1), layout="constrained", dpi=110)
    axes = figure.subplots()
    values = 100 * np.array(list(accuracies.values()))
    whiskers = np.abs(values[:, 1:] - values[:, :1]).T
    axes.barh(list(accuracies), values[:, 0], xerr=whiskers, color="#0072b2", ecolor="black", capsize=3)
    axes.set(xlim=(min(50, values.min()), None), xlabel=label)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def mixture(
    path: Path | str,
    planned: Mapping[str, Sequence[float]],
    drawn: Mapping[str, Sequence[float]],
    ease: Mapping[int, float],
    ease_of_all: float | None,
) -> None:
    """Write a picture of a training on several data sets: their shares over the epochs, and how easy its images are.

    Args:
        path: of the picture; its suffix decides the format.
        planned: by data set, its share in each epoch, in [0, 1].
        drawn: by data set, what it was in each epoch that is over.
        ease: by epoch, the mean ease of the images drawn, in [0, 1].
        ease_of_all: the mean ease of all images; None: nothing is known of it, and nothing drawn.
    """
    panels = 1 if ease_of_all is None else 2
    figure = Figure(figsize=(6.4, 0.6 + 2.7 * panels), layout="constrained")
    shares, *rest = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for number, (name, values) in enumerate(planned.items()):
        color = SET_COLORS[number % len(SET_COLORS)]
        shares.plot(range(len(values)), values, "-", color=color, label=f"{_plain(name)}, planned")
        shares.plot(range(len(drawn[name])), drawn[name], "o", color=color, label=f"{_plain(name)}, drawn")
    shares.set(ylabel="share of the images", ylim=(0, 1.02))
    for axes in rest:
        axes.axhline(ease_of_all or 0.0, color="0.4", linestyle="--", label="all images")
        axes.plot([*ease], [*ease.values()], "o-", color=METHOD_COLORS["adaface"], label="images drawn")
        axes.set(ylabel="mean ease", ylim=(0, 1.02))
    for axes in (shares, *rest):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    (rest or [shares])[-1].set_xlabel("epoch")
    _save(figure, Path(path))
