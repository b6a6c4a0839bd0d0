"""The first training images are drawn whatever their people are called, and never at the cost of the run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets import Sample
from engine.files import WriteFailures
from tasks.sample_sheet import SampleSheet


def start(folder, class_names, failures=None, images=2):
    data = SimpleNamespace(source=lambda number: SimpleNamespace(class_names=class_names))
    trainer = SimpleNamespace(current_epoch=0, loggers=[], datamodule=data)
    faces = torch.from_numpy(np.zeros((images, 112, 112, 3), np.uint8))
    batch = Sample(faces, torch.arange(images), torch.zeros(images), torch.ones(images, 112, 112), torch.arange(images))
    SampleSheet(folder, failures).on_train_batch_start(trainer, None, batch, 0)


@pytest.mark.usefixtures("drawn_pictures")
@pytest.mark.parametrize("names", [["A$AP_$0", "p0_$$"], ["caf\udce9", "\x1b[2J\n"], ["王菲", "$\\frac$"]])
def test_any_name_is_drawn(names, tmp_path):
    start(tmp_path, names)
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_a_defect_of_the_picture_ends_nothing(tmp_path, caplog):
    failures = WriteFailures()
    start(tmp_path, ["only one"], failures)
    assert caplog.messages[0].startswith("samples.png could not be written (IndexError: list index out of range, in ")
    assert failures.exit_code() == 74
    start(tmp_path, ["one", "two"], failures)
    assert failures.exit_code() == 0
