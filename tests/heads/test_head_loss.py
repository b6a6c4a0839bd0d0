"""loss and class_weights: the same questions to every head, whole or split."""

import copy

import naive_heads as naive
import pytest
import torch
from torch.nn import functional

import heads

LABELS = torch.tensor([0, 3, 2, 1, 1, 0, 2])
SPLIT = [name for name, head in heads.HEADS.items() if head.can_split]


@pytest.mark.parametrize("name", SPLIT)
def test_a_whole_head_gives_cross_entropy_and_accuracy_of_its_logits_to_the_bit(name):
    torch.manual_seed(0)
    head, features = heads.build_head(name, 5, 4).eval(), naive.features(7)
    logits = head(features.embedding, features.norm, LABELS)
    found = head.loss(features, LABELS, 3)
    assert torch.equal(found.loss, functional.cross_entropy(logits, LABELS))
    assert torch.equal(found.accuracy, (logits.argmax(1) == LABELS).float().mean())
    assert torch.equal(head.class_weights(), head.kernel) and not head.class_weights().requires_grad


@pytest.mark.parametrize("name", SPLIT)
def test_a_split_head_gives_what_it_computes_for_the_step(name):
    head = heads.PartialFC(heads.build_head(name, 5, 1), 40, rate=0.2, max_positives=4)
    twin, features = copy.deepcopy(head), naive.features(7)
    for step in (3, 4):
        assert head.loss(features, LABELS, step) == twin(features.embedding, features.norm, LABELS, step)
    assert not torch.equal(*(copy.deepcopy(head).loss(features, LABELS, step).loss for step in (3, 4)))
    assert torch.equal(head.class_weights(), head.weight.T) and not head.class_weights().requires_grad


def test_wrong_shapes_are_refused():
    head, features = heads.build_head("arcface", 5, 4), naive.features(7)
    with pytest.raises(ValueError, match=r"norms must be \[B, 1\]"):
        head.loss(features._replace(norm=features.norm[:, 0]), LABELS, 0)
