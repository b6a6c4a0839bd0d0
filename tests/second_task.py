"""A second task of the engine, of a few lines: a linear autoencoder of random vectors."""

from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from datasets.sampling.samplers import ShuffleBatchSampler
from engine.devices import world_size
from engine.module import Terms, TrainingData, TrainingModule
from engine.trainer import build_trainer
from options.engine import EngineOptions

NUM_VECTORS, SIZE = 96, 6


class Vectors(NamedTuple):
    index: Tensor
    values: Tensor


class VectorSet(Dataset):
    def __getitem__(self, number):
        values = torch.randn(SIZE, generator=torch.Generator().manual_seed(number))
        return Vectors(torch.tensor(number), values)


class VectorData(TrainingData):
    num_validated = NUM_VECTORS

    def build_sampler(self, rank):
        return ShuffleBatchSampler(
            NUM_VECTORS, self.options.batch_size, seed=self.options.seed, rank=rank, world_size=world_size(self.options)
        )

    def train_dataloader(self):
        return DataLoader(VectorSet(), batch_sampler=self.train_sampler)

    def val_dataloader(self):
        return DataLoader(Subset(range(NUM_VECTORS)), batch_size=16)


class Subset(VectorSet):
    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)


class Autoencoder(TrainingModule):
    def __init__(self, options):
        super().__init__(options)
        self.down, self.up = nn.Linear(SIZE, 2), nn.Linear(2, SIZE)

    def forward_terms(self, batch, step):
        code = nn.functional.dropout(self.down(batch.values), 0.1)
        error = (self.up(code) - batch.values).square().mean()
        return Terms({"error": (1.0, error), "length": (0.01, code.square().mean())}, {"train_code": code.mean()})

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", -(self.up(self.down(batch.values)) - batch.values).square().mean(), sync_dist=True)


def train(folder, *callbacks, stop=None, ckpt_path=None, **options):
    """Train it as any task is trained; return module and trainer."""
    small = {"batch_size": 12, "lr": 0.05, "epochs": 3, "gpus": 0, "log_every_n_steps": 2, "heartbeat_seconds": 0.05}
    chosen = EngineOptions(**{**small, **options})
    pl.seed_everything(chosen.seed, verbose=False)
    module, data = Autoencoder(chosen), VectorData(chosen)
    trainer = build_trainer(chosen, folder, stop, callbacks=callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer
