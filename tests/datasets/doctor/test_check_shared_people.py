"""`check --embeddings` lists who is in several sets, as --merge_identities reads it."""

import csv
import json

import numpy as np
import pytest

from cli.data.check import SHARED, main
from datasets import read_merged_identities
from models.embedding.folder import COLUMNS, FORMAT


def embed(folder, directions, weights="a" * 64, names=None, labels=True):
    """Write what `embed` writes: three images near each direction, in a folder called after its person."""
    rng = np.random.default_rng(len(directions))
    rows = np.repeat(np.array([*directions.values()]), 3, axis=0) + 0.1 * rng.normal(size=(3 * len(directions), 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    folder.mkdir()
    np.save(folder / "embeddings.npy", rows.astype(np.float32))
    np.save(folder / "norms.npy", np.ones(len(rows), np.float32))
    if labels:
        np.save(folder / "labels.npy", np.repeat(np.arange(len(directions)), 3))
    facts = {"format": FORMAT, "count": len(rows), "dim": 8, "dtype": "float32", "weights_sha256": weights}
    (folder / "embeddings.json").write_text(json.dumps(facts))
    names = names or [f"{person}/{number}.png" for person in directions for number in range(3)]
    with (folder / "images.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows({"index": place, "name": name} for place, name in enumerate(names))
    return folder


@pytest.fixture
def sets(tmp_path):
    axes = np.eye(8)
    web = embed(tmp_path / "w", {"n01": axes[0], "n02": axes[1], "n03": axes[2]})
    masked = embed(tmp_path / "m", {"Ann_Lee": axes[1], "Bo": axes[3], "Cy": 0.7 * axes[2] + 0.9 * axes[4]})
    return f"web={web},masked={masked}"


def test_people_in_two_sets_are_listed_as_a_training_reads_them(sets, tmp_path, capsys):
    output = tmp_path / "check"
    assert main(["--embeddings", sets, "--output-dir", str(output)]) == 0
    first, second = (output / SHARED).read_text().splitlines()
    assert first.startswith("web/n02 = masked/Ann_Lee  # 0.9")
    assert second.startswith("web/n03 = masked/Cy  # 0.6")
    people = {"web": ["n01", "n02", "n03"], "masked": ["Ann_Lee", "Bo", "Cy"]}
    merged = read_merged_identities(output / SHARED, people)
    assert merged["web"][1] == merged["masked"][0] and merged["web"][2] == merged["masked"][2]
    assert "2 people are probably in two sets" in capsys.readouterr().out
    assert main(["--embeddings", sets, "--output-dir", str(output), "--shared-above", "0.8", "--strict"]) == 1
    assert len((output / SHARED).read_text().splitlines()) == 1
    assert [path.name for path in output.iterdir()] == [SHARED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "b" * 64}, "the sets were embedded with different networks"),
        ({"names": ["0", "1", "2"]}, "do not lie in folders of people"),
        ({"names": ["a/0", "a/1", "b/2"]}, "labels and folders of people disagree"),
        ({"labels": False}, "nobody says who is who"),
    ],
)
def test_what_tells_no_people_is_refused_in_a_line(sets, tmp_path, capsys, change, message):
    other = embed(tmp_path / "o", {"one": np.eye(8)[0]}, **change)
    with pytest.raises(SystemExit) as stop:
        main(["--embeddings", f"{sets},other={other}", "--output-dir", str(tmp_path / "check")])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("word", "message"), [("web", "expected NAME=FOLDER"), ("a=x", "of two sets or more")])
def test_sets_need_names(tmp_path, capsys, word, message):
    with pytest.raises(SystemExit):
        main(["--embeddings", word, "--output-dir", str(tmp_path / "check")])
    assert message in capsys.readouterr().err
