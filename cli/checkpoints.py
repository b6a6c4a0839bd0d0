"""Checkpoints read back: the options of a run to resume, or a whole model to evaluate."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import heads
import nets
from cli import checkpoint_form
from config import Config
from data import FaceDataModule
from datasets.photos.people import NO
from engine.callbacks import BEST, LAST, PREVIOUS
from models import Alignment, loading, merge_adapters
from models.loading import DamagedCheckpointError
from options.names import DIVISIONS, ONLY_DATASET
from tasks.recognition.head_start import STATISTICS, part_of_set
from tasks.recognition.paired_nets import FRONT, front_digest, open_front_of
from train_val import Recognizer

__all__ = [
    "DamagedCheckpointError",
    "OtherDataError",
    "check_alignment",
    "check_data",
    "check_division",
    "division_of",
    "load_pretrained_model",
    "newest_checkpoint",
    "read_checkpoint",
    "read_to_resume",
    "start_from",
]

logger = logging.getLogger(__name__)

Reader = Callable[[Path], dict[str, Any]]

# What a run can start with beside the backbone, by its keys; what begins with "class" belongs to the identities.
PARTS = {
    "matcher": r"matcher\.(?!class_embeddings\.)",
    "occlusion head": r"occlusion_head\.",
    "class maps": r"matcher\.class_embeddings\.",
}
PARTS_OF_SET = {STATISTICS: r"heads\.{}\.(?!kernel)", "class weights": r"heads\.{}\.kernel"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of ours as plain data, tensors on the CPU; its model fits its options.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedCheckpointError: if it cannot be read or its checksum is wrong.
        ValueError: if it was not written by a run of ours, or something in it is not as a run writes it; one line with
            the file and the place in it.
    """
    return _read(Path(path))[0]


def read_to_resume(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of ours that a run can go on from, as `read_checkpoint` does.

    Raises:
        FileNotFoundError, ValueError: as there, also for optimizer, schedule, counters and all else that a run needs.
    """
    checkpoint, template = _read(Path(path))
    _check_run(Path(path), checkpoint, template)
    return checkpoint


def _read(path: Path) -> tuple[dict[str, Any], Recognizer]:
    """Return a checkpoint whose model fits, and the model that its options describe, without numbers."""
    return _checked(path, loading.read_content(path))


def _checked(path: Path, content: object) -> tuple[dict[str, Any], Recognizer]:
    checkpoint = loading.check_own(path, content)
    with loading.errors_name(path):
        template = _template(checkpoint["hyper_parameters"])
    if fault := checkpoint_form.model_fault(checkpoint, template):
        raise ValueError(f"{path}: {fault}")
    return checkpoint, template


def _check_run(path: Path, checkpoint: Mapping[str, Any], template: Recognizer) -> None:
    if fault := checkpoint_form.run_fault(checkpoint, template):
        raise ValueError(f"{path}: {fault}; a run cannot go on from it")


def _template(parameters: Mapping[str, Any]) -> Recognizer:
    """Return the model that `hyper_parameters` describe, without numbers and with a dense head, as checkpoints have."""
    with torch.device("meta"):
        template = Recognizer(parameters["config"] | {"partial_fc_rate": 0.0}, parameters["num_classes"])
    template.options = Config.from_dict(dict(parameters["config"]))
    return template


def newest_checkpoint(folder: Path, read: Reader | None = None) -> Path | None:
    """Return the checkpoint of a run folder that was taken last and is whole; None if there is none.

    Checkpoints are ordered by their steps, not by their times. The best one is the last resort, for it is taken before
    all that belongs to its step is done. Each one that is damaged is named in a line of the log.

    Args:
        folder: of the run.
        read: reads a checkpoint to resume; None: those of recognizers.
    """
    taken_to_go_on = [folder / LAST, folder / PREVIOUS, *sorted(folder.glob("epoch_*.ckpt"))]
    read = read or read_to_resume
    return _newest(taken_to_go_on, read) or _newest([folder / BEST], read)


def _newest(paths: Iterable[Path], read: Reader) -> Path | None:
    steps: dict[Path, int] = {}
    for path in filter(Path.is_file, paths):
        try:
            steps[path] = read(path)["global_step"]
        except (ValueError, OSError) as error:
            logger.warning("%s", error)
    return max(steps, key=lambda path: steps[path], default=None)


class OtherDataError(ValueError):
    """A whole checkpoint was made with other training data."""


def check_data(path: str | Path, checkpoint: Mapping[str, Any], data: FaceDataModule, by_name: bool = True) -> None:
    """Refuse to go on with a checkpoint that was made with other data than these.

    Args:
        by_name: whether the user has named this checkpoint. Then identities of other names, as a conversion to records
            gives them, are warned of; else they are other data.

    Raises:
        OtherDataError: the number of identities, their names or the place in the data do not fit; one line with the
            file and what is expected.
    """
    parameters, remedy = checkpoint["hyper_parameters"], "resume with the data of that run"
    saved = parameters["num_classes"]
    if saved.keys() != data.sets.keys():
        raise OtherDataError(
            f"{path}: was trained on the data sets {', '.join(saved)}, not on {', '.join(data.sets)}; {remedy}"
        )
    for name, count in data.classes.items():
        of = "" if name == ONLY_DATASET else f" of {name}"
        if saved[name] != count:
            raise OtherDataError(
                f"{path}: was trained on {saved[name]} identities{of}, but the training data hold {count}; {remedy}"
            )
        if parameters.get("identities", {}).get(name, data.identities[name]) != data.identities[name]:
            line = f"{path}: was trained on identities{of} of other names or in another order than the training data's"
            if not by_name:
                raise OtherDataError(f"{line}; {remedy}")
            logger.warning("%s: if they are not the same people, %s", line, remedy)
    if data.config.front and checkpoint.get(FRONT) != front_digest(open_front_of(data.config)):
        raise OtherDataError(f"{path}: was trained behind another --front than {data.config.front}; name that file")
    try:
        with loading.errors_name(Path(path)):
            data.check_place(
                checkpoint["FaceDataModule"], checkpoint["callbacks"].get("NeighbourTable", {}).get("table")
            )
    except ValueError as error:
        raise OtherDataError(str(error)) from error


def division_of(path: str | Path | None, checkpoint: Mapping[str, Any] | None = None) -> str:
    """Return how the run of a checkpoint divided people into training and held-out ones; a new run: as new ones do.

    Args:
        path: of the file that is evaluated, ours or not; None: none is.
        checkpoint: its content, where it is read already.
    """
    if checkpoint is not None:
        return str(checkpoint["hyper_parameters"].get("division", DIVISIONS[0]))
    parameters = {} if path is None else _parameters(Path(path))
    return str(parameters.get("division", DIVISIONS[0] if parameters else DIVISIONS[-1]))


def check_division(path: str | Path | None, data: FaceDataModule) -> None:
    """Warn if an evaluation holds people out that are not those of the run that made the checkpoint."""
    identities = {} if path is None or not data.holds_out else _parameters(Path(path)).get("identities", {})
    if identities and identities != data.identities:
        logger.warning(
            "%s: the people held out here are not those of its training, so it may have been trained on some of them; "
            "give --seed, --val_identities and the data of that run", path,
        )  # fmt: skip


def check_alignment(path: str | Path | None, data: FaceDataModule) -> None:
    """Refuse to evaluate on photographs that were aligned otherwise than those of the training, but with --align no.

    Raises:
        ValueError: one line that says what differs.
    """
    trained = Alignment.of({} if path is None else _parameters(Path(path)).get("alignment", {}))
    if trained is not None and data.config.align != NO:
        trained.refuse_other(Alignment.of(data.alignment))


def _parameters(path: Path) -> Mapping[str, Any]:
    """Return `hyper_parameters` of a checkpoint of ours; of another file, or one for `_read` to refuse, none."""
    try:
        return loading.check_own(path, nets.read_content(path, "checkpoint"))["hyper_parameters"]
    except (OSError, ValueError):
        return {}


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
    nets.check_is_file(Path(path), "checkpoint")
    weights = nets.read_state_dict(path)
    if weights.is_own:
        return _load_own(Path(path), arch, color_space)
    return _load_foreign(Path(path), weights.state_dict, arch, color_space)


def _load_own(path: Path, arch: str | None, color_space: str | None) -> Recognizer:
    checkpoint = read_checkpoint(path)
    parameters = checkpoint["hyper_parameters"]
    loading.refuse_contradiction(path, checkpoint, arch, color_space)
    with loading.errors_name(path):
        # Checkpoints hold the dense head, however many ranks it was split over. Evaluation is in float32.
        as_evaluated = {"partial_fc_rate": 0.0, "check_mode": False}
        recognizer = Recognizer(parameters["config"] | as_evaluated, parameters["num_classes"])
        recognizer.load_state_dict(checkpoint["state_dict"])
        recognizer.on_load_checkpoint(checkpoint)
        merge_adapters(recognizer.model)
    return recognizer.eval()


def _load_foreign(path: Path, state: Mapping[str, Tensor], arch: str | None, color_space: str | None) -> Recognizer:
    with loading.errors_name(path):
        arch = arch or nets.infer_arch(state)
        size = nets.infer_embedding_size(state)
    kernel = state.get("head.kernel")
    if kernel is not None and (kernel.ndim != 2 or kernel.shape[0] != size):
        raise ValueError(f"{path}: head.kernel must be [{size}, classes] to match the embedding, is {[*kernel.shape]}")
    # Foreign weights know neither matcher nor occlusion head: scores come from the embedding alone.
    config = Config(
        arch=arch, embedding_size=size, qaconv_loss_weight=0.0, occlusion_loss_weight=0.0, occlusion_method="none"
    )
    recognizer = Recognizer(config.to_dict(), {ONLY_DATASET: 1 if kernel is None else int(kernel.shape[1])})
    nets.load_weights(recognizer.model, path, color_space)
    if kernel is not None:
        head = recognizer.head
        assert isinstance(head, heads.MarginHead)
        head.kernel.data.copy_(kernel)
    recognizer.hparams["is_foreign"] = True
    return recognizer.eval()


def head_name(model: Recognizer) -> str:
    """Return the name of the margin head that the embedding was trained with; foreign weights do not state theirs."""
    return "not known" if model.hparams.get("is_foreign") else model.config.head


def start_from(model: Recognizer, path: str | Path, color_space: str | None, load: str = "all") -> None:
    """Give a model that is to be trained the backbone of a file, and of a checkpoint of ours all else that fits.

    Class weights fit where the identities have the same names in the same order. The log says what was taken, and so
    does `loaded` of the model: "backbone" and names of `PARTS`.

    Args:
        model: that is to be trained.
        path: the file.
        color_space: where the file does not state it.
        load: what is taken, as --load has it: all, backbone, or of a pretraining's checkpoint the query or key encoder.
    Raises:
        FileNotFoundError, ValueError: one line that names the file, if the backbone does not fit or it is damaged.
    """
    encoder = load if load in nets.ENCODERS else nets.ENCODERS[0]
    file = nets.read_state_dict(path)
    if load in nets.ENCODERS and not file.is_pretrained:
        raise ValueError(
            f"--load {load}: {path} is no checkpoint of a pretraining, which has a query and a key encoder"
        )
    nets.load_weights(model.model, path, color_space, encoder)
    model.loaded = ("backbone",)
    if load != "all" or not file.is_own:
        logger.info("%s: took the backbone%s", path, f" of the {encoder} encoder" if file.is_pretrained else "")
        return
    checkpoint = read_checkpoint(path)
    found, own = checkpoint["state_dict"], model.state_dict()
    before, here = checkpoint["hyper_parameters"].get("identities", {}), model.hparams.get("identities", {})
    with torch.device("meta"):  # a head that is split has its parameters only when the ranks are known
        options = {**model.config.to_dict(), "partial_fc_rate": 0.0, "freeze": [], "head_only": False}
        shapes = {key: value.shape for key, value in Recognizer(options, model.num_classes).state_dict().items()}
    taken, left, chosen = ["backbone"], list[str](), dict[str, Tensor]()
    for name, pattern, data_set in _parts([*checkpoint["hyper_parameters"]["num_classes"]]):
        part = {key: value for key, value in found.items() if re.match(pattern, key)}
        fits = {k: v.shape for k, v in part.items()} == {k: v for k, v in shapes.items() if re.match(pattern, k)}
        same = before.get(data_set) is not None and before.get(data_set) == here.get(data_set)
        if part and fits and (same or not name.startswith("class")):
            taken.append(name)
            chosen |= part
        elif part:
            left.append(f"{name} ({'of other identities' if fits else 'of another shape or not in this model'})")
    model.load_state_dict({key: value for key, value in chosen.items() if key in own}, strict=False)
    for data_set in model.num_classes:
        head = f"heads.{data_set}."
        late = {key.removeprefix(head): v for key, v in chosen.items() if key.startswith(head) and key not in own}
        if late:
            model.initial_heads[data_set] = late
    model.loaded = tuple(taken)
    new = [name for name in model.num_classes if name not in checkpoint["hyper_parameters"]["num_classes"]]
    logger.info(
        "%s: took %s%s%s", path, ", ".join(taken), f"; left {', '.join(left)}" if left else "",
        f"; new: the heads of {', '.join(new)}" if new else "",
    )  # fmt: skip


def _parts(data_sets: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield what a run can start with, the pattern of its keys, and the data set whose identities it may know."""
    yield from ((name, pattern, data_sets[0]) for name, pattern in PARTS.items())
    for data_set in data_sets:
        for name, pattern in PARTS_OF_SET.items():
            yield part_of_set(name, data_set), pattern.format(re.escape(data_set)), data_set
