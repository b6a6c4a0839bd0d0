"""The batches of the data module: their order, the place among them, workers, and which are refused."""

import logging
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from short_runs import Recorder, fit, metrics, opened_data, state

from datasets import ImageFolderDataset, PKBatchSampler, TrainingView
from datasets import write_faces as write_records
from transforms import TrainingTransform

pytestmark = pytest.mark.usefixtures("own_cache")


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
    opened_data(noise_faces, **options, qaconv_loss_weight=0.0)
    assert not any("--sampler shuffle" in entry.getMessage() for entry in caplog.records)


def test_a_second_view_changes_nothing_for_the_recognizer(noise_faces, tmp_path, monkeypatch):
    losses = []
    for name, second in (("one", None), ("two", TrainingTransform(crop_prob=1.0))):
        (tmp_path / name).mkdir()
        monkeypatch.setattr("tasks.recognition.face_set.TrainingView", partial(TrainingView, second=second))
        fit(tmp_path / name, data_root=noise_faces, num_workers=1)
        losses.append([{k: v for k, v in row.items() if "loss" in k} for row in metrics(tmp_path / name)])
    assert losses[0] == losses[1] and losses[0]


def test_too_many_workers_are_clamped_with_one_warning(noise_faces, caplog):
    with caplog.at_level(logging.WARNING):
        datamodule = opened_data(noise_faces, num_workers=9999)
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
        opened_data(noise_faces, ranks, batch_size=batch_size, sampler=sampler, **options)
    assert ("--cross_rank_pairs" in str(refused.value)) == (ranks > 1)
    assert "--qaconv_loss_weight 0" in str(refused.value) and "\n" not in str(refused.value)
    opened_data(noise_faces, ranks, batch_size=smallest, sampler=sampler, **options)


@pytest.mark.parametrize("options", [{"cross_rank_pairs": True}, {"check_mode": True}, {"qaconv_loss_weight": 0.0}])
def test_one_identity_a_rank_is_enough_across_ranks_or_without_the_matcher(noise_faces, options):
    assert opened_data(noise_faces, 2, batch_size=8, **options).num_classes == 8
