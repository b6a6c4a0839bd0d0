"""Losses over score matrices against naive loops, their refusals and their degenerate rows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses import (
    PAIRWISE_REDUCTIONS,
    mean_over_valid,
    pairwise_accuracy,
    pairwise_matching_loss,
    triplet_accuracy,
    triplet_loss,
    valid_rows,
)

ROW_FUNCTIONS = {
    **PAIRWISE_REDUCTIONS,
    "triplet": lambda scores, labels, *gallery: triplet_loss(scores, labels, 1.0, *gallery),
    "pairwise_accuracy": pairwise_accuracy,
    "triplet_accuracy": triplet_accuracy,
}


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def naive_row(name, scores, labels, columns, is_self, i):
    """One row's value by explicit indices."""
    entropy = [softplus(-x) if labels[i] == columns[j] else softplus(x) for j, x in enumerate(scores[i])]
    positives = [j for j, label in enumerate(columns) if label == labels[i] and not is_self[i][j]]
    negatives = [j for j, label in enumerate(columns) if label != labels[i]]
    if name == "row_sum":
        return sum(entropy)
    if name == "mean":
        return sum(entropy) / len(entropy)
    if name == "balanced":
        return sum(sum(entropy[j] for j in half) / len(half) for half in (positives, negatives) if half) / 2
    if not positives or not negatives:
        return 0.0
    gap = min(scores[i][j] for j in positives) - max(scores[i][j] for j in negatives)
    if name == "ranking":
        total = math.log(sum(math.exp(scores[i][j]) for j in negatives))
        return sum(softplus(total - scores[i][j]) for j in positives) / len(positives)
    return {"triplet": max(0.0, 1.0 - gap), "pairwise_accuracy": gap > 0, "triplet_accuracy": gap >= 0}[name]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(ROW_FUNCTIONS)),
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    gallery=st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=1, max_size=6)),
    mark_self=st.booleans(),
    seed=st.integers(0, 100),
)
def test_rows_equal_naive_loops_and_gradients_are_finite(name, labels, gallery, mark_self, seed):
    generator = torch.Generator().manual_seed(seed)
    columns = labels if gallery is None else gallery
    scores = torch.randint(-6, 7, (len(labels), len(columns)), generator=generator).double() / 2  # with ties
    scores.requires_grad_()
    same = torch.tensor(labels)[:, None] == torch.tensor(columns)
    is_self = None
    if mark_self:
        is_self = same & (torch.rand(same.shape, generator=generator) < 0.5)
    marked = is_self
    if marked is None:
        marked = torch.eye(len(labels), dtype=torch.bool) if gallery is None else torch.zeros_like(same)

    gallery_labels = None if gallery is None else torch.tensor(gallery)
    found = ROW_FUNCTIONS[name](scores, torch.tensor(labels), gallery_labels, is_self)

    expected = [
        float(naive_row(name, scores.tolist(), labels, columns, marked.tolist(), i)) for i in range(len(labels))
    ]
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64))
    if found.requires_grad:
        found.sum().backward()
        assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", [*PAIRWISE_REDUCTIONS, "triplet"])
def test_gradients_are_exact(name):
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2])  # the last row has no positive
    assert torch.autograd.gradcheck(lambda scores: ROW_FUNCTIONS[name](scores, labels), scores)


@pytest.mark.parametrize("name", ["ranking", "triplet", "pairwise_accuracy", "triplet_accuracy"])
def test_rows_without_positive_or_negative_are_zero_and_not_valid(name):
    function = ROW_FUNCTIONS[name]
    lonely = torch.tensor([0, 0, 1])
    assert valid_rows(lonely).tolist() == [True, True, False]
    assert function(torch.full((3, 3), 9.0), lonely)[2] == 0
    alike = torch.tensor([4, 4, 4])
    assert not valid_rows(alike).any()
    assert not function(torch.full((3, 3), 9.0), alike).any()


def test_a_gathered_gallery_gives_each_rank_its_rows_of_the_whole():
    """Rows [2, 4) of a batch of 6 against all 6, as a rank sees a gallery gathered over ranks."""
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    labels, rows = torch.tensor([0, 0, 1, 1, 2, 2]), slice(2, 4)
    is_self = torch.eye(6, dtype=torch.bool)[rows]
    for function in ROW_FUNCTIONS.values():
        whole = function(scores, labels)
        torch.testing.assert_close(function(scores[rows], labels[rows], labels, is_self), whole[rows])
    assert torch.equal(valid_rows(labels[rows], labels, is_self), valid_rows(labels)[rows])


def test_the_published_row_sum_counts_the_pair_with_itself_unless_told_not_to():
    scores, labels = torch.tensor([[3.0, -1.0], [-1.0, 2.0]]), torch.tensor([0, 1])
    with_self, without = (pairwise_matching_loss(scores, labels, include_self=value) for value in (True, False))
    torch.testing.assert_close(with_self - without, torch.tensor([softplus(-3.0), softplus(-2.0)]))


def test_ranking_does_not_see_a_shift_of_all_scores_and_stays_with_huge_ones():
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    ranking = PAIRWISE_REDUCTIONS["ranking"]
    torch.testing.assert_close(ranking(scores + 50, labels), ranking(scores, labels))
    assert ranking(1e4 * scores, labels).isfinite().all()


def test_ties_count_for_the_triplet_accuracy_only():
    scores, labels = torch.zeros(3, 3), torch.tensor([0, 0, 1])
    assert pairwise_accuracy(scores, labels).tolist() == [0, 0, 0]
    assert triplet_accuracy(scores, labels).tolist() == [1, 1, 0]


def test_mean_over_valid_averages_valid_rows_only():
    losses = torch.tensor([1.0, 5.0, torch.nan], requires_grad=True)
    mean = mean_over_valid(losses, torch.tensor([True, True, False]))
    mean.backward()
    assert mean == 3 and losses.grad.tolist() == [0.5, 0.5, 0]
    assert mean_over_valid(losses, torch.zeros(3, dtype=torch.bool)) == 0


def test_a_nan_score_is_not_healed():
    scores = torch.zeros(4, 4)
    scores[0, 1] = torch.nan
    labels = torch.tensor([0, 0, 1, 1])
    for name in (*PAIRWISE_REDUCTIONS, "triplet"):
        assert ROW_FUNCTIONS[name](scores, labels)[0].isnan(), name


def test_half_precision_scores_give_float32_losses():
    labels = torch.tensor([0, 0, 1, 1])
    for function in ROW_FUNCTIONS.values():
        assert function(torch.zeros(4, 4, dtype=torch.bfloat16), labels).dtype == torch.float32


@pytest.mark.parametrize("name", sorted(ROW_FUNCTIONS))
def test_bad_input_is_refused_by_name(name):
    function, scores, labels = ROW_FUNCTIONS[name], torch.zeros(2, 2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"scores must be \[2, 2\].*got \[2, 3\]"):
        function(torch.zeros(2, 3), labels)
    with pytest.raises(ValueError, match=r"labels must be 1-d.*got \[2, 1\]"):
        function(scores, labels[:, None])
    with pytest.raises(TypeError, match=r"gallery_labels must be int64, got torch\.int32"):
        function(scores, labels, labels.int())
    with pytest.raises(ValueError, match=r"is_self must be \[2, 2\]"):
        function(scores, labels, None, torch.zeros(2, dtype=torch.bool))
    with pytest.raises(TypeError, match="is_self must be bool"):
        function(scores, labels, None, torch.eye(2))
