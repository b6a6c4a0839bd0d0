"""Which image stands for which: probabilities of the vectors, and independence of everything but seed and epoch."""

import numpy as np
import pytest
from golden_vectors import load_golden

from datasets.clustering import pseudo_pairs
from options.words.epoch_steps import read_epoch_steps, value_at

GOLDEN = load_golden("pretraining/measures.npz")


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.85, 1.0])
def test_partners_have_the_probabilities_of_the_vectors(probability):
    labels, num = GOLDEN["pairs.labels"], 3000
    counts = np.zeros((len(labels), len(labels)))
    for epoch in range(num):
        counts[np.arange(len(labels)), pseudo_pairs(labels, probability, 7, epoch)] += 1
    expected = GOLDEN[f"pairs.p{probability}"]
    spread = np.sqrt(expected * (1 - expected) / num)
    assert (np.abs(counts / num - expected) <= 4.5 * spread + 1e-9).all()


def test_partners_follow_seed_and_epoch_and_nothing_else():
    labels = np.random.default_rng(0).integers(-1, 300, 2000)
    first = pseudo_pairs(labels, 0.6, 1, 4)
    np.testing.assert_array_equal(first, pseudo_pairs(labels, 0.6, 1, 4))
    assert (labels[first] == labels).all() and (first[labels < 0] == np.flatnonzero(labels < 0)).all()
    assert all((pseudo_pairs(labels, 0.6, *other) != first).any() for other in ((1, 5), (2, 4)))
    # Another cluster's fate is not an image's.
    without = np.where(labels == 7, -1, labels)
    np.testing.assert_array_equal(pseudo_pairs(without, 0.6, 1, 4)[labels != 7], first[labels != 7])
    assert pseudo_pairs(np.full(3, -1), 1.0, 0, 0).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\]"):
        pseudo_pairs(labels, 1.5, 0, 0)


def test_a_schedule_holds_its_value_until_the_next_step():
    steps = read_epoch_steps("0:0,5:0.3, 20:0.85", 0, 1)
    assert [value_at(steps, epoch) for epoch in (0, 4, 5, 19, 20, 99)] == [0, 0, 0.3, 0.3, 0.85, 0.85]
    for text, message in (
        ("5:0.3", "rise from 0"),
        ("0:0,5:2", "got 2"),
        ("0:0,x", "epoch:value"),
        ("", "epoch:value"),
    ):
        with pytest.raises(ValueError, match=message):
            read_epoch_steps(text, 0, 1)
