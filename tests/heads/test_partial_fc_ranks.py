"""The sharded head on 1, 2 and 4 gloo ranks: the dense head under DDP, and the same file from any number of ranks."""

import pytest
import torch
from gloo_ranks import on_ranks
from torch import distributed, nn
from torch.nn import functional

import heads
from engine.composite import ShardSGD
from heads import partial_fc
from heads.partial_fc import shard_bounds

INPUTS, SIZE, CLASSES, BATCH, STEPS = 6, 8, 41, 16, 10
LR, MOMENTUM, WEIGHT_DECAY = 0.02, 0.9, 5e-3
RANKS = [1, 2, 4]


class Net(nn.Module):
    """A linear backbone and a head."""

    def __init__(self, head):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.backbone = nn.Linear(INPUTS, SIZE, bias=False)
        self.backbone.weight.data = torch.randn(SIZE, INPUTS, generator=generator)
        self.head = head
        self._ddp_params_and_buffers_to_ignore = ["head.weight"]

    def forward(self, images, labels, *step):
        features = self.backbone(images)
        return self.head(functional.normalize(features), features.norm(dim=1, keepdim=True), labels, *step)


def global_batch(step):
    generator = torch.Generator().manual_seed(100 + step)
    images = 6 * torch.randn(BATCH, INPUTS, generator=generator)
    return images, torch.randint(CLASSES, (BATCH,), generator=generator)


def sharded_head(name, rate):
    return heads.PartialFC(heads.build_head(name, SIZE, 1, t_alpha=0.1), CLASSES, rate)


def train_shards(name, rate):
    """Train 10 steps under DDP and return what this rank ends with; rank 0 has all classes."""
    rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    net = Net(sharded_head(name, rate))
    head = net.head
    sgd = ShardSGD(head.weight, LR, MOMENTUM, WEIGHT_DECAY)
    start = {key: value.clone() for key, value in head.gather_dense_state().items()}
    ddp = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.backbone.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses, accuracies, norms, untouched = [], [], [], True
    for step in range(STEPS):
        images, labels = (part.chunk(num_ranks)[rank] for part in global_batch(step))
        before = head.weight.detach().clone()
        loss, accuracy = ddp(images, labels, step)
        loss.backward()
        sgd.reduce()
        norms.append(sgd.gradient_norm())
        rows = head.weight.grad.indices()[0] if head.weight.grad.is_sparse else torch.arange(len(before))
        own = global_batch(step)[1]
        own = own[(own >= head.start) & (own < head.stop)] - head.start
        untouched &= bool(torch.isin(own, rows).all())
        sgd.step()
        optimizer.step()
        optimizer.zero_grad()
        others = torch.ones(len(before), dtype=torch.bool).index_fill_(0, rows, False)
        untouched &= torch.equal(head.weight[others], before[others])
        losses.append(loss.detach())
        accuracies.append(accuracy)
    return {
        "start": start,
        "state": head.gather_dense_state(),
        "momentum": head.gather_classes(sgd.momentum),
        "backbone": net.backbone.weight.detach(),
        "losses": torch.stack(losses),
        "accuracies": torch.stack(accuracies),
        "norms": torch.stack(norms),
        "untouched": untouched,
    }


def train_dense(name, start):
    """Return the same from one process and the dense head."""
    net = Net(heads.build_head(name, SIZE, CLASSES, t_alpha=0.1))
    net.head.load_state_dict(start)
    optimizer = torch.optim.SGD(net.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses, accuracies, norms = [], [], []
    for step in range(STEPS):
        images, labels = global_batch(step)
        logits = net(images, labels)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        norms.append(net.head.kernel.grad.norm())
        optimizer.step()
        losses.append(loss.detach())
        accuracies.append((logits.argmax(1) == labels).float().mean())
    return {
        "state": net.head.state_dict(),
        "momentum": optimizer.state[net.head.kernel]["momentum_buffer"].T,
        "backbone": net.backbone.weight.detach(),
        "losses": torch.stack(losses),
        "accuracies": torch.stack(accuracies),
        "norms": torch.stack(norms),
    }


def train_all(rate):
    return {name: train_shards(name, rate) for name, head in heads.HEADS.items() if head.can_split}


@pytest.mark.parametrize("num_ranks", RANKS)
def test_at_rate_1_ten_sgd_steps_are_those_of_the_dense_head(num_ranks):
    ranks = on_ranks(num_ranks, train_all, 1.0)
    for name in (name for name, head in heads.HEADS.items() if head.can_split):
        found = ranks[0][name]
        expected = train_dense(name, found["start"])
        moved = (found["state"]["kernel"] - found["start"]["kernel"]).abs().amax()
        assert moved > 0.1, "the run is too short to tell"
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
        for rank in ranks[1:]:
            for key in ("backbone", "losses", "accuracies", "norms"):
                assert torch.equal(rank[name][key], found[key])
            assert "kernel" not in rank[name]["state"] and rank[name]["momentum"] is None


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_below_rate_1_true_classes_take_part_and_the_rest_stays_to_the_bit_on_every_rank(num_ranks):
    ranks = on_ranks(num_ranks, train_shards, "adaface", 0.1)
    assert all(rank["untouched"] for rank in ranks)
    assert all(torch.equal(rank["backbone"], ranks[0]["backbone"]) for rank in ranks)
    assert ranks[0]["losses"].isfinite().all()


def initial_classes():
    return sharded_head("adaface", 1.0).gather_dense_state()


def test_the_first_weights_do_not_depend_on_the_number_of_ranks():
    alone, *more = [on_ranks(num_ranks, initial_classes)[0] for num_ranks in (1, 3)]
    assert all(torch.equal(alone["kernel"], other["kernel"]) for other in more)
    assert torch.allclose(alone["kernel"].norm(dim=0), torch.ones(CLASSES))
    assert len(alone["kernel"].T.unique(dim=0)) == CLASSES


def reshard(state, momentum):
    """Load all classes, keep this rank's, and return them and, on rank 0, all."""
    head = sharded_head("adaface", 1.0)
    head.load_state_dict(state)
    own_momentum = head.own_classes(momentum)
    everywhere = head.gather_classes(head.weight, everywhere=True)
    return {
        "own": head.weight.detach(),
        "everywhere": everywhere,
        "state": head.gather_dense_state(),
        "momentum": head.gather_classes(own_momentum),
    }


def test_shards_move_from_1_to_2_to_4_to_1_ranks_exactly():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(SIZE, CLASSES, generator=generator)
    state = {"kernel": kernel, "batch_mean": torch.tensor([21.5]), "batch_std": torch.tensor([7.25])}
    momentum = torch.randn(CLASSES, SIZE, generator=generator)
    first = (state, momentum)
    for num_ranks in (1, 2, 4, 1):
        ranks = on_ranks(num_ranks, reshard, state, momentum)
        for rank, found in enumerate(ranks):
            start, stop = shard_bounds(CLASSES, rank, num_ranks)
            assert torch.equal(found["own"], kernel.T[start:stop])
            assert torch.equal(found["everywhere"], kernel.T)
        state, momentum = ranks[0]["state"], ranks[0]["momentum"]
    assert all(torch.equal(state[key], value) for key, value in first[0].items()) and state.keys() == first[0].keys()
    assert torch.equal(momentum, first[1])
    heads.build_head("adaface", SIZE, CLASSES).load_state_dict(state)


def gather_in_small_blocks(num_bytes):
    partial_fc._BLOCK_BYTES = num_bytes
    head = sharded_head("adaface", 1.0)
    blocks = [stop - start for _, start, stop in head._blocks(4 * SIZE)]
    return {"blocks": blocks, "everywhere": head.gather_classes(head.weight, everywhere=True)}


def test_classes_travel_in_blocks_of_bounded_size():
    whole = sharded_head("adaface", 1.0).weight
    for found in on_ranks(2, gather_in_small_blocks, 5 * 4 * SIZE):
        assert found["blocks"] == [5, 5, 5, 5, 1, 5, 5, 5, 5]
        assert torch.equal(found["everywhere"], whole)
