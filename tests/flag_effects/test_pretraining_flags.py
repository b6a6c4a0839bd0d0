"""What the flags of `main.py pretrain` change that no other program has."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from config import PretrainingConfig
from datasets import Sample
from datasets.clustering import neighbours, visits
from engine.files import WriteFailures
from engine.module import Step
from tasks.moco import refresh
from tasks.moco.data import PretrainingData
from tasks.moco.module import Pretrainer

SMALL = {"arch": "ir_tiny", "embedding_size": 16, "batch_size": 8, "queue_size": 16, "projection_size": 8, "gpus": 0}
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 112, 112, 3), dtype=np.uint8))


def build(**options):
    torch.manual_seed(0)
    module = Pretrainer(PretrainingConfig(**{**SMALL, **options}).to_dict(), 40)
    keys = torch.nn.functional.normalize(torch.randn(12, module.config.projection_size), dim=1)
    module.contrast.enqueue(keys, torch.arange(20, 32), torch.full((12,), -1))
    return module


def loss(**options):
    views = [Sample(pixels, torch.zeros(8), torch.zeros(8), None, torch.arange(8)) for pixels in IMAGES]
    terms = build(**options).forward_terms(views[0]._replace(second=views[1]), Step(0))
    return float(terms.total().detach())


@pytest.mark.pretraining_flag("contrast_margin", "temperature", "left_out_top_k", "symmetric", "projector")
@pytest.mark.parametrize(
    "options",
    [
        {"contrast_margin": 0.3},
        {"temperature": 0.2},
        {"left_out_top_k": 3},
        {"symmetric": True},
        {"projector": "mlp_bn"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_loss_of_a_step_follows_the_rules(options):
    assert loss(**options) != pytest.approx(loss(), abs=1e-4)
    assert loss() == loss()


def test_both_encoders_lie_as_channels_last_says_and_the_loss_is_the_same():
    assert loss(channels_last=False) == pytest.approx(loss(), rel=1e-4)
    for choice in (True, False):
        kernels = [weight for weight in build(channels_last=choice).parameters() if weight.ndim == 4]
        kernels = [kernel for kernel in kernels if kernel.shape[1] > 1 and kernel.shape[-1] > 1]
        assert len(kernels) > 2 and {kernel.is_contiguous() for kernel in kernels} == {not choice}


@pytest.mark.pretraining_flag("queue_size", "projection_size")
def test_queue_and_projection_have_their_sizes():
    assert build(queue_size=20, projection_size=4).contrast.queue.keys.shape == (20, 4)


@pytest.mark.pretraining_flag("key_norm", "key_groups")
def test_keys_are_normalized_in_other_company():
    found = {
        (norm, groups): build(key_norm=norm, key_groups=groups).contrast.encode_keys(
            torch.linspace(-1, 1, 8 * 3 * 112 * 112).reshape(8, 3, 112, 112), 0
        )
        for norm, groups in (("sync", 4), ("split", 4), ("split", 2), ("split", 1))
    }
    whole, of_four, of_two, of_one = found.values()
    torch.testing.assert_close(of_one, whole, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(of_four, whole, atol=1e-3) and not torch.allclose(of_four, of_two, atol=1e-3)


@pytest.mark.pretraining_flag("key_momentum", "key_momentum_schedule")
def test_the_momentum_is_as_told_and_may_rise():
    def momenta(**options):
        module = build(**options)
        module._trainer = SimpleNamespace(global_step=5, estimated_stepping_batches=10)
        return module._momentum()

    assert momenta(key_momentum=0.5) == 0.5
    assert momenta(key_momentum=0.5, key_momentum_schedule="cosine") == pytest.approx(0.75)


@pytest.fixture
def counts(monkeypatch):
    """Return a function: options -> (counts of clusters of 40 fixed embeddings, method of the search)."""
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.normal(size=(8, 6)), 5, axis=0) + 0.35 * rng.normal(size=(40, 6))
    embeddings = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).half()
    monkeypatch.setattr(refresh, "embed_images", lambda *told, **options: embeddings)
    methods = []
    monkeypatch.setattr(refresh, "neighbours", lambda *told: methods.append(told[3]) or neighbours(*told))
    trainer = SimpleNamespace(global_rank=0, world_size=1)

    def found(**options):
        identities, visits, recall = refresh._cluster(trainer, build(**options), 0, 0)
        assert visits is None and recall == 1
        return identities.counts(), methods[-1]

    return found


@pytest.mark.parametrize("cap", [1, 128])
def test_a_refresh_plans_its_visits_and_tells_them(cap, monkeypatch, caplog, tmp_path):
    vectors = np.random.default_rng(1).normal(size=(60, 6)).repeat(5, axis=0)
    vectors += 0.35 * np.random.default_rng(2).normal(size=vectors.shape)
    embeddings = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).half()
    monkeypatch.setattr(refresh, "embed_images", lambda *told, **options: embeddings)
    monkeypatch.setattr(visits, "MAX_PROBE", cap)
    module, logged = build(cluster_method="lists", pseudo_pairs=("0:0.3",)), []
    module.clusters = torch.full((300,), -1)
    monkeypatch.setattr(module, "log_now", lambda row, step: logged.append(row))
    data = SimpleNamespace(train_dataset=SimpleNamespace(labels=np.zeros(300, np.int64)))
    trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=7, datamodule=data)
    with caplog.at_level("INFO"):
        refresh.ClusterRefresh(tmp_path, WriteFailures())._provide(trainer, module, 0)
    report = json.loads((tmp_path / "clusters/epoch_0000.json").read_text())
    told, ((row,), said) = report["visits"], (logged, caplog.text)
    assert row["cluster_probe"] == told["probe"] and told["planning_queries"] == 256
    assert f"{told['probe']} of 16 lists visited; edge recall" in said
    if cap == 1:
        assert told["probe"] == 1 and "more than 1 visits are not planned" in said
    else:
        assert told["planned_recall"] >= 0.99 and told["probe"] > 1 and "not planned" not in said


@pytest.mark.pretraining_flag("cluster_neighbours", "cluster_mutual", "cluster_threshold", "max_cluster_size")
@pytest.mark.pretraining_flag("cluster_jaccard", "cluster_method")
def test_images_are_clustered_by_the_rules(counts):
    plain, method = counts()
    assert method == "auto" and counts(cluster_method="exact") == (plain, "exact")
    assert counts(cluster_mutual=1)[0]["num_mutual_edges"] < plain["num_mutual_edges"]
    assert counts(cluster_threshold=0.95)[0]["num_clustered"] < plain["num_clustered"]
    capped = counts(max_cluster_size=2)[0]
    assert capped["largest_cluster"] == 2 and capped["num_refused_edges"] > 0
    shared = counts(cluster_jaccard=0.9)[0]["num_unshared_edges"]
    assert shared > plain["num_unshared_edges"] == 0
    assert counts(cluster_jaccard=0.9, cluster_neighbours=5)[0]["num_unshared_edges"] != shared


NONE = {f"view_{step}_prob": 0.0 for step in ("flip", "color", "grayscale", "blur", "low_res", "occlusion")}
NONE["view_crop_area"] = 1.0
FACE = np.random.default_rng(2).integers(0, 256, (14, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def view(**options):
    data = PretrainingData(PretrainingConfig(**{**SMALL, **NONE, **options}))
    return data.training_transform()(FACE, np.random.default_rng(3)).image


@pytest.mark.pretraining_flag("view_crop_area", "view_flip_prob", "view_color_prob", "view_grayscale_prob")
@pytest.mark.pretraining_flag("view_blur_prob", "view_low_res_prob", "view_occlusion_prob", "occluders")
def test_each_step_of_a_view_runs_when_it_is_asked_for():
    np.testing.assert_array_equal(view(), FACE)
    np.testing.assert_array_equal(view(view_flip_prob=1.0), FACE[:, ::-1])
    gray = view(view_grayscale_prob=1.0)
    assert (gray == gray[..., :1]).all() and not (FACE == FACE[..., :1]).all()
    changed = [view(**{name: 1.0}) for name in NONE if name not in ("view_crop_area", "view_flip_prob")]
    changed += [view(view_crop_area=0.2), view(view_occlusion_prob=1.0, occluders=("block",))]
    assert all((image != FACE).any() for image in changed)
    assert len({image.tobytes() for image in changed}) == len(changed)
