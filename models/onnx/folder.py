"""The folder that another program takes: graphs, weights, what they mean, and a reader without torch."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors.torch import save_file

from models import portraits
from models.calibration import Calibration
from models.face_model import FaceModel
from models.onnx import graphs, parity
from models.onnx.parity import Difference
from models.onnx.precision import Loss
from models.onnx.wrapped import Form
from system import ROOT
from system.files import write_text
from system.terminal import printable
from transforms import IMAGE_SIZE
from transforms.landmarks import TEMPLATE

if TYPE_CHECKING:
    import onnx

FORMAT = "maskwise deploy 1"  # as of runtime.py, which stands alone
_HALF_RANGE = 127.5  # (v / 255 - 0.5) / 0.5 is (v - 127.5) / 127.5
_READER = tuple(
    ROOT / name for name in ("models/onnx/runtime.py", "models/onnx/finding.py", "datasets/faces/image_header.py")
)
_OUR_IMPORT = re.compile(r"^from (?:models\.onnx|datasets\.faces)\.(\w+) import", re.MULTILINE)


class Words(NamedTuple):
    """What a user says of a model: its license, the data that it was trained on, and of which version it is."""

    license: str
    training_data: str
    version: str


class Detector(NamedTuple):
    """A detector of the folder.

    Attributes:
        kind: "yunet" or "retinaface".
        graph: or the file to copy.
        threshold: least score of a face.
        min_sizes: sides of the priors of each level, of a RetinaFace.
    """

    kind: str
    graph: onnx.ModelProto | Path
    threshold: float
    min_sizes: tuple[tuple[float, ...], ...] = ()


class Graphs(NamedTuple):
    """What was exported.

    Attributes:
        describe: of `export_describe`, in its precision.
        form: that it was exported in.
        precision: one of `precision.PRECISIONS`.
        opset: of all graphs.
        matcher: of `export_matcher`, or None.
        detector: or None.
    """

    describe: onnx.ModelProto
    form: Form
    precision: str
    opset: int
    matcher: onnx.ModelProto | None
    detector: Detector | None


class Measured(NamedTuple):
    """Thresholds, what its precision costs each score (nothing in float32), and its differences from torch."""

    calibration: Calibration | None
    losses: Sequence[Loss]
    differences: Sequence[Difference]


class Deployment(NamedTuple):
    """All that goes into a folder: the model in torch, its graphs, what was measured, and words of the user."""

    model: FaceModel
    graphs: Graphs
    measured: Measured
    words: Words


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give an unfinished folder beside `folder`, which gets its name after the block, or goes with an error.

    Raises:
        ValueError: if something is there already.
    """
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise ValueError(f"{folder}: is there already; name a new folder")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"{folder}: the folder that it is to be in does not exist")
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write(folder: Path, deployment: Deployment) -> None:
    """Write all files of a deployment into an empty folder.

    Raises:
        OSError: if one cannot be written.
    """
    known = facts(deployment)
    files = _write_graphs(folder, deployment, known)
    weights = folder / "model.safetensors"
    model = deployment.model
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, weights, metadata_of(known))
    weights.chmod(0o644)  # as everything else here
    for source in _READER:
        # What imports a neighbour here finds it beside itself there.
        text = _OUR_IMPORT.sub(r"from \1 import", source.read_text(encoding="utf-8"))
        write_text(folder / source.name, text)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE-of-the-reader")
    known["files"] = {path.name: _sum_of(path) for path in [*files, weights]}
    write_text(folder / "deploy.json", json.dumps(known, indent=1, allow_nan=False) + "\n")
    rows = [each._asdict() for each in deployment.measured.differences]
    write_text(folder / "parity.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    write_text(folder / "README.md", card(known, deployment))


def _write_graphs(folder: Path, deployment: Deployment, known: Mapping[str, Any]) -> list[Path]:
    import onnx

    detector = deployment.graphs.detector
    listed = {"model.onnx": deployment.graphs.describe, "matcher.onnx": deployment.graphs.matcher}
    if detector is not None and not isinstance(detector.graph, Path):
        listed["detector.onnx"] = detector.graph
    files = []
    for name, graph in listed.items():
        if graph is not None:
            onnx.helper.set_model_props(graph, metadata_of(known))
            files += graphs.save(graph, folder / name)
    if detector is not None and isinstance(detector.graph, Path):
        files.append(Path(shutil.copyfile(detector.graph, folder / "detector.onnx")))
    return files


def facts(deployment: Deployment) -> dict[str, Any]:
    """Return what another program needs to know, in primitives: the content of deploy.json but its list of files."""
    model, made, form = deployment.model, deployment.graphs, deployment.graphs.form
    calibration, losses, _ = deployment.measured
    side = IMAGE_SIZE
    pixels = {"dtype": "uint8", "layout": "NHWC"} if form.preprocess else {"dtype": "float32", "layout": "NCHW"}
    detector = made.detector
    return {
        "format": FORMAT,
        "maskwise_version": deployment.words.version,
        "created": datetime.now(UTC).date().isoformat(),
        "arch": model.arch,
        "embedding_size": model.model.embedding_size,
        "precision": made.precision,
        "opset": made.opset,
        "input": {
            **{"name": "images", **pixels, "height": side, "width": side, "color_order": form.color_order},
            **{"mean": [_HALF_RANGE] * 3, "std": [_HALF_RANGE] * 3, "in_graph": form.preprocess},
        },
        "outputs": [each.name for each in made.describe.graph.output],
        "flip": form.flip,
        "template": TEMPLATE.astype(float).tolist(),
        "alignment": None if model.alignment is None else model.alignment._asdict(),
        "matcher": None if made.matcher is None else _matcher_facts(made.matcher, model),
        "detector": None if detector is None else _detector_facts(detector),
        "normalization": None if model.normalization is None else model.normalization.to_dict(),
        "fusion": None if model.fusion_statistics is None else model.fusion_statistics.to_dict(),
        "calibration": None if calibration is None else calibration.to_dict(),
        "losses": [loss.to_dict() for loss in losses],
        "weights_sha256": portraits.weights_checksum(model),
        "training_data": deployment.words.training_data,
        "license": deployment.words.license,
    }


def _detector_facts(detector: Detector) -> dict[str, Any]:
    return {name: value for name, value in detector._asdict().items() if name != "graph"}


def _matcher_facts(matcher: onnx.ModelProto, model: FaceModel) -> dict[str, Any]:
    assert model.matcher is not None
    inputs = [each.name for each in matcher.graph.input]
    return {"inputs": inputs, "score": model.matcher.score, "occlusion_method": model.matcher.occlusion_method}


def metadata_of(known: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as the flat text that ONNX's `metadata_props` and safetensors hold; thresholds as JSON."""
    calibration = known["calibration"]
    thresholds = [] if calibration is None else calibration["points"]
    flat = {name: value for name, value in known.items() if name not in ("calibration", "files", "format")}
    flat |= {"thresholds": thresholds, "color_space": "rgb"}  # of the weights; the graph's order is in `input`
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in flat.items()}


def card(known: Mapping[str, Any], deployment: Deployment) -> str:
    """Return a model card for Hugging Face: YAML for machines, then what people should know; all text is escaped."""
    words = deployment.words
    head = {
        "license": words.license or "unknown",
        "library_name": "onnx",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["face-recognition", "onnx", "occlusion", known["arch"]],
    }
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in head.items()), "---", ""]
    return "\n".join([*lines, *_card_text(known, deployment)]) + "\n"


def _card_text(known: Mapping[str, Any], deployment: Deployment) -> Iterator[str]:
    pixels = known["input"]
    yield f"# {escaped(known['arch'])}, {known['precision']}"
    yield ""
    yield f"A face recognizer: {known['embedding_size']} numbers a face, for comparing photographs of people."
    yield ""
    yield "## Use"
    yield ""
    yield "`runtime.py` needs onnxruntime, numpy and OpenCV; `deploy.json` says all that another reader has to know."
    yield ""
    yield f"- Input `images`: {pixels['dtype']} {pixels['layout']}, 112 x 112, {pixels['color_order']}, aligned by five"
    yield "  points to the template in `deploy.json`" + ("" if pixels["in_graph"] else "; (v - 127.5) / 127.5") + "."
    yield f"- Outputs: {', '.join(f'`{name}`' for name in known['outputs'])}."
    yield f"- Trained on: {escaped(deployment.words.training_data) or 'not stated'}."
    yield f"- License: {escaped(deployment.words.license) or 'not stated'}."
    yield ""
    yield "## Thresholds"
    yield ""
    yield from _thresholds(deployment.measured.calibration)
    for loss in deployment.measured.losses:
        yield f"- What {known['precision']} costs on {escaped(f'{loss.data}: {loss}')}."
    yield ""
    yield "## Difference from torch, over the largest number of an output"
    yield ""
    yield parity.table(deployment.measured.differences)
    yield ""
    yield "## Limits"
    yield ""
    yield "- A score is evidence, not proof: it means what the thresholds above say, on photographs like theirs."
    yield "- Measure error rates on the people it will meet, by group, before anything depends on an answer."
    yield "- An embedding is personal data. Do not use it to identify people who have not agreed."


def _thresholds(calibration: Calibration | None) -> Iterator[str]:
    if calibration is None:
        yield "- None: scores can be ranked, but nobody knows from which one on they mean the same person."
        return
    yield f"- Calibrated on {escaped(calibration.source)}, {sum(calibration.num_people)} people."
    for point in calibration.points:
        tar = "not known" if point.tar is None else str(point.tar)
        yield (
            f"- {escaped(point.score)}, {escaped(point.condition)}, FAR {point.far:g}: threshold {point.threshold:.4f};"
            f" measured FAR {point.found_far}, TAR {tar}."
        )


def escaped(text: str) -> str:
    """Return text of a user for one line of Markdown: no HTML, no markup, no control characters."""
    line = " ".join(printable(text, 2000).split())
    return re.sub(r"([\\`*_{}\[\]()#|!~])", r"\\\1", html.escape(line, quote=False))


def _sum_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": path.stat().st_size}
