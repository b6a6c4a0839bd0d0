"""Pairs across ranks: losses, gradients and statistics of the global batch, and no change on one rank."""

from typing import NamedTuple

import pytest
import torch
from gloo_ranks import on_ranks
from short_runs import fit, metrics, state
from torch import distributed, nn

import losses
from config import Config
from ops import unit_map
from qaconv import QAConv
from tasks.recognition.memory import plan_pairs
from tasks.recognition.score_matrix import Images, score_batch

CHANNELS, SIZE = 5, 3
# 8 of the 12 images have a positive: of two ranks 5 and 3, of three 4, 3 and 1; person 0 is on every rank.
LABELS = [0, 0, 1, 1, 2, 0, 4, 4, 3, 0, 5, 6]


class Case(NamedTuple):
    score: str = "bn_fc"
    method: str = "masking"
    reduction: str = "ranking"
    visibility_gradient: bool = True
    cross_rank_pairs: bool = True


CASES = [
    Case(),
    Case(reduction="row_sum", method="scaling"),
    Case(reduction="balanced", visibility_gradient=False),
    Case(score="weighted"),
    Case(score="weighted", method="scaling", reduction="mean"),
    Case(cross_rank_pairs=False),
]


class Net(nn.Module):
    """A backbone, an occlusion head and a matcher of one layer each."""

    def __init__(self, case):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Conv2d(3, CHANNELS, 3)
        self.occlusion_head = nn.Conv2d(CHANNELS, 1, 1)
        self.matcher = QAConv(CHANNELS, SIZE, SIZE, occlusion_method=case.method, score=case.score)
        self.config = Config(
            pairwise_reduction=case.reduction,
            visibility_gradient=case.visibility_gradient,
            cross_rank_pairs=case.cross_rank_pairs,
        )
        if not case.visibility_gradient:
            self.occlusion_head.requires_grad_(False)

    def forward(self, images, labels):
        feature_map = self.backbone(images)
        visibility = self.occlusion_head(feature_map).sigmoid()
        if not self.config.visibility_gradient:
            visibility = visibility.detach()
        images = Images(unit_map(feature_map), visibility, labels, torch.zeros_like(labels))
        pairs = score_batch(self.matcher, self.config, images)
        pairwise = losses.PAIRWISE_REDUCTIONS[self.config.pairwise_reduction](pairs.scores, labels, *pairs.columns)
        triplet = losses.triplet_loss(pairs.scores, labels, self.config.triplet_margin, *pairs.columns)
        accuracy = losses.pairwise_accuracy(pairs.scores.detach(), labels, *pairs.columns)
        return {"pairwise": pairs.mean(pairwise), "triplet": pairs.mean(triplet)}, pairs.mean(accuracy)


def one_step(case):
    """Return the losses, the gradients and the buffers of a batch, on this rank and alone."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(LABELS), 3, SIZE + 2, SIZE + 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor(LABELS)
    net = Net(case).double()
    model = net
    if distributed.is_initialized():
        rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
        images, labels = images.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank]
        model = nn.parallel.DistributedDataParallel(net)
    terms, accuracy = model(images, labels)
    (terms["pairwise"] + 0.5 * terms["triplet"]).backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    values = {name: value.detach() for name, value in [*terms.items(), ("accuracy", accuracy)]}
    return {"values": values, "gradients": gradients, "buffers": dict(net.named_buffers())}


def all_cases():
    return [one_step(case) for case in CASES]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request):
    """What each rank has of every case."""
    return on_ranks(request.param, all_cases)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.flag("cross_rank_pairs")
@pytest.mark.parametrize("case", CASES[:-1], ids=str)
def test_with_cross_rank_pairs_the_ranks_have_losses_and_gradients_of_the_global_batch(ranks, case):
    alone = one_step(case)
    found = [rank[CASES.index(case)] for rank in ranks]
    for name, expected in alone["values"].items():
        close(torch.stack([rank["values"][name] for rank in found]).mean(), expected)
    trained = {"backbone.weight"} | ({"occlusion_head.weight"} if case.visibility_gradient else set())
    assert all(alone["gradients"][name].norm() > 1e-3 for name in trained)
    for rank in found:
        close(rank["gradients"], alone["gradients"])
        close(rank["buffers"], alone["buffers"])


def test_without_them_the_gradient_is_another(ranks):
    alone = one_step(CASES[-1])["gradients"]["backbone.weight"]
    found = ranks[0][-1]["gradients"]["backbone.weight"]
    assert (found - alone).norm() > 0.01 * alone.norm()


def test_on_one_rank_the_flag_changes_no_bit(noise_faces, tmp_path):
    ended = []
    for cross_rank_pairs in (False, True):
        folder = tmp_path / str(cross_rank_pairs)
        folder.mkdir()
        model, _, _ = fit(folder, data_root=noise_faces, cross_rank_pairs=cross_rank_pairs, visibility_gradient=True)
        ended.append((state(model), metrics(folder)))
    assert len(ended[0][1]) >= 2
    torch.testing.assert_close(ended[1], ended[0], rtol=0, atol=0)


def test_the_plan_counts_pairs_and_bytes_where_pairs_cross_ranks():
    matcher = QAConv(8, 2, 2)
    assert plan_pairs(matcher, Config(batch_size=64), 4) == plan_pairs(matcher, Config(cross_rank_pairs=True), 1) == []
    (line,) = plan_pairs(matcher, Config(cross_rank_pairs=True, batch_size=2**16), 4)
    assert line.startswith("pairs across 4 ranks: 16384 x 65536 on each instead of 16384 x 16384 ")
    products = 8 * 4**2
    assert (
        f"{2**14 * 2**16 * products / 1e9:,.1f}e9 instead of {2**14 * (2**14 + 1) / 2 * products / 1e9:,.1f}e9" in line
    )
    map_bytes = 8 * 4 * 4
    assert f"received {3 * 2**14 * map_bytes / 2**20:,.1f} MiB" in line
    assert f"all maps and their gradient {2 * 2**16 * map_bytes / 2**20:,.1f} MiB" in line
