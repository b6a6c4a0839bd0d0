"""Published detectors on real photographs; both are looked for beside the repository, never in it."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from programs import ROOT

import nets
from datasets.photos.aligned import align_face
from models import open_detector
from models.detectors.found import found_faces
from ops import boxes
from transforms import to_tensor

SHARED = ROOT.parent / "shared" / "data"
ORL = SHARED / "orl_faces"
FILES = {
    "featherface_eca_cbam": SHARED / "detectors" / "featherface_eca_cbam_final.pth",
    "featherface_v1": SHARED / "detectors" / "featherface_v1.pth",
    "retinaface_mnet025": SHARED / "detectors" / "retinaface_mobilenet025.pth",
}
NUM_PARAMETERS = {"featherface_eca_cbam": 476_345, "featherface_v1": 489_015, "retinaface_mnet025": 426_608}
YUNET = SHARED / "detectors" / "yunet_s_dynamic.onnx"
CLOSE = 0.08  # of points to YuNet's, in distances between the eyes, in the median
TIMES = 3  # enlarged: faces of 60 pixels become 180

pytestmark = pytest.mark.skipif(
    not (ORL.is_dir() and YUNET.is_file() and all(file.is_file() for file in FILES.values())),
    reason="the photographs of ORL, published detectors or YuNet's file are not here",
)


@cache
def photographs(num_people: int, num_images: int, times: int = TIMES) -> list[np.ndarray]:
    """Return photographs, uint8 [112 * times, 92 * times, 3] RGB, grey in truth."""
    names = [f"s{person + 1}/{number + 1}.pgm" for person in range(num_people) for number in range(num_images)]
    images = [cv2.imread(str(ORL / name)) for name in names]
    return [cv2.resize(image, None, fx=times, fy=times) for image in images]


@cache
def detector(file: Path):
    return open_detector(str(file))


def distances(points: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return how far five points are from others, in distances between the others' eyes."""
    return np.linalg.norm(points - expected, axis=1) / np.linalg.norm(expected[0] - expected[1])


def compare(file: Path, images: list[np.ndarray]) -> tuple[int, int, float]:
    """Return in how many images a face was found, how many boxes beyond that, and the median distance of points."""
    num, extra, apart = 0, 0, []
    for image in images:
        found, theirs = detector(file).detect(image), detector(YUNET).detect(image)
        num, extra = num + bool(found), extra + max(len(found) - 1, 0)
        if found and theirs:
            apart += list(distances(found[0].points, theirs[0].points))
    return num, extra, float(np.median(apart))


@pytest.mark.parametrize("name", FILES)
def test_published_weights_find_faces_where_yunet_finds_them(name: str) -> None:
    model = nets.load_detector(FILES[name])
    assert model.form == nets.DETECTORS[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[name]
    assert detector(FILES[name]).name.startswith(f"{name} (sha256 ")
    num, extra, distance = compare(FILES[name], photographs(10, 1))
    assert (num, extra) == (10, 0) and distance < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("times", [1, TIMES])
def test_published_weights_find_the_faces_of_a_hundred_photographs(name: str, times: int) -> None:
    num, extra, distance = compare(FILES[name], photographs(10, 10, times))
    assert num >= 98 and extra == 0 and distance < CLOSE


@torch.no_grad()
def test_on_sides_that_are_no_multiples_of_32_the_points_of_the_bare_network_are_shifted() -> None:
    """Why a detector fills images up: FeatherFace's pyramid shrinks maps of odd sides from another cell on."""
    model, apart = nets.load_detector(FILES["featherface_eca_cbam"]), []
    for image in photographs(10, 1):
        height, width = image.shape[:2]
        said = model(nets.detector_input(to_tensor(torch.from_numpy(image)[None])))
        (found,) = found_faces(said, boxes.priors(height, width), height, width, 0.5)
        apart.append(distances(found.points[0].numpy() - 0.5, detector(YUNET).detect(image)[0].points))
    assert np.median(apart) > 2 * CLOSE


@pytest.mark.parametrize("name", FILES)
def test_published_weights_align_photographs(name: str) -> None:
    images = [*photographs(10, 1, 1), *(np.rot90(image).copy() for image in photographs(3, 1))]
    aligned = [align_face(image, detector(FILES[name])) for image in images]
    assert {one.status for one in aligned} == {"aligned"}
    assert {one.look for one in aligned[:10]} == {"as is"}
    assert np.median([one.residual for one in aligned[:10]]) < 4
