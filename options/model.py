"""Options: the model and its losses."""

from __future__ import annotations

from dataclasses import dataclass

from options.data import OcclusionOptions
from options.flags import INVOCATION, MAY_CHANGE, Options, flag
from options.names import (
    ARCHS,
    COLOR_SPACES,
    COUNT,
    COVARIATES,
    HEAD_STARTS,
    HEADS,
    NOT_NEGATIVE,
    OCCLUSION_HEADS,
    OCCLUSION_LOSSES,
    PAIRWISE_REDUCTIONS,
    POSITIVE,
    QACONV_SCORES,
    SHARE,
)


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(Options):
    """Model."""

    arch: str = flag("ir_50", "backbone", choices=ARCHS)
    embedding_size: int = flag(512, "length of the embedding", within=COUNT)
    color_space: str | None = flag(
        None, "channel order of weights from elsewhere that do not state it", choices=COLOR_SPACES, on_resume=INVOCATION
    )
    channels_last: bool = flag(
        True, "the channels of a cell lie side by side in memory: mostly faster, and the same but for rounding",
        on_resume=MAY_CHANGE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelOptions(BackboneOptions):
    """Model."""

    head: str = flag("adaface", "margin head", choices=HEADS)
    m: float | None = flag(
        None, "margin; else the published one: adaface 0.4, arcface 0.5, cosface 0.4, curricularface 0.5, magface 0.8"
        " (of the longest embeddings), subcenter_arcface 0.5", within=NOT_NEGATIVE,
    )  # fmt: skip
    h: float | None = flag(
        None, "adaface: how far quality moves the margin; else 0.333, as published; h = 0 turns adaface into cosface",
        within=NOT_NEGATIVE,
    )  # fmt: skip
    s: float = flag(64.0, "scale of the logits", within=POSITIVE)
    t_alpha: float = flag(
        0.01, "adaface, curricularface: rate at which running statistics follow the batch", within=SHARE
    )
    head_start: str = flag(
        "random", "class weights of a new run; class_means: each the mean of its images' embeddings by the weights that"
        " --start_from_model_statedict loads", choices=HEAD_STARTS,
    )  # fmt: skip
    occlusion_head: str = flag(
        "plain", "reads the last feature map; fine: an earlier one of twice its sides too; pyramid: the pixels, with"
        " layers of its own, and decides on cells of 4 x 4 of them",
        choices=OCCLUSION_HEADS,
    )  # fmt: skip
    partial_fc_rate: float = flag(
        0.0, "split the head's classes over the ranks, a step sees this share of them; 0 = all on every rank",
        within=SHARE,
    )  # fmt: skip
    freeze: tuple[str, ...] = flag(
        (), "parameters that are not trained: patterns of their names, as model.* or model.body.0.*; parts of the model"
        " that are frozen whole stay in eval mode, running statistics and dropout too",
    )  # fmt: skip
    head_only: bool = flag(False, "train margin head, matcher and occlusion head: freeze the backbone, model.*")

    @property
    def frozen(self) -> tuple[str, ...]:
        """The patterns of the parameters that are not trained."""
        return (*self.freeze, "model.*") if self.head_only else self.freeze


@dataclass(frozen=True, kw_only=True)
class LoraOptions(Options):
    """Low-rank adapters (LoRA)."""

    lora_rank: int = flag(
        0, "train the backbone by adapters of this rank beside its layers, and nothing else of it, its batch norms in"
        " eval mode; who loads the run gets both merged; 0 = none", within="[0, 1024]",
    )  # fmt: skip
    lora_alpha: float | None = flag(
        None, "what an adapter gives is multiplied by alpha / rank; else by 1", within=POSITIVE
    )
    lora_layers: tuple[str, ...] = flag(
        (), "layers of the backbone that get adapters: patterns of their names, as body.1.* or output_layer.*; else all"
        " that are linear or plain 1x1 convolutions",
    )  # fmt: skip
    lora_dropout: float = flag(0.0, "share of an adapter's inputs that training leaves out", within="[0, 1)")
    lora_by_quality: bool = flag(
        False, "two adapters for each layer, mixed by how much detail the image holds, which the network measures in"
        " training and wherever a face is described; they are not merged",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        of_adapters = ("lora_alpha", "lora_layers", "lora_dropout", "lora_by_quality")
        if not self.lora_rank and (given := next((name for name in of_adapters if getattr(self, name)), None)):
            raise ValueError(f"--{given} belongs to --lora_rank: give that, as 8")


@dataclass(frozen=True, kw_only=True)
class QAConvOptions(Options):
    """QAConv, the local matcher."""

    qaconv_channels: int = flag(0, "channels of a 1x1 projection before matching; 0 = none", within=NOT_NEGATIVE)
    qaconv_score: str = flag("bn_fc", "the published score, or weighted cosines of a projection", choices=QACONV_SCORES)
    class_embeddings: bool = flag(False, "learn a map of each identity and classify by matching it")
    k_nearest: int = flag(32, "class_embeddings: nearest classes that an image is matched with", within=COUNT)
    cross_rank_pairs: bool = flag(
        False, "match the images of a rank with those of all ranks, not with each other alone: as many times the pairs"
        " as there are ranks, and the maps of the whole batch on every rank; the log says how much that is",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModulatorOptions(Options):
    """Modulator."""

    modulator: tuple[str, ...] = flag(
        (), "scale and shift the channels of the map that the matcher reads, by what a head finds of these in it:"
        " quality of the image, visible share of the face, resolution (with views at a low one), the data set (of"
        " several); begins with no change",
        choices=COVARIATES,
    )  # fmt: skip
    modulator_weight: float = flag(0.1, "weight of the squared error of what that head finds", within=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class LossOptions(Options):
    """Losses."""

    adaface_loss_weight: float = flag(0.1, "weight of the margin head's loss", within=NOT_NEGATIVE)
    qaconv_loss_weight: float = flag(0.7, "weight of the matcher's losses; 0 = no matcher", within=NOT_NEGATIVE)
    occlusion_loss_weight: float = flag(0.3, "weight of the occlusion head's loss", within=NOT_NEGATIVE)
    occlusion_loss: str = flag(
        "mse", "occlusion head: mean squared error, binary cross entropy, or Dice of what is hidden",
        choices=OCCLUSION_LOSSES,
    )  # fmt: skip
    triplet_weight: float = flag(0.5, "weight of the ranking loss within the matcher's", within=NOT_NEGATIVE)
    class_weight: float | None = flag(
        None, "weight of the class embeddings' loss within the matcher's; else that of the ranking loss",
        within=NOT_NEGATIVE,
    )  # fmt: skip
    triplet_margin: float = flag(1.0, "margin of the ranking loss", within=NOT_NEGATIVE)
    pairwise_reduction: str = flag(
        "ranking", "how the matcher's pairwise loss is reduced over a row of scores", choices=PAIRWISE_REDUCTIONS
    )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(OcclusionOptions, LossOptions, QAConvOptions, ModulatorOptions, LoraOptions, ModelOptions):
    """The sections that shape a run's networks."""
