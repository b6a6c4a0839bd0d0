"""The guard of the updates: a step that NaN or infinity took part in changes nothing, and the host learns of it later.

Whether a step is sound is decided on the device, which skips the update by itself; the host reads the answer when the
gradients of the next step are on their way, so it never waits for the device to run dry.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.host import Batch, MixedBatch
from ops import gather_objects, is_distributed, own_rank, world_size

logger = logging.getLogger(__name__)

_WINDOW: Final = 100  # losses whose median a loss is compared with
_ENOUGH: Final = 20  # of them before it is
_SPIKE: Final = 10.0  # times the median

Diagnosis = Callable[[Batch, int], str | None]


class NonFiniteError(RuntimeError):
    """A loss term or a gradient is NaN or infinite, and the run is told to stop or has skipped too many steps."""


@dataclass(frozen=True)
class ForwardPass:
    """One batch of a step.

    Attributes:
        batch, batch_idx: what `training_step` was given.
        total: the loss, a scalar.
        terms: what it is made of, scalars by name.
        values: what the means of metrics.csv take in if the step is accepted, scalars by name.
    """

    batch: Batch
    batch_idx: int
    total: Tensor
    terms: Mapping[str, Tensor]
    values: Mapping[str, Tensor]


@dataclass(frozen=True)
class Incident:
    """A step whose batches are worth a look.

    Attributes:
        step: number of the update, from 1.
        cause: what was seen.
        loss: mean over batches and ranks.
        indices: positions in the training data, one list a rank.
        sets: the numbers of the data sets that they are positions in, likewise; empty where a task knows one.
    """

    step: int
    cause: str
    loss: float
    indices: list[list[int]]
    sets: list[list[int]]


@dataclass(frozen=True)
class _Attempt:
    """A step that was made, or skipped, and whose facts the host has not read."""

    step: int
    passes: list[ForwardPass]
    norms: Mapping[str, Tensor]
    facts: _LateNumbers
    diagnose: Diagnosis
    scaled: bool


class UpdateGuard:
    """Refuses updates that a NaN or an infinity took part in: the run stops, or the step is skipped and counted.

    A step is one update of the weights, of however many accumulated batches, and all ranks refuse it together: neither
    weights nor momentum nor running statistics take anything in.

    Args:
        on_nonfinite: "stop" or "skip".
        max_skipped: steps that may be skipped; one more ends the run.
    Attributes:
        skipped: updates refused so far.
        loss: mean over ranks of the last step that was read, NaN before the first.
        incidents: what was seen and not taken away yet; equal on all ranks.
        passes: the batches of the step that is being made.
    """

    def __init__(self, on_nonfinite: str, max_skipped: int = 0) -> None:
        self.skipped = 0
        self.loss = float("nan")
        self.incidents: list[Incident] = []
        self._max_skipped = 0 if on_nonfinite == "stop" else max_skipped
        self._remedy = "or --on_nonfinite skip" if on_nonfinite == "stop" else "or a larger --max_skipped_steps"
        self._statistics: KeptBuffers | None = None
        self.passes: list[ForwardPass] = []
        self._unread: _Attempt | None = None
        self._losses: deque[float] = deque(maxlen=_WINDOW)

    def watch(self, module: nn.Module) -> None:
        """Keep the running statistics as they are before a step, whose forward passes may put a NaN into them."""
        if self._statistics is None:
            self._statistics = KeptBuffers(module)

    def add(self, forward_pass: ForwardPass) -> None:
        """Note a batch of the step."""
        self.passes.append(forward_pass)

    def judge(
        self, step: int, norms: Mapping[str, Tensor], norm: Tensor, diagnose: Diagnosis, scaled: bool
    ) -> tuple[Tensor, list[ForwardPass]]:
        """Decide about a step without waiting for the device, and read what became of the step before.

        Args:
            step: number of the update, from 1.
            norms: the gradient's norm of each parameter, by name in the order of their modules.
            norm: of all of them, on all ranks the same.
            diagnose: repeats the forward pass of a batch, (batch, batch_idx), and returns the name of the first module
                with an output that is not finite. All ranks call it together.
            scaled: whether a loss scaler is at work (fp16): overflowing gradients are part of its search for a scale,
                and are neither counted nor a reason to stop.
        Returns:
            whether the update is to be made, a bool scalar on the device, the same on all ranks; the step's batches.
        Raises:
            NonFiniteError: if the step before was the one refusal too many.
        """
        passes, self.passes = self.passes, []
        loss = torch.stack([p.total.detach() for p in passes]).mean()
        bad = torch.stack([~torch.isfinite(loss), ~torch.isfinite(norm)])
        facts = torch.cat([bad.to(loss.dtype), loss[None]])
        if is_distributed():  # ranks must refuse together, or their weights part
            dist.all_reduce(facts)
        accepted = facts[:2].sum() == 0
        if self._statistics is not None:
            self._statistics.put_back(unless=accepted)
            self._statistics = None
        self.settle()
        self._unread = _Attempt(step, passes, norms, _LateNumbers(facts), diagnose, scaled)
        return accepted, passes

    def settle(self) -> None:
        """Read what became of the last step, if that is not known; all ranks must call it together.

        Raises:
            NonFiniteError: if its update was refused and the run is to end.
        """
        attempt, self._unread = self._unread, None
        if attempt is None:
            return
        bad_losses, bad_norms, loss = attempt.facts.read()
        loss /= world_size()
        if bad_losses or (bad_norms and not attempt.scaled):
            self._refused(attempt, loss, _explain(attempt, bad_losses > 0))
        elif not bad_norms:
            self._accepted(attempt, loss)

    def _accepted(self, attempt: _Attempt, loss: float) -> None:
        self.loss = loss
        usual = median(self._losses) if len(self._losses) >= _ENOUGH else loss
        self._losses.append(loss)
        if loss > _SPIKE * usual > 0:
            cause = f"loss {loss:.4g} is {loss / usual:.0f} times the median of the last {len(self._losses) - 1} steps"
            logger.warning("step %d: %s", attempt.step, cause)
            self.incidents.append(Incident(attempt.step, cause, loss, *_places(attempt)))

    def _refused(self, attempt: _Attempt, loss: float, seen: str | None) -> None:
        cause = "; ".join(dict.fromkeys(filter(None, gather_objects(seen))))
        self.incidents.append(Incident(attempt.step, cause, loss, *_places(attempt)))
        if self.skipped == self._max_skipped:
            count = f"; {self.skipped} steps were skipped before" if self.skipped else ""
            raise NonFiniteError(f"step {attempt.step}: {cause}{count}; lower --lr, use --warmup_steps, {self._remedy}")
        self.skipped += 1
        logger.warning("step %d: %s; update skipped (%d so far)", attempt.step, cause, self.skipped)


class KeptBuffers:
    """The floating-point buffers of a module as they are now: running statistics.

    What the names begin with that `not_statistics` of the module lists is no such thing and is left alone.
    """

    def __init__(self, module: nn.Module) -> None:
        others: tuple[str, ...] = getattr(module, "not_statistics", ())
        named = ((name, buffer) for name, buffer in module.named_buffers() if buffer.is_floating_point())
        self._buffers = [buffer for name, buffer in named if not name.startswith(others)]
        self._before = self._flat() if self._buffers else None

    def _flat(self) -> Tensor:
        return torch.cat([buffer.detach().flatten() for buffer in self._buffers])

    def put_back(self, unless: Tensor | None = None) -> None:
        """Make them what they were, unless a bool scalar on the device says otherwise; nobody waits for it."""
        if self._before is None:
            return
        values = self._before if unless is None else torch.where(unless, self._flat(), self._before)
        parts = values.split([buffer.numel() for buffer in self._buffers])
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


class _LateNumbers:
    """Numbers of the device that the host reads later, without waiting for what the device was given meanwhile."""

    def __init__(self, numbers: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()
        else:
            self._numbers = numbers

    def read(self) -> list[float]:
        if self._done is not None:
            self._done.synchronize()
        numbers: list[float] = self._numbers.tolist()
        return numbers


def _explain(attempt: _Attempt, bad_losses: bool) -> str | None:
    """Return what is not finite on this rank, and where it came up; None if that is for another rank to say."""
    if not bad_losses:
        # Gradients run from the loss to the image: the module nearest to the loss is where it began.
        bad = [name for name, norm in attempt.norms.items() if not torch.isfinite(norm)]
        return f"gradient of {bad[-1] if bad else 'all parameters together'} is not finite"
    modules = [attempt.diagnose(p.batch, p.batch_idx) for p in attempt.passes]
    for forward_pass, module in zip(attempt.passes, modules, strict=True):
        if not torch.isfinite(forward_pass.total):
            terms = [name for name, term in forward_pass.terms.items() if not torch.isfinite(term)]
            what = f"loss term {', '.join(terms)}" if terms else "the sum of the loss terms"
            rank = f" on rank {own_rank()}" if is_distributed() else ""
            where = "though the output of every module is" if module is None else f"first in the output of {module}"
            return f"{what} is not finite{rank}, {where}"
    return None


def _places(attempt: _Attempt) -> tuple[list[list[int]], list[list[int]]]:
    """Return where the images of a step are, a list for each rank: positions, and numbers of their data sets."""
    batches = [forward_pass.batch for forward_pass in attempt.passes]
    indices = [index for batch in batches for index in batch.index.tolist()]
    sets = [number for batch in batches if isinstance(batch, MixedBatch) for number in batch.dataset_id.tolist()]
    found = gather_objects((indices, sets))
    return [each[0] for each in found], [each[1] for each in found]


def first_bad_module(module: nn.Module, forward: Callable[[], object]) -> str | None:
    """Return the name of the submodule that was the first to return a number that is not finite; None if none did.

    The running statistics of the module stay as they are.

    Args:
        module: in training mode, as it was when the number came up.
        forward: calls submodules of it.
    """
    names: list[str] = []
    kept = KeptBuffers(module)
    # A compiled graph passes its hooks by.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), _told_of_bad_outputs(module, names.append):
        forward()
    kept.put_back()
    return names[0] if names else None


@contextmanager
def _told_of_bad_outputs(module: nn.Module, tell: Callable[[str], None]) -> Iterator[None]:
    def look(name: str, output: Any) -> None:
        if not all(torch.isfinite(tensor).all() for tensor in _tensors(output)):
            tell(name)

    handles = [
        child.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, child in module.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> list[Tensor]:
    parts = output if isinstance(output, tuple | list) else (output,)
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]


class RunningMeans:
    """Means of scalars by name, in float64. All ranks must add the same names."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # [2] each: the sum of the values, and their number

    def add(self, values: Mapping[str, Tensor], accepted: Tensor) -> None:
        """Take scalars in, unless `accepted`, a bool scalar on the device, is False; the host waits for nothing."""
        for name, value in values.items():
            pair = torch.stack([value.detach().double(), torch.ones_like(value, dtype=torch.double)])
            pair = torch.where(accepted, pair, 0.0)
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def take(self) -> dict[str, float]:
        """Return the means over all ranks of what was accepted since the last call; all ranks must call it together."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name] for name in names])
        if is_distributed():
            dist.all_reduce(sums)
        self._sums = {}
        return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True) if count}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was added on this rank, [2] float64 by name."""
        return {name: pair.cpu() for name, pair in self._sums.items()}

    def load_state_dicts(
        self, shares: Sequence[Mapping[str, Tensor]], names: Sequence[str], device: torch.device
    ) -> None:
        """Go on with what one or several ranks had added, or none, of these names."""
        none = torch.zeros(2, dtype=torch.double)
        self._sums = {name: torch.stack([none, *(s[name] for s in shares)]).sum(0).to(device) for name in names}
