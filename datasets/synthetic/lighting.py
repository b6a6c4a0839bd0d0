"""How light falls on a synthetic face: its surface, the skin's own relief, and the planes of the nose."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.camera import SURFACE_X, SURFACE_Y, Camera, unproject
from datasets.synthetic.parameters import FaceIdentity, Nuisance
from transforms.landmarks import IMAGE_SIZE

Floats = NDArray[np.float32]
Vector = NDArray[np.float64]


def _smooth_noise(rng: np.random.Generator, cells: int) -> Floats:
    """Return noise of unit size at `cells` x `cells` points, float32 [112, 112] between them."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC).astype(np.float32)


@lru_cache(maxsize=128)
def _texture(seed: int, relief: float, freckles: float) -> Floats:
    """Return the skin over face coordinates -56..56 as float32 [112, 112, 3]: slope in x, slope in y, albedo (mean 1).

    The relief is smooth noise of two wavelengths; it is what makes cheeks, forehead and chin one person's own.
    """
    rng = np.random.default_rng(seed)
    height = 2.4 * _smooth_noise(rng, 7) + 0.9 * _smooth_noise(rng, 13)
    slope_x, slope_y = cv2.Sobel(height, cv2.CV_32F, 1, 0) / 8.0, cv2.Sobel(height, cv2.CV_32F, 0, 1) / 8.0
    albedo = 1.0 + 0.05 * _smooth_noise(rng, 11)
    if freckles > 0.0:
        spots = (rng.random((112, 112)) < 0.02 * freckles).astype(np.float32)
        albedo -= 0.9 * freckles * cv2.GaussianBlur(spots, (3, 3), 0.7)
    return np.stack([relief * slope_x, relief * slope_y, albedo], axis=-1).astype(np.float32)


def lit_skin(camera: Camera, face: FaceIdentity, nuisance: Nuisance, light: Vector, size: int) -> Floats:
    """Return the skin's brightness, float32 [size, size]: Lambert's law on the surface and its relief, times albedo."""
    x, y = unproject(camera, face.outline, size)
    texture = cv2.remap(
        _texture(face.texture_seed, face.colors.relief, face.colors.freckles),
        x + 56.0,
        y + 56.0,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    slope_x = texture[..., 0] - np.float32(2.0 * face.outline.depth * SURFACE_X / face.outline.width**2) * x
    slope_y = texture[..., 1] - np.float32(2.0 * face.outline.depth * SURFACE_Y) * y
    lx, ly, lz = (camera.rotation.T @ light).astype(np.float32)
    lambert = np.maximum(lz - lx * slope_x - ly * slope_y, 0.0) / np.sqrt(1.0 + slope_x**2 + slope_y**2)
    ambient = np.float32(nuisance.ambient)
    return (ambient + (1.2 - ambient) * lambert) * texture[..., 2]


def light_direction(nuisance: Nuisance) -> Vector:
    """Return the unit vector towards the light, in the camera's axes."""
    vector = np.array([nuisance.light_x, nuisance.light_y, 0.75])
    return vector / np.linalg.norm(vector)


def plane_shade(normal: tuple[float, float, float], camera: Camera, light: Vector) -> float:
    """Return how bright a plane of the nose is against the face's front, as a shade (128 = equal)."""
    turned = camera.rotation @ (np.array(normal) / np.linalg.norm(normal))
    front = camera.rotation @ np.array([0.0, 0.0, 1.0])
    return float(np.clip(128.0 * (0.45 + turned @ light) / (0.45 + max(0.05, front @ light)), 60.0, 190.0))
