"""Gray tiles, uint8 [128, 128], that repeat without a seam: folds shade a surface, patterns mix its two colors."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = 128
Tile = NDArray[np.uint8]


def folds() -> Tile:
    """Return soft wrinkles about a mean of 128, stretched along one direction."""
    coarse = _noise(21, sigma=(9.0, 3.0))
    fine = _noise(22, sigma=(3.0, 1.4))
    return _to_tile(0.5 + 0.17 * coarse + 0.06 * fine)


def grain() -> Tile:
    """Return the fine mottle of skin or felt about a mean of 128."""
    return _to_tile(0.5 + 0.09 * _noise(23, sigma=(6.0, 6.0)) + 0.07 * _noise(24, sigma=(0.9, 0.9)))


def strands() -> Tile:
    """Return upright hair strands about a mean of 128."""
    return _to_tile(0.5 + 0.16 * _noise(25, sigma=(0.8, 24.0)) + 0.08 * _noise(26, sigma=(3.0, 40.0)))


def stripes() -> Tile:
    """Return broad stripes."""
    _, y = _grid()
    return _edges(np.sin(2 * np.pi * y / 16), 0.35)


def checks() -> Tile:
    """Return a gingham check: three tones where two sets of stripes cross."""
    x, y = _grid()
    return _to_tile(0.5 * (_step(np.sin(2 * np.pi * x / 16), 0.3) + _step(np.sin(2 * np.pi * y / 16), 0.3)))


def plaid() -> Tile:
    """Return a tartan of broad and narrow bands."""
    x, y = _grid()
    bands = [
        0.45 * _step(np.sin(2 * np.pi * v / 32), 0.2) + 0.3 * _step(np.sin(2 * np.pi * v / 32 + 2.2) - 0.86, 0.1)
        for v in (x, y)
    ]
    return _to_tile(bands[0] + 0.55 * bands[1])


def dots() -> Tile:
    """Return staggered polka dots."""
    x, y = _grid()
    return _edges(np.cos(2 * np.pi * x / 16) + np.cos(2 * np.pi * y / 16) - 0.9, 0.3)


def camouflage() -> Tile:
    """Return irregular blotches in four tones."""
    field = _noise(27, sigma=(7.0, 5.0)) + 0.5 * _noise(28, sigma=(3.0, 3.0))
    tones = np.digitize(field, [-0.7, 0.05, 0.75]) / 3.0
    return _to_tile(tones)


def flowers() -> Tile:
    """Return five-petalled flowers on a plain ground."""
    x, y = _grid()
    u, v = x % 32 - 16, (y + 16 * ((x // 32) % 2)) % 32 - 16
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    petals = 9.0 + 3.2 * np.cos(5 * angle) - radius
    center = 2.8 - radius
    return _to_tile(0.85 * _step(petals, 0.8) - 0.5 * _step(center, 0.6))


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float64)
    return x, y


def _noise(seed: int, sigma: tuple[float, float]) -> NDArray[np.float64]:
    """Return seamless smooth noise with mean 0 and standard deviation 1; `sigma` in pixels along x and y."""
    white = np.random.RandomState(seed).standard_normal((TILE, TILE))  # a frozen stream, unlike that of a Generator
    smooth = cv2.GaussianBlur(np.tile(white, (3, 3)), (0, 0), sigmaX=sigma[0], sigmaY=sigma[1])[
        TILE : 2 * TILE, TILE : 2 * TILE
    ]
    return (smooth - smooth.mean()) / smooth.std()


def _step(field: NDArray[np.float64], softness: float) -> NDArray[np.float64]:
    return np.clip(0.5 + field / (2 * softness), 0.0, 1.0)


def _edges(field: NDArray[np.float64], softness: float) -> Tile:
    return _to_tile(_step(field, softness))


def _to_tile(values: NDArray[np.float64]) -> Tile:
    return np.rint(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8)
