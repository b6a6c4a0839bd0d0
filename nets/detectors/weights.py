"""Reads a detector from a file: what it is made of is read off its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..files.fit import COUNTER, check_values, differences_of, listed, shapes
from ..files.weight_file import read_state_dict
from .detector import Detector, DetectorForm

FIRST = "body.stage1.0.0.weight"
PROFILER = ("total_ops", "total_params")  # what thop leaves in a model that it counted
# Which kind a key tells.
CONVOLUTIONS = {"ssh1.conv3X3.0.regular_conv.weight": "deformable", "ssh1.conv3X3.3.weight": "depthwise"}
ATTENTIONS = {
    "bacbkbone_0_cbam.SpatialGate.spatial.conv.weight": "cbam",
    "backbone_attention_0.sam.conv.weight": "eca_cbam",
}
MIXINGS = {"ssh1_cs.1.weight": "bottleneck"}
MAX_CELLS = 8  # as many as the largest EfficientDet has


def load_detector(path: str | Path) -> Detector:
    """Return the detector in a file, in eval mode, of whatever form it is: width, pyramid, attention, convolutions.

    Every tensor under the detector's prefix (`module.`, a training's, or none) goes into the network and every tensor
    of the network comes from the file; the counters `num_batches_tracked` may be missing, a profiler's are left out.
    Min sizes and steps of the priors are not in public files.

    Args:
        path: a RetinaFace or FeatherFace .pth, or a checkpoint of ours; see `read_state_dict`.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names the file, if it is damaged, holds no detector or several, or weights that fit
            none or are no numbers, or states that it expects RGB.
    """
    file = read_state_dict(path)
    if file.color_space == "rgb":
        raise ValueError(f"{path}: states color_space 'rgb', but detectors expect BGR; is it a recognizer?")
    state = detector_state(file.state_dict, file.path)
    form = form_of(state)
    try:
        with torch.device("meta"):
            expected = shapes(Detector(form).state_dict())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if differences := listed(differences_of(expected, state)):
        raise ValueError(f"{path}: looks like a detector of {form}, but of its tensors: {differences}")
    model = Detector(form)
    own = model.state_dict()
    check_values(own, state, file.path)
    model.load_state_dict({key: value for key, value in own.items() if key.endswith(COUNTER)} | state)
    return model.eval()


def detector_state(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors under the one prefix that a detector's keys have, without it and without a profiler's.

    Raises:
        ValueError: one line that names the file, if there is no detector or several.
    """
    prefixes = [key.removesuffix(FIRST) for key in tensors if key == FIRST or key.endswith(f".{FIRST}")]
    if len(prefixes) != 1:
        found = f"{len(prefixes)} detectors: {', '.join(f'{each[:80]}*' for each in prefixes[:3])}"
        first = ", ".join(key[:80] for key in list(tensors)[:3])
        none = f"no detector: none of {len(tensors)} keys is or ends with {FIRST}; first: {first}"
        raise ValueError(f"{path}: holds {found if prefixes else none}")
    own = {key.removeprefix(prefixes[0]): key for key in tensors if key.startswith(prefixes[0])}
    return {name: tensors[key] for name, key in own.items() if name.rpartition(".")[2] not in PROFILER}


def form_of(state: Mapping[str, Tensor]) -> DetectorForm:
    """Return the form that a few keys tell; whether all others agree is for the caller to see."""
    head = state.get("BboxHead.0.conv1x1.weight")
    convolutions = _told(state, CONVOLUTIONS) or "plain"
    return DetectorForm(
        width=head.shape[1] if head is not None and head.ndim == 4 else 64,
        cells=sum(f"bifpn.{cell}.p4_w1" in state for cell in range(MAX_CELLS)),
        attention=_told(state, ATTENTIONS),
        convolutions=convolutions,
        mixing=_told(state, MIXINGS) or ("shuffle" if convolutions == "deformable" else None),
        has_second_laterals="bifpn.0.p4_down_channel_2.0.conv.weight" in state,
    )


def _told(state: Mapping[str, Tensor], tells: Mapping[str, str]) -> str | None:
    return next((name for key, name in tells.items() if key in state), None)
