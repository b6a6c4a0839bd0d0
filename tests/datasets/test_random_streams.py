import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.random_streams import NUM_UNIFORMS, RandomStreams

PLACES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=30)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), places=PLACES, runs=st.booleans())
def test_a_row_does_not_depend_on_the_others(seed, places, runs):
    places = sorted(places) if runs else places
    rows = RandomStreams(seed).uniforms(*map(list, zip(*places, strict=True)))
    assert rows.dtype == np.float32 and rows.shape == (len(places), NUM_UNIFORMS)
    for row, (epoch, position) in zip(rows, places, strict=True):
        alone = np.random.Generator(np.random.Philox(seed, counter=[position, 0, epoch, 1]))
        np.testing.assert_array_equal(row, alone.random(NUM_UNIFORMS, np.float32))


def test_a_run_of_positions_is_its_rows_one_by_one():
    streams = RandomStreams(5)
    together = streams.uniforms([2] * 50, list(range(7, 57)))
    for row, position in zip(together, range(7, 57), strict=True):
        np.testing.assert_array_equal(streams.uniforms([2], [position])[0], row)


def test_positions_go_on_in_the_next_epoch_with_its_numbers():
    streams = RandomStreams(5)
    together = streams.uniforms([0, 0, 1, 1], [3, 4, 5, 6])
    np.testing.assert_array_equal(together[2:], streams.uniforms([1, 1], [5, 6]))
    assert (together[2:] != streams.uniforms([0, 0], [5, 6])).all()


def test_what_was_drawn_before_changes_nothing():
    streams, fresh = RandomStreams(1), RandomStreams(1)
    streams.generator(0, 3).integers(0, 9, 7, np.uint8)  # leaves half a word behind
    np.testing.assert_array_equal(streams.uniforms([0], [3]), fresh.uniforms([0], [3]))
    assert streams.generator(4, 2).random() == RandomStreams(1).generator(4, 2).random()


def test_places_epochs_seeds_and_the_two_streams_share_no_number():
    numbers = [RandomStreams(seed).uniforms([epoch] * 40, list(range(40))) for seed in (0, 1) for epoch in (0, 1)]
    streams = RandomStreams(0)
    numbers += [streams.generator(epoch, place).random(40, np.float32) for epoch in (0, 1) for place in range(40)]
    numbers = np.concatenate([part.ravel() for part in numbers])
    assert len(np.unique(numbers)) > 0.999 * numbers.size  # 24 bits meet by chance
    assert abs(numbers.mean() - 0.5) < 0.02
