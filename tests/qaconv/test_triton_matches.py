"""The Triton form of the best matches: its logic through Triton's interpreter, its numbers on a GPU."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from programs import ROOT

from qaconv import correlation, triton_matches
from qaconv.blocks import Maps
from qaconv.triton_matches import Direction, backward_tiling, forward_tiling, triton_best_matches, triton_gradient


def test_the_kernels_logic_through_the_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed: the kernels are not in use")
    # Triton decides at its import whether it interprets, and this process may have imported it.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/qaconv/interpreted_matches.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore::RuntimeWarning"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout


def test_nothing_but_the_launch_imports_triton():
    program = "import sys, qaconv.triton_matches as t; t.triton_available(); print('triton.language' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_availability_follows_the_installation(monkeypatch):
    monkeypatch.setattr(triton_matches, "builds_extensions", lambda: True)
    for spec in (None, object()):
        monkeypatch.setattr(triton_matches, "find_spec", lambda name, spec=spec: spec)
        assert triton_matches.triton_available() == (spec is not None)


@pytest.mark.parametrize(
    ("properties", "wanted"),
    [
        ({"shared_memory_per_block_optin": 166_912}, True),  # A100
        ({"shared_memory_per_block_optin": 101_376}, False),  # GeForce RTX 3090, 4090, 5090
        ({}, False),  # a build for AMD
    ],
)
def test_on_a_device_with_little_shared_memory_the_kernels_are_not_in_use(monkeypatch, properties, wanted):
    monkeypatch.setattr(triton_matches, "triton_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**properties))
    side = SimpleNamespace(is_cuda=True, dtype=torch.float16, shape=(1, 2, 49, 8), device=torch.device("cuda", 7))
    triton_matches.fits.cache_clear()
    try:
        assert correlation._suits_triton(side, side) == wanted
    finally:
        triton_matches.fits.cache_clear()


@pytest.mark.parametrize(("found", "headers"), [("gcc", True), ("clang", True), (None, True), ("gcc", False)])
def test_without_a_compiler_or_headers_triton_is_not_in_use(monkeypatch, tmp_path, found, headers):
    (tmp_path / ("Python.h" if headers else "pyconfig.h")).touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(triton_matches.shutil, "which", lambda name: name if name == found else None)
    monkeypatch.setattr(triton_matches.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setattr(triton_matches, "find_spec", lambda name: object())
    triton_matches.builds_extensions.cache_clear()
    try:
        assert triton_matches.triton_available() == (found is not None and headers)
        monkeypatch.setenv("CC", "/no/such/compiler")  # Triton looks for no other then
        triton_matches.builds_extensions.cache_clear()
        assert not triton_matches.triton_available()
    finally:
        triton_matches.builds_extensions.cache_clear()


@pytest.mark.parametrize(("num_probe", "num_gallery"), [(0, 2), (2, 0)])
def test_empty_sets_need_no_kernel(num_probe, num_gallery):
    probe, gallery = torch.empty(1, num_probe, 4, 8), torch.empty(1, num_gallery, 4, 8)
    found = triton_best_matches(probe, None, gallery, None)
    assert [tuple(value.shape) for value in found] == [(1, num_probe, 4, num_gallery)] * 2 + [
        (1, num_gallery, 4, num_probe)
    ] * 2
    grad = triton_gradient(Maps(probe, None), Maps(gallery, None), Direction(found[0], found[1]), None)
    assert grad.shape == probe.shape and not grad.any()


def test_other_dtypes_and_larger_maps_are_refused():
    with pytest.raises(TypeError, match=r"float16, bfloat16 or float32 .* torch\.float64"):
        triton_best_matches(torch.empty(1, 1, 4, 8, dtype=torch.float64), None, None, None)
    with pytest.raises(TypeError, match=r"torch\.float16 and torch\.float32"):
        triton_best_matches(torch.empty(1, 1, 4, 8).half(), None, torch.empty(1, 1, 4, 8), None)
    with pytest.raises(ValueError, match="at most 1024 cells, got 4 and 1025"):
        triton_best_matches(torch.empty(1, 1, 4, 8), None, torch.empty(1, 1, 1025, 8), None)


@pytest.mark.parametrize("cells", [1, 16, 49, 64, 65, 196, 256, 400, 1024])
@pytest.mark.parametrize("num_maps", [1, 3, 100])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tilings_fit_the_kernels_and_the_device(cells, num_maps, dtype):
    maps = torch.empty(1, num_maps, cells, 512, dtype=dtype)
    forward = [forward_tiling(maps, maps, allow_tf32) for allow_tf32 in (False, True)]
    for tiling in (*forward, backward_tiling(maps, maps)):
        for number in (tiling.near_maps, tiling.rows, tiling.columns, tiling.channels):
            assert number & (number - 1) == 0
        assert tiling.near_maps == 1 or tiling.rows >= cells
        assert min(tiling.rows, tiling.columns, tiling.channels) >= 16
    for tiling in forward:
        assert tiling.columns >= tiling.far_maps * cells
        num_rows = tiling.near_maps * tiling.rows
        assert num_rows * tiling.columns <= 2**15  # the sums in the registers
        shared = tiling.stages * (num_rows + tiling.columns) * tiling.channels * maps.element_size()
        assert shared <= triton_matches.SHARED_BYTES
    tiling = backward_tiling(maps, maps)
    shared = (tiling.stages * tiling.channels + tiling.near_maps * tiling.rows) * tiling.columns * maps.element_size()
    assert shared <= triton_matches.SHARED_BYTES


def dense_matches(looking, looked_at):
    """Return the best matches [L, A, K, B] in float64, 0 where there are none."""
    sim = torch.einsum("lakc,lbjc->lakbj", looking.features.double(), looked_at.features.double())
    if looking.hidden is not None:
        sim.masked_fill_(looked_at.hidden[:, None, None], -torch.inf)
        sim.masked_fill_((looking.hidden[..., None] | looked_at.hidden.all(dim=2)[:, None, None])[..., None], 0)
    return sim.max(dim=4)


def dense_gradient(near, far, looking, looked_at):
    """Return the gradient of the near features through the given cells, by a one-hot matrix in float64."""
    weight = torch.zeros(*near.features.shape[:3], *far.features.shape[1:3], dtype=torch.float64, device="cuda")
    weight.scatter_add_(4, looking.cell.long()[..., None], looking.grad.double()[..., None])
    other = weight.new_zeros(*far.features.shape[:3], *near.features.shape[1:3])
    other.scatter_add_(4, looked_at.cell.long()[..., None], looked_at.grad.double()[..., None])
    weight += other.permute(0, 3, 4, 1, 2)
    if near.hidden is not None:
        weight.masked_fill_(near.hidden[..., None, None] | far.hidden[:, None, None], 0)
    return torch.einsum("lakbj,lbjc->lakc", weight, far.features.double())


def maps_on_the_gpu(generator, shape, dtype, hide):
    features = F.normalize(torch.randn(shape, generator=generator), dim=3).to(dtype)
    hidden = torch.rand(shape[:3], generator=generator) < 0.4
    return Maps(features.cuda(), hidden.cuda() if hide else None)


# Of the sizes of `benchmarks/gpu/checks/kernels.py`, which has compiled most of these: each kernel takes seconds.
SMALL_MAPS, LARGE_MAPS = (33, 18, 49, 512), (9, 5, 196, 256)
ON_A_GPU = [(SMALL_MAPS, False, False), (SMALL_MAPS, True, True), (LARGE_MAPS, True, False)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("sizes", "hide", "against_itself"), ON_A_GPU)
@pytest.mark.parametrize(
    ("dtype", "allow_tf32", "of_values", "of_gradients"),
    [
        (torch.float16, False, 1e-5, 1e-3),
        (torch.bfloat16, False, 1e-5, 1e-2),
        (torch.float32, True, 1e-3, 2e-3),
        (torch.float32, False, 1e-5, 1e-5),
    ],
)
def test_numbers_on_a_gpu(dtype, allow_tf32, of_values, of_gradients, sizes, hide, against_itself):
    pytest.importorskip("triton", reason="Triton is not installed: the kernels are not in use")
    generator = torch.Generator().manual_seed(0)
    num_probe, num_gallery, *of_map = sizes
    probe = maps_on_the_gpu(generator, (1, num_probe, *of_map), dtype, hide)
    gallery = probe if against_itself else maps_on_the_gpu(generator, (1, num_gallery, *of_map), dtype, hide)

    sides = (*probe[:2], None, None) if against_itself else (*probe[:2], *gallery[:2])
    found = triton_best_matches(*sides, allow_tf32)
    directions = [Direction(torch.randn_like(value), cell) for value, cell in zip(found[::2], found[1::2], strict=True)]
    if against_itself:
        directions[1] = directions[0]
    pairs = [(probe, gallery, *directions), (gallery, probe, *directions[::-1])]

    for near, far, looking, looked_at in pairs:
        value = found[0] if near is probe else found[2]
        best, cell = dense_matches(near, far)
        torch.testing.assert_close(value.double(), best, rtol=0, atol=of_values)
        assert (looking.cell == cell).double().mean() >= (0.99 if allow_tf32 else 0.9999)  # rounding breaks near ties
        wanted = dense_gradient(near, far, looking, looked_at)
        grad = triton_gradient(near, far, looking, looked_at, allow_tf32)
        assert (grad - wanted).norm() <= of_gradients * wanted.norm()
        assert torch.equal(triton_gradient(near, far, looking, looked_at, allow_tf32), grad)
    assert all(torch.equal(a, b) for a, b in zip(found, triton_best_matches(*sides, allow_tf32), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_not_a_number_is_seen_on_a_gpu():  # the interpreter's maximum always passes it on
    pytest.importorskip("triton", reason="Triton is not installed: the kernels are not in use")
    probe, gallery = torch.randn(1, 3, 49, 64).half().cuda(), torch.randn(1, 4, 49, 64).half().cuda()
    probe[0, 0, 1, 2] = torch.nan
    found = triton_best_matches(probe, None, gallery, None)
    assert found[0][0, 0, 1].isnan().all() and not found[0][0, 1:].isnan().any()
    assert found[2][..., 0].isnan().all() and not found[2][..., 1:].isnan().any()
