"""Figures of paired views against the golden file and against a loop over pairs; what cannot be computed is said."""

import math

import numpy as np
import pytest
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import auc, min_cllr, paired_views, split_kind, tar_at_far
from evaluation.representation import paired_views as module

GOLDEN = load_golden("finetuning/similarity.npz")
LABELS = GOLDEN["labels"]
CASES = ("good", "weak", "collapsed", "identity_lost")


def case(name):
    return paired_views(GOLDEN[f"{name}_hr"], GOLDEN[f"{name}_lr"], LABELS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("block", [7 * 80, 2**22])
def test_figures_are_those_of_the_golden_file(name, block, monkeypatch):
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", block)
    views = case(name)
    lr_hr = views.lr_hr
    found = {
        **{f"paired_{key}": value for key, value in views.paired._asdict().items()},
        "genuine_cross_mean": lr_hr.genuine_mean, "impostor_mean": lr_hr.impostor_mean, "gap": views.gap,
        "gap_cross": views.gap_cross, "d_prime": lr_hr.d_prime, "auc": lr_hr.auc, "cross_rank1": lr_hr.rank1,
        "cross_rank1_probes": lr_hr.num_probes, "n_genuine": lr_hr.num_genuine, "n_impostor": lr_hr.num_impostor,
    }  # fmt: skip
    for key, value in found.items():
        stored = f"{name}_{key}"
        assert value == pytest.approx(float(GOLDEN[stored]), rel=1e-7, abs=1e-9), key


def test_figures_of_both_sides_are_those_of_all_pairs():
    views = case("weak")
    sides = [GOLDEN[f"weak_{side}"].astype(float) for side in ("lr", "hr")]
    low, high = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in sides)
    same, upper = LABELS[:, None] == LABELS, np.triu(np.ones((80, 80), bool), 1)
    for figures, probes, chosen in ((views.lr_hr, low, ~np.eye(80, dtype=bool)), (views.hr_hr, high, upper)):
        scores, issame = (probes @ high.T)[chosen], same[chosen]
        assert (figures.num_genuine, figures.num_impostor) == (issame.sum(), (~issame).sum())
        assert figures.auc == pytest.approx(auc(scores, issame), abs=1e-12)
        assert figures.min_cllr == pytest.approx(min_cllr(scores, issame), abs=1e-12)
        tar = tar_at_far(scores, issame, module.FARS)
        assert {far: value for far, value in figures.tar.items() if value is not None} == {
            far: value for far, value in tar.items() if not math.isnan(value)
        }
        best = max((scores[issame] >= t).mean() + (scores[~issame] < t).mean() for t in scores) / 2
        assert figures.accuracy == pytest.approx(best, abs=1e-12)
    assert views.hr_hr.rank1 > views.lr_hr.rank1 and views.hr_hr.tar[1e-4] is None
    finer = paired_views(GOLDEN["weak_hr"], GOLDEN["weak_lr"], LABELS, [2e-4])
    assert finer.lr_hr.tar[2e-4] is not None and finer.hr_hr.tar[2e-4] is None, "6104 and 3052 pairs"
    assert "A FAR of 0.0001 needs 10000 pairs of different people, there are 3052 of HR with HR." in views.missing


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12))
def test_a_loop_over_few_directions_finds_the_same_with_many_ties(seed, num):
    rng = np.random.default_rng(seed)
    hr, lr = (rng.choice([-1.0, 1.0], (num, 2)) * rng.uniform(0.1, 9, (num, 1)) for _ in range(2))
    labels = rng.integers(0, 4, num)
    views = paired_views(hr, lr, labels)
    cosine = np.sign((lr @ hr.T).round(9))  # four directions at right angles
    pairs = [(i, j) for i in range(num) for j in range(num) if i != j]
    genuine = [cosine[i, j] for i, j in pairs if labels[i] == labels[j]]
    impostor = [cosine[i, j] for i, j in pairs if labels[i] != labels[j]]
    probes = [i for i in range(num) if (labels == labels[i]).sum() > 1]
    right = 0
    for i in probes:
        mates = [cosine[i, j] for j in range(num) if j != i and labels[j] == labels[i]]
        strangers = [cosine[i, j] for j in range(num) if labels[j] != labels[i]]
        right += max(mates) > max(strangers, default=2)
    own = sum(cosine[i, i] > max(cosine[i, j] for j in range(num) if j != i) for i in range(num))
    assert views.paired.rank1 == own / num and views.paired.mean == pytest.approx(np.diag(cosine).mean())
    assert views.lr_hr.rank1 == (right / len(probes) if probes and impostor else None)
    if genuine and impostor:
        wins = np.mean([(g > i) + (g == i) / 2 for g in genuine for i in impostor])
        assert views.lr_hr.auc == pytest.approx(wins, abs=1e-12)
    else:
        assert views.lr_hr.auc is None and views.missing


def test_a_net_that_gives_everything_the_same_embedding_is_at_chance_and_told_so():
    rows = np.tile(np.random.default_rng(0).normal(size=(1, 64)), (9, 1))
    views = paired_views(rows, rows * np.linspace(0.3, 2, 9)[:, None], np.arange(9) // 3)
    assert views.paired.mean == pytest.approx(1) and views.paired.rank1 == 0
    assert (views.lr_hr.auc, views.lr_hr.rank1, views.lr_hr.d_prime) == (0.5, 0, None)
    assert views.lr_hr.accuracy == 0.5 and views.lr_hr.min_cllr == pytest.approx(1)
    first, second = views.warnings()
    assert first.startswith("Different people have a mean cosine of 1.00")
    assert "(mean cosine 1.00)" in second and "AUC 0.50" in second
    assert "All cosines of HR with HR are equal: d' has no scale." in views.missing


def test_warnings_come_with_the_faults_and_not_without():
    assert case("good").warnings() == [] == case("weak").warnings()
    assert len(case("identity_lost").warnings()) == 2 and len(case("collapsed").warnings()) == 1
    risen = case("collapsed").warnings(before=case("good"))
    assert risen[1] == (
        "The mean cosine of different people has risen from 0.01 to 1.00 and the AUC has fallen from 0.993 to 0.915: "
        "people get mixed up."
    )
    assert case("good").warnings(before=case("weak")) == []
    nearer = paired_views(*(GOLDEN[f"good_{side}"] + 0.6 * GOLDEN["good_hr"][:1] for side in ("hr", "lr")), LABELS)
    assert nearer.lr_hr.impostor_mean > 0.1 and nearer.lr_hr.auc > 0.95
    assert nearer.warnings(before=case("weak")) == [], "people are told apart better than before"


def test_what_cannot_be_computed_is_none_with_its_reason():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 5))
    alone = paired_views(rows, rows, np.arange(6))
    assert alone.lr_hr.auc is None is alone.lr_hr.rank1 and alone.lr_hr.impostor_mean is not None
    assert alone.gap is not None and alone.gap_cross is None and "No person has two images" in alone.missing[0]
    one = paired_views(rows, rows, np.zeros(6, int))
    assert one.lr_hr.impostor_mean is None is one.gap and one.lr_hr.rank1 is None is one.hr_hr.rank1
    assert one.lr_hr.genuine_mean is not None
    assert one.missing == ("There is one person only: nobody can be mistaken for another.",)
    assert len(paired_views(rows[:1], rows[:1], [0]).missing) == 2
    flat = alone.figures()
    assert flat["lr_hr_auc"] is None and flat["paired_mean"] == pytest.approx(1) and flat["hr_hr_tar_0.001"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((3, 2)), np.ones((2, 2)), [0, 1, 2]), ValueError, r"lr must be \[3, D\] .* got \[2, 2\]"),
        ((np.ones((3, 4)), np.ones((3, 2)), [0, 1, 2]), ValueError, "one shape"),
        ((np.ones((2, 2)), np.ones((2, 2)), [0.0, 1.0]), TypeError, "must be integers"),
        ((np.ones((2, 2)), np.ones((2, 2)), [0, -1]), ValueError, "leave unlabeled images out"),
        ((np.ones((0, 2)), np.ones((0, 2)), []), ValueError, "N >= 1"),
        ((np.ones((2, 2)), np.array([[1, 1], [np.nan, 1]]), [0, 1]), ValueError, "1 of 2 embeddings of lr .* number 1"),
        ((np.array([[0, 0], [0, 1]]), np.ones((2, 2)), [0, 1]), ValueError, "embeddings of hr are 0 or not finite"),
        ((np.ones((2, 2)), np.ones((2, 2)), [0, 1], [2.0]), ValueError, "fars must lie in"),
    ],
)
def test_odd_input_is_refused_in_one_line(arguments, error, message):
    with pytest.raises(error, match=f"paired_views: .*{message}") as caught:
        paired_views(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "val", "expected", "said"),
    [
        (["a", "b", "a"], ["b", "a", "a"], ("per person", 2, 2, 2), "count everyone"),
        (["a", "b"], ["c"], ("disjoint", 2, 1, 0), "no right answer is a class"),
        (["a", "b", "x"], ["b", "c"], ("mixed", 3, 2, 1), "are of these 1 alone"),
    ],
)
def test_a_split_is_recognized_and_its_meaningless_figures_explained(train, val, expected, said):
    found = split_kind(train, val)
    assert found == expected and said in found.explanation()
    assert found.explanation().startswith(f"{expected[3]} of {expected[2]} people who validate are among the")
    with pytest.raises(ValueError, match="got 0 and 1"):
        split_kind([], val[:1])
