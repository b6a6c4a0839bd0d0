"""Options: pretraining without labels, by momentum contrast."""

from __future__ import annotations

from dataclasses import dataclass

from options.data import SourceOptions
from options.flags import MAY_CHANGE, Options, flag
from options.names import CLUSTER_METHODS, COUNT, NO_METRIC, NOT_NEGATIVE, OCCLUDERS, POSITIVE, SHARE
from options.run import SystemOptions
from options.training import TrainingOptions
from options.words.epoch_steps import EpochSteps, read_epoch_steps, value_at

KEY_NORMS = ("shuffle", "split", "sync")
PROJECTORS = ("mlp", "mlp_bn")
MOMENTUM_SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class ContrastOptions(Options):
    """Momentum contrast."""

    queue_size: int = flag(32768, "keys of the last batches that serve as negatives", within=COUNT)
    projection_size: int = flag(128, "length of queries and keys", within=COUNT)
    projector: str = flag(
        "mlp", "what makes them of the embedding: MoCo v2's, or one with a hidden layer of 2048 and batch norm",
        choices=PROJECTORS,
    )  # fmt: skip
    contrast_margin: float = flag(0.1, "what the positive's cosine must be above the negatives'", within="[-1, 1]")
    temperature: float = flag(0.07, "of the cosines", within=POSITIVE)
    left_out_top_k: int = flag(
        0, "most similar negatives of each query that are left out, for they may show its person", within=NOT_NEGATIVE
    )
    symmetric: bool = flag(
        False, "either view is a query once: twice the work of a step; the keys of second views are enqueued"
    )
    key_momentum: float = flag(0.999, "share of the key encoder that a step leaves", within=SHARE)
    key_momentum_schedule: str = flag("constant", "it stays, or rises to 1 along a cosine", choices=MOMENTUM_SCHEDULES)
    key_norm: str = flag(
        "shuffle", "in whose company batch norm sees a key: images of all ranks at random, on one rank as split;"
        " a rank's own in groups; or the moments of all ranks, on one rank a leak", choices=KEY_NORMS,
    )  # fmt: skip
    key_groups: int = flag(4, "key_norm split: groups of a rank's batch", within=COUNT)


@dataclass(frozen=True, kw_only=True)
class PseudoIdentityOptions(Options):
    """Pseudo-identities."""

    pseudo_pairs: tuple[str, ...] = flag(
        ("0:0", "5:0.3", "10:0.6", "20:0.85", "35:0.9"),
        "epoch:share,... from which epoch on which share of the second views is another image of the query's cluster;"
        " 0:0: never, and nothing is clustered",
    )
    refresh_every: int = flag(
        2, "epochs that clusters serve; they are guessed anew by the key encoder, first for an epoch that uses them",
        within=COUNT,
    )  # fmt: skip
    cluster_neighbours: int = flag(20, "nearest images that are searched for each", within="[1, 1000]")
    cluster_mutual: int = flag(5, "of them, those among which both images of an edge must be", within="[1, 1000]")
    cluster_threshold: float = flag(0.6, "least cosine of an edge", within="[-1, 1]")
    max_cluster_size: int = flag(
        300, "images of a cluster at most; above the largest plausible identity", within="[2, inf)"
    )
    cluster_jaccard: float = flag(
        0.0, "least share of nearest images that both images of an edge have in common", within=SHARE
    )
    cluster_method: str = flag(
        "auto", "all products, k-means lists, or faiss where it is installed; auto: exact where cheap",
        choices=CLUSTER_METHODS,
    )  # fmt: skip

    def check_clusters(self) -> None:
        """Refuse what the flags cannot mean together.

        Raises:
            ValueError: one line that names the flag.
        """
        self.pseudo_shares()
        if self.cluster_mutual > self.cluster_neighbours:
            raise ValueError(
                f"--cluster_mutual {self.cluster_mutual} is above --cluster_neighbours {self.cluster_neighbours}"
            )

    def pseudo_shares(self) -> EpochSteps:
        """Return from which epoch on which share of the second views is another image of the query's cluster.

        Raises:
            ValueError: one line that names the flag.
        """
        try:
            return read_epoch_steps(",".join(self.pseudo_pairs), 0.0, 1.0)
        except ValueError as error:
            raise ValueError(f"--pseudo_pairs: {error}") from None

    def is_refreshed_for(self, epoch: int) -> bool:
        """Return whether images are clustered anew for an epoch: one of those until the next time uses the clusters."""
        served, shares = range(epoch, epoch + self.refresh_every), self.pseudo_shares()
        return epoch % self.refresh_every == 0 and any(value_at(shares, later) > 0 for later in served)


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """Two views."""

    view_crop_area: float = flag(0.2, "least share of the image that a view's crop keeps; 1 = no crop", within="(0, 1]")
    view_flip_prob: float = flag(0.5, "share of the views that are mirrored", within=SHARE)
    view_color_prob: float = flag(0.8, "share with other light and color", within=SHARE)
    view_grayscale_prob: float = flag(0.2, "share without colors", within=SHARE)
    view_blur_prob: float = flag(0.5, "share that is blurred", within=SHARE)
    view_low_res_prob: float = flag(0.2, "share that is shrunk and enlarged again", within=SHARE)
    view_occlusion_prob: float = flag(0.0, "share that is occluded", within=SHARE)
    occluders: tuple[str, ...] = flag(
        OCCLUDERS, f"what occludes them: all, or some of {', '.join(OCCLUDERS)}", choices=OCCLUDERS
    )


@dataclass(frozen=True, kw_only=True)
class PretrainingTrainingOptions(TrainingOptions):
    """Training."""

    epochs: int = flag(50, "passes over the data", within=COUNT, on_resume=MAY_CHANGE)
    batch_size: int = flag(256, "images a step, over all ranks together", within="[2, inf)")
    lr: float = flag(0.05, "learning rate", within=POSITIVE)
    lr_milestones: tuple[int, ...] = flag(
        (10, 20, 30, 40), "epochs after which multistep lowers the rate", within=COUNT
    )
    warmup_steps: int = flag(500, "optimizer steps of linear warm-up", within=NOT_NEGATIVE)
    gradient_clip_val: float = flag(5.0, "largest norm of the gradient; 0 = no clipping", within=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class PretrainingSystemOptions(SystemOptions):
    """Run."""

    prefix: str = flag("pretrain", "first part of the run folder's name")
    monitor: str = flag(
        NO_METRIC, "metric of the labeled sets whose largest value makes best.ckpt; none: nothing is chosen by labels"
    )


@dataclass(frozen=True, kw_only=True)
class PretrainingDataOptions(SourceOptions):
    """Data."""

    val_data_path: str | None = flag(
        None, "folder of labeled benchmark sets that are reported on; they choose nothing unless --monitor says so",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
