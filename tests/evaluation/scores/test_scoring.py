"""Flip augmentation and pair scores against loops over single images, with a small matcher of the test's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation import (
    Description,
    describe_batches,
    describe_with_flip,
    score_all_pairs,
    score_pair_list,
    score_pairs,
    unordered_pairs,
)


def describe(images):
    """Describe images [B, 3, 8, 8] by a fixed projection that is not symmetric under mirroring."""
    generator = torch.Generator().manual_seed(3)
    features = images.flatten(1) @ torch.randn(3 * 8 * 8, 6, generator=generator)
    norm = features.norm(dim=1, keepdim=True)
    kernel = torch.randn(5, 3, 2, 2, generator=generator)
    feature_map = F.conv2d(images, kernel, stride=2)
    visibility = feature_map[:, :1].sigmoid()
    return Description(features / norm, norm, F.normalize(feature_map, dim=1), visibility)


def describe_without_visibility(images):
    return describe(images)._replace(visibility=None)


def match(probe, gallery, probe_visibility=None, gallery_visibility=None):
    """Score all pairs symmetrically: the mean over visible cells of the best cosine, both ways."""
    if probe_visibility is not None:
        probe, gallery = probe * probe_visibility, gallery * gallery_visibility
    correlation = torch.einsum("pcs,gcr->pgsr", probe.flatten(2), gallery.flatten(2))
    return correlation.amax(3).mean(2) + correlation.amax(2).mean(2)


def match_pairs(a, b, a_visibility=None, b_visibility=None):
    return match(a, b, a_visibility, b_visibility).diagonal()


@pytest.fixture
def images():
    return torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def naive_scores(first, second, flip_fusion):
    """Score two single images as the docstrings say."""
    described = [[describe(view[None]) for view in (image, image.flip(-1))] for image in (first, second)]
    embeddings = [sum(d.embedding[0] * d.norm[0] for d in views) for views in described]
    adaface = (embeddings[0] @ embeddings[1]) / (embeddings[0].norm() * embeddings[1].norm())
    if flip_fusion == "score":
        scores = [match(a.local_map, b.local_map, a.visibility, b.visibility) for a, b in zip(*described, strict=True)]
        return float(adaface), float(sum(scores) / 2)
    maps, visibilities = [], []
    for image, mirror in described:
        summed = image.local_map + mirror.local_map.flip(3)
        maps.append(summed / summed.norm(dim=1, keepdim=True))
        visibilities.append((image.visibility + mirror.visibility.flip(3)) / 2)
    return float(adaface), float(match(*maps, *visibilities))


@pytest.mark.parametrize("flip_fusion", ["score", "map"])
def test_all_scorings_agree_with_single_images(images, flip_fusion):
    described = describe_with_flip(describe, images, flip_fusion)
    pairs = unordered_pairs(7)
    expected = np.array([naive_scores(images[i], images[j], flip_fusion) for i, j in pairs])
    listed = score_pair_list(described, pairs, match_pairs, batch_size=4)
    every = score_all_pairs(described, match, block_size=3)
    aligned = score_pairs(
        described[torch.from_numpy(pairs[:, 0])], described[torch.from_numpy(pairs[:, 1])], match_pairs
    )
    for column, name in enumerate(("adaface", "qaconv")):
        for scores in (listed, every, aligned):
            np.testing.assert_allclose(scores[name], expected[:, column], atol=1e-5)


def test_the_two_fusions_differ(images):
    scores = [
        score_all_pairs(describe_with_flip(describe, images, fusion), match)["qaconv"] for fusion in ("score", "map")
    ]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


@pytest.mark.parametrize("flip_fusion", ["score", "map"])
def test_mirroring_an_image_changes_no_score(images, flip_fusion):
    described = describe_with_flip(describe, images, flip_fusion)
    mirrored = describe_with_flip(describe, images.flip(-1), flip_fusion)
    torch.testing.assert_close(mirrored.embedding, described.embedding)
    if flip_fusion == "map":
        torch.testing.assert_close(mirrored.views[0].local_map.flip(-1), described.views[0].local_map)
        torch.testing.assert_close(mirrored.views[0].visibility.flip(-1), described.views[0].visibility)
    else:
        torch.testing.assert_close(
            score_pairs(mirrored[:3], mirrored[3:6], match_pairs),
            score_pairs(described[:3], described[3:6], match_pairs),
        )


def test_map_fusion_gives_unit_features(images):
    (view,) = describe_with_flip(describe, images, "map").views
    torch.testing.assert_close(view.local_map.norm(dim=1), torch.ones(7, 4, 4))


@pytest.mark.parametrize("block_size", [1, 2, 5, 64])
def test_every_unordered_pair_once_whatever_the_block(images, block_size):
    calls = []

    def recording_match(probe, gallery, probe_visibility, gallery_visibility):
        calls.append((len(probe), len(gallery)))
        return match(probe, gallery, probe_visibility, gallery_visibility)

    described = describe_with_flip(describe, images)
    scores = score_all_pairs(described, recording_match, block_size)
    rows, columns = np.triu_indices(7, 1)
    cosines = (described.embedding @ described.embedding.T).numpy()
    np.testing.assert_allclose(scores["adaface"], cosines[rows, columns], atol=1e-6)
    assert scores["qaconv"].shape == (21,) and scores["qaconv"].dtype == np.float32
    assert max(max(call) for call in calls) <= block_size


def test_the_order_of_images_changes_no_score(images):
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    described = describe_with_flip(describe, images)
    before, after = score_all_pairs(described, match), score_all_pairs(described[order], match)
    place = {frozenset(pair): k for k, pair in enumerate(unordered_pairs(7).tolist())}
    moved = [place[frozenset(order[list(pair)].tolist())] for pair in unordered_pairs(7).tolist()]
    for name in before:
        np.testing.assert_allclose(after[name], before[name][moved], atol=1e-6)


def test_batches_and_half_precision_maps_change_little(images):
    whole = describe_with_flip(describe, images)
    batched = describe_batches(describe, images.split(3), 7, map_dtype=torch.float16)
    assert batched.num_images == 7
    assert {view.local_map.dtype for view in batched.views} == {torch.float16}
    assert batched.embedding.dtype == torch.float32
    expected, actual = score_all_pairs(whole, match), score_all_pairs(batched, match)
    np.testing.assert_allclose(actual["adaface"], expected["adaface"], atol=1e-6)
    np.testing.assert_allclose(actual["qaconv"], expected["qaconv"], atol=5e-3)
    assert (actual["qaconv"] != expected["qaconv"]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("on_disk", [False, True])
def test_batches_are_held_compactly_where_they_were_asked_for(images, dtype, on_disk, tmp_path):
    whole = describe_with_flip(describe, images)
    held = describe_batches(describe, images.split(3), 7, map_dtype=dtype, folder=tmp_path if on_disk else None)
    assert list(tmp_path.iterdir()) == []  # a file without a name, gone however the process ends
    bound = {torch.float32: 1e-6, torch.float16: 2**-11, torch.int8: 1 / 254 + 5**0.5 / 254}[dtype]
    for view, exact, restored in zip(held.views, whole.views, held.restored().views, strict=True):
        assert view.local_map.dtype == dtype
        assert (restored.local_map - exact.local_map).abs().max() <= bound
        torch.testing.assert_close(restored.visibility, exact.visibility)  # not compact
        assert restored.local_map.dtype == restored.visibility.dtype == torch.float32
        assert restored.local_map.permute(0, 2, 3, 1).is_contiguous()  # as matching wants the cells
    torch.testing.assert_close(held.embedding, whole.embedding)


def test_maps_on_disk_give_the_scores_of_maps_in_memory(images, tmp_path):
    here, there = (
        describe_batches(describe, images.split(3), 7, map_dtype=torch.int8, folder=folder)
        for folder in (None, tmp_path)
    )
    np.testing.assert_array_equal(score_all_pairs(here, match)["qaconv"], score_all_pairs(there, match)["qaconv"])


def test_no_maps_are_held_for_no_matcher(images):
    described = describe_batches(describe, images.split(3), 7, map_dtype=None)
    assert described.views == () and described[2:4].num_images == 2
    assert list(score_all_pairs(described)) == ["adaface"]


def test_a_set_against_itself_is_matched_as_such_on_the_diagonal(images):
    same = []

    def recording_match(probe, gallery, probe_visibility, gallery_visibility):
        same.append(probe is gallery and probe_visibility is gallery_visibility)
        return match(probe, gallery, probe_visibility, gallery_visibility)

    described = describe_with_flip(describe, images)
    for others in (None, described):
        score_all_pairs(described, recording_match, 4, others)
        assert same == [True, True, False, False, True, True]  # blocks (0, 0), (0, 1), (1, 1), two views each
        same.clear()
    score_all_pairs(described, recording_match, 4, others=described[:])
    assert not any(same)


def test_progress_sees_every_block(images):
    described, seen = describe_with_flip(describe, images), []

    def watch(steps):
        seen.append(len(steps))
        yield from steps

    expected = score_all_pairs(described)["adaface"]
    np.testing.assert_allclose(score_all_pairs(described, block_size=3, progress=watch)["adaface"], expected, atol=1e-6)
    score_pair_list(described, unordered_pairs(7), batch_size=10, progress=watch)
    assert seen == [6, 3]


def test_without_matcher_or_visibility(images):
    described = describe_batches(describe_without_visibility, images.split(4), 7, "map")
    assert described.views[0].visibility is None
    assert list(score_all_pairs(described)) == ["adaface"]
    assert list(score_pairs(described[:2], described[2:4])) == ["adaface"]
    assert np.isfinite(score_pair_list(described, [[0, 1]], match_pairs)["qaconv"]).all()


def test_opposite_features_of_image_and_mirror_stay_finite():
    def odd(images):
        sign = images[:, :1, 0, :1].sign().flatten(1)
        return Description(
            sign * torch.ones(1, 4) / 2, torch.ones(len(images), 1), torch.ones(len(images), 1, 1, 1), None
        )

    images = torch.linspace(-1, 1, 8).expand(2, 3, 8, 8)
    described = describe_with_flip(odd, images)
    assert torch.equal(described.embedding, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda d: describe_with_flip(describe, torch.zeros(1, 3, 8, 8), "mean"),
            'must be "score" or "map", got \'mean\'',
        ),
        (lambda d: describe_batches(describe, [], 3), "got 3 and 0"),
        (lambda d: describe_batches(describe, [torch.zeros(2, 3, 8, 8)], 3), "got 3 and 2"),
        (lambda d: describe_batches(describe, [torch.zeros(2, 3, 8, 8)] * 2, 3), "got 3 and 4"),
        (lambda d: describe_batches(describe, [], 3, map_dtype=torch.bfloat16), "float16, int8, got torch.bfloat16"),
        (lambda d: score_pairs(d[:2], d[:3]), "got 2 and 3"),
        (lambda d: score_pairs(d[:2], describe_with_flip(describe, torch.ones(2, 3, 8, 8), "map")), "as many views"),
        (lambda d: score_all_pairs(d[:1]), "at least two images"),
        (lambda d: score_pair_list(d, [[0, 1], [2, 7]]), r"\[2, 7\] in row 1"),
        (lambda d: score_pair_list(d, [[0, 1], [-1, 2]]), r"\[-1, 2\] in row 1"),
        (lambda d: score_pair_list(d, [[0, 1], [2, 2]]), "not its own pair.*row 1"),
        (lambda d: score_pair_list(d, [0, 1]), r"pairs must be \[M, 2\]"),
    ],
)
def test_refusals(images, call, message):
    with pytest.raises(ValueError, match=message):
        call(describe_with_flip(describe, images))
