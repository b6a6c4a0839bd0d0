"""The plan over windows of a cache: whole, exact after a resume, and the same for any ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sampling.windows import WindowBatchSampler


@settings(max_examples=40, deadline=None)
@given(st.integers(12, 300), st.integers(1, 64), st.integers(1, 80), st.sampled_from([1, 2, 3, 4]), st.integers(0, 3))
def test_every_image_comes_once_near_its_neighbors_on_any_ranks_and_after_a_resume(num, shard, window, ranks, epoch):
    options = {"num_images": num, "shards": shard, "batch_size": 12, "seed": 3, "window": window}
    whole = WindowBatchSampler(**options)
    whole.set_epoch(epoch)
    plan = whole.plan()
    assert len(plan) == num // 12 and len(np.unique(plan)) == plan.size
    # The images of a window are those of few shards: what it reads of the disk is in long pieces.
    flat = plan.reshape(-1)
    for start in range(0, len(flat), window):
        shards = np.unique(flat[start : start + window] // shard)
        assert len(shards) <= -(-window // shard) + 2 or shard > num  # a short last shard may lie between
    parts = []
    for rank in range(ranks):
        sampler = WindowBatchSampler(**options, rank=rank, world_size=ranks)
        sampler.set_epoch(epoch)
        parts.append(np.array(list(sampler)))
    assert np.array_equal(np.concatenate(parts, axis=1), plan)
    resumed = WindowBatchSampler(**{**options, "seed": 9})
    resumed.load_state_dict({"seed": 3, "epoch": epoch, "batches_done": len(plan) // 2})
    assert np.array_equal(list(resumed), plan[len(plan) // 2 :])


def test_epochs_have_other_windows_and_other_orders():
    sampler = WindowBatchSampler(num_images=4096, shards=256, batch_size=64, window=1024)
    plans = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        plans.append(sampler.plan().reshape(-1))
    windows = [{frozenset(plan[start : start + 1024].tolist()) for start in range(0, 4096, 1024)} for plan in plans]
    assert windows[0].isdisjoint(windows[1])
    assert (plans[0][1:] - plans[0][:-1] == 1).mean() < 0.02
    with pytest.raises(ValueError, match="a batch of 64 needs as many images, got 63"):
        WindowBatchSampler(num_images=63, shards=16, batch_size=64)
