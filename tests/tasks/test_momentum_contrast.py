"""The queue, the momentum and six whole steps against golden vectors, on one, two and four ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gloo_ranks import on_ranks
from torch import nn

from ops import gather, own_rank, world_size
from tasks.moco.contrast import MomentumContrast, Rules, Side, momentum_at
from tasks.moco.key_norm import SyncedNorm, encode_keys, sync_norms
from tasks.moco.queue import KeyQueue

GOLDEN = Path(__file__).parents[1] / "golden" / "pretraining"
QUEUE = np.load(GOLDEN / "a_queue.npz")
TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}


def numbered(start, count):
    """Return keys whose first number says which they are, and that number as image and cluster."""
    numbers = torch.arange(start, start + count)
    return torch.stack([numbers.float(), torch.ones(count)], 1), numbers, numbers


@pytest.mark.parametrize("case", ["divides", "wraps", "ragged", "batch_is_queue", "batch_over_queue", "one"])
def test_the_queue_is_written_as_in_the_golden_file(case):
    slots, pointers, valid = (QUEUE[f"{case}.{name}"] for name in ("slots", "ptr", "valid"))
    queue, done = KeyQueue(int(QUEUE[f"{case}.K"]), 2), 0
    for step, count in enumerate(QUEUE[f"{case}.batches"].tolist()):
        queue.enqueue(*numbered(done, count))
        done += count
        written = torch.where(queue.valid, queue.keys[:, 0].long(), -1)
        assert written.tolist() == queue.images.tolist() == queue.clusters.tolist() == slots[step].tolist()
        assert int(queue.pointer) == pointers[step] and int(queue.valid.sum()) == valid[step]


def gathered_slots(name):
    count = int(QUEUE[f"{name}.per_rank"])
    queue, seen = KeyQueue(int(QUEUE[f"{name}.K"]), 2), []
    for step in range(len(QUEUE[f"{name}.ptr"])):
        keys, numbers, _ = numbered((step * world_size() + own_rank()) * count, count)
        queue.enqueue(gather(keys), gather(numbers), gather(numbers))
        seen.append(torch.cat([queue.images, queue.pointer[None]]))
    return torch.stack(seen)


def test_a_batch_with_a_key_that_is_not_finite_is_passed_over():
    queue = KeyQueue(4, 2)
    queue.enqueue(*numbered(0, 3))
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    keys, *ids = numbered(3, 3)
    keys[1, 0] = torch.nan
    queue.enqueue(keys, *ids)
    assert all(torch.equal(value, before[name]) for name, value in queue.state_dict().items())


def test_new_clusters_reach_the_queue_through_its_images_and_keys_stay():
    queue = KeyQueue(5, 2)
    queue.enqueue(*numbered(0, 3))
    keys = queue.keys.clone()
    queue.relabel(torch.tensor([7, -1, 8, 9]))
    assert queue.clusters.tolist() == [7, -1, 8, -1, -1] and torch.equal(queue.keys, keys)


def test_the_momentum_is_that_of_the_golden_file():
    base, total = float(QUEUE["momentum.base"]), int(QUEUE["momentum.total"])
    found = [momentum_at(step, total, base, "cosine") for step in range(total + 1)]
    np.testing.assert_allclose(found, QUEUE["momentum.cosine"], rtol=1e-12)
    assert momentum_at(5, total, base, "constant") == base
    queries = torch.from_numpy(QUEUE["ema.query"])
    for name in (name for name in QUEUE.files if name.startswith("ema.key_m")):
        query = nn.Linear(*reversed(queries[0].shape), bias=False).double()
        contrast = MomentumContrast(query, KeyQueue(1, 1), Rules())
        contrast.key.weight.copy_(torch.from_numpy(QUEUE["ema.key0"]))
        for values, expected in zip(queries, QUEUE[name], strict=True):
            query.weight.data.copy_(values)
            contrast.follow(float(name.removeprefix("ema.key_m")))
            np.testing.assert_allclose(contrast.key.weight.numpy(), expected, rtol=1e-12, atol=1e-15)


class Toy(nn.Sequential):
    """The encoder of the golden traces, names of its parts included."""

    def __init__(self, golden):
        shapes = {key.removeprefix("init.encoder_q."): golden[key].shape for key in golden.files if "encoder_q" in key}
        super().__init__()
        self.add_module("body", nn.Linear(*reversed(shapes["body.weight"])))
        if "bn.weight" in shapes:
            self.add_module("bn", nn.BatchNorm1d(*shapes["bn.weight"]))
        self.add_module("relu", nn.ReLU())
        sizes = [shapes[name] for name in ("fc.weight", "fc.0.weight", "fc.2.weight") if name in shapes]
        layers = [nn.Linear(*reversed(size)) for size in sizes]
        self.add_module("fc", layers[0] if len(layers) == 1 else nn.Sequential(layers[0], nn.ReLU(), layers[1]))


def build(golden, **rules):
    state = {key: torch.from_numpy(golden[key]) for key in golden.files}
    query = Toy(golden).double()
    query.load_state_dict({k.removeprefix("init.encoder_q."): v for k, v in state.items() if "init.encoder_q" in k})
    queue = KeyQueue(int(golden["cfg.K"]), int(golden["cfg.dim"])).double()
    queue.keys.copy_(state["init.queue"].T)
    queue.valid.fill_(True)
    rules = Rules(
        float(golden["cfg.margin"]), float(golden["cfg.T"]), **{"key_norm": "shuffle", "key_groups": 1} | rules
    )
    return MomentumContrast(query, queue, rules)


def trace(name, **rules):
    """Return what six steps on this rank give, by the names of the golden file."""
    golden = np.load(GOLDEN / f"{name}.npz")
    contrast, rank = build(golden, **rules), own_rank()
    optimizer = torch.optim.SGD(contrast.query.parameters(), float(golden["cfg.lr"]), 0.9, weight_decay=5e-4)
    found = {}
    for step in range(6):
        views = [torch.from_numpy(golden[f"images_{view}"][step, rank]) for view in "qk"]
        queries = contrast.encode_queries(views[0])
        contrast.follow(float(golden["cfg.m"]))
        found[f"{step} key"] = nn.utils.parameters_to_vector(contrast.key.parameters())
        keys = contrast.encode_keys(views[1], step)
        images = (step * world_size() + rank) * len(keys) + torch.arange(len(keys))
        side = Side(images, torch.full_like(images, -1))
        compared = contrast.compare(queries, keys, side, side)
        temperature = contrast.rules.temperature
        logits = torch.cat([compared.positive[:, None] - contrast.rules.margin, compared.similarity], 1) / temperature
        found[f"{step} logits"], found[f"{step} loss"] = logits.detach(), compared.loss.mean().detach()
        optimizer.zero_grad()
        compared.loss.mean().backward()
        contrast.enqueue(keys, *side)
        for parameter in contrast.query.parameters():
            parameter.grad = gather(parameter.grad[None]).mean(0)
        found[f"{step} grad"] = nn.utils.parameters_to_vector([p.grad for p in contrast.query.parameters()])
        optimizer.step()
        found[f"{step} query"] = nn.utils.parameters_to_vector(contrast.query.parameters()).detach().clone()
        found[f"{step} queue"], found[f"{step} ptr"] = contrast.queue.keys.T.clone(), contrast.queue.pointer.clone()
        for encoder in ("query", "key"):
            for kind in ("mean", "var"):
                values = getattr(getattr(getattr(contrast, encoder), "bn", None), f"running_{kind}", torch.zeros(0))
                found[f"{step} {encoder}_bn_{kind}"] = values.clone()
    return found


def expected_of(golden, step, rank, what):
    """Return what the golden file says; None where it says nothing."""
    if what in ("loss", "logits"):
        return golden[what][step, rank]
    if what in golden.files:
        return golden[what][step]
    parts = [key for key in golden.files if key.startswith(f"{what}.")]
    order = [f"{what}.{name}" for name, _ in Toy(golden).named_parameters()]
    return np.concatenate([golden[key][step].ravel() for key in order]) if parts else None


TRACES = {
    1: ("a_moco_ref_1rank", "a_moco_ref_bn_1rank", "a_margin_ref_1rank"),
    2: ("a_moco_ref_2rank", "a_margin_ref_2rank"),
    4: ("a_moco_ref_4rank",),
}


def on_this_rank(ranks):
    """Return all that this rank shows: starting ranks takes longer than what they do."""
    found = {name: trace(name, key_norm="sync" if "bn" in name else "shuffle") for name in TRACES[ranks]}
    found["slots"] = gathered_slots(f"gather{ranks}")
    if ranks == 2:
        found |= {"company": company("shuffle"), "synced": synced()}
    return found


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_six_steps_and_the_queue_are_those_of_the_public_code(ranks):
    by_rank = [on_this_rank(ranks)] if ranks == 1 else on_ranks(ranks, on_this_rank, ranks)
    slots, pointers = (QUEUE[f"gather{ranks}.{name}"] for name in ("slots", "ptr"))
    for rank, found in enumerate(by_rank):
        assert found["slots"].tolist() == np.concatenate([slots, pointers[:, None]], 1).tolist()
        for name in TRACES[ranks]:
            check_trace(np.load(GOLDEN / f"{name}.npz"), found[name], rank)
    if ranks == 2:
        check_company(*(found["company"] for found in by_rank))
        values = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        norm = nn.BatchNorm2d(4).double()
        expected = {"out": norm(values).detach(), **norm.state_dict()}
        for found in by_rank:
            torch.testing.assert_close(found["synced"], {key: expected[key] for key in found["synced"]})


def check_trace(golden, found, rank):
    compared = 0
    for place, values in found.items():
        step, what = place.split()
        expected = expected_of(golden, int(step), rank, what)
        if expected is not None:
            np.testing.assert_allclose(values.numpy(), expected, **TOLERANCE, err_msg=f"{place} of rank {rank}")
            compared += 1
    assert compared >= 6 * 7


# ---------------------------------------------------------------- batch norms of the keys


def company(how):
    """Return the keys of two images a rank by an encoder that says which images it saw together."""
    images = 10 * own_rank() + torch.arange(4.0)[:, None]
    seen = []

    def encode(images):
        seen.append(images.flatten().tolist())
        return images * 2

    keys = encode_keys(encode, images, how, 2, (3, 1, 0))
    assert torch.equal(keys, images * 2)
    return seen


def check_company(first, second):
    assert len(first) == len(second) == 1
    assert sorted(first[0] + second[0]) == [0, 1, 2, 3, 10, 11, 12, 13] and max(first[0]) >= 10 > min(second[0])


def test_keys_of_one_rank_are_encoded_in_groups_unless_their_norms_are_synced():
    for how in ("split", "shuffle"):
        groups = company(how)
        assert [len(group) for group in groups] == [2, 2] and sorted([*groups[0], *groups[1]]) == [0, 1, 2, 3]
    assert company("sync") == [[0, 1, 2, 3]]


def synced():
    module = nn.Sequential(nn.Identity(), nn.BatchNorm2d(4)).double()
    sync_norms(module)
    assert isinstance(module[1], SyncedNorm)
    values = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = values.chunk(world_size())[own_rank()]
    return {"out": gather(module[1](mine)), **module[1].state_dict()}
