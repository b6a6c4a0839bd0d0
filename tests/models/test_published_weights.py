"""Weights of others on photographs of people: what they are published for, they do here."""

import cv2
import numpy as np
import pytest
import torch
from programs import ROOT
from sklearn.metrics import roc_auc_score

import models
import nets
from transforms import to_tensor

SHARED = ROOT.parent / "shared" / "data"
PEOPLE, IMAGES = 20, 5


@pytest.fixture(scope="module")
def faces():
    """Return aligned crops, uint8 [100, 112, 112, 3], of the first people of ORL."""
    detector = SHARED / "detectors" / "face_detection_yunet_2023mar.onnx"
    if not (SHARED / "orl_faces").is_dir() or not detector.exists():
        pytest.skip("the ORL faces are not on this machine")
    aligner, crops = models.aligner(str(detector)), []
    for person in range(1, PEOPLE + 1):
        for number in range(1, IMAGES + 1):
            image = cv2.imread(str(SHARED / "orl_faces" / f"s{person}" / f"{number}.pgm"))
            # The faces fill 92 x 112 pixels: with a margin they are found.
            image = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            crops.append(aligner.crop(cv2.copyMakeBorder(image, 60, 60, 60, 60, cv2.BORDER_REPLICATE)))
    return torch.from_numpy(np.stack(crops))


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in ("edgeface_xxs", "edgeface_xs") if arch in nets.MODELS])
def test_quantized_edgeface_tells_the_people_of_orl_apart(faces, arch):
    path = SHARED / "weights" / f"{arch}_q.pt"
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine")
    model = models.load(path, color_space="rgb")
    with torch.no_grad():
        embeddings = torch.cat([model.model(to_tensor(batch)).embedding for batch in faces.split(25)])
    people = torch.arange(PEOPLE).repeat_interleave(IMAGES)
    probes, gallery = torch.triu_indices(len(people), len(people), 1)
    scores = (embeddings[probes] * embeddings[gallery]).sum(1)
    assert roc_auc_score(people[probes] == people[gallery], scores) > 0.99
