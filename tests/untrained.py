"""Checkpoints of networks that were never trained, for tests of what reads checkpoints."""

import torch

from config import Config
from options.names import ONLY_DATASET
from train_val import Recognizer

SMALL = {"arch": "ir_tiny", "embedding_size": 16}


def write_checkpoint(path, *, num_classes=4, statistics=None, normalization=None, **options):
    """Write a checkpoint of our own layout with random weights, and return its path."""
    torch.manual_seed(0)
    model = Recognizer(Config(**{**SMALL, **options}).to_dict(), {ONLY_DATASET: num_classes})
    model.fusion_statistics, model.normalization = statistics, normalization
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path
