import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import SampleKey
from datasets.random_streams import NUM_UNIFORMS, RandomStreams

KEY = st.builds(SampleKey, *(st.integers(0, last) for last in (2, 9, 3, 99, 1)))
KEYS = st.lists(KEY, min_size=1, max_size=30)


def places(epoch, positions, dataset=0, view=0):
    return [SampleKey(dataset, 7, epoch, position, view) for position in positions]


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), keys=KEYS, is_one_stream=st.booleans())
def test_a_row_depends_on_its_own_key_alone(seed, keys, is_one_stream):
    if is_one_stream:
        keys = [keys[0]._replace(position=key.position) for key in keys]
    rows = RandomStreams(seed).uniforms(keys)
    assert rows.dtype == np.float32 and rows.shape == (len(keys), NUM_UNIFORMS)
    for row, key in zip(rows, keys, strict=True):
        counter = [key.position, 0, key.epoch, key.dataset * 2**32 + 2 * key.view + 1]
        alone = np.random.Generator(np.random.Philox(seed, counter=counter))
        np.testing.assert_array_equal(row, alone.random(NUM_UNIFORMS, np.float32))


def test_the_first_data_set_and_view_keep_the_numbers_they_had_before_keys_named_them():
    # Written down before: a run that is resumed, and one that is repeated, sees the same images.
    (key,) = places(1, [9])
    bits = [1062240153, 1063549749, 1025324480, 1061864647, 1057684526, 1049379200, 1064111159, 1060756374]
    assert RandomStreams(3).uniforms([key]).view(np.uint32).tolist() == [bits]
    numbers = RandomStreams(3).generator(key).integers(0, 256, 112)
    assert numbers[:8].tolist() == [125, 29, 73, 248, 254, 189, 216, 225]


def test_the_index_keys_nothing():
    one, other = SampleKey(0, 1, 2, 3), SampleKey(0, 8, 2, 3)
    np.testing.assert_array_equal(RandomStreams(0).uniforms([one]), RandomStreams(0).uniforms([other]))
    assert RandomStreams(0).generator(one).random() == RandomStreams(0).generator(other).random()


def test_what_was_drawn_before_changes_nothing():
    streams, fresh = RandomStreams(1), RandomStreams(1)
    (key,) = places(0, [3])
    streams.generator(key).integers(0, 9, 7, np.uint8)  # leaves half a word behind
    np.testing.assert_array_equal(streams.uniforms([key]), fresh.uniforms([key]))
    (other,) = places(4, [2])
    assert streams.generator(other).random() == RandomStreams(1).generator(other).random()


def test_places_epochs_views_data_sets_seeds_and_the_two_streams_share_no_number():
    numbers = [RandomStreams(seed).uniforms(places(epoch, range(40))) for seed in (0, 1) for epoch in (0, 1)]
    streams = RandomStreams(0)
    kinds = [(dataset, view) for dataset in (0, 1, 2) for view in (0, 1)]
    numbers += [streams.uniforms(places(0, range(40), *kind)) for kind in kinds[1:]]
    numbers += [streams.generator(key).random(40, np.float32) for kind in kinds for key in places(0, range(40), *kind)]
    numbers = np.concatenate([part.ravel() for part in numbers])
    assert len(np.unique(numbers)) > 0.999 * numbers.size  # 24 bits meet by chance
    assert abs(numbers.mean() - 0.5) < 0.02
