"""The workers of a validation do not outlive it."""

import pytorch_lightning as pl
from short_runs import fit, write_faces

from engine.callbacks import workers


class CountWorkers(pl.Callback):
    """Count the workers there are in validation and in training."""

    def __init__(self):
        self.training, self.validation = [], []

    def on_train_batch_start(self, *_):
        self.training.append(len(workers.workers()))

    def on_validation_batch_start(self, *_):
        self.validation.append(len(workers.workers()))


def test_the_workers_of_a_validation_end_with_it(tmp_path):
    count = CountWorkers()
    options = {"num_workers": 1, "batch_size": 8, "epochs": 2, "val_check_interval": 0.5}
    _, _, trainer = fit(tmp_path, count, data_root=str(write_faces(tmp_path / "faces")), **options)
    assert trainer.global_step == 8
    assert set(count.training) == {1} and set(count.validation) == {2}
