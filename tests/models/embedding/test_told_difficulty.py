"""The difficulty of images by what a network told of them: a folder of `embed`, or a table of losses."""

import csv
import json

import numpy as np
import pytest

from datasets import IdentitySubset, ImageFolderDataset
from models.embedding import people
from models.embedding.difficulty import told_difficulty
from models.embedding.folder import COLUMNS, FORMAT
from system.terminal import escaped

NAMES = ["a/0.png", "a/new\nline.png", "b/0.png", "b/1.png"]


@pytest.fixture
def faces(tmp_path):
    """Images that nobody decodes."""
    for name in NAMES:
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(b"")
    return ImageFolderDataset(tmp_path / "faces")


def table(path, column, values, names=NAMES):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["name", column, *(name for name in COLUMNS if name not in ("name", column))])
        writer.writeheader()
        writer.writerows({"name": escaped(n), column: value} for n, value in zip(names, values, strict=True))
    return path


def embedded(folder, norms=(3.0, 9.0, 5.0, 1.0), qualities=("0.5", "1.0000", "0.75", "0.1")):
    folder.mkdir()
    np.save(folder / "embeddings.npy", np.ones((4, 8), np.float32))
    np.save(folder / "norms.npy", np.array(norms, np.float32))
    facts = {"format": FORMAT, "count": 4, "dim": 8, "dtype": "float32", "weights_sha256": "a" * 64}
    (folder / "embeddings.json").write_text(json.dumps(facts))
    table(folder / "images.csv", "quality", qualities)
    return folder


def test_each_kind_takes_its_numbers_by_the_names_of_images(faces, tmp_path):
    folder, losses = embedded(tmp_path / "e"), table(tmp_path / "l.csv", "loss", [4, 3, 2, 1], NAMES[::-1])
    assert told_difficulty(faces, "norm", folder).tolist() == [-3, -9, -5, -1]
    assert told_difficulty(faces, "visible", str(folder)).tolist() == [0.5, 0.0, 0.25, 0.9]
    assert told_difficulty(faces, "loss", losses).tolist() == [1, 2, 3, 4]
    assert told_difficulty(IdentitySubset(faces, [1]), "norm", folder).tolist() == [-5, -1]


def test_the_loss_of_a_folder_is_that_among_the_means_of_people_without_the_image_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(people, "_LOGITS", 6)  # two rows of three people at a time
    paths = [f"{person}/{number}.png" for person, count in (("a", 3), ("b", 2), ("c", 1)) for number in range(count)]
    for path in paths:
        (tmp_path / "faces" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / path).touch()
    folder, labels = embedded(tmp_path / "e"), np.array([0, 0, 0, 1, 1, 2])
    unit = np.random.default_rng(0).normal(size=(6, 8))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    np.save(folder / "embeddings.npy", unit)
    np.save(folder / "norms.npy", np.ones(6, np.float32))
    np.save(folder / "labels.npy", labels)
    (folder / "embeddings.json").write_text(
        json.dumps(json.loads((folder / "embeddings.json").read_text()) | {"count": 6})
    )
    table(folder / "images.csv", "quality", [""] * 6, paths)

    def loss(image):
        kept = np.arange(6) != image
        means = np.stack([unit[kept & (labels == person)].sum(0) for person in range(3)]).astype(np.float64)
        logits = 64 * unit[image] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
        return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[labels[image]]

    told = told_difficulty(ImageFolderDataset(tmp_path / "faces"), "loss", folder)
    assert told[:5] == pytest.approx([loss(image) for image in range(5)], rel=1e-4, abs=1e-4)
    assert told[5] == told.max()


def test_an_image_of_which_nothing_is_told_is_as_hard_as_the_hardest(faces, tmp_path, caplog):
    losses = table(tmp_path / "l.csv", "loss", [0.5, "", 7, 2], [*NAMES[:3], "c/0.png"])
    assert told_difficulty(faces, "loss", losses).tolist() == [0.5, 7, 7, 7]
    assert "l.csv: tells nothing of 2 of 4 images, as of a/new\\nline.png" in caplog.text


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        (
            "loss",
            lambda place: table(place, "loss", [1], ["a/0.png"]),
            "nothing of 3 of the 4 images, as of a/new",
        ),
        ("loss", lambda place: table(place, "cost", [1], ["a/0.png"]), "no table with the columns name and loss"),
        ("loss", lambda place: table(place, "loss", ["x"], ["a/0.png"]), "no table with the columns name and loss"),
        ("loss", lambda place: table(place, "loss", ["inf"] * 4), "a number of loss is not finite"),
        ("loss", lambda place: place, "place: no table with the columns"),
        ("norm", lambda place: place, "place: no embeddings.json lies there: not what `embed` writes"),
        ("loss", lambda place: embedded(place), "place: nobody says who is who; embed a folder of people"),
        ("visible", lambda place: embedded(place, qualities=[""] * 4), "no visible share of any image; embed with a"),
    ],
)
def test_what_tells_nothing_of_the_images_is_refused_in_a_line(faces, tmp_path, kind, make, message):
    with pytest.raises(ValueError, match=message) as caught:
        told_difficulty(faces, kind, make(tmp_path / "place"))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
