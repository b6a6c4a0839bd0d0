"""Search against sorting the whole matrix of scores, with numbers that are exact in float32, so that ties are real."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import (
    FaceDescriptions,
    Hits,
    LocalView,
    merge_hits,
    score_all_pairs,
    score_shortlisted_pairs,
    search,
    unordered_pairs,
)
from qaconv import QAConv


def draw_faces(num_images, seed):
    """Return descriptions whose every score is a small multiple of 1/16: exact in any order of summation."""
    generator = torch.Generator().manual_seed(seed)

    def quarters(*shape):
        return torch.randint(-2, 3, shape, generator=generator) / 4

    views = tuple(LocalView(quarters(num_images, 2, 1, 2), None) for _ in range(2))
    return FaceDescriptions(quarters(num_images, 3), views)


def match(probe, gallery, probe_visibility=None, gallery_visibility=None):
    return torch.einsum("pcs,gcs->pg", probe.flatten(2), gallery.flatten(2))


def full_matrix(probe, gallery, by_maps):
    if not by_maps:
        return probe.embedding @ gallery.embedding.T
    return sum(match(a.local_map, b.local_map) for a, b in zip(probe.views, gallery.views, strict=True)) / 2


def sorted_rows(scores, top_k):
    """Return (indices, scores) of the best of each row by numpy's stable sort."""
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :top_k]
    return order, np.take_along_axis(scores.numpy(), order, 1)


def assert_hits(hits, expected):
    np.testing.assert_array_equal(hits.indices, expected[0])
    np.testing.assert_array_equal(hits.scores, expected[1])
    assert hits.indices.dtype == torch.int64 and hits.scores.dtype == torch.float32


sizes = {
    "num_probes": st.integers(0, 9), "num_gallery": st.integers(0, 23), "top_k": st.integers(1, 26),
    "block_size": st.one_of(st.none(), st.integers(1, 25)), "seed": st.integers(0, 2**31), "by_maps": st.booleans(),
}  # fmt: skip


@settings(max_examples=120)
@given(**sizes)
def test_search_is_the_sorted_matrix_for_every_block_size(num_probes, num_gallery, top_k, block_size, seed, by_maps):
    probe, gallery = draw_faces(num_probes, seed), draw_faces(num_gallery, seed + 1)
    hits = search(probe, gallery, top_k, match if by_maps else None, block_size=block_size)
    assert hits.indices.shape == (num_probes, min(top_k, num_gallery))
    assert_hits(hits, sorted_rows(full_matrix(probe, gallery, by_maps), top_k))


@settings(max_examples=80)
@given(**sizes)
def test_no_image_finds_itself_among_its_own(num_probes, num_gallery, top_k, block_size, seed, by_maps):
    faces = draw_faces(num_gallery, seed)
    hits = search(faces, None, top_k, match if by_maps else None, block_size=block_size)
    scores = full_matrix(faces, faces, by_maps).fill_diagonal_(-torch.inf)
    assert_hits(hits, sorted_rows(scores, min(top_k, max(0, num_gallery - 1))))


@settings(max_examples=80)
@given(**sizes, more=st.integers(0, 20), among_themselves=st.booleans())
def test_a_shortlist_is_the_sorted_matrix_of_the_nearest(
    num_probes, num_gallery, top_k, block_size, seed, by_maps, more, among_themselves
):
    probe, gallery = draw_faces(num_probes, seed), draw_faces(num_gallery, seed + 1)
    probe = gallery if among_themselves else probe
    shortlist = top_k + more
    hits = search(probe, None if among_themselves else gallery, top_k, match, shortlist, block_size)
    cosines, scores = (full_matrix(probe, gallery, by_maps) for by_maps in (False, True))
    if among_themselves:
        cosines.fill_diagonal_(-torch.inf)
    num_found = max(0, num_gallery - among_themselves)
    near, _ = sorted_rows(cosines, min(shortlist, num_found))
    listed = torch.full_like(scores, -torch.inf).scatter(1, torch.from_numpy(near), 1) > 0
    assert_hits(hits, sorted_rows(scores.masked_fill(~listed, -torch.inf), min(top_k, num_found)))


@settings(max_examples=60)
@given(num_images=st.integers(0, 20), cuts=st.lists(st.integers(0, 20), max_size=4), seed=st.integers(0, 2**31))
def test_shards_merged_in_any_order_are_the_whole(num_images, cuts, seed):
    probe, gallery = draw_faces(4, seed), draw_faces(num_images, seed + 1)
    borders = sorted({0, num_images, *(min(cut, num_images) for cut in cuts)})
    parts = []
    for start, stop in pairwise(borders):
        hits = search(probe, gallery[start:stop], 5)
        parts.insert(seed % 2 * len(parts), hits._replace(indices=hits.indices + start))
    if parts:
        assert_hits(merge_hits(parts, 5), search(probe, gallery, 5))


def test_negative_zero_ties_with_zero():
    hits = merge_hits([Hits(torch.tensor([[7, 3]]), torch.tensor([[0.0, -0.0]]))], 2)
    assert hits.indices.tolist() == [[3, 7]]


@settings(max_examples=60)
@given(
    num_images=st.integers(2, 14), shortlist=st.integers(1, 15), block_size=st.integers(1, 15),
    seed=st.integers(0, 2**31), other_versions=st.booleans(),
)  # fmt: skip
def test_shortlisted_pairs_are_those_near_from_either_side(num_images, shortlist, block_size, seed, other_versions):
    faces = draw_faces(num_images, seed)
    others = draw_faces(num_images, seed + 1) if other_versions else None
    every = score_all_pairs(faces, match, others=others)
    near = {image: [] for image in range(num_images)}
    for place, (i, j) in enumerate(unordered_pairs(num_images).tolist()):
        near[i].append((-every["adaface"][place], j, place))
        near[j].append((-every["adaface"][place], i, place))
    expected = sorted({place for found in near.values() for *_, place in sorted(found)[:shortlist]})
    scored = score_shortlisted_pairs(faces, match, shortlist, block_size, others)
    np.testing.assert_array_equal(np.flatnonzero(scored.matched), expected)
    np.testing.assert_array_equal(scored.scores["adaface"], every["adaface"])
    np.testing.assert_array_equal(scored.scores["qaconv"][scored.matched], every["qaconv"][expected])
    assert (scored.scores["qaconv"][~scored.matched] == every["qaconv"][expected].min()).all()


@settings(max_examples=30)
@given(num_images=st.integers(2, 14), block_size=st.integers(1, 15), seed=st.integers(0, 2**31))
def test_all_pairs_are_the_same_for_every_block_size(num_images, block_size, seed):
    faces = draw_faces(num_images, seed)
    whole, blocks = (score_all_pairs(faces, match, size) for size in (num_images, block_size))
    for name, scores in whole.items():
        np.testing.assert_array_equal(blocks[name], scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_with_the_local_matcher_the_block_size_changes_rounding_only(dtype):
    generator = torch.Generator().manual_seed(0)
    maps = F.normalize(torch.randn(23, 16, 3, 3, generator=generator), dim=1)
    visibility = torch.rand(23, 1, 3, 3, generator=generator)
    held = (maps * 127).round().to(dtype) if dtype == torch.int8 else maps
    faces = FaceDescriptions(F.normalize(maps.mean((2, 3)), dim=1), (LocalView(held, visibility),))
    matcher = QAConv(16, 3, 3, "masking").eval()
    with torch.inference_mode():
        every = score_all_pairs(faces, matcher, 23)["qaconv"]
        whole = search(faces[:5], faces, 23, matcher, block_size=23)
        for size in (1, 4, 7):
            np.testing.assert_allclose(score_all_pairs(faces, matcher, size)["qaconv"], every, atol=1e-5)
            hits = search(faces[:5], faces, 23, matcher, block_size=size)
            torch.testing.assert_close(hits.scores, whole.scores, atol=1e-5, rtol=0)
            listed = search(faces[:5], faces, 5, matcher, shortlist=22, block_size=size)
            assert (listed.scores <= whole.scores[:, :5] + 1e-5).all()


def test_progress_sees_every_block_or_every_probe():
    probe, gallery, seen = draw_faces(3, 0), draw_faces(10, 1), []

    def watch(steps):
        seen.append(len(steps))
        yield from steps

    search(probe, gallery, 2, match, block_size=4, progress=watch)
    search(probe, gallery, 2, match, shortlist=5, progress=watch)
    score_shortlisted_pairs(gallery, match, 2, progress=watch)
    assert seen == [3, 3, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"shortlist": 0, "match": match}, "shortlist must be at least 1"),
        ({"shortlist": 1, "match": match}, "at least top_k, got 1 and 2"),
        ({"shortlist": 3}, "for match, which is None"),
        ({"match": lambda *maps: match(*maps) / torch.tensor([[1.0], [0.0]])}, "must be finite, got .* gallery image"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        search(draw_faces(2, 0), draw_faces(4, 1), **{"top_k": 2, **options})


def test_a_shortlist_of_no_pairs_is_refused():
    with pytest.raises(ValueError, match="shortlist must be at least 1, got 0"):
        score_shortlisted_pairs(draw_faces(3, 0), match, 0)
