"""The report's page as programs write it: main_eval.py, a training run, and `python main.py report`."""

import base64
import json
import shutil

import cv2
import numpy as np
import pytest
from page_results import Page, build, write_report_of
from programs import program, refusal
from untrained import write_checkpoint

from cli import folder_evaluation, report
from config import EvaluationConfig
from evaluation.report.results import read_results

METRICS = "step,train_loss\n1,3\n2,2\n"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Folder of four people of noise, whose names are hostile, with three images each."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for person in ("<b>ann<", "bob&amp", "carl", "jane_doe"):
        (root / person).mkdir()
        for number in range(3):
            image = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(root / person / f"{number}.png"), image)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "last.ckpt")


@pytest.fixture
def evaluated(people, checkpoint, tmp_path, quiet_log):
    """Return a function that evaluates the people and returns the folder of the report."""

    def run(**options):
        paths = {"model_path": str(checkpoint), "data_path": str(people), "output_dir": str(tmp_path / "out")}
        assert folder_evaluation.run(EvaluationConfig(**paths, gpus=0, num_workers=1, **options)) == 0
        return tmp_path / "out"

    return run


def decoded(page):
    uris = [a["href"] for tag, a in page.tags if tag == "image"]
    return [cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), 1) for uri in uris]


def test_an_evaluation_writes_a_page_with_its_hardest_pairs(evaluated, people):
    folder = evaluated(occlude="one")
    results = read_results(folder / "results.json")
    (benchmark,) = results["benchmarks"].values()
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    with np.load(folder / "scores.npz") as saved:
        paths, first, second, issame = (saved[name] for name in ("paths", "first", "second", "issame"))
        embedding = saved["clean_adaface"]
    assert embedding.size == 66 and set(benchmark["hardest"]) == {"clean", "occluded"}
    pictures = iter(decoded(page))
    for condition, found in benchmark["hardest"].items():
        assert found["method"] == "combined"
        for kind, order in (("genuine", 1), ("impostor", -1)):
            scores = [order * pair["score"] for pair in found[kind]]
            assert len(scores) == 6 and scores == sorted(scores)
            for pair in found[kind]:
                place = pair["place"]
                assert issame[place] == (kind == "genuine")
                assert pair["names"] == ["/".join(paths[side[place]].split("/")[-2:]) for side in (first, second)]
                assert all(name in page.words for name in pair["names"])
                assert np.shape(pair["visibility"]) == (2, 7, 7) and 0 < len(pair["matches"]) <= 8
                assert len({a for a, _, _ in pair["matches"]}) == len({b for _, b, _ in pair["matches"]})
                faces = np.concatenate([cv2.imread(paths[side[place]]) for side in (first, second)], axis=1)
                error = np.abs(next(pictures).astype(int) - faces).mean(axis=(0, 2))
                assert error[:112].mean() < 12  # as far as JPEG keeps noise
                assert (error[112:].mean() < 12) == (condition == "clean")
    assert "versions" in page.words and "torch" in page.words


@pytest.mark.evaluation_flag("anonymous")
def test_evaluation_anonymous_keeps_neither_pictures_nor_names(evaluated):
    folder = evaluated()
    assert "jane_doe" in (folder / "index.html").read_text() and list((folder / "pairs").iterdir())
    evaluated(anonymous=True)
    for name in ("index.html", "results.json"):
        text = (folder / name).read_text()
        assert "jane_doe" not in text and "data:image" not in text and '"pairs/' not in text
    assert not list((folder / "pairs").iterdir())


@pytest.mark.slow
@pytest.mark.flag("anonymous")
def test_a_run_writes_a_page_with_its_training_and_anonymous_without_pictures(trained, tmp_path):
    run = tmp_path / trained.name
    shutil.copytree(trained, run)
    page = Page((run / "report" / "index.html").read_text(encoding="utf-8"))
    for heading in ("Answer", "Set lfw", "Hardest pairs", "Training", "Samples", "Protocol"):
        assert f" {heading} " in page.words
    pictures = decoded(page)
    assert len(pictures) == 5 * 2 * 12 and all(picture.shape == (112, 224, 3) for picture in pictures)
    assert report.main([str(run), "--anonymous"]) == 0
    anonymous = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "data:image" not in anonymous and "Hardest pairs" in anonymous
    again = program("main.py", "report", run, cwd=tmp_path)
    assert f"page: {run}/report/index.html" in again.stdout
    assert Page((run / "report" / "index.html").read_text(encoding="utf-8")).figures == page.figures


@pytest.fixture
def runs(tmp_path):
    """Return two run folders."""
    for number in range(2):
        folder = tmp_path / f"run_{number}"
        write_report_of(folder / "report", build(seed=3 * number, run=f"run_{number}"))
        (folder / "metrics.csv").write_text(METRICS)
    return [tmp_path / "run_0", tmp_path / "run_1"]


def test_report_writes_each_page_and_one_that_compares_them(runs, tmp_path, capsys):
    out = tmp_path / "both"
    assert report.main([*map(str, runs), "--output-dir", str(out)]) == 0
    pages = [*(run / "report" / "index.html" for run in runs), out / "index.html"]
    assert capsys.readouterr().out.splitlines() == [f"page: {page}" for page in pages]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    assert all("Losses in training" in text for text in texts[:2]) and "run_0" in texts[2] and "run_1" in texts[2]
    figures = Page(texts[2]).figures
    for run in runs:
        results = json.loads((run / "report" / "results.json").read_text())
        value = results["benchmarks"]["lfw"]["conditions"]["clean"]["combined"]["accuracy"]
        pointer = "/benchmarks/lfw/conditions/clean/combined/accuracy"
        assert (pointer, "percent", json.dumps(value), f"{100 * value:.2f}") in figures


@pytest.mark.parametrize("name", ["", "report", "report/results.json"])
def test_a_run_is_found_by_its_folder_its_report_or_its_results(runs, name):
    assert report.main([str(runs[0] / name)]) == 0
    assert "Losses in training" in (runs[0] / "report" / "index.html").read_text(encoding="utf-8")
    assert not (runs[1] / "report" / "index.html").exists()


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    twin = tmp_path / "elsewhere" / "run_0"
    shutil.copytree(runs[0], twin)
    assert report.main([str(runs[0]), str(twin), "--output-dir", str(tmp_path / "both")]) == 0
    words = Page((tmp_path / "both" / "index.html").read_text(encoding="utf-8")).words
    assert str(twin / "report") in words and str(runs[0] / "report") in words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a results.json that can be read"),
        ('{"schema": 9}', "schema 9 is not known"),
        ('{"schema": 3}', "not the results of an evaluation (KeyError: 'benchmarks')"),
        ('{"schema": 3, "benchmarks": {}, "protocol": {}, "synthetic": true, "missing": []}', "not the results of an"),
        ('{"schema": 3, "benchmarks": {"x": {"conditions": {"clean": {"adaface": 3}}}}}', "not the results of an"),
    ],
)
def test_results_that_cannot_be_drawn_are_one_line_and_nothing_is_written(runs, capsys, text, message):
    (runs[1] / "report" / "results.json").write_text(text)
    said = refusal(capsys, report.main, *runs)
    assert message in said and "run_1/report/results.json" in said
    assert not any((run / "report" / "index.html").exists() for run in runs)


def test_what_is_no_run_is_one_line(tmp_path, runs, capsys):
    assert "nothing to report" in refusal(capsys, report.main)
    assert "nowhere does not exist" in refusal(capsys, report.main, tmp_path / "nowhere")
    assert "no results.json in it" in refusal(capsys, report.main, tmp_path)
    (runs[0] / "metrics.csv").write_text("no,metrics\n1,2\n")
    assert "metrics.csv: not the metrics.csv of a run" in refusal(capsys, report.main, runs[0])
