"""`main.py cluster`: from a folder of embeddings to clusters, and what it refuses."""

import csv
import json

import cv2
import numpy as np
import pytest

import main
from datasets.clustering import nearest, unfinished, visits

NUM_PEOPLE, EACH, DIM = 30, 6, 64


def write_embeddings(folder, weights="a" * 64, labeled=True, dtype="float16"):
    """Write what `embed` writes for people whose images lie close together, in mixed order; return their labels."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(NUM_PEOPLE), EACH))
    vectors = rng.normal(size=(NUM_PEOPLE, DIM))[labels] + 0.3 * rng.normal(size=(len(labels), DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder.mkdir(exist_ok=True)
    np.save(folder / "embeddings.npy", vectors.astype(dtype))
    np.save(folder / "norms.npy", np.ones(len(labels), np.float32))
    if labeled:
        np.save(folder / "labels.npy", labels)
    names = [f"p{label}/{place}, a.png" for place, label in enumerate(labels)]
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("index", "name"), *enumerate(names)])
    facts = {"format": "maskwise embeddings 1", "count": len(labels), "dim": DIM, "dtype": dtype}
    facts |= {"weights_sha256": weights, "arch": "ir_tiny", "encoder": "key"}
    (folder / "embeddings.json").write_text(json.dumps(facts), encoding="utf-8")
    return labels


def run(*argv):
    return main.main(["cluster", *map(str, argv)])


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as end:
        run(*argv)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_people_become_clusters_with_names_quality_and_a_picture(tmp_path, capsys):
    labels = write_embeddings(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    clusters = np.load(tmp_path / "out/clusters.npy")
    assert clusters.dtype == np.int64 and len(set(zip(labels, clusters, strict=True))) == NUM_PEOPLE
    assert clusters[0] == 0  # numbered by the lowest member
    with (tmp_path / "out/clusters.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["cluster"]) for row in rows] == clusters.tolist()
    assert rows[3]["name"] == f"p{labels[3]}/3, a.png" and rows[3]["index"] == "3"
    report = json.loads((tmp_path / "out/clustering.json").read_text())
    assert report["num_clusters"] == NUM_PEOPLE and report["largest_cluster"] == EACH and report["edge_recall"] == 1
    assert report["num_refused_edges"] == 0 and report["coverage"] == 1 and report["weights_sha256"] == "a" * 64
    assert report["quality"]["single"]["f"] == report["quality"]["drop"]["bcubed_f"] == 1
    assert report["settings"]["threshold"] == 0.6 and report["source"]["encoder"] == "key"
    assert cv2.imread(str(tmp_path / "out/cluster_sizes.png")) is not None
    said = capsys.readouterr().out
    assert f"{len(labels)} images, {NUM_PEOPLE} clusters" in said and "edge recall of the search: 1.0000" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("cluster_sizes.png", "clustering.json", "clusters.csv", "clusters.npy")
    ]
    assert "holds a clustering already" in refusal(capsys, tmp_path / "in", tmp_path / "out")


@pytest.mark.cluster_flag("neighbours", "mutual", "threshold", "max_size", "jaccard", "method", "lists", "probe")
@pytest.mark.parametrize(
    ("flags", "figure", "holds"),
    [
        (("--max-size", 3), "largest_cluster", lambda size: size == 3),
        (("--max-size", 3), "num_refused_edges", lambda count: count > 0),
        (("--threshold", 0.999), "num_clusters", lambda count: count == 0),
        (("--neighbours", 1, "--mutual", 1), "num_mutual_edges", lambda count: count <= NUM_PEOPLE * EACH // 2),
        (("--mutual", 1), "num_mutual_edges", lambda count: count <= NUM_PEOPLE * EACH // 2),
        (("--jaccard", 1, "--neighbours", 3, "--mutual", 3), "num_unshared_edges", lambda count: count > 0),
        (("--method", "lists", "--lists", 8, "--probe", 1), "edge_recall", lambda share: share < 1),
        (("--method", "lists", "--lists", 8, "--probe", 8, "--seed", 5), "edge_recall", lambda share: share == 1),
        (("--method", "lists", "--lists", 8, "--probe", 3), "visits", lambda told: told["planning_queries"] == 0),
        (("--method", "lists", "--lists", 8), "visits", lambda told: told["planned_recall"] >= visits.RECALL),
        (("--queries", 1), "edge_recall", lambda share: share == 1),
    ],
)
def test_a_flag_does_what_its_help_says(flags, figure, holds, tmp_path):
    write_embeddings(tmp_path / "in", labeled=False, dtype="float32")
    assert run(tmp_path / "in", tmp_path / "out", *flags) == 0
    report = json.loads((tmp_path / "out/clustering.json").read_text())
    assert holds(report[figure]) and "quality" not in report


def test_visits_are_told_and_what_to_raise_where_they_find_too_little(tmp_path, capsys, monkeypatch):
    write_embeddings(tmp_path / "in")
    flags = (tmp_path / "in", tmp_path / "out", "--method", "lists", "--lists", 8, "--threshold", 0.2, "--overwrite")
    assert run(*flags) == 0
    told = json.loads((tmp_path / "out/clustering.json").read_text())["visits"]
    said = capsys.readouterr().out
    assert f"visited {told['probe']} of 8 lists, planned by the true neighbours of 180 images" in said
    assert told["planning_queries"] == 180 and "--probe" not in said
    assert run(*flags, "--probe", 1) == 0
    said = capsys.readouterr().out
    assert "visited 1 of 8 lists\n" in said and "below 0.98 loses people: give --probe a number above 1" in said
    monkeypatch.setattr(visits, "MAX_PROBE", 1)
    assert run(*flags) == 0
    said = capsys.readouterr().out
    assert "more than 1 visits are not planned" in said and "raise --lists, or give --probe a larger number" in said


@pytest.mark.cluster_flag("queries", "seed")
def test_queries_and_lists_follow_their_number_and_seed(tmp_path):
    write_embeddings(tmp_path / "in")
    recalls = {}
    for words in ((), ("--queries", 20), ("--queries", 20, "--seed", 5)):
        flags = ("--method", "lists", "--lists", 8, "--probe", 1, "--threshold", 0.2, "--overwrite", *words)
        assert run(tmp_path / "in", tmp_path / "out", *flags) == 0
        recalls[words] = json.loads((tmp_path / "out/clustering.json").read_text())["edge_recall"]
    assert len({*recalls.values()}) == 3


@pytest.mark.cluster_flag("overwrite")
def test_an_interrupted_search_goes_on_but_not_with_other_weights(tmp_path, capsys, monkeypatch):
    write_embeddings(tmp_path / "in")
    flags = (tmp_path / "in", tmp_path / "out", "--method", "lists", "--lists", 8)
    assert run(tmp_path / "in", tmp_path / "whole", *flags[2:]) == 0
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    search = nearest.ListSearch.run

    def interrupted(self, portion, best):
        if portion == 4:
            raise KeyboardInterrupt
        search(self, portion, best)

    monkeypatch.setattr(nearest.ListSearch, "run", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(*flags)
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    write_embeddings(tmp_path / "in", weights="b" * 64)
    assert "from other weights, aaaaaaaaaaaa instead of bbbbbbbbbbbb" in refusal(capsys, *flags)
    write_embeddings(tmp_path / "in")
    monkeypatch.setattr(nearest.ListSearch, "run", search)
    monkeypatch.setattr(nearest, "k_means", None)  # lists are kept, and what was planned
    assert run(*flags) == 0
    for name in ("clusters.npy", "clusters.csv", "clustering.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    monkeypatch.undo()
    write_embeddings(tmp_path / "in", weights="b" * 64)
    assert run(*flags, "--overwrite") == 0
    assert json.loads((tmp_path / "out/clustering.json").read_text())["weights_sha256"] == "b" * 64


def damage(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "embeddings.json").unlink(), "no embeddings.json lies there"),
        (damage("embeddings.json", b"{}"), "embeddings.json: damaged"),
        (damage("embeddings.npy", b"\x93NUMPY\x01\x00v\x00"), "embeddings.npy: damaged"),
        (lambda folder: (folder / "embeddings.npy").unlink(), "embeddings.npy: missing"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(3, np.int64)), "int64 [3] instead of int64 [180]"),
        (lambda folder: np.save(folder / "labels.npy", np.array([{}] * 180), allow_pickle=True), "labels.npy: damaged"),
        (lambda folder: np.save(folder / "embeddings.npy", np.ones((180, DIM), np.float16)), "number 0 has length 8"),
        (damage("images.csv", b"index,name\n0,a\n"), "images.csv: 1 names of 180 images"),
    ],
)
def test_embeddings_that_are_none_are_refused_in_a_line(break_it, message, tmp_path, capsys):
    write_embeddings(tmp_path / "in")
    break_it(tmp_path / "in")
    assert message in refusal(capsys, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out/clusters.npy").exists()


def test_a_command_that_means_nothing_is_refused(tmp_path, capsys):
    write_embeddings(tmp_path / "in")
    assert "--mutual 7 is above --neighbours 3" in refusal(
        capsys, tmp_path / "in", tmp_path / "out", "--mutual", 7, "--neighbours", 3
    )
    assert "OUT is IN" in refusal(capsys, tmp_path / "in", tmp_path / "in")
