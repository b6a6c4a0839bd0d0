"""--partial_fc_rate in real runs: the dense run at 1, exact resuming, one file for any number of ranks."""

import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from broken_runs import finish, output, run_folder, start
from programs import SMALL_RUN, program
from short_runs import build, fit, metrics, on_two_ranks, state

from cli.checkpoints import load_pretrained_model
from config import Config
from options.names import ONLY_DATASET
from tasks.recognition.memory import plan_memory
from tasks.recognition.sharded_head import build_heads
from train_val import Recognizer

TRAINING = {"epochs": 2, "batch_size": 16, "lr": 0.05, "accumulate_grad_batches": 2, "gradient_clip_val": 4.0}
TRAINING |= {"margin_warmup_epochs": 1.0, "weight_decay": 0.01, "adaface_loss_weight": 1.0, "val_occlusion": ()}
TRAINING |= {"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "occlusion_method": "none"}


class StartAs(pl.Callback):
    """Start with the weights of a dense model."""

    def __init__(self, weights):
        self.weights = weights

    def on_fit_start(self, trainer, module):
        module.load_state_dict(self.weights)


def train_rank(folder, rate, start, options):
    """Train on this rank and return the state dict of its last checkpoint and the losses."""
    folder = Path(folder) / str(rate)
    folder.mkdir(exist_ok=True)
    model, _, _ = fit(folder, StartAs(start), partial_fc_rate=rate, **options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank:
        return {"own": list(model.head.state_dict())}
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    return {"state": saved["state_dict"], "metrics": metrics(folder), "momentum": saved["head_momentum"]}


def both_rates(folder, start, options):
    return [train_rank(folder, rate, start, options) for rate in (0.0, 1.0)]


def check_equal(dense, sharded, start):
    assert dense["state"].keys() == sharded["state"].keys()
    for key, value in dense["state"].items():
        # A sum in another order, in float32, grows over the steps; the weights themselves move by 4e-3 and more.
        torch.testing.assert_close(sharded["state"][key], value, rtol=1e-4, atol=5e-5, msg=lambda m, k=key: k + m)
    kernel = "heads.0.kernel"
    assert (dense["state"][kernel] - start[kernel]).abs().amax() > 4e-3, "the run is too short to tell"
    assert dense["momentum"] == {} and sharded["momentum"]["0"].shape == (8, 16)
    assert len(dense["metrics"]) == len(sharded["metrics"]) >= 2
    for expected, found in zip(dense["metrics"], sharded["metrics"], strict=True):
        whole = {name: value for name, value in expected.items() if not name.startswith("train_bits")}
        assert found == pytest.approx(whole, rel=1e-3, abs=1e-5)  # a split head tells no bits: it has not all classes


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_at_rate_1_a_run_is_that_of_the_dense_head(noise_faces, tmp_path, num_ranks):
    """Clipping, accumulation, schedule, margin warm-up and statistics included."""
    options = {"data_root": noise_faces, **TRAINING}
    start = state(build(tmp_path / "dense", **options)[0])
    if num_ranks == 1:
        dense, sharded = both_rates(str(tmp_path), start, options)
    else:
        (dense, sharded), (_, other) = on_two_ranks(both_rates, str(tmp_path), start, options)
        assert other["own"] == ["weight", "margin.batch_mean", "margin.batch_std"]
    check_equal(dense, sharded, start)


# ---------------------------------------------------------------- through the program


FLAGS = [*SMALL_RUN, "--optimizer", "sgd", "--lr", "0.05", "--num_processes", "2", "--partial_fc_rate", "0.5"]
FLAGS += ["--class_embeddings", "--k_nearest", "2"]


@pytest.fixture(scope="module")
def two_ranks(noise_faces, tmp_path_factory):
    """Run folder of two ranks and two epochs, and what the program said."""
    cwd = tmp_path_factory.mktemp("two_ranks")
    options = ["--data_root", noise_faces, "--epochs", "2", "--save_all_models", "--val_occlusion", "none"]
    assert finish(start([*FLAGS, *options], cwd, ranks=2)) == [0, 0], output(cwd)
    return run_folder(cwd), output(cwd)


def read(path):
    return torch.load(path, weights_only=True)


@pytest.mark.flag("partial_fc_rate")
@pytest.mark.slow
def test_two_ranks_that_sample_half_of_the_classes_resume_to_the_same_bits(two_ranks, tmp_path):
    folder, _ = two_ranks
    again = tmp_path / "experiments" / folder.name
    shutil.copytree(folder, again)
    (again / "last.ckpt").unlink()
    program("main.py", "--resume_from_checkpoint", again / "epoch_000.ckpt", "--gpus", "0", cwd=tmp_path)
    half, whole, resumed = map(read, (folder / "epoch_000.ckpt", folder / "last.ckpt", again / "last.ckpt"))
    for key in ("state_dict", "head_momentum", "optimizer_states"):
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)
    assert not torch.equal(half["head_momentum"]["0"], whole["head_momentum"]["0"])
    assert metrics(again) == metrics(folder)


def test_its_checkpoint_is_that_of_a_dense_head_and_is_evaluated_as_one(two_ranks):
    saved = read(two_ranks[0] / "last.ckpt")
    heads = {key: tuple(value.shape) for key, value in saved["state_dict"].items() if key.startswith("heads.")}
    assert heads == {"heads.0.kernel": (32, 8), "heads.0.batch_mean": (1,), "heads.0.batch_std": (1,)}
    assert saved["head_momentum"]["0"].shape == (8, 32)
    model = load_pretrained_model(two_ranks[0] / "last.ckpt")
    assert torch.equal(model.head.kernel, saved["state_dict"]["heads.0.kernel"])
    assert model.head(torch.eye(32)[:3], torch.ones(3, 1), torch.tensor([0, 1, 7])).shape == (3, 8)


def test_the_matcher_finds_its_neighbours_among_the_classes_of_all_ranks(two_ranks):
    saved = read(two_ranks[0] / "last.ckpt")["state_dict"]
    unit = F.normalize(saved["heads.0.kernel"], dim=0)
    expected = (unit.T @ unit).fill_diagonal_(-2).argsort(dim=1, descending=True)[:, :2]
    assert torch.equal(saved["matcher.class_embeddings.neighbours"], expected)


class Loaded(pl.Callback):
    """Keep the head as training starts with it."""

    def on_train_start(self, trainer, module):
        self.weight, self.momentum = module.head.weight.detach().clone(), module.shards["0"].optimizer.momentum.clone()


def test_one_rank_goes_on_with_the_checkpoint_of_two(two_ranks, noise_faces, tmp_path):
    path = two_ranks[0] / "epoch_000.ckpt"
    saved, loaded = read(path), Loaded()
    config = {**saved["hyper_parameters"]["config"], "num_processes": 1}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    fit(tmp_path, loaded, ckpt_path=path, **options)
    assert torch.equal(loaded.weight, saved["state_dict"]["heads.0.kernel"].T)
    assert torch.equal(loaded.momentum, saved["head_momentum"]["0"])
    assert (tmp_path / "last.ckpt").exists()


def test_the_memory_of_a_rank_is_said_at_the_start_in_one_line(two_ranks):
    (line,) = [line for line in two_ranks[1].splitlines() if "memory of a rank: " in line]
    assert "; head " in line and " split over 2 ranks at --partial_fc_rate 0.5" in line


@pytest.mark.parametrize(("num_classes", "is_large"), [(1000, False), (2**18, True)])
def test_the_plan_of_a_dense_head_says_what_splitting_it_would_take_where_it_is_large(num_classes, is_large):
    config = Config(arch="ir_tiny", batch_size=64, class_embeddings=num_classes == 1000, k_nearest=2)
    with torch.device("meta"):
        model = Recognizer(config.to_dict(), {ONLY_DATASET: num_classes})
    plan = plan_memory(config, model.model, model.matcher, num_classes, num_ranks=4)
    size = f"{num_classes * 512 * 4 / 2**20:,.1f} MiB"
    assert plan.startswith("backbone with gradient and optimizer state ")
    assert f"; head weights {size}, their gradient {size}, optimizer state {size}" in plan
    assert f"logits of a batch and their gradient {2 * 16 * num_classes * 4 / 2**20:,.1f} MiB" in plan
    assert (" split over 4 ranks at --partial_fc_rate 1)" in plan) == is_large
    assert ("class embeddings " in plan and "all on every rank: float16" in plan) == (not is_large)


@pytest.mark.parametrize(("sampler", "most"), [("pk", 4), ("shuffle", 16)])
def test_a_sample_has_room_for_every_identity_of_a_batch(sampler, most):
    config = Config(sampler=sampler, batch_size=16, partial_fc_rate=0.1, embedding_size=4, head="arcface")
    head = build_heads(config, {"0": 20})["0"]
    labels = torch.arange(16) if sampler == "shuffle" else torch.arange(4).repeat_interleave(4)
    embeddings = torch.nn.functional.normalize(torch.randn(16, 4), dim=1)
    assert head.max_positives == most and head(embeddings, torch.ones(16, 1), labels).loss.isfinite()
