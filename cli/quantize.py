"""Make a model compute in eight bits: `python main.py quantize --help`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.answers import shared
from options.answers import OpeningOptions
from options.command import FlagParser, as_typed, interruptible, user_errors
from options.flags import Options, add_flags, flag, path_word
from system.cores import bound_waiting
from system.terminal import printable, show

if TYPE_CHECKING:  # torch is imported only after the options are known to be right
    import numpy as np
    from numpy.typing import NDArray

    from models import FaceModel
    from models.portraits import Crops

MODES = ("static", "dynamic")  # as of models.quantization; a test compares them
_MAX_PAIRS = 100_000
_DRAWN = 30, 4  # people, and images of each
_DESCRIPTION = """Make a model whose backbone computes with weights and inputs of eight bits, and measure against the
float net what that costs: accuracy, area under the curve, cosine of the embeddings, time. CHECKPOINT: of a run of ours,
or weights from elsewhere. The file holds int8 weights and scales, which take a quarter of the room, and is opened as a
checkpoint by the programs that answer, embed and evaluate. It saves no time here: integers are imitated. Thresholds,
galleries and embeddings of one are refused by the other.
Exit code: 0 done, 2 a mistake in the input, 130 interrupted."""


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions(Options):
    """Quantization."""

    out: str | None = flag(None, "file to write; needed")
    mode: str = flag(
        "static", "levels of a layer's input as --calibration finds them; dynamic: of each image its own", choices=MODES
    )
    calibration: str | None = flag(None, "folder of faces like those to come, some dozens; for --mode static")
    pairs: str | None = flag(
        None, "folder of other people, or a benchmark set, to measure on what it costs; else drawn faces"
    )
    depthwise: bool = flag(False, "quantize depthwise convolutions too, which cost most and hold few weights")
    keep: tuple[str, ...] = flag((), "layers of the backbone that stay in float32: names or patterns with *")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is None:
            raise ValueError("--out is needed: the file to write")
        if (self.mode == "static") != (self.calibration is not None):
            raise ValueError(
                "--mode static needs --calibration, a folder of faces like those to come; dynamic takes none"
            )


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(QuantizationOptions, OpeningOptions):
    """Options of `quantize`."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py quantize") -> int:
    """Run the program with the words of its command line and return the exit code."""
    example = f"{as_typed(prog)} last.ckpt --out small.pt --calibration my_photographs --pairs my_people"
    parser = FlagParser(prog, _DESCRIPTION, example)
    parser.usage = f"{prog} CHECKPOINT --out FILE [--flag value ...]"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=path_word, help="the model")
    add_flags(parser, QuantizeOptions)
    with user_errors(prog):
        values = parser.read(argv)
        checkpoint = values.pop("checkpoint")
        with interruptible(prog, "nothing is written, and the same command begins anew"):
            text = _quantize(checkpoint, QuantizeOptions(**values))
        show(text)
    return 0


def _quantize(checkpoint: Path, options: QuantizeOptions) -> str:
    output = Path(str(options.out))
    shared.check_writable(output)
    bound_waiting()  # is read when torch is imported
    import models
    from models import Quantization

    model = models.load(checkpoint, options.arch, options.color_space, options.encoder)
    calibration = None if options.calibration is None else read_people(model, options, Path(options.calibration))[0]
    sets = list(measured_sets(model, options.pairs, options))
    form = Quantization(options.mode, options.depthwise, options.keep)
    quantized = models.quantize(model, calibration, form)
    seen = set() if calibration is None else {crop.tobytes() for crop in calibration}
    lines = []
    for each in sets:
        lines.append(f"{each.name}: {models.cost_of(model, quantized, each.crops, each.pairs, each.issame)}")
        if num := sum(crop.tobytes() in seen for crop in each.crops):
            lines.append(f"{num} of these images are in the calibration too: on others it may cost more")
    models.save_quantized(quantized, output)
    sizes = " of ".join(f"{path.stat().st_size / 2**20:.2f}" for path in (output, checkpoint))
    return "\n".join([*map(printable, "\n".join(lines).splitlines()), f"{quantized.form}: {output}, {sizes} MiB"])


class Measured(NamedTuple):
    """Crops uint8 [N, 112, 112, 3], pairs int64 [M, 2] of places i < j, and whether they show one person, bool [M].

    Also the person of each crop, int64 [N], where that is known.
    """

    name: str
    crops: Crops
    pairs: NDArray[np.int64]
    issame: NDArray[np.bool_]
    labels: NDArray[np.int64] | None


def measured_sets(model: FaceModel, pairs_of: str | None, options: OpeningOptions) -> Iterator[Measured]:
    """Yield the sets to measure on, those of a benchmark in their protocol's pairs.

    Args:
        model: whose alignment the photographs follow.
        pairs_of: folder of people, or a benchmark set; None: drawn faces.
        options: how photographs are aligned.
    """
    import numpy as np

    from datasets.benchmarks.sets import are_sets, open_sets
    from datasets.synthetic.prepare import render_identities
    from models.split_pairs import draw

    if pairs_of is not None and are_sets(Path(pairs_of)):
        for found in open_sets(Path(pairs_of)):
            pairs = np.arange(2 * len(found), dtype=np.int64).reshape(-1, 2)
            yield Measured(found.name, found.images, pairs, found.issame, None)
        return
    if pairs_of is None:
        name, (crops, labels) = "drawn faces, which show nobody", render_identities("quantize", *_DRAWN)
    else:
        name, (crops, labels) = pairs_of, read_people(model, options, Path(pairs_of))
    pairs = draw(labels, np.arange(len(labels)), _MAX_PAIRS, np.random.default_rng(0))
    yield Measured(name, crops, pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]], labels)


def read_people(model: FaceModel, options: OpeningOptions, folder: Path) -> tuple[Crops, NDArray[np.int64]]:
    """Return the crops of a folder of photographs or of people, uint8 [N, 112, 112, 3], and the person of each.

    Raises:
        ValueError, OSError: one line, if none can be read.
    """
    from datasets.progress import tracked
    from models.portraits import find_people, read_crops

    people = find_people(folder)
    aligner = shared.choose_aligner(model, options, people.paths)
    crops, places, failures = read_crops(tracked(people.paths, "Reading photographs"), aligner)
    if not len(crops):
        raise ValueError(f"{folder}: no photograph shows a face; {failures[0]}")
    if failures:
        shared.say(f"{folder}: {len(failures)} of {len(people.paths)} photographs are left out; {failures[0]}")
    return crops, people.labels[places]
