"""Class maps and their neighbours in real runs."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from short_runs import fit, metrics, state

from qaconv import QAConv

CLASSES = {"class_embeddings": True, "k_nearest": 1, "batch_size": 8}
TABLE = "matcher.class_embeddings.neighbours"


class ClassMaps(pl.Callback):
    """Keep the class maps before and after each step, their gradient, and the classes that took part."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        embeddings = module.matcher.class_embeddings
        touched = set(batch.label.tolist()) | set(embeddings.neighbours[batch.label].flatten().tolist())
        self.steps.append([touched, embeddings.weight.detach().clone()])

    def on_after_backward(self, trainer, module):
        self.steps[-1].append(module.matcher.class_embeddings.weight.grad.to_dense())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps[-1].append(module.matcher.class_embeddings.weight.detach().clone())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_moves_and_decays_the_maps_of_the_classes_that_took_part_and_no_other(noise_faces, tmp_path, optimizer):
    watcher = ClassMaps()
    fit(tmp_path, watcher, data_root=noise_faces, optimizer=optimizer, lr=0.1, weight_decay=0.5, **CLASSES)
    assert len(watcher.steps) == 4
    for touched, before, gradient, after in watcher.steps:
        rows = sorted(touched)
        others = [row for row in range(8) if row not in touched]
        assert 2 <= len(rows) <= 4
        assert torch.equal(after[others], before[others])
        expected = before.float() - 0.1 * (gradient + 0.5 * before.float())
        torch.testing.assert_close(after[rows].float(), expected[rows], rtol=2**-10, atol=1e-7)  # a digit of float16
        assert all(gradient[row].norm() > 0 for row in rows)


def test_at_triplet_weight_0_class_maps_are_neither_matched_nor_decayed(noise_faces, tmp_path, monkeypatch):
    monkeypatch.setattr(QAConv, "class_logits", lambda *args: pytest.fail("computed for nothing"))
    before = []

    class Keep(pl.Callback):
        def on_train_start(self, trainer, module):
            before.append(module.matcher.class_embeddings.weight.detach().clone())

    options = {"data_root": noise_faces, "triplet_weight": 0.0, "lr": 0.1, "weight_decay": 0.5}
    model, _, trainer = fit(tmp_path, Keep(), **options, **CLASSES)
    assert trainer.global_step == 4
    assert torch.equal(model.matcher.class_embeddings.weight, before[0])
    assert "train_class_loss" not in metrics(tmp_path)[0]


class Neighbours(pl.Callback):
    """Keep the neighbour table at each batch, and the head's kernel at the start of each epoch."""

    def __init__(self):
        self.tables = []
        self.kernels = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.tables.append(module.matcher.class_embeddings.neighbours.clone())
        if batch_idx == 0:
            self.kernels.append(module.head.kernel.detach().clone())


def most_similar(kernel, k):
    cosine = F.normalize(kernel, dim=0).T @ F.normalize(kernel, dim=0)
    return cosine.fill_diagonal_(-2).argsort(dim=1, descending=True)[:, :k]


def test_neighbours_are_refreshed_from_the_head_at_the_start_of_each_epoch(noise_faces, tmp_path):
    watcher = Neighbours()
    options = {**CLASSES, "k_nearest": 3, "epochs": 3, "lr": 0.5}
    model, _, _ = fit(tmp_path, watcher, data_root=noise_faces, **options)
    for epoch in range(3):
        table = most_similar(watcher.kernels[epoch], 3)
        assert all(torch.equal(used, table) for used in watcher.tables[4 * epoch : 4 * epoch + 4])
    assert not torch.equal(watcher.tables[0], watcher.tables[4]), "the run is too short to tell"
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"][TABLE]
    assert torch.equal(saved, most_similar(model.head.kernel.detach(), 3))


def test_a_resumed_run_takes_the_neighbours_of_its_checkpoint(noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces, **CLASSES)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    # Any table that no refresh would give shows where the neighbours come from.
    table = (checkpoint["state_dict"][TABLE] + 1) % 8
    checkpoint["state_dict"][TABLE] = table
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    watcher = Neighbours()
    path = tmp_path / "changed.ckpt"
    fit(tmp_path, watcher, data_root=noise_faces, ckpt_path=path, **{**CLASSES, "epochs": 2})
    assert len(watcher.tables) == 4
    assert torch.equal(watcher.tables[0], table)


def test_a_run_with_class_embeddings_resumes_to_the_same_bits(noise_faces, tmp_path):
    options = {**CLASSES, "data_root": noise_faces, "epochs": 2, "optimizer": "adamw", "save_all_models": True}
    (tmp_path / "again").mkdir()
    whole, _, _ = fit(tmp_path, **options)
    resumed, _, trainer = fit(tmp_path / "again", ckpt_path=tmp_path / "epoch_000.ckpt", **options)
    assert trainer.global_step == 8
    torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)
