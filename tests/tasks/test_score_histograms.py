"""The picture of the scores: one per validation, over the pairs of all benchmarks, whole, on rank 0 alone."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from engine.files import WriteFailures
from evaluation import evaluate_pairs
from evaluation.report import plots
from tasks.score_histograms import ScoreHistograms, pooled_histograms

WEIGHTS = {"adaface": 0.5, "qaconv": 0.5}
SIZES = {"lfw": 60, "cplfw": 40}


def benchmark_results(seed, num_pairs):
    rng = np.random.default_rng(seed)
    issame = np.arange(num_pairs) % 4 == 0
    scores = {name: rng.normal(size=num_pairs) + 2 * issame for name in WEIGHTS}
    return {condition: evaluate_pairs(scores, issame, WEIGHTS, folds=2) for condition in ("clean", "occluded")}


@pytest.fixture(scope="module")
def results():
    return {name: benchmark_results(seed, size) for seed, (name, size) in enumerate(SIZES.items())}


@pytest.fixture
def trainer():
    return SimpleNamespace(global_step=120, loggers=[], datamodule=SimpleNamespace(synthetic=True))


def validate(folder, trainer, results):
    ScoreHistograms(folder).on_validation_end(trainer, SimpleNamespace(last_results=results))


@pytest.mark.usefixtures("drawn_pictures")
def test_every_validation_leaves_one_whole_picture_named_after_its_step(tmp_path, trainer, results):
    for trainer.global_step in (120, 240):
        validate(tmp_path, trainer, results)
    paths = sorted((tmp_path / "histograms").iterdir())
    assert [path.name for path in paths] == ["step_120.png", "step_240.png"]
    for path in paths:
        picture = cv2.imread(str(path))
        assert picture.std() > 10 and picture.shape[1] > picture.shape[0]
        assert path.stat().st_size < 100_000


@pytest.mark.parametrize(
    "error", [ValueError("bad"), MemoryError(), UnicodeError("x"), cv2.error("y"), OSError(28, "full")]
)
def test_a_picture_that_cannot_be_drawn_is_told_once_and_ends_nothing(
    error, tmp_path, trainer, results, monkeypatch, caplog
):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(plots, "draw_histograms", fail)
        failures = WriteFailures()
        histograms = ScoreHistograms(tmp_path, failures)
        for _ in range(2):
            histograms.on_validation_end(trainer, SimpleNamespace(last_results=results))
    (line,) = caplog.messages
    reason = "(full)" if isinstance(error, OSError) else type(error).__name__
    assert line.startswith("histograms could not be written (") and reason in line
    assert ("test_score_histograms.py:" in line) == (not isinstance(error, OSError))
    assert failures.exit_code() == 74
    histograms.on_validation_end(trainer, SimpleNamespace(last_results=results))
    assert failures.exit_code() == 0


def test_the_grid_has_a_row_per_condition_a_column_per_method_and_says_synthetic(
    tmp_path, trainer, results, monkeypatch
):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    validate(tmp_path, trainer, results)
    trainer.datamodule.synthetic = False
    validate(tmp_path, trainer, results)
    synthetic, real = drawn
    assert [axes.get_title() for axes in synthetic.axes] == [
        f"{method}, {condition}"
        for condition in ("clean", "occluded")
        for method in ("embedding", "QAConv", "combined")
    ]
    assert synthetic.get_suptitle() == "step 120: lfw, cplfw, synthetic faces"
    assert real.get_suptitle() == "step 120: lfw, cplfw"


def test_every_pair_of_every_benchmark_is_counted_once(results):
    pooled = pooled_histograms(results)
    assert list(pooled) == ["clean", "occluded"]
    for condition, methods in pooled.items():
        assert list(methods) == ["adaface", "qaconv", "combined"]
        for method, entry in methods.items():
            histogram = entry["histogram"]
            assert (sum(histogram["genuine"]), sum(histogram["impostor"])) == (25, 75)
            scores = np.concatenate([results[name][condition][method].scores for name in SIZES])
            assert histogram["edges"][0] == pytest.approx(scores.min(), abs=1e-5)
            assert histogram["edges"][-1] == pytest.approx(scores.max(), abs=1e-5)


def test_other_ranks_write_nothing(tmp_path, trainer, results, monkeypatch):
    monkeypatch.chdir(tmp_path)
    validate(None, trainer, results)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, trainer, results, monkeypatch):
    validate(tmp_path, trainer, results)
    (path,) = (tmp_path / "histograms").iterdir()
    before = path.read_bytes()

    def write_half_then_fail(figure, target, **options):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", write_half_then_fail)
    with pytest.raises(OSError, match="No space left"):
        validate(tmp_path, trainer, results)
    assert [entry.name for entry in (tmp_path / "histograms").iterdir()] == ["step_120.png"]
    assert path.read_bytes() == before
