"""Perceptual hashes, near pairs and duplicates, against loops over all pairs."""

import cv2
import numpy as np
import pytest

from datasets.doctor import near_duplicates
from datasets.doctor.duplicates import find_duplicates
from datasets.doctor.near_duplicates import MAX_DISTANCE, near_pairs
from datasets.doctor.perceptual_hash import NUM_BITS, distance, perceptual_hash
from datasets.synthetic.prepare import render_identities


def flip_bits(hashed, bits):
    changed = np.unpackbits(hashed.view(np.uint8))
    changed[list(bits)] ^= 1
    return np.packbits(changed).view(np.uint64)


def pairs_by_loop(hashes, limit=MAX_DISTANCE):
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    found = {}
    for first in range(len(bits)):
        for second in range(first + 1, len(bits)):
            apart = int((bits[first] != bits[second]).sum())
            if apart <= limit:
                found[first, second] = apart
    return found


@pytest.fixture(scope="module")
def grays():
    images, _ = render_identities("check duplicates", 15, 2)
    return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]


def test_the_hash_is_the_signs_of_the_lowest_coefficients(grays):
    """Against the cosines of the definition."""
    small = cv2.resize(grays[0], (56, 56), interpolation=cv2.INTER_AREA).astype(np.float64)
    places = np.arange(56)
    cosines = np.cos(np.pi * np.outer(np.arange(17), 2 * places + 1) / 112)
    coefficients = cosines @ small @ cosines.T
    signs = [*(coefficients[:16, :16].ravel()[1:] > 0), coefficients[16, 0] > 0]
    assert np.unpackbits(perceptual_hash(grays[0]).view(np.uint8)).astype(bool).tolist() == signs


def test_copies_are_near_and_different_faces_are_far(grays):
    hashes = np.stack([perceptual_hash(gray) for gray in grays])
    assert min(pairs_by_loop(hashes, NUM_BITS).values()) > 3 * MAX_DISTANCE
    for gray, own in zip(grays, hashes, strict=True):
        jpeg = cv2.imdecode(cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_GRAYSCALE)
        small = cv2.resize(cv2.resize(gray, (56, 56), interpolation=cv2.INTER_AREA), (112, 112))
        assert all(distance(perceptual_hash(copy), own) <= MAX_DISTANCE for copy in (jpeg, small))


def test_near_pairs_are_those_of_a_loop_over_all_pairs():
    rng = np.random.default_rng(0)
    hashes = list(rng.integers(0, 2**63, (40, 4)).astype(np.uint64))
    for apart in range(1, 20):  # within the limit, at it, and beyond
        hashes.append(flip_bits(hashes[apart], rng.choice(NUM_BITS, apart, replace=False)))
    hashes = np.stack(hashes)
    found = near_pairs(hashes)
    expected = pairs_by_loop(hashes)
    keys = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert dict(zip(keys, found.distance.tolist(), strict=True)) == expected
    assert len(expected) == MAX_DISTANCE and found.complete


def test_a_pair_is_found_wherever_its_bits_differ():
    """The worst case of the bands: one differing bit in each of twelve of the thirteen."""
    base = np.random.default_rng(1).integers(0, 2**63, 4).astype(np.uint64)
    for spared in range(MAX_DISTANCE + 1):
        order = np.array(range(NUM_BITS)).reshape(32, 8)[:, ::-1].ravel()  # bits of uint64 from the lowest up
        bits = [order[band + 13 * 3] for band in range(MAX_DISTANCE + 1) if band != spared]
        assert near_pairs(np.stack([base, flip_bits(base, bits)])).distance.tolist() == [MAX_DISTANCE]


def test_too_many_alike_are_said_and_cost_no_more(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_MAX_NEIGHBOURS", 4)
    base = np.random.default_rng(2).integers(0, 2**63, 4).astype(np.uint64)
    hashes = np.stack([flip_bits(base, [bit]) for bit in range(30)])
    found = near_pairs(hashes)
    assert not found.complete and 0 < len(found.first) <= 13 * 4 * 30
    assert (found.distance == 2).all()
    assert near_pairs(hashes[:0]).complete and near_pairs(hashes[:1]).complete


def duplicates_by_loop(pixels, looks, positions, num_own):
    """Pairs as the docstring of `Duplicates` describes them."""
    own = [index for index in range(len(pixels)) if positions[index] < num_own]
    apart = {(i, j): int(distance(looks[i], looks[j])) for i in range(len(pixels)) for j in range(len(pixels))}
    exact = [(next(j for j in own if pixels[j] == pixels[i]), i) for i in own]
    shared_images = {
        i for i in own for j in set(range(len(pixels))) - set(own) if apart[i, j] <= MAX_DISTANCE
    }  # fmt: skip
    near = set()
    first = {looks[i].tobytes(): i for i in reversed(own)}
    for i in own:
        if first[looks[i].tobytes()] != i and not any(pixels[j] == pixels[i] for j in own if j < i):
            near.add((first[looks[i].tobytes()], i, 0))
    stand_ins = sorted(first.values())
    near |= {(i, j, apart[i, j]) for i in stand_ins for j in stand_ins if i < j and apart[i, j] <= MAX_DISTANCE}
    place = positions.tolist()
    return (
        {(place[i], place[j]) for i, j in exact if i != j},
        {(place[i], place[j], bits) for i, j, bits in near},
        {place[i] for i in shared_images},
    )


@pytest.mark.parametrize("seed", range(8))
def test_duplicates_are_those_of_a_loop_over_all_pairs(seed):
    rng = np.random.default_rng(seed)
    bases = rng.integers(0, 2**63, (5, 4)).astype(np.uint64)
    kinds = [(base, flips) for base in range(5) for flips in (0, 1, 6)]
    variants = [flip_bits(bases[base], range(flips)) for base, flips in kinds]
    drawn = rng.integers(len(kinds), size=24)
    looks = np.stack([variants[kind] for kind in drawn])
    # Equal pixels look equal; what looks equal may have other pixels.
    pixels = (drawn * 2 + rng.integers(2, size=24)).astype(np.uint64)
    positions = np.sort(rng.choice(40, 24, replace=False))
    found = find_duplicates(pixels, looks, positions, num_own=26)
    exact, near, shared = duplicates_by_loop(pixels, looks, positions, 26)
    assert set(zip(found.exact.first.tolist(), found.exact.second.tolist(), strict=True)) == exact
    assert set(zip(*(column.tolist() for column in found.near), strict=True)) == near
    assert set(found.shared_images.tolist()) == shared
    assert all(first < 26 <= second for first, second in zip(found.shared.first, found.shared.second, strict=True))
    assert set(found.shared.first.tolist()) <= shared and (len(found.shared.first) > 0) == bool(shared)


def test_nothing_to_compare_is_nothing_found():
    found = find_duplicates(np.empty(0, np.uint64), np.empty((0, 4), np.uint64), np.empty(0, np.int64), 3)
    assert [len(found.exact.first), len(found.near.first), len(found.shared.first)] == [0, 0, 0]
