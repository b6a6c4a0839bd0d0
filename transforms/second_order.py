"""Degradations of the second order: blur, resizing, noise and JPEG, all of it twice, and the ringing of a low-pass.

Reference: Wang, Xie, Dong, Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021, arXiv:2107.10833, Sec. 3; ranges as its authors trained with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from transforms.degradation import (
    LEAST_SIDE,
    Degradation,
    Degraded,
    check_share,
    compressed,
    resized,
    rounded,
    with_gaussian_noise,
)
from transforms.landmarks import IMAGE_SIZE
from transforms.view import Image

Kernel = NDArray[np.float64]

_METHODS: Final = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
# (shape, whether it is round): probability
_KERNELS: Final = {
    ("gaussian", True): 0.45,
    ("gaussian", False): 0.25,
    ("generalized", True): 0.12,
    ("generalized", False): 0.03,
    ("plateau", True): 0.12,
    ("plateau", False): 0.03,
}
_POWERS: Final = {"gaussian": (1.0, 1.0), "generalized": (0.5, 4.0), "plateau": (1.0, 2.0)}
_SINC_PROB, _FINAL_SINC_PROB, _GRAY_PROB, _GAUSSIAN_PROB = 0.1, 0.8, 0.4, 0.5
_JPEG_QUALITY: Final = (30, 95)


class _Round(NamedTuple):
    """One round: probability of a blur and its sigmas; of growing, shrinking, staying, and by what; noises."""

    blur_prob: float
    sigmas: tuple[float, float]
    resize_probs: tuple[float, float, float]
    scales: tuple[float, float]
    gaussian: tuple[float, float]
    poisson: tuple[float, float]


_FIRST: Final = _Round(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0))
_SECOND: Final = _Round(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5))


@dataclass(frozen=True)
class SecondOrder(Degradation):
    """Two rounds of blur, resizing, noise and JPEG; in the last round the low-pass and JPEG come in either order.

    Sizes of the first round are relative to 112, of the second to the side that is drawn. Every step rounds and clips.

    Attributes:
        noise_prob, jpeg_prob: of each noise and each compression.
    Raises:
        ValueError: if one of them is outside [0, 1].
    """

    noise_prob: float = 1.0
    jpeg_prob: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.noise_prob, "SecondOrder: noise_prob")
        check_share(self.jpeg_prob, "SecondOrder: jpeg_prob")

    def _shrink(self, image: Image, side: int, rng: np.random.Generator) -> Degraded:
        first = self._round(image, _FIRST, IMAGE_SIZE, rng)
        pixels = self._round(self._compress(first, rng), _SECOND, side, rng)
        least = min(len(first), len(pixels), side)
        filters_first = rng.random() < 0.5
        for filters in (filters_first, not filters_first):
            pixels = _low_passed(pixels, side, rng) if filters else self._compress(pixels, rng)
        return Degraded(pixels, least)

    def _round(self, pixels: Image, spec: _Round, base: int, rng: np.random.Generator) -> Image:
        if rng.random() < spec.blur_prob:
            pixels = _filtered(pixels, draw_kernel(spec.sigmas, rng))
        low, high = spec.scales
        scale = (rng.uniform(1, high), rng.uniform(low, 1), 1.0)[int(rng.choice(3, p=spec.resize_probs))]
        side = max(LEAST_SIDE, round(base * scale))
        method = _METHODS[int(rng.integers(len(_METHODS)))]
        pixels = np.asarray(cv2.resize(pixels, (side, side), interpolation=method), np.uint8)
        return _noisy(pixels, spec, rng) if rng.random() < self.noise_prob else pixels

    def _compress(self, pixels: Image, rng: np.random.Generator) -> Image:
        return compressed(pixels, _JPEG_QUALITY, rng) if rng.random() < self.jpeg_prob else pixels


def draw_kernel(sigmas: tuple[float, float], rng: np.random.Generator) -> Kernel:
    """Return a blur kernel [k, k] that sums to 1, k odd in 7 .. 21: Gaussian, generalized, plateau or a low-pass.

    With q = x^T S^-1 x and a power b: exp(-q^b / 2), or 1 / (1 + q^b) for a plateau; S has sigmas between two along
    its axes and any direction.
    """
    size = _draw_size(rng)
    if rng.random() < _SINC_PROB:
        return sinc_kernel(size, rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi))
    shape, is_round = list(_KERNELS)[int(rng.choice(len(_KERNELS), p=list(_KERNELS.values())))]
    along = rng.uniform(*sigmas)
    across = along if is_round else rng.uniform(*sigmas)
    angle = rng.uniform(-math.pi, math.pi)
    low, high = _POWERS[shape]
    power = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
    x, y = _grid(size)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    powered = ((u / along) ** 2 + (v / across) ** 2) ** power
    kernel = 1 / (1 + powered) if shape == "plateau" else np.exp(-powered / 2)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> Kernel:
    """Return the ideal circular low-pass [size, size], cut off and normalized to the sum 1.

    w J1(w r) / (2 pi r) at a distance r from the middle, w^2 / (4 pi) in it, for a cutoff w in (0, pi] (Eq. 6).
    """
    radius = np.hypot(*_grid(size))
    waves = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    kernel = np.full(radius.shape, cutoff**2 / (4 * math.pi))
    np.divide(cutoff * waves, 2 * math.pi * radius, out=kernel, where=radius > 0)
    return kernel / kernel.sum()


def _draw_size(rng: np.random.Generator) -> int:
    return 2 * int(rng.integers(3, 11)) + 1


def _grid(size: int) -> tuple[Kernel, Kernel]:
    axis = np.arange(size, dtype=np.float64) - size // 2
    return axis[None, :], axis[:, None]


def _filtered(pixels: Image, kernel: Kernel) -> Image:
    return np.asarray(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def _low_passed(pixels: Image, side: int, rng: np.random.Generator) -> Image:
    """Return the image in its final size, with the overshoot of sharpening filters in most cases."""
    pixels = resized(pixels, side)
    if rng.random() >= _FINAL_SINC_PROB:
        return pixels
    return _filtered(pixels, sinc_kernel(_draw_size(rng), rng.uniform(math.pi / 3, math.pi)))


def _noisy(pixels: Image, spec: _Round, rng: np.random.Generator) -> Image:
    """Return the image with Gaussian noise or that of counted light, of each channel or of the luminance alone."""
    is_gray = rng.random() < _GRAY_PROB
    if rng.random() < _GAUSSIAN_PROB:
        return with_gaussian_noise(pixels, rng.uniform(*spec.gaussian), rng, channels=1 if is_gray else 3)
    source = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None] if is_gray else pixels
    light = source / 255
    # As many levels as the image has, rounded up to a power of two: the fewer, the stronger the noise.
    levels = 2.0 ** math.ceil(math.log2(max(2, int(np.count_nonzero(np.bincount(source.ravel()))))))
    noise = rng.poisson(light * levels) / levels - light
    return rounded(pixels + 255 * rng.uniform(*spec.poisson) * noise)
