"""Two data sets with labels and a head each: what each head learns from, and what the matcher may not conclude."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from observed import config, fixed_batch
from short_runs import SMALL, metrics, state, write_faces
from torch.nn import functional
from torch.utils.data import DataLoader

from config import Config
from datasets import ImageFolderDataset, MixedView, TrainingView, collate
from datasets.sampling.mixture import MixtureBatchSampler
from datasets.sampling.samplers import PlannedBatches
from engine.module import Step, TrainingData
from engine.trainer import build_trainer
from tasks.recognition.terms import Images, score_batch
from train_val import Recognizer
from transforms import TrainingTransform, to_tensor


def two_headed(**options):
    torch.manual_seed(0)
    model = Recognizer(config(**options).to_dict(), {"0": 8, "1": 5})
    model.trainer = SimpleNamespace(global_step=0, estimated_stepping_batches=9)
    return model.train()


def mixed_batch(ids):
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    return fixed_batch()._replace(dataset_id=torch.tensor(ids), label=labels)


@pytest.mark.parametrize("head", ["adaface", "arcface", "curricularface", "magface", "subcenter_arcface"])
def test_each_sample_is_judged_by_the_head_of_its_set_and_all_count_alike(head):
    batch = mixed_batch([0, 0, 0, 0, 0, 0, 1, 1])
    model, twin = two_headed(head=head), two_headed(head=head)
    loss = model.forward_terms(batch, Step(0)).losses["head"][1]
    features = twin.model(to_tensor(batch.image))
    losses = []
    for number in (0, 1):
        rows = batch.dataset_id == number
        losses.append(twin.heads[str(number)].loss(_rows(features, rows), batch.label[rows], 0).loss)
    torch.testing.assert_close(loss, (6 * losses[0] + 2 * losses[1]) / 8)


def _rows(features, rows):
    return type(features)(*(part[rows] for part in features))


@pytest.mark.parametrize("head", ["adaface", "curricularface", "magface"])
def test_a_set_that_a_batch_does_not_hold_gives_its_head_a_gradient_of_zero_and_no_nan(head):
    model = two_headed(head=head)
    before = {name: buffer.clone() for name, buffer in model.heads["1"].named_buffers()}
    terms = model.forward_terms(mixed_batch([0] * 8), Step(0))
    terms.total().backward()
    assert (model.heads["1"].kernel.grad == 0).all() and (model.heads["0"].kernel.grad != 0).any()
    assert torch.isfinite(terms.total())
    torch.testing.assert_close(dict(model.heads["1"].named_buffers()), before, rtol=0, atol=0)


def test_pairs_from_two_sets_are_neither_positive_nor_negative():
    model = two_headed()
    maps = functional.normalize(torch.randn(8, *model.model.map_shape), dim=1)
    labels, ids = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    matched = score_batch(model.matcher, model.config, Images(maps, None, labels, ids), several_sets=True)
    labels_of_columns, apart = matched.columns
    assert torch.equal(labels_of_columns, labels)
    expected = torch.eye(8, dtype=torch.bool)
    expected[:4, 4:] = expected[4:, :4] = True
    assert torch.equal(apart, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partial_fc_rate": 0.5}, "--partial_fc_rate: the heads of several data sets"),
        ({"class_embeddings": True, "k_nearest": 2}, "--class_embeddings: they know one data set"),
        ({"pairwise_reduction": "row_sum"}, "--pairwise_reduction row_sum counts every pair"),
    ],
)
def test_what_knows_one_set_alone_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        two_headed(**options)


class TwoSets(TrainingData):
    """Web faces and masked faces, three batches' groups from the first for each from the second."""

    def __init__(self, options, folders):
        super().__init__(options)
        self.views = [TrainingView(ImageFolderDataset(folder), TrainingTransform(), seed=1) for folder in folders]

    def build_sampler(self, rank):
        labels = [view.labels for view in self.views]
        return MixtureBatchSampler(labels, self.options.batch_size, [3, 1], 2, self.options.seed, rank)

    def train_dataloader(self):
        return DataLoader(MixedView(self.views), batch_sampler=PlannedBatches(self.train_sampler), collate_fn=collate)


def train(folder, folders, ckpt_path=None):
    folder.mkdir(exist_ok=True)
    options = Config(**{**SMALL, "batch_size": 8, "epochs": 2, "checkpoint_every_n_steps": 1, "heartbeat_seconds": 0.0})
    pl.seed_everything(options.seed, verbose=False)
    model = Recognizer(options.to_dict(), {"0": 6, "1": 5})
    trainer = build_trainer(options, folder)
    trainer.fit(model, TwoSets(options, folders), ckpt_path=ckpt_path, weights_only=True)
    return model, trainer


def test_two_sets_train_with_a_head_each_and_a_resumed_run_ends_with_the_same_bits(tmp_path):
    folders = [
        write_faces(tmp_path / name, identities=n, images=4, pairs=0) / "train" for name, n in (("a", 6), ("b", 5))
    ]
    model, trainer = train(tmp_path / "whole", folders)
    assert trainer.global_step == 10
    rows = metrics(tmp_path / "whole")
    assert all(row["train_head_loss"] > 0 for row in rows if "train_loss" in row)
    assert {"heads.0.kernel", "heads.1.kernel"} <= set(model.state_dict())
    resumed, _ = train(tmp_path / "resumed", folders, ckpt_path=tmp_path / "whole" / "last.ckpt.previous")
    torch.testing.assert_close(state(resumed), state(model), rtol=0, atol=0)
