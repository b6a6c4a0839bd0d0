"""Hand a model to programs that have no torch: `python main.py export --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cli.answers import shared
from options.answers import OpeningOptions
from options.command import FlagParser, as_typed, interruptible, user_errors, version
from options.flags import Options, add_flags, flag, path_word
from system.cores import bound_waiting
from system.terminal import printable, show

if TYPE_CHECKING:  # torch is imported only after the options are known to be right
    from models import Calibration, FaceModel
    from models.onnx.folder import Detector
    from models.onnx.graphs import Graph
    from models.onnx.parity import Difference
    from models.onnx.precision import Loss
    from models.onnx.wrapped import Form

PRECISIONS = ("float32", "fp16", "int8")  # as of models.onnx.precision; a test compares them
COLOR_ORDERS = ("rgb", "bgr")
_USUAL_FAR = 1e-3
_MAX_WORDS = 500  # characters of what a user says of a model
_DESCRIPTION = """Write a folder that another program can use with onnxruntime, numpy and OpenCV alone: model.onnx
(image -> embedding, norm, feature_map, visibility), matcher.onnx where the model has a matcher, a detector if one is
given, the weights as safetensors, deploy.json with all that a reader has to know, parity.json, a model card, and
runtime.py, which reads it all. Graphs are compared with torch before anything is written. CHECKPOINT: of a run of ours,
or weights from elsewhere; OUT: a new folder. Needs onnx, onnxscript and onnxruntime (make setup-extras).
Exit code: 0 done, 2 a mistake in the input, or too much accuracy lost, 130 interrupted."""


@dataclass(frozen=True, kw_only=True)
class ExportFlags(Options):
    """Export."""

    precision: str = flag(
        "float32", "numbers within the graph; fp16 and int8 need --pairs, int8 --calibration too", choices=PRECISIONS
    )
    preprocess: bool = flag(False, "take uint8 [B, H, W, 3] and normalize within the graph; else float32 [B, 3, H, W]")
    color_order: str = flag("rgb", "of the channels that the graph takes", choices=COLOR_ORDERS)
    flip: bool = flag(False, "describe the mirror image within the graph and fuse both; else runtime.py does")
    opset: int = flag(20, "of the graphs", within="[18, 22]")
    calibration: str | None = flag(None, "folder of faces like those to come, some dozens; for int8")
    pairs: str | None = flag(None, "folder of other people, or a benchmark set, to measure on what fewer bits cost")
    max_loss: float = flag(
        0.5, "percentage points of TAR that fewer bits may cost any of the model's scores; else refused",
        within="[0, 100]",
    )  # fmt: skip
    far: float | None = flag(
        None, "false-accept rate of that TAR; else, of the thresholds' rates, the nearest to 1e-3", within="[1e-9, 0.5]"
    )
    thresholds: str | None = flag(
        None, "file that calibrate wrote; none: without; else the one beside the model, if it is there"
    )
    face_detector: str | None = flag(None, "file of YuNet (.onnx), or weights of a RetinaFace or FeatherFace")
    license: str = flag("", "of the weights, for the model card")
    training_data: str = flag("", "what the model was trained on, for the model card")
    pt2: bool = flag(False, "write torch.export's model.pt2 too")
    openvino: bool = flag(False, "write OpenVINO's model.xml too, where openvino is installed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision != "float32" and self.pairs is None:
            raise ValueError(f"--precision {self.precision} needs --pairs, people to measure on what it costs")
        if (self.precision == "int8") != (self.calibration is not None):
            raise ValueError(
                "--calibration, a folder of faces like those to come, and --precision int8 need each other"
            )
        for name, words in (("license", self.license), ("training_data", self.training_data)):
            if len(words) > _MAX_WORDS:
                raise ValueError(f"--{name}: at most {_MAX_WORDS} characters, got {len(words)}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ExportFlags, OpeningOptions):
    """Options of `export`."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py export") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} last.ckpt deploy --preprocess --license MIT")
    parser.usage = f"{prog} CHECKPOINT OUT [--flag value ...]"
    for name, text in (("checkpoint", "the model"), ("out", "folder to write, which is not there yet")):
        parser.add_argument(name, metavar=name.upper(), type=path_word, help=text)
    add_flags(parser, ExportOptions)
    with user_errors(prog):
        values = parser.read(argv)
        checkpoint, out = values.pop("checkpoint"), values.pop("out")
        options = ExportOptions(**values)
        _check_installed(options)
        with interruptible(prog, "nothing is written, and the same command begins anew"):
            text = _export(checkpoint, out, options)
        show(text)
    return 0


def _check_installed(options: ExportOptions) -> None:
    wanted = ["onnx", "onnxscript", "onnxruntime", *(["openvino"] if options.openvino else [])]
    if missing := [name for name in wanted if find_spec(name) is None]:
        raise ValueError(f"{', '.join(missing)} not installed: pip install {' '.join(missing)}")


def _export(checkpoint: Path, out: Path, options: ExportOptions) -> str:
    bound_waiting()  # is read when torch is imported
    import models
    from models.onnx import folder, graphs, parity
    from models.onnx.wrapped import Form, WrappedModel

    with folder.new_folder(out) as unfinished:
        model = models.load(checkpoint, options.arch, options.color_space, options.encoder)
        calibration = _calibration(checkpoint, options, model)
        form = Form(options.preprocess, options.color_order, options.flip, options.precision == "fp16")
        graph = graphs.export_describe(model, form, options.opset)
        of_graph = "float32" if options.precision == "int8" else options.precision
        differences = parity.compare_model(graph, model, WrappedModel(model, form).eval(), of_graph)
        parity.refuse_wrong(differences)
        graph, losses, told = _in_fewer_bits(model, graph, form, options, calibration, differences)
        matcher = _matcher(model, options, differences)
        detector = _detector(options, differences)
        parity.refuse_wrong(differences)
        words = folder.Words(options.license, options.training_data, version())
        measured = folder.Measured(calibration, losses, differences)
        made = folder.Graphs(graph, form, options.precision, options.opset, matcher, detector)
        folder.write(unfinished, folder.Deployment(model, made, measured, words))
        _other_forms(unfinished, model, form, options)
    return "\n".join([*told, parity.table(differences), *map(printable, _listed(out, model, detector, options))])


def _calibration(checkpoint: Path, options: ExportOptions, model: FaceModel) -> Calibration | None:
    """Return the thresholds of the options, or those beside the model.

    Raises:
        ValueError, OSError: if they cannot be read, or are of another model.
    """
    from models import Calibration
    from models.calibration import beside
    from models.portraits import weights_checksum

    if options.thresholds == shared.WITHOUT:
        return None
    path = beside(checkpoint) if options.thresholds is None else Path(options.thresholds)
    if options.thresholds is None and not path.exists():
        return None
    calibration = Calibration.load(path)
    calibration.origin.refuse_other(calibration.origin._replace(model=weights_checksum(model)), str(path))
    return calibration


def _in_fewer_bits(
    model: FaceModel,
    graph: Graph,
    form: Form,
    options: ExportOptions,
    calibration: Calibration | None,
    differences: list[Difference],
) -> tuple[Graph, list[Loss], list[str]]:
    """Return the graph in its precision, what that costs each score on each set of pairs, and lines about it.

    Raises:
        ValueError: if it costs more than it may.
    """
    if options.precision == "float32":
        return graph, [], []
    from cli.quantize import measured_sets, read_people
    from models import cost_of, portraits
    from models.onnx import parity, precision
    from models.onnx.sessions import SessionModel
    from models.onnx.wrapped import WrappedModel

    seen: set[bytes] = set()
    if options.calibration is not None:
        crops, _ = read_people(model, options, Path(options.calibration))
        graph, _ = precision.quantized(graph, crops, form)
        differences += parity.compare_model(graph, model, WrappedModel(model, form).eval(), options.precision)
        seen = {crop.tobytes() for crop in crops}
    after = SessionModel(model, graph, form, options.precision)
    losses, lines = [], []
    for each in measured_sets(model, options.pairs, options):
        cost = cost_of(model, after, each.crops, each.pairs, each.issame)
        lines.append(f"{each.name}: {cost}")
        people = None if each.labels is None else each.labels[each.pairs]
        for score in portraits.scores_of(model):
            point = None if calibration is None else calibration.point(score, "clean", options.far)
            far = options.far or (_USUAL_FAR if point is None else point.far)
            threshold = None if point is None else point.threshold
            found = precision.loss_of(cost.scores, score, people, each.issame, far, threshold)
            losses.append(found._replace(data=Path(each.name).name))
            lines.append(f"{options.precision}: {found}")
        if num := sum(crop.tobytes() in seen for crop in each.crops):
            lines.append(f"{num} of these images are in the calibration too: on others it may cost more")
    precision.refuse_loss(losses, options.max_loss)
    return graph, losses, lines


def _matcher(model: FaceModel, options: ExportOptions, differences: list[Difference]) -> Graph | None:
    from models.onnx import graphs, parity

    if model.matcher is None:
        return None
    matcher = graphs.export_matcher(model.matcher, model.occlusion_head is not None, options.opset)
    differences += parity.compare_matcher(matcher, model.matcher)
    return matcher


def _detector(options: ExportOptions, differences: list[Difference]) -> Detector | None:
    """Return the detector of the options.

    Raises:
        FileNotFoundError, ValueError: one line, if it is none.
    """
    if options.face_detector is None:
        return None
    from models.detectors.trained import TrainedDetector
    from models.detectors.yunet import THRESHOLD, YuNet
    from models.onnx import graphs, parity
    from models.onnx.folder import Detector
    from models.onnx.wrapped import Form, WrappedDetector

    path = Path(options.face_detector)
    if path.suffix.lower() == ".onnx":
        YuNet(path)  # opens it
        return Detector("yunet", path, THRESHOLD)
    detector = TrainedDetector(path)
    module = WrappedDetector(detector.network, Form(preprocess=True)).eval()
    graph = graphs.export_detector(module.detector, module.form, options.opset)
    differences += parity.compare_module(graph, "detector", module, parity.SIZES)
    return Detector("retinaface", graph, detector.threshold, detector.min_sizes)


def _other_forms(folder: Path, model: FaceModel, form: Form, options: ExportOptions) -> None:
    """Write what flags ask for beside ONNX, from the same module."""
    from models.onnx import graphs

    if options.pt2:
        graphs.save_program(graphs.to_program(*graphs.describe_program(model, form)), folder / "model.pt2")
    if options.openvino:
        graphs.save_openvino(folder / "model.onnx", folder / "model.xml")


def _listed(out: Path, model: FaceModel, detector: Detector | None, options: ExportOptions) -> list[str]:
    lines = [f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB" for path in sorted(out.iterdir())]
    if detector is None:
        lines.append("no detector: runtime.py takes aligned faces, or five points; --face_detector adds one")
    elif model.alignment is not None:
        lines.append(f"trained on faces aligned by {model.alignment.detector}: with another detector scores are lower")
    return [f"{out}: ONNX in {options.precision}", *lines]
