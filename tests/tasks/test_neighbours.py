"""The table of neighbours in runs of a tiny network, against a plain search and runs that never stopped."""

import copy
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy
from short_runs import on_two_ranks, state
from torch import nn
from torch.utils.data import DataLoader

from datasets import PlannedBatches, TrainingView, UnreadableImageError, collate
from datasets.sampling.graph_sampler import GraphBatchSampler
from engine.module import TrainingData
from nets import Backbone, Features
from tasks.recognition.neighbours import NeighbourTable
from transforms import View, to_tensor

NUM_IDENTITIES, NUM_IMAGES, NUM_NEIGHBOURS, SEED = 10, 4, 3, 5
BATCH = {"batch_size": 8, "instances": 2}  # 4 identities, 10 batches an epoch
LABELS = np.repeat(np.arange(NUM_IDENTITIES), NUM_IMAGES)
SEARCHED = "neighbours of 10 identities for epoch {}: found in"


class Faces:
    """Images of noise around a color of each identity; those in `broken` cannot be read."""

    labels = LABELS

    def __init__(self, broken=()):
        rng = np.random.default_rng(0)
        self.colors = rng.integers(40, 216, (NUM_IDENTITIES, 3))
        self.broken = set(broken)
        self.read_so_far = []

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        if index in self.broken:
            raise UnreadableImageError(str(index), "broken")
        self.read_so_far.append(index)
        noise = np.random.default_rng(index).integers(-40, 40, (112, 112, 3))
        return (self.colors[self.labels[index]] + noise).astype(np.uint8)


def flipped(image, rng):
    """An augmentation that every picture would show."""
    return View(255 - image, np.ones((112, 112), np.uint8))


class FaceData(TrainingData):
    def __init__(self, faces, workers=0, world_size=1):
        super().__init__(SimpleNamespace(seed=SEED))
        self.train_dataset, self.workers, self.world_size = faces, workers, world_size

    def build_sampler(self, rank):
        return GraphBatchSampler(LABELS, **BATCH, seed=SEED, rank=rank, world_size=self.world_size)

    def train_dataloader(self):
        view = TrainingView(self.train_dataset, flipped, SEED)
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(view, batch_sampler=PlannedBatches(self.train_sampler), collate_fn=collate, **workers)

    def val_dataloader(self):
        return DataLoader(torch.zeros(1))


class Tiny(Backbone):
    embedding_size, map_shape = 8, (4, 7, 7)

    def __init__(self):
        super().__init__()
        self.input_layer = nn.Sequential(nn.AvgPool2d(16), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.PReLU(4), nn.Dropout(0.2))
        self.output_layer = nn.Sequential(nn.Flatten(), nn.Linear(4 * 49, 8), nn.BatchNorm1d(8))
        self.seen = []

    def forward(self, images) -> Features:
        self.seen.append((self.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        return super().forward(images)


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(SEED)
        self.model = Tiny()
        self.head = nn.Linear(8, NUM_IDENTITIES)

    def training_step(self, batch, batch_idx):
        torch.manual_seed(self.trainer.global_step)
        logits = self.head(self.model(to_tensor(batch.image)).embedding)
        return F.cross_entropy(logits, batch.label)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


class Watcher(pl.Callback):
    """Keep the batches, the backbone at the start of each epoch and the table at its first batch."""

    def __init__(self):
        self.batches, self.backbones, self.tables = [], [], []

    def on_train_epoch_start(self, trainer, module):
        self.backbones.append(copy.deepcopy(module.model))

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if len(self.tables) < len(self.backbones):
            self.tables.append(trainer.datamodule.train_sampler.neighbours)
        self.batches.append(batch.index.tolist())


def fit(*watchers, callback=None, faces=None, workers=0, epochs=3, ckpt_path=None, **options):
    """Train and return (module, data module)."""
    module, datamodule = Net(), FaceData(faces or Faces(), workers, world_size=options.get("devices", 1))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        **{"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "num_sanity_val_steps": 0, **quiet, **options},
        **{"val_check_interval": 0.5, "enable_model_summary": False, "use_distributed_sampler": False},
        callbacks=[callback or NeighbourTable(batch_size=4), *watchers],
    )
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return module, datamodule


def plain_table(backbone, epoch):
    """Embed one image of each identity, one batch for all, and sort the cosines."""
    pictures = GraphBatchSampler(LABELS, **BATCH, seed=SEED).draw_pictures(epoch)
    faces = Faces()
    with torch.no_grad():
        images = to_tensor(torch.stack([torch.from_numpy(faces.read(int(index))) for index in pictures]))
        embeddings = backbone.eval()(images).embedding
    return (embeddings @ embeddings.T).fill_diagonal_(-2).argsort(1, descending=True)[:, :NUM_NEIGHBOURS].tolist()


def planned(table, epoch):
    sampler = GraphBatchSampler(LABELS, **BATCH, seed=SEED)
    if table is not None:
        sampler.set_neighbours(table)
    sampler.set_epoch(epoch)
    return list(sampler)


# ---------------------------------------------------------------- what the table is


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("first_epoch", [0, 1])
def test_each_epoch_is_planned_by_the_neighbours_of_the_weights_that_it_starts_with(workers, first_epoch, caplog):
    watcher = Watcher()
    with caplog.at_level("INFO"):
        fit(watcher, callback=NeighbourTable(first_epoch, batch_size=4, num_workers=workers), workers=workers)
    expected = [plain_table(backbone, epoch) for epoch, backbone in enumerate(watcher.backbones)]
    assert all(before != after for before, after in pairwise(expected)), "the run is too short"
    for epoch, table in enumerate(expected):
        used = table if epoch >= first_epoch else None
        found = watcher.tables[epoch]
        assert used == (None if found is None else found.tolist())
        assert watcher.batches[10 * epoch : 10 * epoch + 10] == planned(used, epoch)
    lines = [record.getMessage() for record in caplog.records if "neighbours of" in record.getMessage()]
    assert [line.startswith(SEARCHED.format(e)) for e, line in enumerate(lines, first_epoch)] == [True] * len(lines)
    assert len(lines) == 3 - first_epoch, "none for an epoch that will not come"


def surroundings(module):
    """All that a search must leave as it is: modes, weights with running statistics, generators."""
    modes = {name: part.training for name, part in module.named_modules()}
    return modes, state(module), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()


def around_search(callback, watch):
    """Let `watch(module)` look just before and just after the search at the end of each epoch."""
    search = callback.on_train_epoch_end

    def watched(trainer, module):
        watch(module)
        search(trainer, module)
        watch(module)

    callback.on_train_epoch_end = watched
    return callback


def test_a_search_changes_no_mode_no_running_statistic_and_no_generator():
    found = []

    def watch(module):
        module.model.body[1].eval()  # a frozen part must stay so
        found.append(surroundings(module))

    fit(callback=around_search(NeighbourTable(batch_size=4), watch), epochs=2)
    (modes, weights, *generators), (modes_after, weights_after, *generators_after) = found[:2]
    assert modes == modes_after and modes["model"] and not modes["model.body.1"]
    assert weights.keys() == weights_after.keys()
    assert all(value.equal(weights_after[name]) for name, value in weights.items())
    assert generators == generators_after


@pytest.mark.parametrize(("precision", "autocast"), [("32-true", False), ("bf16-mixed", True)])
def test_pictures_pass_in_eval_and_inference_mode_under_the_autocast_of_training(precision, autocast):
    module, _ = fit(epochs=2, precision=precision)
    training = (True, False, autocast)
    # 10 steps an epoch; in between 3 batches of 4, 4 and 2 pictures.
    assert module.model.seen == [training] * 10 + [(False, True, autocast)] * 3 + [training] * 10


def test_one_picture_of_each_identity_is_read_and_an_unreadable_one_replaced_by_its_identity():
    sampler = GraphBatchSampler(LABELS, **BATCH, seed=SEED)
    drawn = sampler.draw_pictures(0).tolist()
    faces = Faces(broken=drawn[:2])
    fit(callback=NeighbourTable(first_epoch=0, batch_size=4), faces=faces, epochs=1)
    seen = faces.read_so_far[:NUM_IDENTITIES]  # before any image of a batch
    assert seen[2:] == drawn[2:]
    assert LABELS[seen].tolist() == list(range(NUM_IDENTITIES)) and not set(seen) & set(drawn[:2])


# ---------------------------------------------------------------- resuming

HOOKS = ("on_train_batch_end", "on_validation_end", "on_train_epoch_end")


class KeepAll(pl.Callback):
    """Save a checkpoint at every occasion, under the hook and the number of finished steps."""

    def __init__(self, folder):
        for hook in HOOKS:
            setattr(self, hook, partial(self.save, folder, hook))

    def save(self, folder, hook, trainer, *_):
        trainer.save_checkpoint(folder / f"{hook}-{trainer.global_step}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three epochs that was never stopped: its folder of checkpoints, batches and last weights."""
    folder, watcher = tmp_path_factory.mktemp("whole"), Watcher()
    module, _ = fit(watcher, KeepAll(folder))
    return folder, watcher, state(module)


@pytest.mark.parametrize(
    ("hook", "step", "workers", "searches"),
    [
        ("on_train_batch_end", 3, 1, [1, 2]),  # before the first table
        ("on_validation_end", 5, 0, [1, 2]),
        ("on_train_epoch_end", 10, 1, [2]),  # the next epoch's table is there
        ("on_validation_end", 10, 0, [1, 2]),  # the epoch's last batch is done, the next table not yet found
        ("on_train_batch_end", 10, 1, [1, 2]),
        ("on_train_batch_end", 13, 0, [2]),  # inside an epoch that a table planned
        ("on_train_batch_end", 13, 1, [2]),
        ("on_validation_end", 15, 1, [2]),
        ("on_validation_end", 20, 1, [2]),
        ("on_train_epoch_end", 20, 0, []),
        ("on_train_batch_end", 25, 0, []),
    ],
)
def test_a_resumed_run_goes_on_with_the_table_of_its_epoch(whole, hook, step, workers, searches, caplog):
    folder, uninterrupted, weights = whole
    watcher = Watcher()
    with caplog.at_level("INFO"):
        module, datamodule = fit(watcher, workers=workers, ckpt_path=folder / f"{hook}-{step}")
    assert watcher.batches == uninterrupted.batches[step:]
    assert all(value.equal(weights[name]) for name, value in state(module).items())
    assert datamodule.train_sampler.neighbours.tolist() == uninterrupted.tables[2].tolist()
    lines = [record.getMessage() for record in caplog.records if "neighbours of" in record.getMessage()]
    assert len(lines) == len(searches)
    assert all(line.startswith(SEARCHED.format(e)) for e, line in zip(searches, lines, strict=True))


def test_a_checkpoint_holds_the_table_as_int32_of_the_epoch_it_is_in(whole):
    folder, uninterrupted, _ = whole

    def saved(name):
        return torch.load(folder / name, weights_only=True)["callbacks"].get("NeighbourTable")

    assert not saved("on_train_batch_end-3")
    for name, epoch in (("on_train_batch_end-13", 1), ("on_train_epoch_end-10", 1), ("on_train_epoch_end-20", 2)):
        assert saved(name)["epoch"] == epoch
        assert saved(name)["table"].dtype == torch.int32
        assert saved(name)["table"].tolist() == uninterrupted.tables[epoch].tolist()


def test_a_run_goes_on_with_the_saved_table_even_if_no_search_would_give_it(whole, tmp_path):
    checkpoint = torch.load(whole[0] / "on_train_batch_end-13", weights_only=True)
    strange = (torch.arange(NUM_IDENTITIES)[:, None] + torch.tensor([5, 4, 3])) % NUM_IDENTITIES
    checkpoint["callbacks"]["NeighbourTable"]["table"] = strange.int()
    torch.save(checkpoint, tmp_path / "strange.ckpt")
    watcher = Watcher()
    fit(watcher, epochs=2, workers=1, ckpt_path=tmp_path / "strange.ckpt")
    assert watcher.batches == planned(strange, 1)[3:]


def test_a_table_of_other_identities_is_refused_in_one_line(whole, tmp_path):
    checkpoint = torch.load(whole[0] / "on_train_batch_end-13", weights_only=True)
    checkpoint["callbacks"]["NeighbourTable"]["table"] = torch.ones(7, 3, dtype=torch.int32)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"table must be \[10, 3 or more\].*got \[7, 3\]"):
        fit(ckpt_path=tmp_path / "other.ckpt")


# ---------------------------------------------------------------- two ranks


def watched_rank(folder):
    """Train on this rank; return its batches, its tables, and the backbone before and after each search."""
    watcher, kept = Watcher(), []
    callback = around_search(NeighbourTable(batch_size=4), lambda module: kept.append(state(module.model)))
    options = {"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo"), "limit_val_batches": 0}
    module, _ = fit(watcher, KeepAll(Path(folder)), callback=callback, **options)
    tables = [table.tolist() for table in watcher.tables[1:]]
    num_passes = sum(not training for training, *_ in module.model.seen)
    return {"batches": watcher.batches, "tables": tables, "kept": kept, "num_passes": num_passes}


def test_both_ranks_have_the_table_of_one_process_and_share_its_batches(tmp_path):
    first, second = on_two_ranks(watched_rank, str(tmp_path))
    assert first["tables"] == second["tables"] and len(first["tables"]) == 2
    assert [first["num_passes"], second["num_passes"]] == [2 * 2, 2 * 1], "3 batches of pictures in each search"
    mean = "output_layer.2.running_mean"
    before, after = ([rank["kept"][time][mean] for rank in (first, second)] for time in (0, 1))
    assert not before[0].equal(before[1]), "statistics that differ are what rank 0 must settle"
    assert after[0].equal(before[0]) and after[1].equal(before[0])
    backbone = Tiny()
    backbone.load_state_dict(first["kept"][0])
    assert first["tables"][0] == plain_table(backbone, 1)
    together = [a + b for a, b in zip(first["batches"], second["batches"], strict=True)]
    for epoch, table in enumerate([None, *first["tables"]]):
        assert together[10 * epoch : 10 * epoch + 10] == planned(table, epoch)

    # One process goes on with what the two have saved, at the same table.
    watcher = Watcher()
    fit(watcher, ckpt_path=tmp_path / "on_train_batch_end-13", epochs=2, limit_val_batches=0)
    assert watcher.batches == together[13:20]
