"""EdgeFace with published weights on real photographs; both are looked for beside the repository, never in it."""

from functools import cache

import cv2
import numpy as np
import pytest
import torch
from programs import ROOT
from torch import Tensor, nn

import nets
from models import align_photograph, open_detector
from transforms import to_tensor

SHARED = ROOT.parent / "shared" / "data"
ORL = SHARED / "orl_faces"
WEIGHTS = SHARED / "weights" / "edgeface_xxs_q.pt"
YUNET = SHARED / "detectors" / "yunet_s_dynamic.onnx"
NUM_PEOPLE, NUM_IMAGES = 40, 4
PACKED = "._packed_params._packed_params"  # of a dynamically quantized linear layer: (weight, bias)

pytestmark = pytest.mark.skipif(
    not (ORL.is_dir() and WEIGHTS.is_file() and YUNET.is_file()),
    reason="the photographs of ORL, published weights or YuNet's file are not here",
)


def load_by_hand(model: nn.Module) -> None:
    """Load the file with the formula of its quantization, int8 values minus zero point, times scale."""
    state: dict[str, Tensor] = {}
    for key, value in torch.load(WEIGHTS, weights_only=True).items():
        name = key.removeprefix("model.")
        if name.endswith(PACKED):
            weight, bias = value
            name = name.removesuffix(PACKED)
            state[f"{name}.weight"] = (weight.int_repr().float() - weight.q_zero_point()) * weight.q_scale()
            state[f"{name}.bias"] = bias.detach()
        elif isinstance(value, Tensor) and not name.endswith((".scale", ".zero_point")):
            state[name] = value
    model.load_state_dict(state, strict=True)


def load_as_users_do(model: nn.Module) -> None:
    nets.load_weights(model, WEIGHTS, "rgb")


LOADERS = [load_by_hand, load_as_users_do]


@cache
def faces() -> Tensor:
    """Return aligned crops of every person, uint8 [NUM_PEOPLE * NUM_IMAGES, 112, 112, 3], person by person."""
    detector = open_detector(str(YUNET))
    paths = [
        ORL / f"s{person + 1}" / f"{number + 1}.pgm" for person in range(NUM_PEOPLE) for number in range(NUM_IMAGES)
    ]
    crops = [align_photograph(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), detector).crop for path in paths]
    return torch.from_numpy(np.stack(crops))


@pytest.mark.filterwarnings("ignore")  # torch announces the end of its quantized tensors
@pytest.mark.parametrize("load", LOADERS)
def test_published_weights_tell_real_people_apart(load) -> None:
    model = nets.build_model("edgeface_xxs").eval()
    load(model)
    with torch.no_grad():
        features = [model(images) for images in to_tensor(faces()).split(40)]
    embeddings = torch.cat([each.embedding for each in features])
    people = torch.arange(len(embeddings)) // NUM_IMAGES
    first, second = torch.triu_indices(len(people), len(people), 1)
    scores, same = (embeddings @ embeddings.T)[first, second], people[first] == people[second]
    impostors = scores[~same].sort().values
    below = torch.searchsorted(impostors, scores[same]).double().mean() / len(impostors)
    assert below >= 0.999  # the area under the curve; 0.99999 of all 400 photographs
    # Published norms: what AdaFace's statistics, 20 and 100, are far from.
    norms = torch.cat([each.norm for each in features])
    assert 1.7 < norms.mean() < 2.0 and norms.std() < 0.2
