"""The data module: held-out identities, missing benchmarks, the place in the data."""

import logging
import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from benchmark_sets import draw_images, write_bin
from short_runs import SMALL, Recorder, fit, metrics, state, write_faces

from config import Config
from data import FaceDataModule
from datasets import Benchmark, ImageFolderDataset, PKBatchSampler, TrainingView
from datasets import write_faces as write_records
from datasets.benchmarks.sets import open_sets
from datasets.synthetic.prepare import render_identities
from evaluation.run import folds_of, precision_of
from tasks.recognition import face_set
from transforms import TrainingTransform

FIVE = ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))


def set_up(root, world_size=1, **options):
    datamodule = FaceDataModule(Config(**{**SMALL, "data_root": str(root), **options}), world_size)
    datamodule.setup()
    return datamodule


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
        loader = set_up(root, world_size, batch_size=48, qaconv_loss_weight=0.0).val_dataloader()
        sizes[world_size] = max(len(batch) for batch in loader.batch_sampler)
    assert sizes == {1: 8, 2: 4, 4: 2}  # 48, 24 and 12 images: three a pair, each mirrored too


@pytest.mark.parametrize("issame", [[True] * 12, [True, False]])
def test_a_set_on_which_nothing_can_be_measured_is_refused_in_the_preparation(tmp_path, issame):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    write_bin(root / "calfw.bin", draw_images(2 * len(issame)), issame)
    with pytest.raises(ValueError, match=rf"calfw\.bin: \d+ genuine and {issame.count(False)} impostor pairs"):
        set_up(root)


def test_gray_and_odd_sized_images_of_a_set_are_fitted_before_training(tmp_path):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    gray, wide = np.zeros((50, 80), np.uint8), np.zeros((200, 90, 3), np.uint8)
    encoded = [cv2.imencode(".png", image)[1].tobytes() for image in [gray, wide] * 4]
    (root / "lfw.bin").write_bytes(pickle.dumps((encoded, [True, False, True, False])))
    assert set_up(root).benchmarks[0].images.shape == (8, 112, 112, 3)
    (root / "calfw.bin").write_bytes(pickle.dumps(([*encoded[:-1], b"no image"], [True, False, True, False])))
    with pytest.raises(ValueError, match=r"calfw\.bin, image 7 at byte \d+: not an image"):
        set_up(root)


def test_pairs_sorted_by_kind_are_validated_in_stratified_folds_which_is_said(tmp_path, caplog):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    write_bin(root / "lfw.bin", draw_images(40), [True] * 10 + [False] * 10)
    (benchmark,) = set_up(root).benchmarks
    assert "lfw, folds: 10, stratified: contiguous ones would hold one kind of pairs" in caplog.text
    folds = folds_of(benchmark)
    assert [benchmark.issame[folds == fold].sum() for fold in range(10)] == [1] * 10


def test_a_validation_of_few_people_is_warned_of_and_others_are_described(tmp_path, caplog):
    root = write_faces(tmp_path / "data", identities=12, pairs=0)
    set_up(root, val_identities=0.25)
    (message,) = [entry.getMessage() for entry in caplog.records if "best.ckpt by chance" in entry.getMessage()]
    assert "36 pairs of 3 people: 95 % interval" in message and "--val_identities" in message and "\n" not in message
    caplog.clear()
    caplog.set_level(logging.INFO)
    set_up(root, val_identities=0.25, evaluate=True, resume_from_checkpoint="last.ckpt")
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
        return set_up(root, seed=seed, val_identities=0.25).train_dataset.class_names

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(5)}) > 1


def test_sets_that_are_there_are_used_and_the_others_listed_as_missing(noise_faces):
    datamodule = set_up(noise_faces)
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
    (trained,) = set_up(root, val_identities=0.25).benchmarks
    options = {"evaluate": True, "resume_from_checkpoint": "last.ckpt", "batch_size": 6}
    (evaluated,) = set_up(root, val_identities=0.25, **options).benchmarks
    assert evaluated.name == "own" and evaluated.checksum() == trained.checksum()


def test_people_are_held_out_beside_another_file_as_in_the_training(tmp_path):
    root = write_faces(tmp_path / "data", identities=12, pairs=0) / "train"
    (root / "notes.bin").write_bytes(b"no set")
    (trained,) = set_up(root, val_identities=0.25).benchmarks
    options = {"evaluate": True, "resume_from_checkpoint": "last.ckpt", "batch_size": 6}
    (evaluated,) = set_up(root, val_identities=0.25, **options).benchmarks
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
        set_up(root, val_identities=0.0)


def test_the_number_of_classes_is_that_of_the_training_identities(tmp_path):
    root = write_faces(tmp_path / "data", pairs=0)
    with pytest.raises(ValueError, match="--custom_num_class: 8 given, but the training data hold 6"):
        set_up(root, custom_num_class=8, val_identities=0.25)
    assert set_up(root, custom_num_class=6, val_identities=0.25).num_classes == 6


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_images_as_folder_and_as_records_give_the_same_losses(noise_faces, tmp_path, workers):
    folder = ImageFolderDataset(Path(noise_faces) / "train")
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records", (path.read_bytes() for path in folder.paths), folder.labels)
    options = {"val_data_path": noise_faces, "epochs": 10, "num_workers": workers, "occlusion_prob": 0.5}
    losses = []
    for name, source in (
        ("folder", {"train_data_path": f"{noise_faces}/train"}),
        ("records", {"train_data_path": str(tmp_path / "records"), "use_mxrecord": True}),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        fit(tmp_path / name, **options, **source)
        losses.append([{k: v for k, v in row.items() if "loss" in k} for row in metrics(tmp_path / name)])
    assert len(losses[0]) >= 20
    assert losses[0] == losses[1]


class KeepEach(pl.Callback):
    """Save a checkpoint after each batch or each validation, under the number of finished steps."""

    def __init__(self, folder, hook):
        save = lambda trainer, *_: trainer.save_checkpoint(folder / f"{trainer.global_step}.ckpt")  # noqa: E731
        setattr(self, hook, save)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "workers", "sampler"),
    [("on_train_batch_end", 0, "pk"), ("on_validation_end", 1, "pk"), ("on_train_batch_end", 1, "shuffle")],
)
def test_a_run_resumed_inside_an_epoch_draws_the_batches_that_are_left_and_ends_with_the_same_bits(
    noise_faces, tmp_path, hook, workers, sampler
):
    whole, rest = Recorder(), Recorder()
    options = {"data_root": noise_faces, "epochs": 3, "batch_size": 8, "num_workers": workers, "sampler": sampler}
    options["val_check_interval"] = 0.5
    uninterrupted, _, _ = fit(tmp_path, whole, KeepEach(tmp_path, hook), **options)
    (tmp_path / "resumed").mkdir()
    resumed, datamodule, trainer = fit(tmp_path / "resumed", rest, ckpt_path=tmp_path / "6.ckpt", **options)
    assert trainer.global_step == 12
    assert rest.indices == whole.indices[6:]
    for values, expected in zip(state(resumed).values(), state(uninterrupted).values(), strict=True):
        assert values.equal(expected)
    # What is saved next is the place after both runs' batches.
    place = torch.load(tmp_path / "resumed" / "last.ckpt", weights_only=True)[type(datamodule).__qualname__]
    assert place == {"seed": 42, "epoch": 3, "batches_done": 0}


def test_a_short_test_run_does_not_confuse_the_place_in_the_data(noise_faces, tmp_path, monkeypatch):
    """The place is an epoch and a batch of the plan, whatever share of an epoch was used before."""
    monkeypatch.setattr("engine.trainer.TEST_RUN_BATCHES", 3)
    options = {"data_root": noise_faces, "batch_size": 8, "num_workers": 1}  # a worker draws before the epoch is set
    fit(tmp_path, epochs=2, test_run=True, **options)
    fit(tmp_path, epochs=3, ckpt_path=tmp_path / "last.ckpt", **options)
    recorder = Recorder()
    _, datamodule, _ = fit(tmp_path, recorder, epochs=4, ckpt_path=tmp_path / "last.ckpt", **options)
    sampler = PKBatchSampler(datamodule.train_dataset.labels, 8, seed=42)
    sampler.set_epoch(3)
    assert recorder.indices == list(sampler)


def test_shuffled_batches_hold_every_image_once_and_the_matcher_is_warned_of_them(noise_faces, tmp_path, caplog):
    recorder = Recorder()
    options = {"data_root": noise_faces, "batch_size": 8, "sampler": "shuffle", "epochs": 2}
    _, datamodule, _ = fit(tmp_path, recorder, **options)
    assert any("--sampler shuffle: few batches" in entry.getMessage() for entry in caplog.records)
    labels = datamodule.train_dataset.labels
    for epoch in range(2):
        batches = recorder.indices[4 * epoch : 4 * epoch + 4]
        assert sorted(index for batch in batches for index in batch) == list(range(32))
    assert min(len(set(labels[batch].tolist())) for batch in recorder.indices) > 2, "no groups of four"
    caplog.clear()
    set_up(noise_faces, **options, qaconv_loss_weight=0.0)
    assert not any("--sampler shuffle" in entry.getMessage() for entry in caplog.records)


def test_a_second_view_changes_nothing_for_the_recognizer(noise_faces, tmp_path, monkeypatch):
    losses = []
    for name, second in (("one", None), ("two", TrainingTransform(crop_prob=1.0))):
        (tmp_path / name).mkdir()
        monkeypatch.setattr("data.TrainingView", partial(TrainingView, second=second))
        fit(tmp_path / name, data_root=noise_faces, num_workers=1)
        losses.append([{k: v for k, v in row.items() if "loss" in k} for row in metrics(tmp_path / name)])
    assert losses[0] == losses[1] and losses[0]


def test_too_many_workers_are_clamped_with_one_warning(noise_faces, caplog):
    with caplog.at_level(logging.WARNING):
        datamodule = set_up(noise_faces, num_workers=9999)
    assert datamodule.train_dataloader().num_workers < 9999
    assert len([record for record in caplog.records if "--num_workers" in record.getMessage()]) == 1


@pytest.mark.parametrize("sampler", ["pk", "graph"])
@pytest.mark.parametrize(
    ("batch_size", "ranks", "options", "smallest"),
    [
        (4, 1, {}, 8),
        (8, 2, {}, 16),
        (12, 3, {"class_embeddings": True, "k_nearest": 1}, 24),
        (4, 1, {"cross_rank_pairs": True}, 8),
    ],
)
def test_a_batch_that_gives_the_matcher_no_two_people_is_refused(
    noise_faces, sampler, batch_size, ranks, options, smallest
):
    with pytest.raises(ValueError, match=rf"--batch_size {batch_size}.* give {smallest} or more") as refused:
        set_up(noise_faces, ranks, batch_size=batch_size, sampler=sampler, **options)
    assert ("--cross_rank_pairs" in str(refused.value)) == (ranks > 1)
    assert "--qaconv_loss_weight 0" in str(refused.value) and "\n" not in str(refused.value)
    set_up(noise_faces, ranks, batch_size=smallest, sampler=sampler, **options)


@pytest.mark.parametrize("options", [{"cross_rank_pairs": True}, {"check_mode": True}, {"qaconv_loss_weight": 0.0}])
def test_one_identity_a_rank_is_enough_across_ranks_or_without_the_matcher(noise_faces, options):
    assert set_up(noise_faces, 2, batch_size=8, **options).num_classes == 8


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
