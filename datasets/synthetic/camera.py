"""The camera of a synthetic face: head pose, projection, alignment to the five-point template, and the way back.

The face's surface is the paraboloid z = depth * (1 - 1.35 (x / width)^2 - 0.35 (y / 46)^2), which `unproject` inverts
in closed form.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.parameters import Nuisance, Outline
from transforms.landmarks import TEMPLATE

Array = NDArray[np.float64]
Curves = dict[str, Array]
Number = TypeVar("Number", float, Array)

SURFACE_X, SURFACE_Y = 1.35, 0.35 / 46.0**2
CAMERA_DISTANCE = 450.0


def surface_depth(outline: Outline, x: Number, y: Number) -> Number:
    """Return z of the face's surface at x and y."""
    return outline.depth * (1.0 - SURFACE_X * (x / outline.width) ** 2 - SURFACE_Y * y**2)


@dataclass(frozen=True)
class Camera:
    """A head pose and the similarity transform that aligns the posed face to the five-point template.

    With rotation R = Rx(pitch) Ry(yaw), a point p goes to similarity * (R p).xy / (1 - (R p).z / distance) + offset,
    the plane read as complex numbers.
    """

    rotation: Array
    similarity: complex
    offset: complex

    def project(self, points: Array) -> Array:
        """Return [n, 3] points of the head as [n, 2] positions in the crop."""
        turned = points @ self.rotation.T
        flat = (turned[:, 0] + 1j * turned[:, 1]) / (1.0 - turned[:, 2] / CAMERA_DISTANCE)
        placed = self.similarity * flat + self.offset
        return np.column_stack([placed.real, placed.imag])


def rotation_matrix(yaw: float, pitch: float) -> Array:
    """Return Rx(pitch) Ry(yaw) as [3, 3]; yaw > 0 turns the nose towards larger x, pitch > 0 towards larger y."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    return np.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]]) @ turn


def five_points(curves: Curves) -> Array:
    """Return eyes, tip of the nose and mouth corners of a face in its own coordinates, float64 [5, 3]."""
    mouth = curves["lip_line"]
    return np.stack([curves["eye-1"].mean(0), curves["eye+1"].mean(0), curves["nose_ridge"][-1], mouth[0], mouth[-1]])


def align_camera(curves: Curves, nuisance: Nuisance) -> Camera:
    """Return the camera whose five projected landmarks fit the template best, plus the image's own jitter.

    The least-squares similarity of the plane is one complex division (Umeyama 1991 without reflections).
    """
    camera = Camera(rotation_matrix(nuisance.yaw, nuisance.pitch), 1.0 + 0.0j, 0.0j)
    source = camera.project(five_points(curves)) @ [1.0, 1.0j]
    target = TEMPLATE.astype(np.float64) @ [1.0, 1.0j]
    centered = source - source.mean()
    similarity = np.vdot(centered, target - target.mean()) / np.vdot(centered, centered).real
    jitter = nuisance.scale * np.exp(1j * nuisance.rotation)
    offset = target.mean() - jitter * similarity * source.mean() + complex(*nuisance.shift)
    return Camera(camera.rotation, complex(jitter * similarity), complex(offset))


def project_curves(camera: Camera, curves: Curves) -> Curves:
    """Return every curve as [n, 2] positions in the crop, projected in one go."""
    sizes = np.cumsum([len(points) for points in curves.values()])[:-1]
    flat = camera.project(np.concatenate(list(curves.values())))
    return dict(zip(curves, np.split(flat, sizes), strict=True))


def unproject(camera: Camera, outline: Outline, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the face coordinates x and y, each float32 [size, size], that every pixel of the crop sees.

    Exact for the paraboloid without perspective, up to two alternations between x (a quadratic, whose smaller root is
    the visible one) and y; pixels beside the silhouette get the silhouette's coordinates.
    """
    grid = np.arange(size, dtype=np.float32)
    inverse = 1.0 / camera.similarity
    flat = (grid[None, :] + np.complex64(1j) * grid[:, None] - np.complex64(camera.offset)) * np.complex64(inverse)
    across, down = flat.real.copy(), flat.imag.copy()
    cy, sy = camera.rotation[0, 0], camera.rotation[0, 2]
    cp, sp = camera.rotation[1, 1], camera.rotation[2, 1]
    depth, bend = outline.depth, outline.depth * SURFACE_X / outline.width**2
    y = down / np.float32(cp)
    x = across
    for _ in range(2):
        ridge = np.float32(depth) * (1.0 - np.float32(SURFACE_Y) * y**2)
        rest = across - np.float32(sy) * ridge
        root = np.sqrt(np.maximum(np.float32(cy**2) - np.float32(4.0 * sy * bend) * rest, 1e-3))
        x = 2.0 * rest / (np.float32(cy) + root)
        z = ridge - np.float32(bend) * x**2
        behind = np.float32(cy) * z - np.float32(sy) * x
        y = (down + np.float32(sp) * behind) / np.float32(cp)
    return x.astype(np.float32), y.astype(np.float32)
