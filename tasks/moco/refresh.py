"""Pseudo-identities in a training: images are clustered anew every few epochs, and clusters give pairs of views."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from datasets import SampleKey
from datasets.clustering import (
    JoiningRules,
    PseudoIdentities,
    SearchSettings,
    edge_recall,
    merge_neighbours,
    neighbours,
    pseudo_identities,
    pseudo_pairs,
    search_figures,
)
from datasets.clustering.lists import Visits
from datasets.doctor.pictures import write_histogram
from engine import runs
from engine.callbacks.heartbeat import occupied
from engine.files import WriteFailures, side_file
from engine.guard import NonFiniteError
from evaluation.representation.clustering import described_quality
from nets import Backbone
from ops import gather_objects
from options.words.epoch_steps import value_at
from tasks.embedding import embed_images
from tasks.kept_rows import KeptRows
from tasks.moco.data import PretrainingData
from tasks.moco.module import Pretrainer

logger = logging.getLogger(__name__)
FOLDER = "clusters"  # in the run folder


class ClusterRefresh(Callback):
    """Cluster the images by the key encoder's embeddings, and let second views be other images of a cluster.

    Images are clustered when the first batch of an epoch is asked for, after the checkpoint of the epoch before. The
    module keeps the clusters, so that a checkpoint has them: a run that is resumed inside an epoch goes on with those
    it was planned by. One that ends before goes on from the embeddings that are kept until then. Every rank embeds and
    searches its share, and all come to the same clusters.

    `clusters/epoch_<n>.json` tells of each time what became of the edges, the share of true edges that the search
    found and, where the data name people, how well clusters follow them, which is a report and chooses nothing; the
    picture beside it shows the sizes.

    Args:
        folder: the run folder, None on the ranks that write nothing.
        failures: told when a report cannot be written.
        num_workers: processes that read images.
    """

    def __init__(self, folder: Path | None, failures: WriteFailures, num_workers: int = 0) -> None:
        self._folder = None if folder is None else folder / FOLDER
        self._failures = failures
        self._kept = KeptRows(self._folder)
        self._num_workers = num_workers
        self._epoch: int | None = None  # that the images were last clustered for

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch that the images were last clustered for, if they ever were."""
        return {} if self._epoch is None else {"epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._epoch = state_dict.get("epoch")

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Let the data ask for partners: by then weights, clusters and place are restored."""
        assert isinstance(module, Pretrainer)
        _data(trainer).partners = partial(self._partners, trainer, module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let go of the embeddings that the clusters in this checkpoint were made of."""
        self._kept.remove()

    def _partners(self, trainer: pl.Trainer, module: Pretrainer, epoch: int) -> NDArray[np.int64] | None:
        config = module.config
        self._provide(trainer, module, epoch)
        share = value_at(config.pseudo_shares(), epoch)
        return pseudo_pairs(module.clusters.cpu().numpy(), share, config.seed, epoch) if share else None

    def _provide(self, trainer: pl.Trainer, module: Pretrainer, epoch: int) -> None:
        if self._epoch == epoch or not module.config.is_refreshed_for(epoch):
            return
        start = time.monotonic()
        with occupied(module, "guessing identities"):
            identities, visits, recall = _cluster(trainer, module, epoch, self._num_workers, self._kept)
        module.relabel(torch.from_numpy(identities.clusters))
        self._epoch = epoch
        counts = identities.counts()
        logger.info(
            "epoch %d: %d clusters with %.1f %% of %d images, the largest of %d; %s; edge recall %.4f; %.1f s",
            epoch, counts["num_clusters"], 100 * counts["coverage"], counts["num_images"], counts["largest_cluster"],
            "all pairs" if visits is None else f"{visits.probe} of {visits.num_lists} lists visited",
            recall, time.monotonic() - start,
        )  # fmt: skip
        if visits is not None and visits.is_capped:
            logger.warning(
                "epoch %d: more than %d visits are not planned, though these find %.4f of the edges only;"
                " --cluster_method exact finds all",
                epoch, visits.probe, visits.planned_recall,
            )  # fmt: skip
        self._report(trainer, module, epoch, counts | search_figures(visits, recall))
        self._draw(epoch, identities)

    def _report(self, trainer: pl.Trainer, module: Pretrainer, epoch: int, report: dict[str, Any]) -> None:
        labels = _data(trainer).train_dataset.labels
        figures = {name: report[name] for name in ("coverage", "edge_recall")}
        if report["visits"] is not None:
            figures["probe"] = report["visits"]["probe"]
        if len(np.unique(labels)) > 1:
            quality = report["quality"] = described_quality(labels, module.clusters.cpu().numpy())
            figures |= {name: quality["single"][name] for name in ("precision", "recall", "f", "bcubed_f")}
        row = {f"cluster_{name}": float(value) for name, value in figures.items() if value is not None}
        module.log_now(row, trainer.global_step)
        if self._folder is not None:
            with side_file(self._failures, FOLDER):
                self._folder.mkdir(exist_ok=True)
                rules = {name: value for name, value in module.config.to_dict().items() if "cluster" in name}
                runs.write_json(self._folder / f"epoch_{epoch:04d}.json", {"epoch": epoch, **report, "settings": rules})

    def _draw(self, epoch: int, identities: PseudoIdentities) -> None:
        if self._folder is not None and len(identities.sizes):
            with side_file(self._failures, FOLDER):
                write_histogram(self._folder / f"epoch_{epoch:04d}.png", identities.sizes)


def _cluster(
    trainer: pl.Trainer, module: Pretrainer, epoch: int, num_workers: int, kept: KeptRows | None = None
) -> tuple[PseudoIdentities, Visits | None, float]:
    """Return clusters of all images, the same on every rank, the lists visited and the measured edge recall."""
    config, key = module.config, module.contrast.key
    backbone = key.backbone
    assert isinstance(backbone, Backbone)
    keys = [SampleKey(0, image, epoch, image) for image in range(len(module.clusters))]
    # Half precision moves a cosine by less than 1e-3; a million images take 1 GB.
    embeddings = embed_images(trainer, backbone, keys, num_workers=num_workers, dtype=torch.float16, kept=kept)
    if not embeddings.isfinite().all():
        raise NonFiniteError(f"epoch {epoch}: the key encoder's embeddings are not all finite; lower --lr or warm up")
    settings = SearchSettings(seed=config.seed, rank=trainer.global_rank, world_size=trainer.world_size)
    found = neighbours(embeddings, config.cluster_neighbours, config.cluster_threshold, config.cluster_method, settings)
    if config.cluster_method != "faiss":  # whose search is not dealt to the ranks
        found = merge_neighbours(gather_objects(found))
    recall = edge_recall(embeddings, found, config.cluster_threshold, seed=config.seed)
    rules = JoiningRules(
        config.cluster_mutual, config.cluster_threshold, config.max_cluster_size, config.cluster_jaccard
    )
    return pseudo_identities(found, rules), found.visits, recall


def _data(trainer: pl.Trainer) -> PretrainingData:
    data: PretrainingData = trainer.datamodule  # type: ignore[attr-defined]  # Lightning attaches it
    return data
