"""Pairs and folds of an evaluation of the user's own images."""

import cv2
import numpy as np
import pytest

from cli.folder_evaluation import PairScores, choose_pairs, save_scores, warn_of_few
from datasets import ImageFolderDataset, Pairs
from evaluation import one_kind_folds


@pytest.mark.parametrize("num_folds", [2, 127, 128, 200, 70_000])
def test_the_numbers_of_folds_and_images_are_saved_as_they_are(tmp_path, num_folds):
    first = np.arange(num_folds)
    pairs = Pairs(first, first + 1, first % 2 == 0, np.arange(num_folds))
    save_scores(tmp_path / "scores.npz", ["a.png"], pairs, PairScores({}, {}))
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
    warn_of_few(tmp_path, pairs, np.arange(people))
    said = [f"{tmp_path}: {num_pairs} pairs of {people} people: 95 % interval of an accuracy of 90 %: "] * is_few
    assert len(caplog.messages) == len(said)
    assert all(message.startswith(start) for message, start in zip(caplog.messages, said, strict=True))
