"""What watches the training of a recognizer beside what watches any training."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning.callbacks import Callback

from config import Config
from engine.callbacks import UnreadableList
from engine.files import WriteFailures
from options.names import CLASS_MEANS
from system.cores import usable_workers
from tasks.recognition.head_start import HeadStart
from tasks.recognition.known_images import KnownImages
from tasks.recognition.mixture_picture import MixturePicture
from tasks.recognition.neighbours import NeighbourTable
from tasks.recognition.paired_nets import PairedNetsOfRun
from tasks.recognition.paired_watch import PairedWatch
from tasks.sample_sheet import SampleSheet
from tasks.score_histograms import ScoreHistograms


def build_callbacks(config: Config, folder: Path | None, failures: WriteFailures) -> list[Callback]:
    """Return the callbacks of a run.

    Args:
        config: options of the run.
        folder: the run folder on rank 0, None elsewhere.
        failures: what is told of files that cannot be written.
    """
    workers = usable_workers(config.num_workers)
    callbacks: list[Callback] = [HeadStart(config.head_start == CLASS_MEANS, config.seed, workers)]
    if (config.has_teacher or config.front) and not config.evaluate:
        callbacks.append(PairedNetsOfRun(config))
    if not config.evaluate:
        callbacks.append(KnownImages(config))
    if config.trains_on_views and not config.evaluate:
        callbacks.append(PairedWatch())
    if config.sampler == "graph":
        # Random weights know no neighbours: their first epoch has random identities.
        first_epoch = 0 if config.start_from_model_statedict else 1
        callbacks.append(NeighbourTable(first_epoch, num_workers=workers))
    if not config.fast_dev_run:
        callbacks += [
            SampleSheet(folder, failures),
            ScoreHistograms(folder, failures),
            UnreadableList(folder, config.max_bad_fraction, failures),
        ]
        if len(config.data) > 1 or config.has_curriculum:
            callbacks.append(MixturePicture(folder, failures))
    return callbacks
