"""A FaceModel from a file: a checkpoint of a run, or backbone weights from elsewhere. Nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nets
from evaluation import FusionStatistics, ScoreNormalization
from models.alignment import Alignment
from models.checkpoint_rules import ENTRIES, LATER_ENTRIES, options_rule, state_rules
from models.face_model import FaceModel, merge_adapters
from models.quantization import stored
from ops import at_least, damage, first_fault, foreign_tensor
from options.model import NetworkOptions

OWN_KEYS = ("state_dict", "hyper_parameters", "color_space", "fusion_statistics")
HYPER_PARAMETERS = ("config", "num_classes")
_PARTS = ("model.", "occlusion_head.", "matcher.", "modulator.")
_OF_CLASSES = "matcher.class_embeddings."


class DamagedCheckpointError(ValueError):
    """A checkpoint file is not what was written, or never was one."""


def load(
    path: str | Path,
    arch: str | None = None,
    color_space: str | None = None,
    encoder: str | None = None,
    quality: float | None = None,
) -> FaceModel:
    """Build a model from a checkpoint of ours, from one quantized, or from foreign weights, in eval mode, on the CPU.

    A checkpoint of ours brings backbone, matcher, occlusion head, modulator and what scores mean; where a run averaged
    its weights, the averages. Foreign weights bring the backbone alone. Class weights and class embeddings are left.
    Adapters are merged into the weights, unless they are mixed by the quality of each image. A file of
    `models.save_quantized` brings what it was made of.

    Args:
        path: checkpoint file, see `nets.read_state_dict`.
        arch: architecture; needed only when the file fits none or several. A wrong one is refused.
        color_space: "rgb" or "bgr", required when the file does not state it. The model expects RGB in any case.
        encoder: "query" or "key", of a pretraining's checkpoint; None: its query encoder.
        quality: in [0, 1], see `nets.image_quality`: what adapters that are mixed by it are merged at; None: they stay,
            and each image is described at its own.
    Raises:
        FileNotFoundError, ValueError: one line that names the file and what does not fit.
    """
    if encoder not in (None, *nets.ENCODERS):
        raise ValueError(f"load: encoder must be one of {', '.join(nets.ENCODERS)}, got {encoder!r}")
    path = Path(path)
    nets.check_is_file(path, "checkpoint")
    weights = nets.read_state_dict(path)
    if encoder is not None and not weights.is_pretrained:
        raise ValueError(
            f"{path}: has one encoder, and --encoder {encoder} chooses of the two in a checkpoint of a pretraining; "
            "leave it out"
        )
    if stored.KEY in weights.metadata:
        return _quantized(path, arch, color_space).eval()
    if weights.is_own:
        model = _own(path, arch, color_space)
    else:
        model = _foreign(path, weights.state_dict, arch, color_space, encoder or nets.ENCODERS[0])
    if weights.is_pretrained:
        model.encoder = encoder or nets.ENCODERS[0]
    with errors_name(path):
        merge_adapters(model.model, quality)
    return model.eval()


def read_content(path: Path) -> object:
    """Return what a whole checkpoint file holds, tensors on the CPU; see `nets.read_content`.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedCheckpointError: if it cannot be read or its checksum is wrong.
    """
    nets.check_is_file(path, "checkpoint")
    try:
        fault = damage(path)
        content = nets.read_content(path, "checkpoint")
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(str(error)) from error
    if fault is not None:
        raise DamagedCheckpointError(f"{path}: damaged or not a checkpoint ({fault})")
    return content


def check_own(path: Path, checkpoint: object) -> dict[str, Any]:
    """Return what a file holds if it is a checkpoint of ours: its options are primitives, its weights unchecked.

    Raises:
        ValueError: if it was not written by a run of ours; one line with the file and the place in it.
    """
    missing = _missing_keys(checkpoint)
    if missing or not isinstance(checkpoint, dict):
        raise ValueError(
            f"{path}: not a checkpoint of a maskwise run ({', '.join(missing)} missing); load foreign weights by "
            "--start_from_model_statedict"
        )
    fault = foreign_tensor(checkpoint) or first_fault(
        options_rule(), checkpoint["hyper_parameters"], "hyper_parameters"
    )
    if fault is not None:
        raise ValueError(f"{path}: {fault}")
    return checkpoint


def refuse_contradiction(path: Path, checkpoint: Mapping[str, Any], arch: str | None, color_space: str | None) -> None:
    """Refuse what a caller says of a checkpoint of ours that says otherwise.

    Raises:
        ValueError: one line that names the file.
    """
    saved_arch = checkpoint["hyper_parameters"]["config"].get("arch")
    if arch not in (None, saved_arch):
        raise ValueError(f"{path}: holds {saved_arch}, but --arch says {arch}")
    if color_space not in (None, checkpoint["color_space"]):
        raise ValueError(f"{path}: expects {checkpoint['color_space']}, but --color_space says {color_space}")


def network_of(checkpoint: Mapping[str, Any]) -> tuple[NetworkOptions, int]:
    """Return the options of the networks in a checkpoint of ours, and how many data sets trained them.

    Raises:
        ValueError, TypeError: if there are no such options.
    """
    parameters = checkpoint["hyper_parameters"]
    names = {option.name for option in NetworkOptions.options()}
    options = {name: value for name, value in parameters["config"].items() if name in names}
    return NetworkOptions.from_dict(options), len(parameters["num_classes"])


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the content of a file into one line that names the file."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())[:300]}") from error


def _own(path: Path, arch: str | None, color_space: str | None) -> FaceModel:
    checkpoint = check_own(path, read_content(path))
    refuse_contradiction(path, checkpoint, arch, color_space)
    with errors_name(path):
        options, num_datasets = network_of(checkpoint)
        with torch.device("meta"):
            template = FaceModel(options, num_datasets=num_datasets)
    if not isinstance(checkpoint["state_dict"], dict):
        raise ValueError(f"{path}: state_dict: a dict expected")
    checkpoint["state_dict"] = state = {key: value for key, value in checkpoint["state_dict"].items() if is_part(key)}
    rules = {"state_dict": state_rules(template.state_dict()), **ENTRIES}
    # Runs of --check_mode hold float64: evaluation is in float32.
    if checkpoint["hyper_parameters"]["config"].get("check_mode"):
        rules["state_dict"] = state_rules(
            {k: v.double() if v.is_floating_point() else v for k, v in template.state_dict().items()}
        )
    if fault := first_fault(at_least(rules, LATER_ENTRIES), checkpoint, ""):
        raise ValueError(f"{path}: {fault}")
    with errors_name(path):
        model = FaceModel(options, num_datasets=num_datasets)
        model.load_state_dict(state)
        statistics = checkpoint["fusion_statistics"]
        model.fusion_statistics = None if statistics is None else FusionStatistics.from_dict(statistics)
        learned = checkpoint.get("score_normalization")
        model.normalization = None if learned is None else ScoreNormalization.from_dict(learned)
        model.alignment = Alignment.of(checkpoint["hyper_parameters"].get("alignment", {}))
    return model


def _quantized(path: Path, arch: str | None, color_space: str | None) -> FaceModel:
    content = read_content(path)
    with errors_name(path):
        model = stored.from_content(content)
    for flag, given, saved in (("arch", arch, model.arch), ("color_space", color_space, "rgb")):
        if given not in (None, saved):
            raise ValueError(f"{path}: holds a quantized {saved} net, but --{flag} says {given}")
    return model


def is_part(key: object) -> bool:
    """Return whether a key of a run's state dict belongs to the networks of a `FaceModel`."""
    return isinstance(key, str) and key.startswith(_PARTS) and not key.startswith(_OF_CLASSES)


def _foreign(
    path: Path, state: Mapping[str, Tensor], arch: str | None, color_space: str | None, encoder: str
) -> FaceModel:
    with errors_name(path):
        options = NetworkOptions(arch=arch or nets.infer_arch(state), embedding_size=nets.infer_embedding_size(state))
        model = FaceModel(options, with_parts=False)
    nets.load_weights(model.model, path, color_space, encoder)
    return model


def _missing_keys(checkpoint: object) -> list[str]:
    if not isinstance(checkpoint, dict):
        return list(OWN_KEYS)
    missing = [key for key in OWN_KEYS if key not in checkpoint]
    parameters = checkpoint.get("hyper_parameters")
    inner = parameters if isinstance(parameters, dict) else {}
    return missing or [f"hyper_parameters: {key}" for key in HYPER_PARAMETERS if key not in inner]
