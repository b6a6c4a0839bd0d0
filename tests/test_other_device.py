"""What a GPU would refuse, refused on the CPU: tensors of two devices in steps, the matcher, galleries, evaluation."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric.utilities.apply_func import move_data_to_device
from other_device import DEVICE, There, other_device

from config import Config, DetectionConfig, PretrainingConfig
from datasets import Sample
from datasets.detection.photos import DetectionBatch
from evaluation import describe_batches, score_all_pairs, score_pair_list, search
from models import FaceModel
from options.model import NetworkOptions
from qaconv import QAConv
from qaconv.matcher import SCORES
from tasks.detection.module import DetectorTraining
from tasks.moco.module import Pretrainer
from train_val import Recognizer

CPU = torch.device("cpu")
NUM_IMAGES = 8
RUN = {"gpus": 0, "log_every_n_steps": 100, "warmup_steps": 0, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9}
SMALL = {**RUN, "arch": "ir_tiny", "embedding_size": 16, "batch_size": NUM_IMAGES}


def pixels(seed, side=112):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (NUM_IMAGES, side, side, 3), dtype=torch.uint8, generator=generator)


def faces(second=None):
    numbers = torch.arange(NUM_IMAGES)
    visibility = (pixels(2)[..., 0] > 60).to(torch.uint8)
    return Sample(pixels(1), numbers // 4, numbers * 0, visibility, numbers, numbers * 0 - 1, second)


def photographs():
    boxes = [torch.tensor([[8.0, 8.0, 40.0, 48.0], [30.0, 20.0, 60.0, 60.0]])[: 1 + number % 2] for number in range(8)]
    points = [torch.full((len(each), 5, 2), 24.0) for each in boxes]
    ignored = [torch.zeros(len(each), dtype=torch.bool) for each in boxes]
    numbers = torch.arange(NUM_IMAGES)
    return DetectionBatch(pixels(3, 64), boxes, points, ignored, numbers, numbers * 0 - 1)


def recognizer(**options):
    torch.manual_seed(0)
    module = Recognizer(Config(**{**SMALL, **options}).to_dict(), {"faces": 4})
    return module, faces(faces())


def pretrainer():
    torch.manual_seed(0)
    config = PretrainingConfig(**{**SMALL, "queue_size": 16, "projection_size": 8, "optimizer": "adamw"})
    module = Pretrainer(config.to_dict(), NUM_IMAGES)
    module.relabel(torch.arange(NUM_IMAGES) // 2)
    return module, faces(faces())


def detector():
    torch.manual_seed(0)
    config = DetectionConfig(**{**RUN, "arch": "featherface_v2", "image_size": 64, "val_size": 64, "batch_size": 8})
    return DetectorTraining(config.to_dict()), photographs()


TASKS = {
    "recognizer": lambda: recognizer(
        occlusion_head="fine", triplet_weight=0.5, penalty=("model.*=l2:0.01",), gradient_clip_val=5.0
    ),
    "pretrainer": pretrainer,
    "detector": detector,
}


def trained(module, batch, device):
    """Make two updates on a device, the second of which is spoilt and skipped, and return the state on the CPU."""
    trainer = SimpleNamespace(
        global_step=0, global_rank=0, current_epoch=0, estimated_stepping_batches=10, num_training_batches=10,
        accumulate_grad_batches=1, is_last_batch=False, is_global_zero=True, loggers=[],
        precision_plugin=SimpleNamespace(scaler=None, train_step_context=nullcontext),
    )  # fmt: skip
    module = module.to(device).train()
    module.trainer = trainer
    optimizer = module.configure_optimizers()["optimizer"]
    batch = move_data_to_device(batch, device)
    for number, factor in enumerate((1.0, float("nan"))):
        trainer.global_step = number
        module.on_train_batch_start(batch, number)

        def closure(number=number, factor=factor):
            optimizer.zero_grad()
            (module.training_step(batch, number) * factor).backward()

        module.optimizer_step(0, number, optimizer, closure)
        module.on_train_batch_end(None, batch, number)
    return {name: value.cpu() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_step_keeps_to_its_device_and_waits_for_nothing(task, monkeypatch):
    wanted = trained(*task(), CPU)
    with other_device(monkeypatch) as mode:
        found = trained(*task(), DEVICE)
        assert mode.waits == []
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("score", SCORES)
def test_the_matcher_keeps_to_its_device(score, monkeypatch):
    torch.manual_seed(0)
    drawn = QAConv(8, 3, 3, "scaling", score=score)
    maps, visibility = F.normalize(torch.randn(6, 8, 3, 3), dim=1), torch.rand(6, 1, 3, 3)

    def scores(device):
        matcher, seen = copy.deepcopy(drawn).to(device), visibility.to(device)
        leaf = maps.detach().to(device, copy=True).requires_grad_()
        found = matcher(leaf, leaf, seen, seen)
        (found.square().sum() + matcher.match_pairs(leaf, leaf.flip(0), seen, seen.flip(0)).sum()).backward()
        return found.detach().cpu(), leaf.grad.cpu()

    wanted = scores(CPU)
    with other_device(monkeypatch):
        found = scores(DEVICE)
    torch.testing.assert_close(found, wanted)


def test_descriptions_scores_and_searches_keep_to_their_device(monkeypatch):
    torch.manual_seed(0)
    model = FaceModel(NetworkOptions(arch="ir_tiny", embedding_size=16, occlusion_head="fine")).eval()
    images = pixels(4).permute(0, 3, 1, 2).float() / 127.5 - 1
    pairs = np.array([[0, 1], [2, 5], [3, 6]])

    @torch.inference_mode()
    def answers(device):
        model.to(device)
        described = describe_batches(model.describe, (part.to(device) for part in images.split(3)), NUM_IMAGES)
        hits = search(described, None, 3, model.matcher, shortlist=4)
        listed = score_pair_list(described, pairs, model.matcher.match_pairs, 2)
        scores = [*score_all_pairs(described, model.matcher).values(), *listed.values()]
        return hits.indices.cpu(), [torch.as_tensor(values) for values in scores]

    wanted = answers(CPU)
    with other_device(monkeypatch):
        found = answers(DEVICE)
    torch.testing.assert_close(found, wanted)


def test_the_other_device_refuses_what_a_gpu_refuses(monkeypatch):
    with other_device(monkeypatch) as mode:
        there = torch.ones(3).to(DEVICE)
        assert isinstance(there, There) and isinstance(there + 1, There) and not isinstance(there.cpu(), There)
        with pytest.raises(AssertionError, match="two devices"):
            there + torch.ones(3)
        with pytest.raises(AssertionError, match="generator"):
            torch.rand(3, device=DEVICE, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert torch.rand(3, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0)).device == DEVICE
        assert mode.waits == [] and there.sum().item() == 3 and len(mode.waits) == 1
