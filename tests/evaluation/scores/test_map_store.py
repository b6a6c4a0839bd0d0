"""Compact maps against the bounds that are stated for them."""

import errno
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.scores.map_store import MAP_DTYPES, allocate_maps, compact_maps, restore_maps


@st.composite
def unit_maps(draw):
    """Draw unit maps [2, C, 2, 3], some with one channel far above the others."""
    channels, seed = draw(st.integers(1, 64)), draw(st.integers(0, 2**31))
    power = draw(st.sampled_from([1, 3, 9]))
    maps = torch.randn(2, channels, 2, 3, generator=torch.Generator().manual_seed(seed)).double() ** power
    return (maps / maps.norm(dim=1, keepdim=True)).float()


@settings(max_examples=60)
@given(unit_maps())
def test_int8_maps_come_back_within_the_bound(maps):
    restored = restore_maps(compact_maps(maps, torch.int8)).double()
    exact = maps.double()
    error = exact.abs().amax(1) * math.sqrt(maps.shape[1]) / 254
    sine = (1 - (restored * exact).sum(1).clamp(-1, 1) ** 2).clamp_min(0).sqrt()
    assert (sine <= error + 1e-3).all()  # the square root turns rounding of 1e-7 into 3e-4
    cosines = torch.einsum("nchw,mcij->nmhwij", exact, exact)
    moved = torch.einsum("nchw,mcij->nmhwij", restored, restored) - cosines
    assert moved.abs().max() <= 2 * error.max() * (1 + error.max()) + 1e-6
    torch.testing.assert_close(restored.norm(dim=1), torch.ones_like(error))


@settings(max_examples=60)
@given(unit_maps())
def test_float16_maps_come_back_within_the_bound(maps):
    restored = restore_maps(compact_maps(maps, torch.float16))
    assert ((restored - maps).abs() <= 2**-11 * maps.abs() + 2**-25).all()


def test_a_map_of_zeros_stays_zero():
    for dtype in MAP_DTYPES.values():
        assert torch.equal(restore_maps(compact_maps(torch.zeros(1, 4, 2, 2), dtype)), torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("dtype", MAP_DTYPES.values())
def test_a_file_holds_what_is_written_and_has_no_name(tmp_path, dtype):
    held = allocate_maps(torch.Size((3, 4, 2, 2)), dtype, torch.device("cpu"), tmp_path)
    values = torch.arange(48).reshape(3, 4, 2, 2).to(dtype)
    held.copy_(values)
    assert torch.equal(held, values) and torch.equal(held[torch.tensor([2, 0])], values[[2, 0]])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    def refuse(file, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("evaluation.scores.map_store.os.posix_fallocate", refuse, raising=False)
    with pytest.raises(OSError, match="No space left"):
        allocate_maps(torch.Size((3, 4, 2, 2)), torch.int8, torch.device("cpu"), tmp_path)
