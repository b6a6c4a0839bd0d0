"""What frozen networks say of images that come again is kept, and changes no bit of a training."""

import shutil
from types import SimpleNamespace

import cv2
import pytest
import torch
from short_runs import SMALL, fit, on_two_ranks, state, trained_state, write_faces

import nets
from config import Config
from tasks.recognition import known_images
from tasks.recognition.known_images import KnownImages, KnownRows

# Pairs of files; the backbone is frozen for three epochs, the teacher for all.
STAGES = ("3:heads.*=1e-2", "1:heads.*=1e-2,model.*=1e-3")
RUN = {
    **{"partner": "lr", "val_identities": 0.25, "epochs": 4, "stages": STAGES, "sampler": "shuffle", "batch_size": 8},
    **{"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "occlusion_method": "none", "occlusion_prob": 0.0},
    **{"head": "arcface", "teacher_weight": 1.0, "remember_weight": 0.5, "log_every_n_steps": 50},
    "check_val_every_n_epoch": 4,
    "start_from_model_statedict": "not read by a Recognizer",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_faces(root, identities=8, images=4, pairs=0)
    (root / "train").rename(root / "hr")
    for path in sorted((root / "hr").rglob("*.png")):
        other = root / "lr" / path.relative_to(root / "hr")
        other.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(other), cv2.resize(cv2.imread(str(path)), (16, 16), interpolation=cv2.INTER_AREA))
    return root


class Looks(known_images.Callback):
    """Count the batches that backbone and teacher see in training, by epoch."""

    def on_train_start(self, trainer, module):
        self.seen = {"backbone": [0] * 4, "teacher": [0] * 4}
        for who, net in (("backbone", module.model), ("teacher", module.beside.teacher.backbone)):
            net.register_forward_hook(lambda *_, who=who: self.count(trainer, who))

    def count(self, trainer, who):
        if trainer.training and trainer.state.stage == "train":
            self.seen[who][trainer.current_epoch] += 1


class Inside(known_images.Callback):
    """Keep the checkpoint of step 4, inside the second epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 5:
            shutil.copy(self.folder / "kept" / "last.ckpt", self.folder / "inside.ckpt")


def epochs_of_rows(look, generator, rows=24, epochs=3):
    """Show all rows in a new order and mirrored at random in each epoch; return what was found and what was shown."""
    pixels = torch.randint(0, 256, (rows, 6, 6, 3), dtype=torch.uint8, generator=generator)
    for _ in range(epochs):
        order = torch.randperm(rows, generator=generator)
        is_mirrored = torch.rand(rows, 1, 1, 1, generator=generator) < 0.5
        shown = torch.where(is_mirrored, pixels.flip(2), pixels)[order]
        for batch in shown.split(8):
            yield look(batch), batch


def test_an_image_and_its_mirror_image_are_looked_at_once():
    weights, calls, known = torch.randn(108, 5), [], KnownRows()

    def see(views):
        calls.append(len(views[0]))
        return (views[0].float()[:, :, :, :, None] * weights.view(6, 6, 3, 5)).sum((1, 2, 3))

    generator = torch.Generator().manual_seed(1)
    for found, batch in epochs_of_rows(lambda batch: known.look([batch], see), generator):
        assert torch.equal(found, see([batch]))
        calls.pop()
    assert calls == [8] * 7  # 3 batches, their mirror images, and the trial
    known.look([batch[:5]], see)
    assert calls[7:] == [5]  # in a batch of another size rows have other last bits


def test_nothing_is_kept_of_a_network_whose_rows_follow_their_place_or_their_neighbours():
    faults = (
        lambda rows: rows + torch.arange(len(rows))[:, None] * 1e-6,
        lambda rows: rows - rows.mean(0) * 1e-6,
    )
    for fault in faults:
        known = KnownRows()

        def see(views, fault=fault):
            return fault(views[0].double().flatten(1))

        for found, batch in epochs_of_rows(lambda b, known=known, see=see: known.look([b], see), torch.Generator()):
            assert torch.equal(found, see([batch]))


def test_two_views_of_the_same_pixels_are_two_images():
    known, batch = KnownRows(), torch.randint(0, 256, (8, 6, 6, 3), dtype=torch.uint8)

    def see(views):
        return torch.cat([view.float().flatten(1) * (number + 1) for number, view in enumerate(views)])

    for _ in range(2):
        assert torch.equal(known.look([batch, batch], see), see([batch, batch]))


def test_a_run_ends_with_the_same_bits_and_looks_at_each_image_once(folders, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    options, looks = {**RUN, "pairs": str(folders), "checkpoint_every_n_steps": 2}, Looks()
    model, data, trainer = fit(tmp_path / "kept", looks, Inside(tmp_path), **options)
    assert len(data.train_dataset) == 24 and trainer.num_training_batches == 3
    # Batches, mirror images, and once a trial; in the last stage the backbone is trained.
    assert looks.seen == {"backbone": [7, 0, 0, 3], "teacher": [7, 0, 0, 0]}
    assert "the teacher sees each of 24 images and its mirror image once" in caplog.text
    assert model.beside.known is None and model.beside.taught is None

    monkeypatch.setattr(known_images, "MAX_BYTES", 0)
    looks, caplog_start = Looks(), len(caplog.text)
    other, _, _ = fit(tmp_path / "asked", looks, **options)
    assert looks.seen == {"backbone": [3, 3, 3, 3], "teacher": [3, 3, 3, 3]}
    assert "the frozen backbone computes its embeddings anew in every epoch: to keep all" in caplog.text[caplog_start:]
    torch.testing.assert_close(state(model), state(other), rtol=0, atol=0)
    monkeypatch.undo()

    resumed, _, trainer = fit(tmp_path / "resumed", ckpt_path=tmp_path / "inside.ckpt", **options)
    torch.testing.assert_close(state(resumed), state(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"occlusion_prob": 0.5}, "--occlusion_prob changes images"),
        ({"crop_augmentation_prob": 0.1}, "--crop_augmentation_prob changes images"),
        ({"qaconv_loss_weight": 0.1}, "--qaconv_loss_weight needs maps"),
        ({"degradation": "first_order"}, "--degradation makes other LR images"),
    ],
)
def test_what_makes_other_images_or_needs_maps_keeps_nothing(options, why, caplog):
    caplog.set_level("INFO")
    plain = {"occlusion_prob": 0.0, "qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "epochs": 3}
    config = Config(**{**SMALL, **plain, "occlusion_method": "none", **options})
    backbone = nets.build_model("ir_tiny", 16).requires_grad_(False).eval()
    beside = known_images.PairedNets()
    module = torch.nn.Module()
    module.model, module.beside = backbone, beside

    trainer = SimpleNamespace(current_epoch=0, datamodule=SimpleNamespace(train_dataset=range(10)))
    KnownImages(config).on_train_batch_start(trainer, module, None, 0)
    assert beside.known is None and why in caplog.text
    callback = KnownImages(Config(**{**SMALL, **plain, "occlusion_method": "none"}))
    callback.on_train_batch_start(trainer, module, None, 0)
    assert isinstance(beside.known, KnownRows)
    backbone.requires_grad_(True)
    callback.on_train_batch_start(trainer, module, None, 0)
    assert beside.known is None


def run_of_rank(folder, options, max_bytes):
    known_images.MAX_BYTES = max_bytes
    looks = Looks()
    return {**trained_state(folder, options, looks), "looks": looks.seen}


@pytest.mark.slow
def test_two_ranks_know_what_each_has_seen_and_end_with_the_same_bits(folders, tmp_path):
    options = {**RUN, "pairs": str(folders), "batch_size": 8}
    kept, asked = (
        on_two_ranks(run_of_rank, str(tmp_path / str(size)), options, size) for size in (known_images.MAX_BYTES, 0)
    )
    torch.testing.assert_close(kept[0]["weights"], asked[0]["weights"], rtol=0, atol=0)
    for rank in kept:
        assert rank["looks"] == {"backbone": [7, 0, 0, 3], "teacher": [7, 0, 0, 0]}
