"""Low-resolution images made of aligned faces: what distance, lens, sensor and compression leave of them.

A degradation is drawn from a generator alone: the same state gives the same bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from transforms.landmarks import IMAGE_SIZE
from transforms.view import Image, check_image

SIDES: Final = (8, 64)
LEAST_SIDE: Final = 4
METHODS: Final = {"area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}


class Degraded(NamedTuple):
    """What a degradation makes of a face.

    Attributes:
        image: uint8 RGB, [s, s, 3] as `shrink` returns it, [112, 112, 3] enlarged.
        side: pixels of the smallest image that it went through, <= s: nothing finer is left. See `difficulty`.
    """

    image: Image
    side: int


@dataclass(frozen=True)
class Degradation(ABC):
    """Makes low-resolution images of aligned faces.

    Attributes:
        sides: least and greatest side s in pixels, drawn log-uniformly; two equal numbers fix it.
    Raises:
        ValueError: if sides are not 4 <= least <= greatest <= 112.
    """

    sides: tuple[int, int] = SIDES

    def __post_init__(self) -> None:
        low, high = self.sides
        if not LEAST_SIDE <= low <= high <= IMAGE_SIZE:
            raise ValueError(
                f"Degradation: sides must be {LEAST_SIDE} <= least <= greatest <= {IMAGE_SIZE}, got {low} and {high}"
            )

    def __call__(self, image: Image, rng: np.random.Generator) -> Degraded:
        """Return `image` uint8 [112, 112, 3] RGB at a low resolution, enlarged again bicubically to its size.

        Raises:
            TypeError: if the image is not uint8. ValueError: if it has another shape.
        """
        small, side = self.shrink(image, rng)
        return Degraded(resized(small, IMAGE_SIZE), side)

    def shrink(self, image: Image, rng: np.random.Generator) -> Degraded:
        """Return the low-resolution image itself, [s, s, 3]; arguments and errors as above."""
        check_image(image, type(self).__name__)
        low, high = self.sides
        side = round(math.exp(rng.uniform(math.log(low), math.log(high))))
        return self._shrink(image, side, rng)

    @abstractmethod
    def _shrink(self, image: Image, side: int, rng: np.random.Generator) -> Degraded:
        """Return `image`, which is not changed, as [side, side, 3]."""


@dataclass(frozen=True)
class FirstOrder(Degradation):
    """Gaussian blur, shrinking, Gaussian noise, JPEG: each at most once, in this order.

    Bicubic shrinking is OpenCV's, without a filter before it: it aliases, as in Real-ESRGAN's training. Draws: side,
    sigma of the blur, method, sigma of the noise, the noise, whether JPEG, its quality; what a range of (0, 0) or a
    probability of 0 switches off is not drawn.

    Attributes:
        blur: least and greatest sigma, pixels of 112.
        methods: keys of METHODS, each equally likely.
        noise: least and greatest sigma, gray levels of 255; each channel has noise of its own.
        jpeg_prob: share of the images that are compressed.
        jpeg_quality: least and greatest quality, both included.
    Raises:
        ValueError: if a range is none, a probability is outside [0, 1], or a method is unknown or there is none.
    """

    blur: tuple[float, float] = (0.2, 2.0)
    methods: tuple[str, ...] = tuple(METHODS)
    noise: tuple[float, float] = (0.0, 10.0)
    jpeg_prob: float = 0.5
    jpeg_quality: tuple[int, int] = (40, 95)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (("blur", 0, IMAGE_SIZE), ("noise", 0, 255), ("jpeg_quality", 1, 100)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"FirstOrder: {name} must be {least} <= low <= high <= {most}, got {low} and {high}")
        if not self.methods or not set(self.methods) <= METHODS.keys():
            raise ValueError(f"FirstOrder: methods must be some of {', '.join(METHODS)}, got {self.methods}")
        check_share(self.jpeg_prob, "FirstOrder: jpeg_prob")

    def _shrink(self, image: Image, side: int, rng: np.random.Generator) -> Degraded:
        if self.blur[1]:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(*self.blur)), np.uint8)
        method = METHODS[self.methods[int(rng.integers(len(self.methods)))]]
        pixels = np.asarray(cv2.resize(image, (side, side), interpolation=method), np.uint8)
        if self.noise[1]:
            pixels = with_gaussian_noise(pixels, rng.uniform(*self.noise), rng)
        if self.jpeg_prob and rng.random() < self.jpeg_prob:
            pixels = compressed(pixels, self.jpeg_quality, rng)
        return Degraded(pixels, side)


def shrinking_alone(side: int) -> FirstOrder:
    """Return a degradation without chance: area averages down to `side`, as published low-resolution tests have it."""
    return FirstOrder((side, side), blur=(0.0, 0.0), methods=("area",), noise=(0.0, 0.0), jpeg_prob=0.0)


def difficulty(side: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """Return log2(112 / side): how many times the resolution of an image was halved; 0 at 112 pixels."""
    return np.log2(IMAGE_SIZE / np.asarray(side, np.float64))


def resized(image: Image, side: int) -> Image:
    """Return an image [h, w, 3] as [side, side, 3]: bicubic where it grows, else by area averages."""
    if image.shape[:2] == (side, side):
        return image
    method = cv2.INTER_AREA if min(image.shape[:2]) >= side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side, side), interpolation=method), np.uint8)


def with_gaussian_noise(image: Image, sigma: float, rng: np.random.Generator, channels: int = 3) -> Image:
    """Return `image` with noise of `sigma` gray levels, one for each channel or, with channels=1, one for all."""
    noise = rng.standard_normal((*image.shape[:2], channels), np.float32)
    return rounded(image + np.float32(sigma) * noise)


def compressed(image: Image, quality: tuple[int, int], rng: np.random.Generator) -> Image:
    """Return an RGB image after JPEG of a quality between two, both included."""
    options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(quality[0], quality[1] + 1))]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)


def check_share(value: float, name: str) -> None:
    """Raise ValueError unless a probability is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}: a share of the images")


def rounded(pixels: NDArray[np.floating]) -> Image:
    """Return the nearest gray levels."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
