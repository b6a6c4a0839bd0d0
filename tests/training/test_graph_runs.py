"""Runs with --sampler graph through the Recognizer and its data module."""

from collections import Counter

import numpy as np
import pytest
from short_runs import Recorder, fit, state

from tasks.recognition.neighbours import NeighbourTable

pytestmark = pytest.mark.usefixtures("own_cache")

OPTIONS = {"sampler": "graph", "batch_size": 16, "num_workers": 1}
IDENTITIES, IMAGES = 8, 4


def identities_of(batches):
    """Return how often each set of identities is a batch; the folders of noise hold 4 images each, sorted."""
    return Counter(frozenset(np.array(indices) // IMAGES) for indices in batches)


@pytest.mark.flag("sampler")
@pytest.mark.slow
def test_sampler_graph_trains_on_neighbours_from_the_second_epoch_on(noise_faces, tmp_path):
    whole, rest = Recorder(), Recorder()
    options = {**OPTIONS, "data_root": noise_faces}
    uninterrupted, _, trainer = fit(tmp_path, whole, epochs=3, **options)
    (table,) = (c.state_dict()["table"].numpy() for c in trainer.callbacks if isinstance(c, NeighbourTable))
    groups = Counter(frozenset([anchor, *nearest]) for anchor, nearest in enumerate(table))
    first, _, last = (identities_of(whole.indices[start : start + IDENTITIES]) for start in (0, 8, 16))
    assert last == groups
    assert first != groups and sum(first.values()) == IDENTITIES

    (tmp_path / "half").mkdir()
    fit(tmp_path / "half", epochs=2, **options)
    resumed, _, _ = fit(tmp_path / "half", rest, ckpt_path=tmp_path / "half" / "last.ckpt", epochs=3, **options)
    assert rest.indices == whole.indices[2 * IDENTITIES :]
    for values, expected in zip(state(resumed).values(), state(uninterrupted).values(), strict=True):
        assert values.equal(expected)
