"""Embed a whole data set: `python main.py embed --help`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.answers import shared
from cli.two_paths import read_two_paths
from datasets.counted import counted
from options.command import FlagParser, as_typed
from options.embedding import EmbedOptions
from system.cores import bound_waiting
from system.launch import find_launch, is_main_process
from system.terminal import show

if TYPE_CHECKING:  # torch is imported only after the options are known to be right
    from models import FaceModel
    from models.embedding.embed import Encoder, Origin
    from models.embedding.sources import Source

_DESCRIPTION = """Embed a whole data set. SOURCE: a folder of people, of photographs without names, records, arrays or a
benchmark set. OUTPUT: a folder with embeddings.npy [N, D] of unit length, norms.npy, labels.npy where people are known,
images.csv (index, name, label, quality) and embeddings.json, which tells weights, source and versions; with --format
parquet, embeddings.parquet instead of the arrays. quality is the share of the face that the model takes for visible.

Interrupted, the same command goes on where it was and gives the same bits; with other weights it refuses. Under
torchrun every rank takes a part; OUTPUT must be on a disk that all share. Images that cannot be read are left out and
listed in OUTPUT.unreadable.tsv. Exit code: 0 done, 1 done but for such images, 2 a mistake in the input, 130
interrupted."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py embed") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_faces my_embeddings --model-path last.ckpt")
    parser.usage = f"{prog} SOURCE OUTPUT --model-path FILE [--flag value ...]"
    paths = {"SOURCE": "what to embed", "OUTPUT": "folder to write"}
    with read_two_paths(parser, argv, EmbedOptions, paths) as (source, output, options):
        return _embed(source, output, options)


def _embed(source: Path, output: Path, options: EmbedOptions) -> int:
    bound_waiting()  # is read when torch is imported
    from datasets.faces.folder_scan import refuse_output_within
    from engine import runs
    from models.embedding.embed import EmbedJob, embed

    if source.is_dir():
        refuse_output_within(source, output, "OUTPUT")
    runs.start_log(is_main_process())
    encoder = _open_encoder(options)
    images, origin = _open_source(encoder.model, source, options)
    launch = find_launch()
    rank, num_ranks = (0, 1) if launch is None else (launch.rank, launch.num_ranks)
    job = EmbedJob(
        output, options.batch_size, options.dtype, options.flip, options.format, options.overwrite, rank, num_ranks
    )
    outcome = embed(encoder, images, job, origin, runs.versions())
    if outcome is None:
        return 0
    show(outcome.text)
    if outcome.num_unreadable:
        show(f"unreadable: {counted(outcome.num_unreadable, 'image')}, listed in {outcome.unreadable}")
    return int(bool(outcome.num_unreadable))


def _open_encoder(options: EmbedOptions) -> Encoder:
    """Return the model of the options on its device: the one place that knows which encoders a file holds.

    Raises:
        FileNotFoundError, ValueError: one line that names the file.
    """
    import torch

    from engine.devices import NAMES, choose_precision, settle, uses_gpu
    from models.embedding.embed import Encoder

    launch = find_launch()
    model = shared.load_model(options)
    settled = settle(options, 1 if launch is None else launch.ranks_per_node)
    place = 0 if launch is None else launch.rank % launch.ranks_per_node
    device = torch.device("cuda", place % torch.cuda.device_count()) if uses_gpu(options) else torch.device("cpu")
    precision = choose_precision(settled).value
    dtype = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}[precision]
    return Encoder(
        model.to(device),
        precision=NAMES[precision],
        autocast=lambda: torch.autocast(device.type, dtype, enabled=dtype is not None),
    )


def _open_source(model: FaceModel, path: Path, options: EmbedOptions) -> tuple[Source, Origin]:
    """Return the images, photographs as --align says, and what is told of them.

    Raises:
        ValueError, OSError: one line that names the path.
    """
    from models.embedding.embed import Origin
    from models.embedding.sources import Photographs, find_photographs, open_other

    found = find_photographs(path, options.follow_links)
    if found is None:
        if options.align == "yes":
            raise ValueError(f"--align yes is for photographs, and {path} holds crops; leave it out")
        return open_other(path), Origin(str(path))
    files, labels = found
    aligner = shared.choose_aligner(model, options, files)
    source = Photographs(files, labels, aligner, max(1, options.num_workers))
    return source, Origin(str(path), aligner.template, aligner.detector)
