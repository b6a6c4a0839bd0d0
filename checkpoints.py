"""Checkpoints read back: the options of a run to resume, or a whole model to evaluate."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import heads
import nets
from config import Config
from train_val import MAIN_DATASET, Recognizer

OWN_KEYS = ("state_dict", "hyper_parameters", "color_space", "fusion_statistics")
HYPER_PARAMETERS = ("config", "num_classes")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of ours as plain data, tensors on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or was not written by a run of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"{path}: damaged or not a checkpoint ({reason})") from error
    missing = [key for key in OWN_KEYS if key not in checkpoint] if isinstance(checkpoint, dict) else list(OWN_KEYS)
    if not missing:
        missing = [f"hyper_parameters: {key}" for key in HYPER_PARAMETERS if key not in checkpoint["hyper_parameters"]]
    if missing:
        raise ValueError(
            f"{path}: not a checkpoint of a maskwise run ({', '.join(missing)} missing); load foreign weights by "
            "--start_from_model_statedict"
        )
    return checkpoint


def check_identities(path: str | Path, num_classes: int) -> None:
    """Refuse to go on with a checkpoint that was trained on another number of identities.

    Raises:
        ValueError: one line with both numbers.
    """
    saved = read_checkpoint(path)["hyper_parameters"]["num_classes"][MAIN_DATASET]
    if saved != num_classes:
        raise ValueError(
            f"{path}: was trained on {saved} identities, but the training data hold {num_classes}; resume with the "
            "data of that run"
        )


def load_pretrained_model(path: str | Path, arch: str | None = None, color_space: str | None = None) -> Recognizer:
    """Build a whole model from a checkpoint of ours or from foreign weights, in eval mode.

    Architecture, class count and key prefixes are read from the file. A checkpoint of ours brings its matcher,
    occlusion head and fusion statistics; foreign weights bring the backbone, and the head's class weights when
    they are there.

    Args:
        path: checkpoint file.
        arch: architecture; needed only when the file fits none or several. A wrong one is refused.
        color_space: "rgb" or "bgr", required when the file does not state it.
    Raises:
        FileNotFoundError, ValueError: one line that names the file and what does not fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    weights = nets.read_state_dict(path)
    if weights.is_own:
        return _load_own(Path(path), arch, color_space)
    return _load_foreign(Path(path), weights.state_dict, arch, color_space)


def _load_own(path: Path, arch: str | None, color_space: str | None) -> Recognizer:
    checkpoint = read_checkpoint(path)
    parameters = checkpoint["hyper_parameters"]
    saved_arch = parameters["config"]["arch"]
    if arch not in (None, saved_arch):
        raise ValueError(f"{path}: holds {saved_arch}, but --arch says {arch}")
    if color_space not in (None, checkpoint["color_space"]):
        raise ValueError(f"{path}: expects {checkpoint['color_space']}, but --color_space says {color_space}")
    with _errors_name(path):
        # Checkpoints hold the dense head, however many ranks it was split over.
        recognizer = Recognizer(parameters["config"] | {"partial_fc_rate": 0.0}, parameters["num_classes"])
        recognizer.load_state_dict(checkpoint["state_dict"])
        recognizer.on_load_checkpoint(checkpoint)
    return recognizer.eval()


def _load_foreign(path: Path, state: Mapping[str, Tensor], arch: str | None, color_space: str | None) -> Recognizer:
    with _errors_name(path):
        arch = arch or nets.infer_arch(state)
        size = nets.infer_embedding_size(state)
    kernel = state.get("head.kernel")
    if kernel is not None and (kernel.ndim != 2 or kernel.shape[0] != size):
        raise ValueError(f"{path}: head.kernel must be [{size}, classes] to match the embedding, is {[*kernel.shape]}")
    # Foreign weights know neither matcher nor occlusion head: scores come from the embedding alone.
    config = Config(
        arch=arch, embedding_size=size, qaconv_loss_weight=0.0, occlusion_loss_weight=0.0, occlusion_method="none"
    )
    recognizer = Recognizer(config.to_dict(), {MAIN_DATASET: 1 if kernel is None else int(kernel.shape[1])})
    nets.load_weights(recognizer.model, path, color_space)
    if kernel is not None:
        head = recognizer.head
        assert isinstance(head, heads.MarginHead)
        head.kernel.data.copy_(kernel)
    return recognizer.eval()


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the content of a file into one line that names the file."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())[:300]}") from error
