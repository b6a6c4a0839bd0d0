"""Curricula and shares of mixtures against the golden file; what a mixture draws under them."""

from collections import Counter

import numpy as np
import pytest
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import Curriculum, CurriculumMix, MixtureBatchSampler, ease_of, mixture_weights
from datasets.sampling.curriculum import draw_weighted

GOLDEN = load_golden("finetuning/mixture.npz")
EPOCHS = GOLDEN["curriculum_epochs"].tolist()
RAMP = int(GOLDEN["curriculum_e0"]), int(GOLDEN["curriculum_e1"])
CURRICULA = st.builds(
    lambda start, length, floor, gamma: Curriculum(start, start + length, floor, gamma),
    st.integers(0, 4),
    st.integers(0, 6),
    st.floats(0, 1),
    st.floats(0.1, 5),
)
DIFFICULTIES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)

# ---------------------------------------------------------------- shares of sets


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_shares_quotas_and_running_counts_are_those_of_the_golden_file(case, alpha):
    sizes, weights, key = GOLDEN["sizes"], GOLDEN[f"weights_{case}"], f"w{case}_a{alpha}"
    shares = mixture_weights(sizes, weights, alpha)
    np.testing.assert_allclose(shares, GOLDEN[f"{key}_p"], rtol=1e-12)
    used = shares > 0  # the sampler wants sets without weight left out
    batch_size, steps = int(GOLDEN["batch_size"]), int(GOLDEN["steps"])
    sampler = MixtureBatchSampler([np.zeros(size, int) for size in sizes[used]], batch_size, shares[used], None)
    quotas = sampler.quotas()
    assert quotas[0].tolist() == GOLDEN[f"{key}_quota_batch"][used].tolist()
    expected = np.arange(1, steps + 1)[:, None] * batch_size * shares
    for counts in (quotas[:steps], GOLDEN[f"{key}_running"][:, used]):
        assert counts.shape == (steps, used.sum()) and (counts.sum(1) == batch_size).all()
        assert np.abs(counts.cumsum(0) - expected[:, used]).max() < 2
    passes = len(quotas) / steps * GOLDEN[f"{key}_passes_over_set"][used]
    np.testing.assert_allclose(quotas.sum(0) / sizes[used], passes, atol=2 / sizes[used].min())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 4], [1]), r"as many weights as sets .* got \[1\] and \[3, 4\]"),
        (([], None), "sets of one image or more"),
        (([3, 0], None), "sets of one image or more"),
        (([3, 4], [0, 0]), r"not all 0, got \[0.0, 0.0\]"),
        (([3, 4], [-1, 2]), ">= 0"),
        (([3, 4], [1, float("inf")]), "finite"),
        (([3, 4], None, 1.5), r"alpha must be in \[0, 1\], got 1.5"),
    ],
)
def test_odd_shares_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"mixture_weights: .*{message}"):
        mixture_weights(*arguments)


def test_a_run_warns_of_sets_that_it_repeats_or_does_not_get_through():
    sets = [np.arange(4000), np.arange(40)]
    sampler = MixtureBatchSampler(sets, 40, [1, 1], None)
    assert sampler.warnings(1) == [
        "Set 0 has 4000 images, of which 1 epochs see 50.5%: the rest never takes part. Give it more weight or train "
        "for more epochs."
    ]
    assert sampler.warnings(2) == [
        "Set 1 has 40 images and is passed 101 times in 2 epochs: it will be learned by heart. Give it less weight."
    ]
    assert MixtureBatchSampler(sets, 40, instances=None).warnings(50) == []
    falling = CurriculumMix(Curriculum(0, 1), [1, 1], [100, 1])
    assert MixtureBatchSampler(sets, 40, falling, None).warnings(10) == []


# ---------------------------------------------------------------- weights of images


def test_weights_ease_and_mixes_are_those_of_the_golden_file():
    curriculum = Curriculum(*RAMP)
    assert [curriculum.progress(epoch) for epoch in EPOCHS] == pytest.approx(GOLDEN["curriculum_s"].tolist())
    ease = ease_of(GOLDEN["difficulty"])
    np.testing.assert_allclose(ease, GOLDEN["ease"], rtol=1e-12)
    mixes = [curriculum.mix(3 * GOLDEN["mix_start"], GOLDEN["mix_end"], epoch) for epoch in EPOCHS]
    np.testing.assert_allclose(mixes, GOLDEN["mix_per_epoch"], rtol=1e-12)
    for floor, gamma in ((0.1, 1.0), (0.0, 2.0), (1.0, 1.0)):
        of_epochs = [Curriculum(*RAMP, floor, gamma).weights(ease, epoch) for epoch in EPOCHS]
        np.testing.assert_allclose(of_epochs, GOLDEN[f"sample_weight_f{floor}_g{gamma}"], rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(CURRICULA, DIFFICULTIES)
def test_weights_follow_the_order_of_difficulties_and_never_fall(curriculum, difficulty):
    ease = ease_of(difficulty)
    np.testing.assert_array_equal(ease, ease_of(np.exp(np.array(difficulty)) * 7 - 3))
    assert len(ease) == 1 or ease_of(-np.array(difficulty)) == pytest.approx(1 - ease)
    weights = np.array([curriculum.weights(ease, epoch) for epoch in range(12)])
    assert weights.min() >= curriculum.floor - 1e-12 and weights.max() <= 1 + 1e-12
    assert (weights[int(curriculum.end) :] == 1).all()
    assert (np.diff(weights, axis=0) >= -1e-12).all()
    order = np.argsort(ease)
    assert (np.diff(weights[:, order]) >= -1e-12).all()
    if curriculum.floor == 1:
        np.testing.assert_allclose(weights, 1)


def test_a_draw_follows_the_weights_and_takes_zeros_last():
    weights, num = np.array([4.0, 2.0, 1.0, 0.0]), 10_000
    rng = np.random.default_rng(0)
    firsts = np.bincount([draw_weighted(weights, 1, rng)[0] for _ in range(num)], minlength=4) / num
    np.testing.assert_allclose(firsts, weights / 7, atol=0.016)
    pairs = Counter(frozenset(draw_weighted(weights, 2, rng).tolist()) for _ in range(num))
    # First one, then another of those left: 4/7 * 2/3 + 2/7 * 4/5 for the first two.
    for pair, share in (({0, 1}, 4 / 7 * 2 / 3 + 2 / 7 * 4 / 5), ({1, 2}, 2 / 7 * 1 / 5 + 1 / 7 * 2 / 6)):
        assert pairs[frozenset(pair)] / num == pytest.approx(share, abs=0.016)
    assert sorted(draw_weighted(weights, 3, rng).tolist()) == [0, 1, 2]
    assert sorted(draw_weighted(weights, 4, rng).tolist()) == [0, 1, 2, 3] and not len(draw_weighted(weights, 0, rng))


# ---------------------------------------------------------------- mixtures under a curriculum


def make(mix, instances=None, sizes=(300, 120), per_batch=10, **place):
    """Sets of four images an identity."""
    labels = [np.repeat(np.arange(size // 4), 4) for size in sizes]
    return MixtureBatchSampler(labels, per_batch * (instances or 1), mix, instances, 3, **place)


def plan_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return sampler.plan()


def rising(size):
    return np.arange(size) / (size - 1)


@pytest.mark.parametrize("instances", [None, 4])
@pytest.mark.parametrize("end", [0, 3])
def test_a_curriculum_that_has_ended_gives_the_plan_without_one_to_the_bit(instances, end):
    ease = [rising(300), None]
    mixed = make(CurriculumMix(Curriculum(0, end), [1, 3], ease=ease), instances)
    plain = make([1, 3], instances)
    for epoch in range(6):
        is_same = np.array_equal(plan_of(mixed, epoch), plan_of(plain, epoch))
        assert is_same == (epoch >= end), epoch
    assert f"{len(mixed)} batches{', curriculum at 100%' if end else ''}; set 0" in mixed.summary()


def test_easy_images_are_drawn_first_none_twice_and_all_alike_at_the_end():
    ease = [rising(300)]
    sampler = make(CurriculumMix(Curriculum(1, 11), [1], ease=ease, epoch_share=0.5), sizes=(300,))
    drawn = []
    for epoch in range(14):
        plan = plan_of(sampler, epoch)
        assert plan.size == 150 == len(np.unique(plan))
        drawn.append(ease[0][plan].mean())
        # Batches of an epoch are alike: its easy images do not come before the others.
        halves = np.array_split(ease[0][plan].ravel(), 2)
        assert abs(halves[0].mean() - halves[1].mean()) < 0.15
    assert np.mean(drawn[:3]) > 0.58 and np.mean(drawn[11:]) < 0.53
    planned = [np.average(ease[0], weights=sampler._mix.curriculum.weights(ease[0], epoch)) for epoch in range(14)]
    # Without replacement the best run out: what is drawn lies between the plan and all alike.
    assert all(0.44 < mean < plan + 0.06 for mean, plan in zip(drawn, planned, strict=True))
    sampler.set_epoch(6)
    assert "15 batches, curriculum at 50%; set 0: 150 of 300 images, 0.50 passes" in sampler.summary()


def test_identities_are_drawn_by_the_mean_ease_of_their_images():
    ease = np.tile([1.0, 1.0, 0.9, 0.9], 75)
    ease[::8] = ease[1::8] = ease[2::8] = 0.0  # every second identity, but for one easy image of each
    mix = CurriculumMix(Curriculum(5, 6, floor=0), [1], ease=[ease], epoch_share=0.4)
    sampler = make(mix, 4, sizes=(300,), per_batch=5)
    plan = plan_of(sampler, 0).reshape(-1, 4)
    assert (plan // 4 == plan[:, :1] // 4).all(), "groups of one identity"
    hard = (plan[:, 0] // 4 % 2 == 0).mean()
    assert 0 < hard < 0.35 and all(len(set(group)) == 4 for group in plan.tolist())


def test_large_identities_weigh_no_more_than_small_ones_of_equal_ease():
    labels = np.append(np.repeat(np.arange(200), 4), np.repeat(np.arange(200, 300), 8))
    mix = CurriculumMix(Curriculum(5, 6), [1], ease=[np.full(1600, 0.3)], epoch_share=0.3)
    sampler = MixtureBatchSampler([labels], 40, mix, seed=3)
    shares = [(plan_of(sampler, epoch) >= 800).mean() for epoch in range(5)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)  # half of all groups


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)), min_size=2, max_size=5),
    CURRICULA,
    st.integers(2, 9),
    st.data(),
)
def test_changing_shares_keep_to_the_plan_within_two_groups_and_any_ranks_resume(weights, curriculum, per_batch, data):
    first, last = zip(*weights, strict=True)
    sizes = [160] * len(weights)
    mix = CurriculumMix(curriculum, first, last, [rising(160)] * len(weights), 0.5)
    alone = make(mix, 4, sizes, 2 * per_batch)
    counts, wanted, num_groups = np.zeros(len(weights)), np.zeros(len(weights)), 2 * per_batch
    for epoch in range(5):
        alone.set_epoch(epoch)
        planned = curriculum.mix(first, last, epoch)
        np.testing.assert_allclose(np.array(alone.shares(epoch)) / sum(alone.shares(epoch)), planned, atol=1e-9)
        for quota in alone.quotas():
            counts, wanted = counts + quota, wanted + num_groups * planned
            assert np.abs(counts - wanted).max() < 2 and quota.sum() == num_groups
    whole = list(alone.keys())
    done = data.draw(st.integers(0, len(whole) - 1))
    ranks = [make(mix, 4, sizes, 2 * per_batch, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(alone.state_dict(batches_done=done))
    halves = zip(*(rank.keys() for rank in ranks), strict=True)
    assert [one + other for one, other in halves] == whole[done:]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Curriculum(3, 2), "0 <= start <= end epochs are needed, got 3 and 2"),
        (lambda: Curriculum(0, float("inf")), "start <= end"),
        (lambda: Curriculum(0, 1, floor=1.2), r"floor in \[0, 1\]"),
        (lambda: Curriculum(0, 1, gamma=0), "gamma above 0"),
        (lambda: ease_of([1, float("nan")]), r"ease_of: difficulties must be \[N\] numbers, got \[2\] with 1 NaN"),
        (lambda: make(CurriculumMix(Curriculum(0, 1), [1, 1], epoch_share=0)), r"epoch_share must be in \(0, 1\]"),
        (lambda: make(CurriculumMix(Curriculum(0, 1), [1, 1], epoch_share=0.01)), "leaves an epoch no batch of 10"),
        (lambda: make(CurriculumMix(Curriculum(0, 1), [1, 1], [1])), "2 sets need as many weights"),
        (lambda: make(CurriculumMix(Curriculum(0, 1), [1, 1], [1, 0])), "finite and above 0"),
        (lambda: make(CurriculumMix(Curriculum(0, 1), [1, 1], ease=[None])), "2 sets need as many entries of ease"),
        (
            lambda: make(CurriculumMix(Curriculum(0, 1), [1, 1], ease=[None, rising(9)])),
            r"ease of set 1 must be \[120\] .* got \[9\]",
        ),
        (lambda: make(CurriculumMix(Curriculum(0, 1), [1, 1], ease=[None, rising(120) * 2])), r"numbers in \[0, 1\]"),
        (
            lambda: make(CurriculumMix(Curriculum(0, 9), [1, 1], [1, 99]), 4, (300, 120), 40),
            "a batch takes 40 groups of 4 images from set 1, which has 30 identities",
        ),
    ],
)
def test_curricula_that_do_not_fit_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_mean_ease_is_of_the_sets_that_know_it():
    ease = [rising(300), None]
    sampler = make(CurriculumMix(Curriculum(1, 11), [1, 3], ease=ease, epoch_share=0.3))
    plan = plan_of(sampler, 0).ravel()
    assert sampler.mean_ease() == pytest.approx(ease[0].mean())
    drawn = sampler.mean_ease(drawn=True)
    assert drawn == pytest.approx(ease[0][plan[plan < 300]].mean()) and drawn > sampler.mean_ease()
    assert make([1, 3]).mean_ease(drawn=True) is None
