"""Groups of pairs by a list, by occluder and by what is to be seen of the faces."""

from types import SimpleNamespace

import numpy as np
import pytest

import transforms
from cli.pairs.groupings import find_groups, list_groups, listed_groups, read_groups
from config import EvaluationConfig
from datasets import Pairs
from evaluation.scores.images import ImageScores


def options(**values):
    return EvaluationConfig(model_path="m", data_path="d", gpus=0, **values)


@pytest.fixture
def people():
    """Four images of two people and all six pairs."""
    first, second = np.triu_indices(4, 1)
    paths = ["faces/ann/1.png", "faces/ann/2.png", "faces/bob/1.png", "faces/bob/2.png"]
    pairs = Pairs(first, second, first // 2 == second // 2)
    identities = (np.stack([first, second], axis=1) // 2).ravel()
    return SimpleNamespace(pairs=pairs, identities=identities, paths=paths, keys=[(place,) for place in range(4)])


def names_of(grouping):
    return [grouping.names[place] for place in grouping.places]


def write(tmp_path, text):
    (tmp_path / "groups.csv").write_text(text, encoding="utf-8")
    return tmp_path / "groups.csv"


@pytest.mark.evaluation_flag("groups")
def test_pairs_are_grouped_by_people_and_by_images_that_count_before_them(people, tmp_path):
    path = write(tmp_path, "name,group\nann,old\nbob,young\n")
    expected = ["old", *["old | young"] * 4, "young"]
    assert names_of(listed_groups(path, people)) == expected
    listed = list_groups(people, options(groups=str(path)))
    found = find_groups(people, ImageScores({"clean": {}, "occluded": {}}, {}), options(), listed)
    assert names_of(found["clean"]["--groups"]) == names_of(found["occluded"]["--groups"]) == expected
    path = write(tmp_path, 'ann,old\nbob,young\n"bob/1.png",masked\n')
    assert names_of(listed_groups(path, people)) == [
        "old", "masked | old", "old | young", "masked | old", "old | young", "masked | young",
    ]  # fmt: skip


def test_images_without_a_group_are_said(people, tmp_path, caplog):
    grouping = listed_groups(write(tmp_path, "ann,old\n"), people)
    assert names_of(grouping) == ["old", *["no group | old"] * 4, "no group"]
    assert "2 of 4 images have no group" in caplog.text


def test_people_of_a_set_are_named_by_their_numbers(tmp_path):
    source = SimpleNamespace(
        pairs=Pairs(np.arange(0, 6, 2), np.arange(1, 6, 2), np.array([True, False, False])),
        identities=np.array([5, 5, 5, 7, 9, 7]),
        paths=(),
    )
    grouping = listed_groups(write(tmp_path, "5,a\n7,b\n9,b\n"), source)
    assert names_of(grouping) == ["a", "a | b", "b"]


def test_the_occluder_of_a_group_is_the_one_that_is_drawn(people):
    chosen = options(occlude="one", occluders=("sunglasses", "surgical", "hand"))
    groups = find_groups(people, ImageScores({"clean": {}, "occluded": {}}, {}), chosen, {})
    assert not groups["clean"]
    names = names_of(groups["occluded"]["occluder of the second face"])
    face = np.full((112, 112, 3), 128, np.uint8)
    for second, name in zip(people.pairs.second, names, strict=True):
        key = (chosen.seed, *people.keys[second])
        drawn = transforms.occlude(face, np.random.default_rng(key), chosen.occluders).image
        rng = np.random.default_rng(key)
        rng.integers(len(chosen.occluders))
        assert np.array_equal(drawn, transforms.OCCLUDERS[name](face, rng).image)


def test_the_lesser_face_decides_the_visible_share(people):
    visible = {"clean": np.array([[0.9, 0.5, 0.9, 0.9], [0.9, 0.5, 0.9, 0.1]], np.float32)}
    groups = find_groups(
        people, ImageScores({"clean": {}}, {}, visible=visible), options(), list_groups(people, options())
    )
    (grouping,) = groups["clean"].values()
    assert names_of(grouping) == ["40-60 %", "80-100 %", "0-20 %", "40-60 %", "0-20 %", "0-20 %"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no groups in it"),
        ("ann,old\nann,young\n", "line 2: 'ann' has a second group"),
        ("ann\n", "line 1: expected 'person or image, group', got 'ann'"),
        ("ann,old\ncarl,old\ndora,old\n", "2 of 3 names fit neither.*the first is 'carl'"),
    ],
)
def test_damaged_lists_are_named(people, tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"groups\.csv.*{message}"):
        listed_groups(write(tmp_path, text), people)


def test_too_many_groups_and_images_without_names_are_refused(people, tmp_path, monkeypatch):
    monkeypatch.setattr("cli.pairs.groupings.MAX_GROUPS", 2)
    path = write(tmp_path, "ann,old\nbob,young\n")
    with pytest.raises(ValueError, match="3 groups of pairs; at most 2"):
        listed_groups(path, people)
    people.paths = ["train.rec, byte 0"] * 4
    with pytest.raises(ValueError, match="the images have no names here"):
        listed_groups(path, people)
    assert read_groups(path) == {"ann": "old", "bob": "young"}
