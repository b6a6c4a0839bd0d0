"""MarginNCE and its masks against golden vectors, and against a loop that shares no code with them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses import left_out, margin_nce

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pretraining" / "b_margin_nce.npz")
CASES = sorted(key.removesuffix(".grad") for key in GOLDEN.files if key.endswith(".grad") and key.startswith("m"))
MASKS = sorted({case.split(".")[-1] for case in CASES})


def vector(name):
    return torch.from_numpy(GOLDEN[name])


def similarity():
    queries = torch.nn.functional.normalize(vector("raw_queries"), dim=1)
    return queries @ vector("queue").T


def mask_of(name):
    """Return the mask called so in the golden file, by `left_out` wherever that is its rule."""
    none_of = dict.fromkeys(("query_clusters", "query_images", "positive_images"), torch.full((6,), -1))
    facts = {name: vector(name) for name in ("query_clusters", "query_images", "positive_images")}
    queue = {"queue_clusters": vector("queue_clusters"), "queue_images": vector("queue_images")}
    everywhere = torch.ones(20, dtype=torch.bool)
    rules = {
        "none": (none_of, everywhere, 0),
        "cluster": (none_of | {"query_clusters": facts["query_clusters"]}, everywhere, 0),
        "image": (none_of | {n: facts[n] for n in ("query_images", "positive_images")}, everywhere, 0),
        "invalid": (none_of, vector("queue_valid"), 0),
        "everything": (facts, vector("queue_valid"), 3),
        **{f"topk{k}": (none_of, everywhere, k) for k in (1, 3, 8, 25)},
        **{f"then{k}": (none_of | {"query_clusters": facts["query_clusters"]}, everywhere, k) for k in (1, 3, 8)},
    }
    if name not in rules:
        return vector(f"mask.{name}")
    ids, valid, top_k = rules[name]
    return left_out(vector("similarity"), **ids, **queue, valid=valid, top_k=top_k)


@pytest.mark.parametrize("name", [key.removeprefix("mask.") for key in GOLDEN.files if key.startswith("mask.")])
def test_masks_are_those_of_the_golden_file(name):
    assert torch.equal(mask_of(name), vector(f"mask.{name}"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_and_gradients_are_those_of_the_golden_file(dtype):
    assert len(CASES) > 20 and {"none", "everything", "all", "row2_all"} <= set(MASKS)
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for case in CASES:
        *numbers, name = case.split(".")
        margin, temperature = (float(word) for word in ".".join(numbers).removeprefix("m").split(".T"))
        raw = vector("raw_queries").to(dtype).requires_grad_()
        queries = torch.nn.functional.normalize(raw, dim=1)
        positive = (queries * vector("keys").to(dtype)).sum(1)
        rows = margin_nce(positive, queries @ vector("queue").to(dtype).T, mask_of(name), margin, temperature)
        rows.mean().backward()
        torch.testing.assert_close(rows, vector(f"{case}.row_loss").to(dtype), **tolerance, msg=case)
        torch.testing.assert_close(raw.grad, vector(f"{case}.grad").to(dtype), **tolerance, msg=case)


def test_negatives_within_the_batch_are_those_of_the_golden_file():
    """MoCo v3: each key is the negative of the other queries, and 2 T times both ways together is the loss."""
    queries = [torch.nn.functional.normalize(vector(name), dim=1) for name in ("raw_queries", "sym_raw2")]
    own = torch.eye(6, dtype=torch.bool)
    ways = [
        margin_nce(similarity.diagonal(), similarity, own, margin=0.0, temperature=0.2).mean()
        for similarity in (queries[0] @ vector("sym_key2").T, queries[1] @ vector("sym_key1").T)
    ]
    assert 2 * 0.2 * float(sum(ways)) == pytest.approx(float(GOLDEN["mocov3_T0.2"]), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 12), st.integers(0, 14))
def test_a_loop_finds_the_same_masks_where_many_cosines_are_equal(seed, rows, slots, top_k):
    rng = np.random.default_rng(seed)
    alike = torch.from_numpy(rng.integers(-2, 3, (rows, slots)) / 2)
    ids = [torch.from_numpy(rng.integers(-1, 4, size)) for size in (rows, slots, rows, rows, slots)]
    valid = torch.from_numpy(rng.random(slots) < 0.8)
    found = left_out(alike, *ids, valid, top_k)
    for row in range(rows):
        query_cluster, query_image, positive_image = (int(ids[n][row]) for n in (0, 2, 3))
        out = {
            slot
            for slot in range(slots)
            if not valid[slot]
            or (query_cluster >= 0 and int(ids[1][slot]) == query_cluster)
            or (int(ids[4][slot]) >= 0 and int(ids[4][slot]) in (query_image, positive_image))
        }
        left = sorted(set(range(slots)) - out, key=lambda slot: (-float(alike[row, slot]), slot))
        assert set(found[row].nonzero().flatten().tolist()) == out | set(left[:top_k])


def test_the_margin_multiplies_the_negatives_and_a_row_without_any_costs_nothing():
    positive, negatives = torch.tensor([0.5, 0.9]).double().requires_grad_(), torch.tensor([[0.5], [0.1]]).double()
    loss = margin_nce(positive, negatives, torch.tensor([[False], [True]]), margin=0.1, temperature=0.07)
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(0.1 / 0.07)), 0.0])
    loss.sum().backward()
    assert positive.grad[1] == 0 and positive.grad[0] < 0


def test_bad_input_is_named():
    positive, negatives = torch.zeros(2), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        margin_nce(positive, negatives, temperature=0.0)
    with pytest.raises(ValueError, match=r"\[B\] and negatives \[B, K\], got \[3\] and \[2, 3\]"):
        margin_nce(torch.zeros(3), negatives)
    with pytest.raises(TypeError, match="must be bool"):
        margin_nce(positive, negatives, torch.zeros(2, 3))
    ids = [torch.zeros(size, dtype=torch.long) for size in (2, 3, 2, 2, 3)]
    with pytest.raises(ValueError, match=r"queue_clusters must be \[3\]"):
        left_out(negatives, ids[0], ids[0], *ids[2:], torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="top_k must be 0 or more"):
        left_out(negatives, *ids, torch.ones(3, dtype=torch.bool), top_k=-1)
