"""What the tests of flags observe: data, models and steps of given options."""

from types import SimpleNamespace

import torch
from pytorch_lightning.plugins.precision import Precision
from untrained import SMALL as SMALL_NET

from cli import training
from config import Config
from data import FaceDataModule
from datasets import Sample
from options.names import ONLY_DATASET
from train_val import Recognizer

NUM_PEOPLE, NUM_IMAGES = 8, 6  # of the training faces


def config(**options):
    return Config(**{**SMALL_NET, "batch_size": 8, "num_workers": 0, "gpus": 0, **options})


def datamodule(**options):
    module = FaceDataModule(config(**options))
    module.setup()
    return module


def training_batch(**options):
    return next(iter(datamodule(**options).train_dataloader()))


def recognizer(*, step=0, total_steps=24, sets=(ONLY_DATASET,), **options):
    """Return a model that believes to be trained: of `total_steps`, this is number `step`."""
    torch.manual_seed(0)
    model = Recognizer(config(**options).to_dict(), dict.fromkeys(sets, NUM_PEOPLE))
    model.trainer = SimpleNamespace(
        global_step=step,
        current_epoch=0,
        estimated_stepping_batches=total_steps,
        num_training_batches=total_steps,
        accumulate_grad_batches=1,
        global_rank=0,
        precision_plugin=Precision(),
        loggers=[],
    )
    return model


def fixed_batch(with_masks=True):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 112, 112, 3), dtype=torch.uint8, generator=rng)
    masks = torch.ones(8, 112, 112, dtype=torch.uint8)
    masks[:, 60:] = 0
    places = torch.arange(8)
    return Sample(images, places // 2, torch.zeros(8, dtype=torch.int64), masks if with_masks else None, places, places)


def trained_step(**options):
    """Return (model, loss, {name: loss term}) of one training step on a fixed batch."""
    model = recognizer(**options)
    loss = model.training_step(fixed_batch(), 0)
    terms = {name: float(value) for name, value in model.guard.passes[0].values.items()}
    return model, float(loss.detach()), terms


def rates(**options):
    """Return the learning rates of 24 steps in 4 epochs."""
    built = recognizer(epochs=4, **options).configure_optimizers()
    found = []
    for _ in range(24):
        found.append(built["optimizer"].param_groups[0]["lr"])
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    return found


def session(faces, **options):
    return training.prepare(config(data_root=str(faces), fast_dev_run=True, **options), set(), [])
