"""Templates against the golden vectors of the published script and pooling image by image."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ROOT

from evaluation import identify, operating_point, pool_templates, roc_curve, score_templates, tar_at_nearest_far

GOLDEN = np.load(ROOT / "tests" / "golden" / "evaluation" / "ijb.npz")
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize(("keep_norm", "weighted"), list(product((False, True), repeat=2)))
def test_golden_templates(keep_norm, weighted):
    name = f"F0N{int(keep_norm)}D{int(weighted)}"
    detected = GOLDEN["detector_scores"] if weighted else None
    ids, features = pool_templates(GOLDEN["features"], GOLDEN["templates"], GOLDEN["medias"], detected, keep_norm)
    assert np.array_equal(ids, GOLDEN["template_ids"]) and features.dtype == np.float32
    scores = score_templates(ids, features, GOLDEN["pair_a"], GOLDEN["pair_b"])
    np.testing.assert_allclose(scores[:200], GOLDEN[f"{name}_scores_200"], rtol=0, atol=1e-6)
    assert scores.sum(dtype=np.float64) == pytest.approx(float(GOLDEN[f"{name}_scores_sum"]), abs=1e-3)
    issame = GOLDEN["pair_label"] == 1
    assert [*tar_at_nearest_far(scores, issame, FARS).values()] == GOLDEN[f"{name}_tar_nearest"].tolist()
    curve = roc_curve(scores, issame)
    assert [operating_point(curve, far).tar for far in FARS] == GOLDEN[f"{name}_tar_at_most"].tolist()


def test_golden_templates_of_flipped_images_and_their_search():
    path = ROOT.parent / "shared" / "golden" / "detection" / "ijb.npz"
    if not path.is_file():
        pytest.skip("the golden vectors with flipped images lie outside the repository")
    golden = np.load(path)
    summed = golden["features"] + golden["features_flipped"]
    ids, features = pool_templates(summed, golden["templates"], golden["medias"], golden["detector_scores"], True)
    np.testing.assert_allclose(features, golden["F1N1D1_template_features"], rtol=0, atol=1e-6)
    sides = [np.searchsorted(ids, golden[f"{side}_templates"]) for side in ("probe", "gallery")]
    people = [golden["template_subjects"][places] for places in sides]
    found = identify(features[sides[0]] @ features[sides[1]].T, *people).cmc(10)
    assert [found[0], found[4], found[9]] == [float(golden[f"oneN_top{rank}"]) for rank in (1, 5, 10)]


def naive_pool(features, templates, medias, weights, keep_norm):
    pooled = []
    for template in sorted(set(templates)):
        total = 0.0
        for media in {m for t, m in zip(templates, medias, strict=True) if t == template}:
            images = [i for i in range(len(templates)) if (templates[i], medias[i]) == (template, media)]
            parts = [features[i] / (1 if keep_norm else np.linalg.norm(features[i])) * weights[i] for i in images]
            total = total + sum(parts) / len(parts)
        pooled.append(total / np.linalg.norm(total))
    return pooled


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=15),
    seed=st.integers(0, 2**31),
    keep_norm=st.booleans(),
)
def test_pooling_agrees_with_a_loop_and_ignores_the_order_of_images(images, seed, keep_norm):
    rng = np.random.default_rng(seed)
    templates, medias = np.array(images).T
    features, weights = rng.normal(size=(len(images), 5)), rng.uniform(0.1, 1, len(images))
    ids, pooled = pool_templates(features, templates, medias, weights, keep_norm)
    assert ids.tolist() == sorted(set(templates))
    np.testing.assert_allclose(pooled, naive_pool(features, templates, medias, weights, keep_norm), atol=1e-12)
    order = rng.permutation(len(images))
    again = pool_templates(features[order], templates[order], medias[order], weights[order], keep_norm)[1]
    np.testing.assert_allclose(again, pooled, atol=1e-12)


def test_a_video_weighs_as_much_as_a_photograph():
    features = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    _, pooled = pool_templates(features, [7, 7, 7, 7], [1, 2, 2, 2])
    np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool_templates(np.ones((2, 3)), [0], [0, 1]), r"with templates and medias \[N\], got \[2, 3\], \[1\]"),
        (lambda: pool_templates([[1.0, np.nan]], [0], [0]), "those of image 0 are not"),
        (lambda: pool_templates([[1.0], [0.0]], [0, 0], [0, 0]), "image 1 has a feature of length 0"),
        (lambda: pool_templates([[1.0], [-1.0]], [5, 5], [0, 1]), "template 5 has a feature of length 0"),
        (lambda: pool_templates([[1.0]], [0], [0], [np.inf]), "detector_scores must be"),
        (lambda: score_templates([3, 4], np.eye(2), [3, 4], [4, 9]), "pair 1 names template 9, which has no image"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
