"""Nearest neighbors that vote, the linear probe, the division of the images, and the program `probe`."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ROOT, refusal

from cli.embedding import probe, probing
from evaluation.representation.knn import KnnVote, knn_vote
from evaluation.representation.linear import ProbeSettings, linear_probe
from evaluation.representation.people import accuracy_over_people, split_images
from models.embedding.folder import FORMAT
from options.embedding import ProbeOptions

GOLDEN = ROOT / "tests/golden/pretraining/knn_vote.npz"


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def clouds(people, images, noise, seed=0, dim=32):
    """Return unit embeddings around a direction for each person, and whose they are."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), images)
    return unit(unit(rng.normal(size=(people, dim)))[labels] + noise * rng.normal(size=(len(labels), dim))), labels


def test_the_vote_is_that_of_the_reference():
    golden = np.load(GOLDEN)
    k, temperature = int(golden["knn_k"]), float(golden["knn_T"])
    found = knn_vote(golden["knn_queries"], golden["x"], golden["knn_labels"], k, temperature)
    assert np.array_equal(found.predicted, golden["knn_predicted"])
    assert np.allclose(found.scores, golden["knn_scores"], rtol=1e-12)
    one = knn_vote(golden["knn_queries"], golden["x"], golden["knn_labels"], 1, temperature)
    nearest = (golden["knn_queries"] @ golden["x"].T).argmax(axis=1)
    assert np.array_equal(one.predicted, golden["knn_labels"][nearest])
    with pytest.raises(ValueError, match="temperature > 0"):
        knn_vote(golden["x"], golden["x"], golden["knn_labels"], 1, 0.0)
    with pytest.raises(ValueError, match=r"\[N, D\] and labels \[N\] are needed"):
        knn_vote(golden["x"], golden["x"], golden["knn_labels"][:-1])


def test_the_probe_learns_what_a_line_divides_and_follows_its_seed():
    embeddings, labels = clouds(6, 12, 0.05)
    train, test = split_images(labels, 0.25, 0)
    fast = ProbeSettings(epochs=20, milestones=(10, 15), batch_size=16)
    told = linear_probe(embeddings[train], labels[train], embeddings[test], fast)
    assert (told == labels[test]).all()
    noise, labels = clouds(6, 12, 3.0)
    answers = [linear_probe(noise, labels, noise, fast._replace(seed=seed)) for seed in (1, 1, 2)]
    assert np.array_equal(answers[0], answers[1]) and not np.array_equal(answers[0], answers[2])
    with pytest.raises(ValueError, match="the loss is not finite in epoch"):
        linear_probe(noise, labels, noise, fast._replace(lr=3e38, batch_size=2))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_every_image_is_on_one_side_and_every_person_trains(labels, share, seed):
    people = np.array(labels)
    train, test = split_images(people, share, seed)
    assert sorted([*train, *test]) == list(range(len(people)))
    assert set(people[train]) == set(labels)
    assert set(people[test]) == {person for person in set(labels) if labels.count(person) > 1}


def test_the_interval_resamples_people_and_not_images():
    people = np.repeat(np.arange(20), 50)
    is_right = people < 15  # whole people are right or wrong
    found = accuracy_over_people(is_right, people, 1000, 0)
    assert found.estimate == 0.75
    # Of 20 answers, not of 1000: the standard error is sqrt(.75 * .25 / 20) = 0.097.
    assert 0.3 < found.upper - found.lower < 0.45


def write_folder(root, embeddings, labels, weights="a" * 64):
    root.mkdir()
    np.save(root / "embeddings.npy", embeddings.astype(np.float16))
    np.save(root / "norms.npy", np.ones(len(embeddings), np.float32))
    if labels is not None:
        np.save(root / "labels.npy", labels.astype(np.int64))
    facts = {"format": FORMAT, "count": len(embeddings), "dim": embeddings.shape[1], "dtype": "float16"}
    (root / "embeddings.json").write_text(json.dumps({**facts, "weights_sha256": weights, "images_sha256": "b"}))
    return root


@pytest.mark.probe_flag("test_share", "draws", "output")
def test_the_program_tells_and_compares(tmp_path, capsys):
    labels = clouds(10, 10, 0)[1]
    poor, good = (
        write_folder(tmp_path / name, clouds(10, 10, noise)[0], labels)
        for name, noise in (("poor", 0.5), ("good", 0.1))
    )
    words = [poor, good, "--epochs", "20", "--milestones", "10,15", "--k", "8", "--output", tmp_path / "figures.json"]
    assert probe.main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert f"{poor}: 20 images of 10 identities test, 80 train" in out and "k-NN    minus the first: " in out
    first, second = json.loads(Path(tmp_path / "figures.json").read_text())["results"]
    assert second["k-NN"]["estimate"] == 1.0 > first["k-NN"]["estimate"] > 0.2
    assert second["k-NN minus the first"]["lower"] > 0 and second["linear"]["estimate"] == 1.0
    for flag, value in {"--seed": 1, "--test-share": 0.5, "--k": 1, "--draws": 100}.items():
        probe.main([str(word) for word in [poor, *words[2:], flag, value]])
        assert json.loads(Path(tmp_path / "figures.json").read_text())["results"][0] != first, flag


@pytest.mark.probe_flag("k", "temperature", "lr", "weight_decay", "epochs", "milestones", "batch_size", "seed")
def test_every_flag_reaches_what_it_is_of(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "some", *clouds(4, 4, 0.1))
    seen = []

    def train(known, people, queries, settings, progress):
        seen.append(settings)
        return np.zeros(len(queries), np.int64)

    def vote(queries, references, labels, k, temperature):
        seen.append((k, temperature))
        return KnnVote(np.zeros(len(queries), np.int64), np.zeros((len(queries), 4)))

    monkeypatch.setattr(probing, "linear_probe", train)
    monkeypatch.setattr(probing, "knn_vote", vote)
    flags = "--k 3 --temperature 0.5 --lr 0.1 --weight-decay 0.2 --epochs 7 --milestones 2,4 --batch-size 8 --seed 5"
    assert probe.main([str(folder), *flags.split()]) == 0
    assert seen == [(3, 0.5), ProbeSettings(0.1, 0.2, 7, (2, 4), 8, 5)]


def test_what_cannot_be_probed_is_one_line(tmp_path, capsys):
    embeddings = clouds(4, 3, 0.1)[0]
    unlabeled = write_folder(tmp_path / "unlabeled", embeddings, None)
    singles = write_folder(tmp_path / "singles", embeddings, np.arange(12))
    assert "nobody says who is who" in refusal(capsys, probe.main, unlabeled)
    assert "0 of them with two or more images" in refusal(capsys, probe.main, singles)
    assert "no embeddings.json lies there" in refusal(capsys, probe.main, tmp_path)
    assert "--milestones must rise" in refusal(capsys, probe.main, singles, "--milestones", "5,5")


def test_the_defaults_are_those_of_the_paper():
    options = ProbeOptions()
    given = options.lr, options.weight_decay, options.epochs, options.milestones, options.batch_size, options.seed
    assert ProbeSettings() == given and (options.k, options.temperature) == (200, 0.07)
