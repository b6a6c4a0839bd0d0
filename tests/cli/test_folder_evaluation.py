"""Pairs and folds of an evaluation of the user's own images."""

import cv2
import numpy as np
import pytest
import torch
from benchmark_sets import draw_images, write_bin
from short_runs import write_faces
from torch.utils.data import DataLoader
from untrained import write_checkpoint

import main
import models
from cli import folder_evaluation
from cli.pairs.image_sets import ImageSet, choose_pairs, warn_of_few
from cli.pairs.score_files import save_scores
from config import OCCLUDERS, EvaluationConfig
from datasets import ImageFolderDataset, PairDataset, Pairs
from datasets import write_faces as write_records
from datasets.benchmarks.benchmark import BENCHMARKS
from datasets.benchmarks.sets import open_sets
from evaluation import one_kind_folds
from evaluation.report.results import read_results, to_primitive
from evaluation.run import build_results, compare, evaluate
from evaluation.scores.images import ImageScores
from tasks import validation

pytestmark = pytest.mark.usefixtures("own_cache")

ROUNDED = ("accuracy", "balanced_accuracy", "eer", "auc", "fold_accuracy", "num_genuine", "num_impostor")
EXACT = ("accuracy", "balanced_accuracy", "eer", "auc", "auc_interval", "fold_accuracy", "tar_at_far", "num_genuine")


def image_set(pairs, identities=None):
    return ImageSet("people", np.zeros((1, 112, 112, 3), np.uint8), pairs, identities, [], "", paths=["a.png"])


@pytest.mark.parametrize("num_folds", [2, 127, 128, 200, 70_000])
def test_the_numbers_of_folds_and_images_are_saved_as_they_are(tmp_path, num_folds):
    first = np.arange(num_folds)
    pairs = Pairs(first, first + 1, first % 2 == 0, np.arange(num_folds))
    save_scores(tmp_path / "scores.npz", image_set(pairs), ImageScores({}, {}), {})
    with np.load(tmp_path / "scores.npz") as saved:
        for field in ("first", "second", "issame", "folds"):
            np.testing.assert_array_equal(saved[field], getattr(pairs, field))


@pytest.fixture
def dataset(tmp_path):
    for name in ("a", "b", "c"):
        for number in range(4):
            path = tmp_path / "faces" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    return ImageFolderDataset(tmp_path / "faces")


def listed(issame, folds=None):
    first = np.where(issame, 0, 1) + np.zeros(len(issame), np.int64)
    second = np.where(issame, 1, 5) + np.arange(len(issame)) % 3
    return Pairs(first, second, np.array(issame), None if folds is None else np.array(folds))


@pytest.mark.parametrize(
    ("issame", "counts"), [([True] * 3, "3 genuine and 0"), ([True, False, False], "1 genuine and 2")]
)
def test_a_list_on_which_nothing_can_be_measured_is_named(dataset, issame, counts):
    with pytest.raises(ValueError, match=rf"^mine\.csv: {counts} impostor pairs of readable images") as caught:
        choose_pairs(dataset, np.arange(12), listed(issame), "mine.csv")
    assert "\n" not in str(caught.value)


def test_a_fold_that_unreadable_images_leave_with_one_kind_is_made_anew_and_said(dataset, caplog):
    issame, folds = [True, False, True, False, True, False], [0, 0, 1, 1, 2, 2]
    whole = choose_pairs(dataset, np.arange(12), listed(issame, folds), "pairs.txt")
    assert whole.folds.tolist() == folds and not caplog.records
    # The fourth pair's second image: fold 1 keeps its genuine pair alone.
    (lost,) = listed(issame, folds).second[[3]]
    left = choose_pairs(dataset, np.delete(np.arange(12), lost), listed(issame, folds), "pairs.txt")
    assert one_kind_folds(left.issame, left.folds) == []
    assert "pairs.txt: without unreadable images a fold holds one kind of pairs; stratified" in caplog.text


def test_a_list_of_genuine_pairs_first_is_measured_in_folds_of_both_kinds(dataset):
    pairs = choose_pairs(dataset, np.arange(12), listed([True] * 4 + [False] * 4), "list.csv")
    assert one_kind_folds(pairs.issame, pairs.folds) == [] and len(set(pairs.folds.tolist())) == 4


@pytest.mark.parametrize(("people", "num_pairs", "is_few"), [(3, 400, True), (20, 299, True), (20, 300, False)])
def test_figures_of_few_pairs_or_people_are_said_to_be_uncertain(tmp_path, caplog, people, num_pairs, is_few):
    first = np.arange(num_pairs) % people
    pairs = Pairs(first, (first + 1) % people, np.zeros(num_pairs, bool), None)
    warn_of_few(tmp_path, image_set(pairs, np.stack([pairs.first, pairs.second], axis=1).ravel()))
    said = [f"{tmp_path}: {num_pairs} pairs of {people} people: 95 % interval of an accuracy of 90 %: "] * is_few
    assert len(caplog.messages) == len(said)
    assert all(message.startswith(start) for message, start in zip(caplog.messages, said, strict=True))


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "last.ckpt")


def evaluate_at(data_path, checkpoint, output_dir, **options):
    paths = {"model_path": str(checkpoint), "data_path": str(data_path), "output_dir": str(output_dir)}
    assert folder_evaluation.run(EvaluationConfig(**paths, gpus=0, num_workers=1, **options)) == 0
    return read_results(output_dir / "results.json")


def test_benchmark_sets_have_the_scores_and_results_that_a_run_reports_of_them(tmp_path, checkpoint):
    (tmp_path / "sets").mkdir()
    for number, name in enumerate(("mine", "other")):
        write_bin(tmp_path / "sets" / f"{name}.bin", draw_images(24, seed=number), [True, False] * 6)
    options = {"occlude": "one", "map_dtype": "float32", "batch_size": 8}
    results = evaluate_at(tmp_path / "sets", checkpoint, tmp_path / "out", **options)

    model, scores = models.load(checkpoint), validation.PairScores()
    sets = open_sets(tmp_path / "sets")
    pairs = PairDataset(sets, OCCLUDERS, seed=42)
    with torch.inference_mode():
        for batch in DataLoader(pairs, batch_size=5):
            scores.add(model.describe, model.matcher, batch, torch.device("cpu"))
    gathered = scores.gather(sets)
    for benchmark in sets:
        with np.load(tmp_path / "out" / f"scores_{benchmark.name}.npz") as saved:
            for condition, by_matcher in gathered[benchmark.name].items():
                for matcher, values in by_matcher.items():
                    np.testing.assert_allclose(saved[f"{condition}_{matcher}"], values, atol=1e-4)
    weights = {"adaface": 0.7, "qaconv": 0.3}
    of_run = evaluate(sets, gathered, weights)
    expected = to_primitive(build_results(sets, of_run, {}, seed=42) | {"comparisons": compare(sets, of_run)})
    assert results["benchmarks"].keys() == {"mine", "other"} and results["comparisons"].keys() == {
        f"combined minus embedding, accuracy, {condition}" for condition in ("clean", "occluded")
    }
    for name, benchmark in expected["benchmarks"].items():
        found = results["benchmarks"][name]
        assert found["checksum"] == benchmark["checksum"]
        for condition, methods in benchmark["conditions"].items():
            for method, entry in methods.items():
                other = found["conditions"][condition][method]
                assert other.keys() - {"groups"} == entry.keys()
                assert {key: other[key] for key in EXACT} == {key: entry[key] for key in EXACT}


def test_one_set_and_a_folder_of_people_are_named_after_themselves(tmp_path, checkpoint):
    write_bin(tmp_path / "my.set.bin", draw_images(24), [True, False] * 6)
    assert list(evaluate_at(tmp_path / "my.set.bin", checkpoint, tmp_path / "a")["benchmarks"]) == ["my.set"]
    people = (write_faces(tmp_path / "data", pairs=0) / "train").rename(tmp_path / "my people")
    assert list(evaluate_at(people, checkpoint, tmp_path / "b")["benchmarks"]) == ["my people"]


def test_people_with_another_file_beside_them_are_evaluated_and_a_long_name_is_cut(tmp_path, checkpoint):
    people = (write_faces(tmp_path / "data", pairs=0) / "train").rename(tmp_path / ("é" * 127))
    (people / "notes.bin").write_bytes(b"no set")
    (name,) = evaluate_at(people, checkpoint, tmp_path / "a")["benchmarks"]
    assert name.startswith("ééé") and len(name) == 50 and (tmp_path / "a" / f"roc_{name}.png").is_file()


def test_a_name_too_long_for_the_files_of_a_report_is_refused_before_the_evaluation(tmp_path, checkpoint):
    write_bin(tmp_path / "sets" / f"{'n' * 240}.bin", draw_images(24), [True, False] * 6)
    with pytest.raises(ValueError, match="100 characters at most"):
        evaluate_at(tmp_path / "sets", checkpoint, tmp_path / "a")


def test_a_list_of_pairs_for_a_benchmark_set_is_refused(tmp_path, checkpoint):
    write_bin(tmp_path / "mine.bin", draw_images(24), [True, False] * 6)
    with pytest.raises(ValueError, match=r"^--pairs names files of a folder; .*mine\.bin is a benchmark set"):
        evaluate_at(tmp_path / "mine.bin", checkpoint, tmp_path / "out", pairs="list.csv")


def test_a_record_file_has_the_results_of_the_folder_that_it_was_written_from(tmp_path, checkpoint):
    folder = ImageFolderDataset(write_faces(tmp_path / "data", pairs=0) / "train")
    (tmp_path / "faces").mkdir()
    write_records(tmp_path / "faces", (path.read_bytes() for path in folder.paths), folder.labels)
    (of_folder,) = evaluate_at(folder.root, checkpoint, tmp_path / "a")["benchmarks"].values()
    of_records = evaluate_at(tmp_path / "faces", checkpoint, tmp_path / "b")["benchmarks"]["faces"]
    for entry in (of_folder, of_records):  # what the images are called differs
        for kind in ("genuine", "impostor"):
            assert all(len(pair.pop("names")) == 2 for pair in entry["hardest"]["clean"][kind])
    assert of_records == of_folder
    (tmp_path / "list.csv").write_text("a,b,1\n")
    with pytest.raises(ValueError, match="--pairs names files of a folder"):
        evaluate_at(tmp_path / "faces", checkpoint, tmp_path / "c", pairs=str(tmp_path / "list.csv"))


def test_a_shortlist_of_a_benchmark_set_is_refused(tmp_path, checkpoint):
    write_bin(tmp_path / "mine.bin", draw_images(24), [True, False] * 6)
    with pytest.raises(ValueError, match="--shortlist"):
        evaluate_at(tmp_path / "mine.bin", checkpoint, tmp_path / "out", shortlist=3)


@pytest.mark.flag("fars")
def test_main_evaluates_a_set_without_training_data_as_main_eval_does_at_the_fars_asked_for(
    tmp_path, checkpoint, monkeypatch
):
    write_bin(tmp_path / "data" / "lfw.bin", draw_images(24), [True, False] * 6)
    flags = ["--evaluate", "--resume_from_checkpoint", str(checkpoint), "--data_root", ".", "--fars", "0.5,1e-4"]
    flags += ["--batch_size", "6", "--gpus", "0", "--num_workers", "0"]
    monkeypatch.chdir(tmp_path / "data")
    assert main.main(flags) == 0
    (path,) = tmp_path.glob("data/experiments/*/report/results.json")
    options = {"occlude": "one", "map_dtype": "float32", "fars": (0.5, 1e-4)}
    own = evaluate_at(tmp_path / "data" / "lfw.bin", checkpoint, tmp_path / "out", **options)
    results = read_results(path)
    assert results["schema"] == 3 and not results["synthetic"] and results["missing"] == list(BENCHMARKS[1:])
    assert list(results["benchmarks"]) == list(own["benchmarks"]) == ["lfw"]
    for condition, methods in results["benchmarks"]["lfw"]["conditions"].items():
        for method, entry in methods.items():
            other = own["benchmarks"]["lfw"]["conditions"][condition][method]
            assert {key: other[key] for key in ROUNDED} == {key: entry[key] for key in ROUNDED}
            assert list(entry["tar_at_far"]) == list(other["tar_at_far"]) == ["0.5", "0.0001"]
            assert entry["tar_at_far"]["0.0001"] == other["tar_at_far"]["0.0001"] and entry["auc_interval"]
