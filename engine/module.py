"""How anything is trained: a task gives the terms of its loss, the step from there to new weights is made here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from engine import optim
from engine.composite import CompositeOptimizer, Judges, RowOptimizer
from engine.devices import uses_gpu
from engine.guard import ForwardPass, RunningMeans, UpdateGuard, first_bad_module
from engine.host import Batch, drawn_shares
from engine.penalties import Penalties
from engine.signals import start_worker
from options.engine import EngineOptions
from options.names import TEST_RUN_BATCHES
from system.cores import at_most_cores

# What makes an image's outcome depend on the others of its batch, or on a draw.
_OF_BATCHES = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)


@dataclass(frozen=True)
class Step:
    """Which step a batch belongs to.

    Attributes:
        number: of updates before it.
        is_logged: whether a row of metrics.csv follows it; what costs time is measured then.
    """

    number: int
    is_logged: bool = False


@dataclass(frozen=True)
class Terms:
    """What a batch gives; all are scalars by name.

    Attributes:
        losses: each with its weight: what is learned is the sum of loss times weight.
        values: what is measured beside; no gradient is needed.
    """

    losses: Mapping[str, tuple[float, Tensor]]
    values: Mapping[str, Tensor]

    def total(self) -> Tensor:
        """Return what is learned."""
        return torch.stack([weight * loss for weight, loss in self.losses.values()]).sum()


class TrainingModule(pl.LightningModule):
    """A Lightning module that learns the terms that its subclass gives.

    A subclass gives `forward_terms`, and of the update nothing: a step that is not finite is skipped or stops the run,
    and a run that goes on from a checkpoint goes on with the same bits. The update is not Lightning's: its hook
    `on_before_optimizer_step` is not called.

    Args:
        options: how it is trained.
    Attributes:
        guard: judges every update.
        means: of what is measured, since the last row of metrics.csv.
        parts: optimizers of matrices whose gradient is sparse, or which are split over the ranks: DDP leaves them be.
            A subclass adds them, at the latest in `configure_model`.
        not_averaged: what the names of parameters and buffers begin with that `WeightAverage` leaves alone.
        not_statistics: what the names of buffers begin with that a refused step does not take back.
    """

    not_averaged: tuple[str, ...] = ()
    not_statistics: tuple[str, ...] = ()

    def __init__(self, options: EngineOptions) -> None:
        super().__init__()
        self.options = options
        self.guard = UpdateGuard(options.on_nonfinite, options.max_skipped_steps)
        self.means = RunningMeans()
        self.parts: list[RowOptimizer] = []
        self._penalties: Penalties | None = None
        self._applied_rates: list[float] = []
        self._finished_step = 0

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """The matrices of `parts`, which DDP asks for by this name."""
        apart = {id(part.weight) for part in self.parts}
        return [name for name, parameter in self.named_parameters() if id(parameter) in apart]

    def check_patterns(self, split: Sequence[str] = ()) -> None:
        """Refuse patterns of the options that fit no parameter, before anything is made; a task calls it when built.

        Args:
            split: names of matrices that `configure_model` will add to `parts`.
        Raises:
            ValueError: one line with the flag and the pattern.
        """
        later = {name: nn.Parameter(torch.empty(0)) for name in split}
        named = [*self.named_parameters(), *later.items()]
        trained = [name for name, parameter in named if parameter.requires_grad]
        optim.matched(trained, [pattern for pattern, _ in self.options.factors], "--lr_factors")
        optim.stage_rates(trained, self.options.run_stages)
        Penalties(self.options.penalties, named, [*(part.weight for part in self.parts), *later.values()])

    def forward_terms(self, batch: Any, step: Step) -> Terms:
        """Return the loss terms of a batch of this rank.

        Every rank must give the same names. A generator of torch's that is drawn from has been seeded for the step.
        """
        raise NotImplementedError

    def logged_values(self) -> dict[str, float]:
        """Return what a row of metrics.csv holds beside the means."""
        return {}

    def after_update(self, step: int) -> None:
        """Do what a task does after the update with this number, from 1."""

    # ---------------------------------------------------------------- a step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; the host does not learn it here, which would make it wait.

        Lightning divides what is returned by `accumulate_grad_batches`. The last group of an epoch may hold fewer
        batches, and the loss of each then counts for more, so that every step takes the mean over its batches.
        """
        self.guard.watch(self)
        number = self.trainer.global_step
        is_logged = (number + 1) % self.options.log_every_n_steps == 0
        terms = self._forward(batch, batch_idx, Step(number, is_logged))
        if self._penalties is not None:
            charged = self._penalties.loss(self.trainer.current_epoch)
            terms = Terms({**terms.losses, **charged}, terms.values)
        total = terms.total()
        losses = {name: loss for name, (_, loss) in terms.losses.items()}
        values = {**{f"train_{name}_loss": loss for name, loss in losses.items()}, "train_loss": total, **terms.values}
        self.guard.add(ForwardPass(batch, batch_idx, total, losses, values))
        return total * self._share_of_step(batch_idx)

    def _share_of_step(self, batch_idx: int) -> float:
        """Return `accumulate_grad_batches` over the number of batches in the group of a batch, 1 for a whole group."""
        size = self.trainer.accumulate_grad_batches
        left = int(self.trainer.num_training_batches) - batch_idx // size * size
        return size / min(size, left)

    def _forward(self, batch: Batch, batch_idx: int, step: Step) -> Terms:
        # Dropout draws depend on seed, step and rank alone, so a resumed run needs no generator state.
        key = (self.options.seed, step.number, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        return self.forward_terms(batch, step)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Any = None,
    ) -> None:
        """Make one update of the weights, or skip it, from the batches of the step on."""
        composite = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert isinstance(composite, CompositeOptimizer)
        number, scaler = self.trainer.global_step, self._scaler()
        self._applied_rates = [group["lr"] for group in composite.param_groups]
        optimizer_closure()  # `training_step` and the backward pass; DDP takes the mean of the gradients over the ranks
        judges = Judges(self.guard, self.means, partial(self._first_bad_module, number))
        clip = self.options.gradient_clip_val
        accepted = composite.guarded_step(self.named_parameters(), judges, number, clip, scaler)
        if self._penalties is not None:
            self._penalties.shrink(composite.whole, self.trainer.current_epoch, accepted)

    def _first_bad_module(self, number: int, batch: Batch, batch_idx: int) -> str | None:
        """Repeat a forward pass; the weights are still what they were, because its update was skipped."""
        with self.trainer.precision_plugin.train_step_context():
            return first_bad_module(self, lambda: self._forward(batch, batch_idx, Step(number)))

    def _scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def configure_optimizers(self) -> Any:
        """Return optimizer and per-step schedule as the options say."""
        c = self.options
        groups = optim.parameter_groups([self], c.weight_decay, c.factors, c.run_stages)
        whole = optim.build_optimizer(c.optimizer, groups, c.lr, c.momentum, fused=self._is_fused())
        composite = CompositeOptimizer(whole, self.parts)
        total = int(self.trainer.estimated_stepping_batches)
        milestones = tuple(round(epoch * (total / c.epochs)) for epoch in c.lr_milestones)
        starts = optim.stage_starts(c.run_stages, total)
        plan = optim.SchedulePlan(total, c.warmup_steps, milestones, c.lr_gamma, c.lr_floor, starts)
        if c.penalty:
            self._penalties = Penalties(c.penalties, self.named_parameters(), [part.weight for part in self.parts])
        scheduler = optim.build_scheduler(composite, c.lr_schedule, plan, groups)
        return {"optimizer": composite, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _is_fused(self) -> bool:
        """Return whether the device must skip a step by itself; the CPU knows the numbers as soon as the host does."""
        return self.device.type != "cpu" or self._scaler() is not None

    # ---------------------------------------------------------------- after a step

    def on_train_start(self) -> None:
        """Note where training starts or goes on."""
        self._finished_step = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the means of the last steps every log_every_n_steps and at the end of an epoch."""
        step = self.trainer.global_step
        if step == self._finished_step:
            return  # gradients are still being accumulated
        self._finished_step = step
        if step % self.options.log_every_n_steps == 0 or self.trainer.is_last_batch:
            self.guard.settle()
            values = self.means.take() | self._rates(step - 1) | {"epoch": self.trainer.current_epoch}
            values |= {"skipped_steps": self.guard.skipped} | drawn_shares(self.trainer)
            sparsity = {} if self._penalties is None else self._penalties.sparsity()
            self.log_now(values | sparsity | self.logged_values(), step)
        self.after_update(step)

    def _rates(self, number: int) -> dict[str, float]:
        """Return the rates of the update with this number, by name."""
        c, stage = self.options, None
        if stages := c.run_stages:
            starts = optim.stage_starts(stages, int(self.trainer.estimated_stepping_batches))
            stage = stages[optim.SchedulePlan(0, starts=starts).stage_at(number)]
        return optim.named_rates(self._applied_rates, c.lr, c.factors, stage)

    def on_train_epoch_end(self) -> None:
        """Read what became of the last step, before the checkpoint of the epoch is written."""
        self.guard.settle()

    def log_now(self, values: Mapping[str, float], step: int) -> None:
        """Give every logger a row."""
        for run_logger in self.loggers:
            run_logger.log_metrics(dict(values), step=step)

    # ---------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store how many steps were skipped."""
        self.guard.settle()
        checkpoint["skipped_steps"] = self.guard.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        self.guard.skipped = checkpoint.get("skipped_steps", 0)


class TrainingData(pl.LightningDataModule):
    """Data that training goes on with where a checkpoint was taken, in the middle of an epoch too.

    A subclass gives `build_sampler`, and loaders over `train_sampler`.

    Args:
        options: how is trained.
    Attributes:
        unreadable: why something could not be read, by its path, of what training met so far on this rank.
    """

    def __init__(self, options: EngineOptions) -> None:
        super().__init__()
        self.options = options
        self.unreadable: dict[str, str] = {}
        self._sampler: Any = None
        self._place: dict[str, int] | None = None

    @cached_property
    def num_workers(self) -> int:
        """Return how many processes read, at most one for each core."""
        return at_most_cores(self.options.num_workers)

    def loader_options(self, persistent: bool) -> dict[str, Any]:
        """Return how a `DataLoader` works, as keywords; `persistent`: its workers live on after an epoch."""
        return {
            "num_workers": self.num_workers,
            "pin_memory": uses_gpu(self.options),
            "persistent_workers": persistent and self.num_workers > 0,
            "prefetch_factor": 4 if self.num_workers else None,
            "worker_init_fn": start_worker,
        }

    def build_sampler(self, rank: int) -> Any:
        """Return a batch sampler of one rank with `set_epoch` and `load_state_dict({seed, epoch, batches_done})`."""
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """Return the optimizer steps of the whole run."""
        options, batches = self.options, len(self.build_sampler(rank=0))
        batches = min(batches, TEST_RUN_BATCHES) if options.test_run else batches
        return options.epochs * math.ceil(batches / options.accumulate_grad_batches)

    def drawn(self, epoch: int, batches: int) -> dict[str, int]:
        """Return how many images of each of several data sets the epochs before one and its first batches hold.

        Any thread may ask. Empty where there is one data set.
        """
        return {}

    @property
    def num_validated(self) -> int:
        """Return how many entries the batches of a validation, or a test, have over all ranks."""
        return 0

    def facts(self) -> dict[str, object]:
        """Return what must be the same on all ranks, for a message by name."""
        return {}

    @property
    def train_sampler(self) -> Any:
        """Return this rank's sampler, at the place where training goes on."""
        if self._sampler is None:
            self._sampler = self.build_sampler(self.trainer.global_rank if self.trainer else 0)
            # Lightning builds the loader, and its workers draw, before it restores the epoch: the place is ours.
            if self._place is not None:
                self._sampler.load_state_dict(self._place)
        return self._sampler

    def state_dict(self) -> dict[str, int]:
        """Return the place in the data {seed, epoch, batches_done}; it depends on no rank and no worker."""
        trainer = self.trainer
        assert trainer is not None, "only a trainer saves checkpoints"
        loop = trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]  # typed as its base
        # With --test_run an epoch ends before its plan does.
        ended, batches_done = divmod(done, int(trainer.num_training_batches))
        started = loop.epoch_progress.current.started  # type: ignore[attr-defined]  # likewise
        epoch = max(0, started - 1) + ended  # before the first step none is started
        return {"seed": self.options.seed, "epoch": epoch, "batches_done": batches_done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next training loader where `state_dict` was taken."""
        self._place = state_dict
        if self._sampler is not None:
            self._sampler.load_state_dict(state_dict)


def enter_check_mode(module: nn.Module) -> None:
    """Let a module take the same course on any number of ranks, to the last digits: --check_mode.

    It is turned into float64, class maps included, and its batch norms and dropout are put into eval mode: the norms
    then normalize each image by itself, with running statistics that stay; their weights are trained. Lightning keeps
    the modes of the parts: they outlive a validation.
    """
    module.double()
    for parameter in module.parameters():
        parameter.grad_dtype = parameter.dtype  # class maps were float16 with a float32 gradient
    for part in module.modules():
        if isinstance(part, _OF_BATCHES):
            part.eval()
