"""What is checked: a file as it is, the network that it should be, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import nets
from models import loading
from models.checking.counts import CENTERS
from models.checking.faces import Faces
from models.detectors.trained import TrainedDetector
from models.face_model import FaceModel, describe, merge_adapters
from models.portraits import FLOAT
from models.quantization import stored
from nets.detectors import weights as detector_files
from options.model import NetworkOptions

RECOGNIZER, ENCODER, DETECTOR = "recognizer", "encoder", "detector"
CUSTOM = "custom"
NUM_IMAGES = 8
_BACKBONE = "model."
_OF_CLASSES = ("heads.", "matcher.class_embeddings.")


class Classes(NamedTuple):
    """What a run's checkpoint keeps of identities.

    Attributes:
        counts: how many there are, by data set.
        kernels: class weights [D, identities * centers] by data set.
        maps: class maps of the matcher, a class a row; None: it has none.
        num_centers: of a class, by the head that trained it.
    """

    counts: Mapping[str, int]
    kernels: Mapping[str, Tensor]
    maps: Tensor | None
    num_centers: int


@dataclass(frozen=True)
class Subject:
    """A model under check.

    Attributes:
        path: of the file.
        kind: RECOGNIZER, ENCODER or DETECTOR.
        arch: a key of `nets.MODELS` or `nets.DETECTORS`, or CUSTOM.
        state: what the file gives the network, under the names of the model.
        template: the network that the file should fit, on the device "meta".
        model: in eval mode, on the CPU; None: the file was refused.
        refusal: why; "": it was not.
        rebuild: returns a network as `template`, with numbers, ready for the state dict of `model`.
        unknown: keys of the file that belong to no part of a run.
        beside: how many tensors of the file are not for this network.
        dtype: in which all floating tensors have to be; None: in any.
        stated, asked: channel order, by the file and by the caller.
        classes: None: there are none in the file.
    """

    path: Path
    kind: str
    arch: str
    state: Mapping[str, Tensor]
    template: nn.Module
    model: nn.Module | None
    rebuild: Callable[[], nn.Module]
    refusal: str = ""
    unknown: tuple[str, ...] = ()
    beside: int = 0
    dtype: torch.dtype | None = None
    stated: str | None = None
    asked: str | None = None
    classes: Classes | None = None
    faces: Faces = field(default_factory=Faces)

    @property
    def network(self) -> nn.Module:
        """The model, for checks that run only where there is one."""
        assert self.model is not None, "run_checks skips them"
        return self.model

    @property
    def recognizer(self) -> FaceModel:
        """The model, for checks of faces."""
        assert isinstance(self.model, FaceModel), "run_checks skips them"
        return self.model

    @property
    def is_float(self) -> bool:
        """Whether it computes in float32: not quantized."""
        return not isinstance(self.model, FaceModel) or self.model.form == FLOAT

    @cached_property
    def images(self) -> Tensor:
        """[8, 3, 112, 112] float32 drawn faces, as the model expects them."""
        images = self.faces.images[:NUM_IMAGES]
        return nets.detector_input(images) if self.kind == DETECTOR else images


def outputs_of(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return by name all that a recognizer or a detector says of images, in whatever mode it is; a graph is kept."""
    if isinstance(model, FaceModel):
        said = describe(model.model, model.occlusion_head, images, model.modulator)._asdict()
    else:
        said = model(images)._asdict()
    return {name: values for name, values in said.items() if values is not None}


def open_subject(
    path: str | Path, arch: str | None = None, color_space: str | None = None, encoder: str | None = None
) -> Subject:
    """Read a file for its checks; what is wrong with its weights is for them to find.

    Args:
        path: recognizer, pretraining, detector, of ours or from elsewhere; see `models.load`, `nets.load_detector`.
        arch: of a recognizer, where keys and shapes do not tell it.
        color_space: "rgb" or "bgr", where the file does not state it.
        encoder: "query" or "key", of a pretraining.
    Raises:
        FileNotFoundError, ValueError: one line: the file cannot be read, holds no such model, or contradicts `arch`.
    """
    path = Path(path)
    nets.check_is_file(path, "model")
    file = nets.read_state_dict(path)
    if any(f".{key}".endswith(f".{detector_files.FIRST}") for key in file.state_dict):
        if arch or encoder or color_space == "rgb":
            raise ValueError(f"{path}: holds a detector, which expects BGR; leave --arch, --encoder, --color_space out")
        return _detector(file)
    if encoder is not None and not file.is_pretrained:
        raise ValueError(f"{path}: has one encoder; --encoder is for a checkpoint of a pretraining")
    if stored.KEY in file.metadata:
        return _quantized(path, arch, color_space)
    if file.is_own:
        return _own(path, arch, color_space)
    return _foreign(file, arch, color_space, encoder)


def _detector(file: nets.WeightFile) -> Subject:
    state = detector_files.detector_state(file.state_dict, file.path)
    form = detector_files.form_of(state)
    with loading.errors_name(file.path), torch.device("meta"):
        template = nets.Detector(form)
    model, refusal = _loaded(lambda: TrainedDetector(file.path).network)
    return Subject(
        file.path, DETECTOR, next((name for name, known in nets.DETECTORS.items() if known == form), CUSTOM),
        state, template, model, lambda: nets.Detector(form).eval(), refusal,
        beside=len(file.state_dict) - len(state), stated=file.color_space,
    )  # fmt: skip


def _own(path: Path, arch: str | None, color_space: str | None) -> Subject:
    checkpoint = loading.check_own(path, loading.read_content(path))
    loading.refuse_contradiction(path, checkpoint, arch, None)
    stored_state = checkpoint["state_dict"]
    if not isinstance(stored_state, dict) or not all(isinstance(value, Tensor) for value in stored_state.values()):
        raise ValueError(f"{path}: state_dict: a dict of tensors expected")
    with loading.errors_name(path):
        options, num_datasets = loading.network_of(checkpoint)
        with torch.device("meta"):
            template = FaceModel(options, num_datasets=num_datasets)
    state = {key: value for key, value in stored_state.items() if loading.is_part(key)}
    unknown = tuple(str(key) for key in stored_state if key not in state and not str(key).startswith(_OF_CLASSES))
    model, refusal = _loaded(lambda: loading.load(path))
    parameters = checkpoint["hyper_parameters"]
    return Subject(
        path, RECOGNIZER, options.arch, state, template, model, lambda: _fresh(options, True, num_datasets), refusal,
        unknown, len(stored_state) - len(state) - len(unknown),
        torch.float64 if parameters["config"].get("check_mode") else torch.float32,
        str(checkpoint["color_space"]), color_space, _classes(parameters, stored_state),
    )  # fmt: skip


def _classes(parameters: Mapping[str, Any], state: Mapping[str, Tensor]) -> Classes:
    counts = parameters["num_classes"]
    kernels = {name: state[key] for name in counts if (key := f"heads.{name}.kernel") in state}
    num_centers = CENTERS.get(str(parameters["config"].get("head")), 1)
    return Classes(counts, kernels, state.get("matcher.class_embeddings.weight"), num_centers)


def _quantized(path: Path, arch: str | None, color_space: str | None) -> Subject:
    model = loading.load(path, arch)
    with torch.device("meta"):
        template = FaceModel(model.options, model.with_parts)
    known = template.state_dict()
    return Subject(
        path, RECOGNIZER, model.arch, {key: value for key, value in model.state_dict().items() if key in known},
        template, model, lambda: _fresh(model.options, model.with_parts), stated="rgb", asked=color_space,
    )  # fmt: skip


def _foreign(file: nets.WeightFile, arch: str | None, color_space: str | None, encoder: str | None) -> Subject:
    path = file.path
    if file.color_space is None and color_space is None:
        raise ValueError(f"{path}: does not state its channel order; pass --color_space rgb or bgr")
    chosen = encoder or nets.ENCODERS[0]
    with loading.errors_name(path):
        state = nets.backbone_state(nets.plain_state(file), chosen)
        # Where nothing fits, what is missing from the nearest is for the checks to say.
        options = NetworkOptions(
            arch=arch or nets.nearest_arch(state) or nets.infer_arch(state),
            embedding_size=nets.infer_embedding_size(state),
        )
        with torch.device("meta"):
            template = FaceModel(options, with_parts=False)
    order = file.color_space or color_space
    model, refusal = _loaded(lambda: loading.load(path, options.arch, order, encoder))
    return Subject(
        path, ENCODER if file.is_pretrained else RECOGNIZER, options.arch,
        {f"{_BACKBONE}{key}": value for key, value in state.items()}, template, model,
        lambda: _fresh(options, False), refusal, beside=len(file.state_dict) - len(state),
        dtype=torch.float32 if file.is_pretrained else None, stated=file.color_space, asked=color_space,
    )  # fmt: skip


def _fresh(options: NetworkOptions, with_parts: bool, num_datasets: int = 1) -> FaceModel:
    model = FaceModel(options, with_parts, num_datasets=num_datasets)
    merge_adapters(model.model)
    return model.eval()


def _loaded(load: Callable[[], nn.Module]) -> tuple[nn.Module | None, str]:
    """Return the model, or why it was refused."""
    try:
        return load(), ""
    except (ValueError, OSError) as error:
        return None, str(error)
