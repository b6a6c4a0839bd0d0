"""Evaluation on the device: describing images, pairs, all pairs, searches, and the stores that hold maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.gpu.case import Case, Cases, Figures
from benchmarks.gpu.checks.scores import held_bytes
from benchmarks.gpu.figures.clock import cost, peak_mib
from evaluation import (
    MAP_DTYPES,
    Description,
    FaceDescriptions,
    describe_batches,
    score_all_pairs,
    score_pairs,
    search,
)
from models import FaceModel
from options.model import NetworkOptions
from qaconv import QAConv

DIM = 512  # of the embeddings of a gallery
MIB = 2**20


class Sizes(NamedTuple):
    """How much of everything.

    Attributes:
        arch: backbone that describes.
        batch: images described at a time, and probes of a search.
        held: images whose maps are held.
        searched: embeddings of a gallery.
        shape: of a held map.
    """

    arch: str = "ir_50"
    batch: int = 256
    held: int = 2048
    searched: int = 200_000
    shape: tuple[int, int, int] = (512, 7, 7)


REHEARSED = Sizes("ir_tiny", 4, 16, 300, (8, 3, 3))  # on the CPU


@torch.inference_mode()
def time_describing(sizes: Sizes, half: bool, device: torch.device) -> Figures:
    """Measure what validation does with a batch of pairs: both images and their mirror images described, and scored."""
    torch.manual_seed(0)
    model = FaceModel(NetworkOptions(arch=sizes.arch)).eval().to(device)
    assert model.matcher is not None
    size = model.model.input_size
    images = (torch.rand(sizes.batch, 3, size, size) * 2 - 1).to(device)

    def describe() -> FaceDescriptions:
        return describe_batches(model.describe, [images], len(images))

    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        found = describe()
        figures = cost("describe", describe, device)
        first, second = found[: sizes.batch // 2], found[sizes.batch // 2 :]
        match = partial(score_pairs, first, second, model.matcher.match_pairs)
        match()
        figures |= cost("match", match, device)
    figures["images_per_second"] = 1e3 * sizes.batch / figures["describe_ms"]
    figures["match_share"] = figures["match_ms"] / figures["describe_ms"]
    return figures


def drawn(sizes: Sizes, number: int, dtype: str, device: torch.device) -> FaceDescriptions:
    """Return random descriptions on the device, maps held in a dtype, written batch by batch as a network's are."""
    generator = torch.Generator(device).manual_seed(0)

    def describe(images: torch.Tensor) -> Description:
        count, channels = len(images), sizes.shape[0]
        embedding = F.normalize(torch.randn(count, channels, generator=generator, device=device))
        maps = F.normalize(torch.randn(count, *sizes.shape, generator=generator, device=device), dim=1)
        seen = torch.rand(count, 1, *sizes.shape[1:], generator=generator, device=device)
        return Description(embedding, embedding.new_ones(count, 1), maps, seen)

    shown = torch.zeros(number, 3, 2, 2, device=device).split(sizes.batch)
    return describe_batches(describe, shown, number, map_dtype=MAP_DTYPES[dtype])


@torch.inference_mode()
def time_store(sizes: Sizes, dtype: str, device: torch.device) -> Figures:
    """Measure the memory that maps are held in, beside their bytes, and the scores of all pairs in blocks."""
    before = peak_mib(device, reset=True)
    faces = drawn(sizes, sizes.held, dtype, device)
    figures: Figures = {"built_mib": peak_mib(device) - before, "held_mib": held_bytes(faces) / MIB}
    matcher = QAConv(*sizes.shape, "scaling").eval().to(device)
    score = partial(score_all_pairs, faces, matcher)
    score()
    figures |= cost("all_pairs", score, device)
    figures["pairs_per_second"] = 1e3 * sizes.held * (sizes.held - 1) / 2 / figures["all_pairs_ms"]
    return figures


@torch.inference_mode()
def time_search(sizes: Sizes, device: torch.device) -> Figures:
    """Measure a search of one batch of probes among many embeddings."""
    generator = torch.Generator(device).manual_seed(0)
    gallery, probe = (
        FaceDescriptions(F.normalize(torch.randn(count, DIM, generator=generator, device=device)), ())
        for count in (sizes.searched, sizes.batch)
    )
    look = partial(search, probe, gallery, 10)
    look()
    return cost("search", look, device)


def cases(on_gpu: bool) -> Cases:
    """Return the figures; on the CPU of few images."""
    sizes = Sizes() if on_gpu else REHEARSED
    checks: dict[str, Callable[[torch.device], Figures]] = {
        f"figure: validation, {'bf16' if half else 'float32'}": partial(time_describing, sizes, half)
        for half in (False, True)
    }
    checks |= {f"figure: maps held in {dtype}": partial(time_store, sizes, dtype) for dtype in MAP_DTYPES}
    checks["figure: search among embeddings"] = partial(time_search, sizes)
    return {name: Case(check, 45.0) for name, check in checks.items()}
