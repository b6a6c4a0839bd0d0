"""What the data module opens: held-out identities, benchmark sets and those that are missing."""

import logging
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmark_sets import draw_images, write_bin
from short_runs import SMALL, Recorder, fit, opened_data, write_faces

from config import Config
from data import FaceDataModule
from datasets import Benchmark
from datasets.benchmarks.sets import open_sets
from datasets.synthetic.prepare import render_identities
from evaluation.run import folds_of, precision_of
from tasks.recognition import face_set

pytestmark = pytest.mark.usefixtures("own_cache")

FIVE = ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"]


def test_without_benchmarks_identities_are_held_out_and_never_trained_on(tmp_path):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    recorder = Recorder()
    options = {"data_root": str(root), "val_identities": 0.25}
    model, datamodule, _ = fit(tmp_path, recorder, **options)
    assert datamodule.missing == FIVE
    assert [benchmark.name for benchmark in datamodule.benchmarks] == ["own"]
    assert list(model.last_results) == ["own"]
    assert len(datamodule.train_dataset.class_names) == datamodule.num_classes == model.head.kernel.shape[1] == 9

    trained = {image.tobytes() for image in map(datamodule.train_dataset.read, range(len(datamodule.train_dataset)))}
    validated = {image.tobytes() for image in np.asarray(datamodule.benchmarks[0].images)}
    assert len(trained) == 9 * 4 and validated and not trained & validated
    used = {index for indices in recorder.indices for index in indices}
    assert {datamodule.train_dataset.paths[index].parent.name for index in used} <= set(
        datamodule.train_dataset.class_names
    )


def test_a_validation_batch_is_a_sixth_of_the_ranks_share_of_the_training_batch(tmp_path):
    root = write_faces(tmp_path / "data", identities=12, pairs=24)
    sizes = {}
    for world_size in (1, 2, 4):
        loader = opened_data(root, world_size, batch_size=48, qaconv_loss_weight=0.0).val_dataloader()
        sizes[world_size] = max(len(batch) for batch in loader.batch_sampler)
    assert sizes == {1: 8, 2: 4, 4: 2}  # 48, 24 and 12 images: three a pair, each mirrored too


@pytest.mark.parametrize("issame", [[True] * 12, [True, False]])
def test_a_set_on_which_nothing_can_be_measured_is_refused_in_the_preparation(tmp_path, issame):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    write_bin(root / "calfw.bin", draw_images(2 * len(issame)), issame)
    with pytest.raises(ValueError, match=rf"calfw\.bin: \d+ genuine and {issame.count(False)} impostor pairs"):
        opened_data(root)


def test_gray_and_odd_sized_images_of_a_set_are_fitted_before_training(tmp_path):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    gray, wide = np.zeros((50, 80), np.uint8), np.zeros((200, 90, 3), np.uint8)
    encoded = [cv2.imencode(".png", image)[1].tobytes() for image in [gray, wide] * 4]
    (root / "lfw.bin").write_bytes(pickle.dumps((encoded, [True, False, True, False])))
    assert opened_data(root).benchmarks[0].images.shape == (8, 112, 112, 3)
    (root / "calfw.bin").write_bytes(pickle.dumps(([*encoded[:-1], b"no image"], [True, False, True, False])))
    with pytest.raises(ValueError, match=r"calfw\.bin, image 7 at byte \d+: not an image"):
        opened_data(root)


def test_pairs_sorted_by_kind_are_validated_in_stratified_folds_which_is_said(tmp_path, caplog):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    write_bin(root / "lfw.bin", draw_images(40), [True] * 10 + [False] * 10)
    (benchmark,) = opened_data(root).benchmarks
    assert "lfw, folds: 10, stratified: contiguous ones would hold one kind of pairs" in caplog.text
    folds = folds_of(benchmark)
    assert [benchmark.issame[folds == fold].sum() for fold in range(10)] == [1] * 10


def test_a_validation_of_few_people_is_warned_of_and_others_are_described(tmp_path, caplog):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    opened_data(root, val_identities=0.25)
    (message,) = [entry.getMessage() for entry in caplog.records if "best.ckpt by chance" in entry.getMessage()]
    assert "36 pairs of 3 people: 95 % interval" in message and "--val_identities" in message and "\n" not in message
    caplog.clear()
    caplog.set_level(logging.INFO)
    opened_data(root, val_identities=0.25, evaluate=True, resume_from_checkpoint="last.ckpt")
    assert "36 pairs of 3 people" in caplog.text and "best.ckpt" not in caplog.text  # nothing is chosen


def test_the_interval_narrows_with_pairs_and_people_and_follows_the_monitored_set():
    images = np.zeros((2, 112, 112, 3), np.uint8)

    def make(name, pairs, people=None):
        identities = None if people is None else np.arange(2 * pairs) % people
        return Benchmark(
            np.broadcast_to(images[:1], (2 * pairs, 112, 112, 3)), np.arange(pairs) % 2 == 0, name, None, identities
        )

    # By hand: 1.96 * sqrt(0.09 / 6000) is 0.76 points, Wilson's correction is below the last digit.
    first, second = make("mine", 40), make("mine_2", 500)
    assert precision_of([first, second], "mine_2_clean_adaface_acc").text.startswith("500 pairs")
    assert precision_of([first, second], "mine_clean_adaface_acc").text.startswith("40 pairs")
    few, many, unknown = make("own", 40, 3), make("own", 6000, 500), make("lfw", 6000)
    assert "0.8 points either way if pairs were independent, 2.6 if only people are" in precision_of([many]).text
    assert precision_of([many]).is_enough and not precision_of([few]).is_enough
    assert not precision_of([make("own", 6000, 19)]).is_enough and not precision_of([make("lfw", 299)]).is_enough
    assert (
        "6,000 pairs of an unknown number of people: 95 % interval of an accuracy of 90 %: 0.8"
        in precision_of([unknown]).text
    )
    assert precision_of([few, unknown], "lfw_clean_combined_acc") == precision_of([unknown])
    assert "6,040 pairs" in precision_of([few, unknown], "val_acc").text


def test_the_division_follows_the_seed_alone(tmp_path):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)

    def names(seed):
        return opened_data(root, seed=seed, val_identities=0.25).train_dataset.class_names

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(5)}) > 1


def test_sets_that_are_there_are_used_and_the_others_listed_as_missing(noise_faces):
    datamodule = opened_data(noise_faces)
    assert [benchmark.name for benchmark in datamodule.benchmarks] == ["lfw"]
    assert datamodule.missing == FIVE[1:]
    assert datamodule.num_classes == 8, "nobody is held out"


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that grows with every drawing of the embedded faces, which stand in an empty folder here."""
    calls = []
    monkeypatch.setattr(
        "tasks.recognition.face_set.prepare_synthetic", lambda spec: calls.append(spec) or Path("nowhere")
    )
    return calls


@pytest.mark.parametrize("name", ["lfw", "mine"])
@pytest.mark.parametrize("flag", ["data_root", "val_data_path", "val_sets"])
def test_an_evaluation_of_a_set_needs_no_training_data_and_is_not_called_synthetic(tmp_path, flag, name, drawn):
    write_bin(tmp_path / "sets" / f"{name}.bin", draw_images(8), [True, False] * 2)
    options = {**SMALL, "evaluate": True, "start_from_model_statedict": "weights.pt", "batch_size": 6}
    given = (str(tmp_path / "sets" / f"{name}.bin"),) if flag == "val_sets" else str(tmp_path / "sets")
    datamodule = FaceDataModule(Config(**options, **{flag: given}))
    datamodule.setup()
    assert [benchmark.name for benchmark in datamodule.benchmarks] == [name] and not datamodule.synthetic
    assert drawn == [] and len(next(iter(datamodule.test_dataloader())).images) == 1
    with pytest.raises(RuntimeError, match="train_dataset"):
        datamodule.train_dataset  # noqa: B018


def test_an_evaluation_on_a_folder_of_people_draws_pairs_of_them_and_is_named_after_it(tmp_path, drawn):
    people = (write_faces(tmp_path / "data", pairs=0) / "train").rename(tmp_path / "my people")
    options = {**SMALL, "evaluate": True, "start_from_model_statedict": "weights.pt"}
    datamodule = FaceDataModule(Config(**options, val_data_path=str(people)))
    datamodule.setup()
    (benchmark,) = datamodule.benchmarks
    assert benchmark.name == "my_people" and len(np.unique(benchmark.identities)) == 8
    assert not datamodule.synthetic and datamodule.missing == [] and drawn == []


@pytest.mark.parametrize("with_another_set", [False, True])
def test_an_evaluation_without_the_five_sets_has_the_people_that_training_held_out(tmp_path, with_another_set):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    if with_another_set:
        write_bin(root / "mine.bin", draw_images(8), [True, False] * 2)
    (trained,) = opened_data(root, val_identities=0.25).benchmarks
    options = {"evaluate": True, "resume_from_checkpoint": "last.ckpt", "batch_size": 6}
    (evaluated,) = opened_data(root, val_identities=0.25, **options).benchmarks
    assert evaluated.name == "own" and evaluated.checksum() == trained.checksum()


def test_people_are_held_out_beside_another_file_as_in_the_training(tmp_path):
    root = write_faces(tmp_path / "data", identities=12, pairs=0) / "train"
    (root / "notes.bin").write_bytes(b"no set")
    (trained,) = opened_data(root, val_identities=0.25).benchmarks
    options = {"evaluate": True, "resume_from_checkpoint": "last.ckpt", "batch_size": 6}
    (evaluated,) = opened_data(root, val_identities=0.25, **options).benchmarks
    assert evaluated.name == "own" and evaluated.checksum() == trained.checksum()


def test_a_set_is_found_by_its_name_beside_a_folder_of_that_name(tmp_path):
    write_bin(tmp_path / "mine.bin", draw_images(8), [True, False] * 2)
    (tmp_path / "mine" / "pictures").mkdir(parents=True)
    assert [benchmark.name for benchmark in open_sets(tmp_path, ["mine"])] == ["mine"]


def test_faces_that_are_trained_on_do_not_make_a_users_set_synthetic(tmp_path, monkeypatch):
    write_bin(tmp_path / "sets" / "lfw.bin", draw_images(8), [True, False] * 2)
    root = write_faces(tmp_path / "data", pairs=0)
    monkeypatch.setattr(face_set, "prepare_synthetic", lambda spec: root)
    datamodule = FaceDataModule(Config(**SMALL, val_data_path=str(tmp_path / "sets")))
    datamodule.setup()
    assert datamodule.num_classes == 8 and not datamodule.synthetic


@pytest.mark.parametrize("evaluate", [False, True])
def test_an_embedded_set_beside_a_users_own_is_still_synthetic(tmp_path, monkeypatch, evaluate):
    write_bin(tmp_path / "mine.bin", draw_images(8), [True, False] * 2)
    root = write_faces(tmp_path / "data")
    monkeypatch.setattr(face_set, "prepare_synthetic", lambda spec: root)
    options = {"evaluate": True, "start_from_model_statedict": "weights.pt"} if evaluate else {}
    datamodule = FaceDataModule(Config(**SMALL, **options, val_sets=(str(tmp_path / "mine.bin"), "lfw")))
    datamodule.setup()
    assert [benchmark.name for benchmark in datamodule.benchmarks] == ["mine", "lfw"] and datamodule.synthetic


def test_nothing_to_validate_on_is_refused(tmp_path):
    root = write_faces(tmp_path / "data", pairs=0)
    with pytest.raises(ValueError, match="--val_identities: 0 and no benchmark set"):
        opened_data(root, val_identities=0.0)


def test_the_number_of_classes_is_that_of_the_training_identities(tmp_path):
    root = write_faces(tmp_path / "data", pairs=0)
    with pytest.raises(ValueError, match="--custom_num_class: 8 given, but the training data hold 6"):
        opened_data(root, custom_num_class=8, val_identities=0.25)
    assert opened_data(root, custom_num_class=6, val_identities=0.25).num_classes == 6


def test_faces_that_do_not_look_aligned_are_warned_of_loudly(tmp_path, caplog):
    images = render_identities("unaligned data", 6, 4)[0]
    for number, image in enumerate(images):
        for name, written in (("good", image), ("bad", np.roll(image, (20, 14), (0, 1)))):
            path = tmp_path / name / f"p{number // 4}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), written[..., ::-1])
    for name in ("good", "bad"):
        FaceDataModule(Config(data_root=str(tmp_path / name), batch_size=8, val_identities=0.5, align="no")).setup()
    messages = [message for message in caplog.messages if "THE FACES ARE PROBABLY NOT ALIGNED: of " in message]
    assert len(messages) == 1 and str(tmp_path / "bad") in messages[0] and "Align them" in messages[0]


@pytest.mark.parametrize(
    ("people", "each", "reason"),
    [(3, 4, "3 identities cannot be divided"), (12, 1, "2 identities with 2 readable images give 0 genuine")],
)
def test_too_few_people_to_hold_some_out_are_told_with_folder_and_remedy(tmp_path, people, each, reason):
    for number in range(people * each):
        path = tmp_path / f"p{number // each}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), number, np.uint8))
    with pytest.raises(ValueError, match=reason) as caught:
        FaceDataModule(Config(data_root=str(tmp_path), batch_size=8)).setup()
    assert str(caught.value).startswith(f"{tmp_path}: ") and "--val_data_path" in str(caught.value)
    assert "split_identities" not in str(caught.value)
