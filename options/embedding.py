"""Options: what embeds a data set, and how embeddings are judged."""

from __future__ import annotations

from dataclasses import dataclass

from options.answers import ModelOptions
from options.flags import Options, flag
from options.names import COUNT, SEEDS
from options.run import DeviceOptions

EMBEDDING_DTYPES = ("float16", "float32")  # as of models.embedding; a test compares them
EMBEDDING_FORMATS = ("npy", "parquet")


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions(Options):
    """Embedding."""

    dtype: str = flag("float16", "of the embeddings that are kept", choices=EMBEDDING_DTYPES)
    format: str = flag("npy", "plain arrays, or one parquet file, which needs pyarrow", choices=EMBEDDING_FORMATS)
    batch_size: int = flag(64, "images at a time", within=COUNT)
    flip: bool = flag(True, "describe each image together with its mirror image, as an evaluation does")
    follow_links: bool = flag(False, "follow links in a folder of people that lead out of it")
    overwrite: bool = flag(False, "replace a result of this program that is there, or begun with other weights")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(DeviceOptions, EmbeddingOptions, ModelOptions):
    """Options of `embed`.

    Raises:
        ValueError: if a value is not allowed; one line that names the flag.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_precision()


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(Options):
    """Probe."""

    test_share: float = flag(0.2, "of the images of each person, which test", within="(0, 1)")
    k: int = flag(200, "neighbors that vote", within=COUNT)
    temperature: float = flag(0.07, "of their weights exp(cosine / temperature)", within="[0.001, 100]")
    lr: float = flag(30.0, "of the linear probe", within="(0, 1e6]")
    weight_decay: float = flag(0.0, "likewise", within="[0, 1]")
    epochs: int = flag(100, "likewise", within=COUNT)
    milestones: tuple[int, ...] = flag((60, 80), "epochs at which its rate is divided by 10", within=COUNT)
    batch_size: int = flag(256, "images of its batches", within=COUNT)
    draws: int = flag(1000, "draws of people behind an interval", within="[100, 100000]")
    seed: int = flag(0, "the division of the images, the probe and the draws follow it", within=SEEDS)
    output: str | None = flag(None, "JSON to write the figures into")

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"--milestones must rise, got {','.join(map(str, self.milestones))}")
