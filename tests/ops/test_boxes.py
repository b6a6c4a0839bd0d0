"""Priors, codes of boxes and points, overlap and suppression: golden vectors, naive loops, what must not matter."""

import zlib

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import boxes

PRIORS = load_golden("detection/detector/priors.npz")
SIZES = [name.removeprefix("priors_").removesuffix("_n") for name in PRIORS if name.endswith("_n")]


def golden(name: str) -> dict[str, torch.Tensor]:
    vectors = load_golden(f"detection/detector/{name}.npz")
    return {key: torch.from_numpy(np.asarray(values)) for key, values in vectors.items()}


def draw_boxes(seed: int, num: int, side: float = 60.0, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes of whole pixels that overlap a lot, and scores, a few values among them if `ties`."""
    generator = torch.Generator().manual_seed(seed)
    first = (torch.rand(num, 2, generator=generator) * side).floor()
    size = (torch.rand(num, 2, generator=generator) * 30).floor()
    scores = torch.rand(num, generator=generator)
    return torch.cat([first, first + size], dim=1), (scores * 4).floor() / 4 if ties else scores


@pytest.mark.parametrize("size", SIZES)
def test_priors_have_the_bits_of_the_public_ones(size: str) -> None:
    height, width = map(int, size.split("x"))
    found = boxes.priors(height, width).numpy()
    assert len(found) == PRIORS[f"priors_{size}_n"] and found.dtype == np.float32
    assert zlib.crc32(found.tobytes()) == PRIORS[f"priors_{size}_crc32"]
    np.testing.assert_array_equal(found[PRIORS[f"priors_{size}_index"]], PRIORS[f"priors_{size}_rows"])


def test_priors_of_other_sizes_and_steps() -> None:
    found = boxes.priors(30, 40, min_sizes=[[10, 20, 30], [60]], steps=[16, 40])
    assert len(found) == 2 * 3 * 3 + 1
    torch.testing.assert_close(found[4], torch.tensor([24 / 40, 8 / 30, 20 / 40, 20 / 30]))
    torch.testing.assert_close(found[-1], torch.tensor([0.5, 20 / 30, 1.5, 2.0]))


def test_codes_are_those_of_the_public_code() -> None:
    g = golden("codec")
    expected = {
        "encoded": boxes.encode(g["boxes"], g["priors"]),
        "encoded_landmarks": boxes.encode_landmarks(g["landmarks"], g["priors"]),
        "decoded": boxes.decode(g["loc"], g["priors"]),
        "decoded_landmarks": boxes.decode_landmarks(g["landm"], g["priors"]),
    }
    for name, found in expected.items():
        torch.testing.assert_close(found, g[name], atol=1e-6, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)))
def test_what_is_encoded_decodes_to_itself_image_by_image(seed: int, batch: int, variances) -> None:
    generator = torch.Generator().manual_seed(seed)
    priors = boxes.priors(48, 40).double()
    first = torch.rand(batch, len(priors), 2, generator=generator, dtype=torch.float64)
    size = torch.rand(batch, len(priors), 2, generator=generator, dtype=torch.float64) + 0.01
    given = torch.cat([first, first + size], dim=-1)
    points = torch.randn(batch, len(priors), 10, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(boxes.decode(boxes.encode(given, priors, variances), priors, variances), given)
    codes = boxes.encode_landmarks(points, priors, variances)
    torch.testing.assert_close(boxes.decode_landmarks(codes, priors, variances), points)
    own = boxes.corners(priors)
    assert boxes.encode(own, priors).abs().max() < 1e-12  # a prior is its own zero
    torch.testing.assert_close(boxes.decode(torch.zeros_like(own), priors), own)


# ---------------------------------------------------------------- overlap


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_overlap_is_the_share_of_pixels_that_are_counted(seed: int, inclusive: bool) -> None:
    some, others = draw_boxes(seed, 4, side=20)[0], draw_boxes(seed + 1, 3, side=20)[0]

    def pixels(box: torch.Tensor) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = (int(value) for value in box)
        return {(x, y) for x in range(x1, x2 + inclusive) for y in range(y1, y2 + inclusive)}

    found = boxes.iou(some, others, inclusive)
    for i, a in enumerate(map(pixels, some)):
        for j, b in enumerate(map(pixels, others)):
            assert found[i, j].item() == pytest.approx(len(a & b) / max(len(a | b), 1), abs=1e-6)
    torch.testing.assert_close(boxes.iou(others, some, inclusive), found.T)
    both = torch.stack([some, some + 7])
    torch.testing.assert_close(boxes.iou(both, others, inclusive)[0], found)


# ---------------------------------------------------------------- suppression


def by_hand(given: torch.Tensor, scores: torch.Tensor, threshold: float, inclusive: bool = True) -> list[int]:
    overlaps = boxes.iou(given, given, inclusive).tolist()
    left = sorted(range(len(scores)), key=lambda row: (-scores[row].item(), row))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [row for row in left if overlaps[best][row] <= threshold]
    return kept


@pytest.mark.parametrize("case", ["a", "b", "c", "boundary"])
def test_kept_boxes_are_those_of_the_public_code(case: str) -> None:
    g = golden("nms")
    found = boxes.nms(g[f"{case}_dets"][:, :4], g[f"{case}_dets"][:, 4], g[f"{case}_threshold"].item())
    assert found.tolist() == g[f"{case}_keep"].tolist()


def test_of_equal_scores_the_lower_row_stays_where_the_public_code_keeps_the_later_one() -> None:
    g = golden("nms")
    dets = g["tie_free_dets"]
    kept = boxes.nms(dets[:, :4], dets[:, 4], g["tie_free_threshold"].item())
    assert kept.sort().values.tolist() == g["tie_free_keep_sorted"].tolist()  # whatever the order of equals
    dets = g["tie_dets"]
    assert boxes.nms(dets[:, :4], dets[:, 4], g["tie_threshold"].item()).tolist() == [0, 2]
    assert g["tie_keep_reference"].tolist() == [1, 2]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(0, 40), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans(), st.booleans(),
    st.sampled_from([1, 3, 1024]),
)  # fmt: skip
def test_suppression_is_greedy_in_blocks_of_any_size(seed, num, threshold, inclusive, ties, block) -> None:
    given, scores = draw_boxes(seed, num, ties=ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "_BLOCK", block)
        found = boxes.nms(given, scores, threshold, inclusive).tolist()
    assert found == by_hand(given, scores, threshold, inclusive)
    if not ties:
        shuffled = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
        again = shuffled[boxes.nms(given[shuffled] + 11, scores[shuffled] * 3, threshold, inclusive)]
        assert again.tolist() == found  # order, place and scale of scores do not matter
    kept = boxes.nms(given[found], scores[found], threshold, inclusive)
    assert kept.tolist() == list(range(len(found)))  # what is kept stays


def test_a_long_chain_in_which_each_box_suppresses_the_next() -> None:
    start = torch.arange(1400.0) * 30
    chain = torch.stack([start, 0 * start, start + 99, 0 * start + 99], dim=1)
    found = boxes.nms(chain, torch.linspace(1, 0, len(chain)), 0.5)
    assert found.tolist() == list(range(0, 1400, 2))


def test_all_priors_of_an_image_at_once() -> None:
    corners = boxes.corners(boxes.priors(320, 320)) * 320
    scores = torch.rand(len(corners), generator=torch.Generator().manual_seed(0))
    kept = boxes.nms(corners, scores, 0.4)
    assert 1024 < len(kept) < len(corners) and (scores[kept].diff() <= 0).all()
    assert boxes.iou(corners[kept[:500]], corners[kept[:500]], True).fill_diagonal_(0).max() <= 0.4


def test_what_cannot_be_told_is_refused() -> None:
    given, scores = draw_boxes(0, 4)
    with pytest.raises(ValueError, match=r"boxes \[N, 4\] and scores \[N\] are needed, got \[4, 4\] and \[3\]"):
        boxes.nms(given, scores[:3], 0.5)
    for broken in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="boxes or scores are not finite"):
            boxes.nms(given, scores.index_fill(0, torch.tensor(1), broken), 0.5)
    with pytest.raises(ValueError, match="got 0 x 5, 3 and 3"):
        boxes.priors(0, 5)
    with pytest.raises(ValueError, match="as many levels of sizes as steps are needed, got 8 x 8, 3 and 2"):
        boxes.priors(8, 8, steps=(8, 16))
