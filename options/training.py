"""Options: how it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from options.flags import MAY_CHANGE, Options, flag
from options.names import (
    COUNT,
    EPOCH_UNITS,
    LR_SCHEDULES,
    NOT_NEGATIVE,
    OPTIMIZERS,
    POSITIVE,
    SAMPLERS,
    SEEDS,
    SHARE,
)
from options.words.patterns import Factors, Penalty, Stage, read_factors, read_penalties, read_stages


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """Training."""

    epochs: int = flag(24, "passes over the data", within=COUNT, on_resume=MAY_CHANGE)
    batch_size: int = flag(256, "images a step, over all ranks together; divisible by 4", within="[4, inf)")
    lr: float = flag(0.1, "learning rate", within=POSITIVE)
    lr_milestones: tuple[int, ...] = flag((8, 12, 14), "epochs after which multistep lowers the rate", within=COUNT)
    lr_gamma: float = flag(0.1, "factor of each milestone", within="(0, 1]")
    momentum: float = flag(0.9, "momentum of sgd", within="[0, 1)")
    weight_decay: float = flag(5e-4, "weight decay, not for norms and biases", within=NOT_NEGATIVE)
    accumulate_grad_batches: int = flag(1, "batches whose gradients one optimizer step takes", within=COUNT)
    gradient_clip_val: float = flag(0.0, "largest norm of the gradient; 0 = no clipping", within=NOT_NEGATIVE)
    ema_decay: float = flag(
        0.0, "evaluate a moving average of the weights; the share of it that a step leaves, 0 = none", within="[0, 1)"
    )
    warmup_steps: int = flag(0, "optimizer steps of linear warm-up", within=NOT_NEGATIVE)
    seed: int = flag(42, "all that is random follows it", within=SEEDS)
    val_check_interval: float = flag(1.0, "share of an epoch between validations", within="(0, 1]")
    check_val_every_n_epoch: int = flag(1, "epochs from validation to validation; divides --epochs", within=COUNT)
    optimizer: str = flag("sgd", "optimizer", choices=OPTIMIZERS)
    lr_schedule: str = flag(
        "multistep",
        "learning rate over time, after the warm-up; onecycle: from 1/25 up to --lr over 30 % of the steps, then down",
        choices=LR_SCHEDULES,
    )
    lr_floor: float = flag(0.0, "share of --lr that --lr_schedule cosine ends at", within=SHARE)
    lr_factors: tuple[str, ...] = flag(
        (), "PATTERN=FACTOR: parameters whose names fit the pattern are trained at so many times --lr, as model.*=0.1;"
        " every pattern fits some, no two the same",
    )  # fmt: skip
    stages: tuple[str, ...] = flag(
        (), "EPOCHS:PATTERN[=RATE],...: one stage of the run, given once for each, in order: so many epochs in"
        " which the parameters that fit a pattern are trained, at this rate or at --lr, and all others frozen; each"
        " stage has warm-up and schedule of its own",
        parse=lambda text: (text,),
    )  # fmt: skip
    patience: int = flag(
        0, "end the run after so many validations without a better --monitor; weights that were loaded are validated"
        " before the first step and may be the best; 0 = never",
        within=NOT_NEGATIVE, on_resume=MAY_CHANGE,
    )  # fmt: skip
    penalty: tuple[str, ...] = flag(
        (), "PATTERN=KIND:STRENGTH[:prox][:ramp_3_8]: charge the size of parameters by l1, l2 or group (group lasso:"
        " the norms of output channels); as a term of the loss, or with prox by a step after each update, which leaves"
        " exact zeros; the ramp raises the strength between two epochs",
    )  # fmt: skip
    checkpoint_every_n_steps: int = flag(
        0, "optimizer steps between two checkpoints within an epoch, whose end always has one; 0 = none",
        within=NOT_NEGATIVE, on_resume=MAY_CHANGE,
    )  # fmt: skip
    keep_every_n_epochs: int = flag(
        0, "epochs between two checkpoints that are kept for good; 0 = none", within=NOT_NEGATIVE, on_resume=MAY_CHANGE
    )
    on_nonfinite: str = flag(
        "stop", "a loss that is not finite stops the run, or its step is skipped and counted",
        choices=("stop", "skip"), on_resume=MAY_CHANGE,
    )  # fmt: skip
    max_skipped_steps: int = flag(
        100, "steps that --on_nonfinite skip may skip before the run stops all the same", within=NOT_NEGATIVE,
        on_resume=MAY_CHANGE,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        read_factors(self.lr_factors), read_penalties(self.penalty)
        self._check_epochs()
        self._check_stages()
        if self.lr_floor and self.lr_schedule != "cosine":
            raise ValueError(f"--lr_floor belongs to --lr_schedule cosine, not to {self.lr_schedule}; leave it out")
        if self.warmup_steps and self.lr_schedule == "onecycle":
            raise ValueError("--warmup_steps: --lr_schedule onecycle has a warm-up of its own; leave one of them out")

    def _check_epochs(self) -> None:
        every = self.check_val_every_n_epoch
        if self.epochs % every:
            fitting = next(n for n in range(every, 0, -1) if self.epochs % n == 0)
            raise ValueError(
                f"--check_val_every_n_epoch {every} does not divide --epochs {self.epochs}: the last weights would"
                f" never be validated; try --check_val_every_n_epoch {fitting}"
            )
        if list(self.lr_milestones) != sorted(set(self.lr_milestones)):
            raise ValueError(f"--lr_milestones must rise, got {','.join(map(str, self.lr_milestones))}")

    def _check_stages(self) -> None:
        if not (stages := read_stages(self.stages)):
            return
        if self.lr_factors:
            raise ValueError("--stages gives rates by pattern itself: it conflicts with --lr_factors")
        epochs = sum(stage.epochs for stage in stages)
        if epochs != self.epochs:
            raise ValueError(f"--stages takes {epochs} epochs together, but --epochs says {self.epochs}")

    @property
    def run_stages(self) -> tuple[Stage, ...]:
        """What --stages says."""
        return read_stages(self.stages)

    @property
    def factors(self) -> Factors:
        """The factors of --lr_factors by pattern."""
        return read_factors(self.lr_factors)

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """What --penalty charges."""
        return read_penalties(self.penalty)


@dataclass(frozen=True, kw_only=True)
class IdentityOptions(Options):
    """Training with identities."""

    sampler: str = flag(
        "pk", "a batch: 4 images each of random identities, or of one with its nearest neighbours, or images at random",
        choices=SAMPLERS,
    )  # fmt: skip
    epoch_by: str = flag(
        "images", "an epoch of --sampler pk: each image once, or 4 images of each identity", choices=EPOCH_UNITS
    )
    margin_warmup_epochs: float = flag(0.0, "epochs over which the margin rises from 0", within=NOT_NEGATIVE)
