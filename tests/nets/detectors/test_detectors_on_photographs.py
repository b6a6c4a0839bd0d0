"""Published detectors on real photographs; both are looked for beside the repository, never in it."""

from functools import cache

import cv2
import numpy as np
import pytest
import torch
from programs import ROOT

import nets
from models import open_detector
from ops import boxes

SHARED = ROOT.parent / "shared" / "data"
ORL = SHARED / "orl_faces"
FILES = {
    "featherface_eca_cbam": "featherface_eca_cbam_final.pth",
    "featherface_v1": "featherface_v1.pth",
    "retinaface_mnet025": "retinaface_mobilenet025.pth",
}
NUM_PARAMETERS = {"featherface_eca_cbam": 476_345, "featherface_v1": 489_015, "retinaface_mnet025": 426_608}
YUNET = SHARED / "detectors" / "yunet_s_dynamic.onnx"
# Of the points to YuNet's, in distances between the eyes; those of the file with ECA-CBAM are the loosest at this size.
CLOSE = {"featherface_eca_cbam": 0.21, "featherface_v1": 0.12, "retinaface_mnet025": 0.12}
TIMES = 3  # enlarged: faces of 60 pixels become 180

pytestmark = pytest.mark.skipif(
    not (ORL.is_dir() and YUNET.is_file() and all((SHARED / "detectors" / file).is_file() for file in FILES.values())),
    reason="the photographs of ORL, published detectors or YuNet's file are not here",
)


@cache
def photographs(num_people: int, num_images: int) -> list[np.ndarray]:
    """Return photographs, uint8 [336, 276, 3] RGB, grey in truth."""
    names = [f"s{person + 1}/{number + 1}.pgm" for person in range(num_people) for number in range(num_images)]
    images = [cv2.imread(str(ORL / name)) for name in names]
    return [cv2.resize(image, None, fx=TIMES, fy=TIMES) for image in images]


@torch.no_grad()
def detect(model: nets.Detector, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return boxes [N, 4], scores [N] and points [N, 5, 2] in pixels, as the public code's defaults find them."""
    height, width = image.shape[:2]
    unit = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    found, priors = model(nets.detector_input(unit)), boxes.priors(height, width)
    sides = torch.tensor([width, height])
    scores = found.conf[0, :, 1]
    likely = scores > 0.5
    at = boxes.decode(found.loc[0], priors)[likely] * sides.repeat(2)
    points = boxes.decode_landmarks(found.landmarks[0], priors)[likely].unflatten(1, (5, 2)) * sides
    kept = boxes.nms(at, scores[likely], 0.4)
    return at[kept], scores[likely][kept], points[kept]


def compare(model: nets.Detector, images: list[np.ndarray]) -> tuple[int, int, float]:
    """Return in how many images a face was found, how many boxes beyond that, and the median distance of points."""
    yunet = open_detector(str(YUNET))
    num, extra, distances = 0, 0, []
    for image in images:
        _, scores, points = detect(model, image)
        num, extra = num + bool(len(scores)), extra + max(len(scores) - 1, 0)
        theirs = yunet.detect(image)
        if len(scores) and theirs:
            expected = np.asarray(max(theirs, key=lambda face: face.score).points)
            eyes = np.linalg.norm(expected[0] - expected[1])
            distances += list(np.linalg.norm(points[0].numpy() - expected, axis=1) / eyes)
    return num, extra, float(np.median(distances))


@pytest.mark.parametrize("name", FILES)
def test_published_weights_find_faces_where_yunet_finds_them(name: str) -> None:
    model = nets.load_detector(SHARED / "detectors" / FILES[name])
    assert model.form == nets.DETECTORS[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[name]
    num, extra, distance = compare(model, photographs(10, 1))
    assert (num, extra) == (10, 0) and distance < CLOSE[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_published_weights_find_the_faces_of_a_hundred_photographs(name: str) -> None:
    model = nets.load_detector(SHARED / "detectors" / FILES[name])
    num, extra, distance = compare(model, photographs(10, 10))
    assert num >= 98 and extra == 0 and distance < CLOSE[name]
