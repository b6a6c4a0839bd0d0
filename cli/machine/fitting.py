"""A fit from its options to its figures: which trials are made, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.answers.shared import say
from cli.machine import tables
from cli.machine.child import planned_steps
from cli.machine.record import EMBEDDING, FAILED, MATCHING, MEMORY, REFUSED, SPEED, Record, Trial
from cli.machine.search import Sizes, choices_of_flags, climb, largest_batch, smaller_batches
from cli.machine.trials import run_trial
from config import Config
from options.names import IMAGES_PER_IDENTITY
from system.cores import usable_cores
from system.memory import free_memory
from system.terminal import show

if TYPE_CHECKING:
    from cli.machine.fit import FitOptions

KNOBS = ("precision", "compile", "channels_last", "num_workers", "threads")
_OF_INFERENCE = ("precision", "channels_last", "threads")


class TrialFailedError(Exception):
    """A trial ended in a way that says nothing about the machine."""


class Fitting:
    """What a fit does, one trial after another; what its file knows is not tried again.

    Args:
        options: of the fit.
        config: of the training to fit.
        start: whether its batch is the first one to try; else the smallest is.
    Raises:
        ValueError: one line, if the options cannot be had on this machine, or the file is of another fit.
    """

    def __init__(self, options: FitOptions, config: Config, start: bool) -> None:
        from engine.devices import device_name, uses_gpu

        self.options, self.config = options, config
        self.on_gpu = uses_gpu(config)
        free = None if self.on_gpu else free_memory()
        if options.memory_limit is not None and free is None and not self.on_gpu:
            raise ValueError("--memory_limit: this system does not say what processes hold; leave it out")
        smallest = IMAGES_PER_IDENTITY * (2 if config.qaconv_loss_weight else 1)  # the matcher needs two people
        self.sizes = Sizes(IMAGES_PER_IDENTITY, smallest, options.max_batch)
        if options.max_batch < smallest:
            raise ValueError(f"--max_batch {options.max_batch}: a batch of this training holds {smallest} images")
        if options.snapshot and not self.on_gpu:
            raise ValueError("--snapshot is of the memory of a GPU, and this training uses none; leave it out")
        self._first = config.batch_size if start else smallest
        of_fit = {name: value for name, value in options.to_dict().items() if name not in ("output", "snapshot")}
        machine = {"device": device_name(self.on_gpu), "cpu": device_name(on_gpu=False), "cores": usable_cores()}
        about = {**config.to_dict(), **of_fit, **machine, "torch": metadata.version("torch"), "start": start}
        self.record = Record(Path(options.output), about)
        if self.record.limit_bytes is None:
            self.record.limit_bytes = free
        if options.memory_limit is not None:
            self.record.limit_bytes = options.memory_limit * tables.MIB

    def run(self) -> None:
        """Find batch and flags, measure what they give, and print and write all of it.

        Raises:
            ValueError: if the training refuses its options or data at the smallest batch, or that does not fit.
            TrialFailedError: one line.
        """
        batch = self.find_batch()
        before = self._flags(batch_size=batch)
        best = climb(self._rate, before, self._choices())
        found = [self._tell_batch(batch), *self._tell_figures(best), self._tell_speed(before, best)]
        text = tables.flags_text(self._changed(best))
        found.append(f"flags to copy: {text}")
        rate = tables.images_per_second(self._all_steps(best))
        self.record.result = {"batch_size": batch, "flags": best, "text": text, "images_per_second": rate}
        self.record.write()
        show("\n".join(found))
        show(f"all trials: {self.options.output}")

    # ---------------------------------------------------------------- the search

    def find_batch(self) -> int:
        """Return the largest batch that trains, also for as many steps as are timed."""
        batch = largest_batch(self._fits, self.sizes, self._first)
        fitting = {each.flags["batch_size"] for each in self.record.trials if each.kind == MEMORY and each.fits}
        for size in sorted((size for size in fitting if batch and size <= batch), reverse=True):
            if self._works(SPEED, size):
                return size
        least = [each for each in self.record.trials if each.flags.get("batch_size") == self.sizes.smallest][-1]
        raise ValueError(
            f"nothing fits: --batch_size {self.sizes.smallest}, the smallest, is {least.outcome} ({least.reason}); give"
            " a smaller --arch, or --activation_checkpointing"
        )

    def _fits(self, batch: int) -> bool:
        works = self._works(MEMORY, batch)
        if self.trial(MEMORY, self._flags(batch_size=batch)).outcome == REFUSED:
            # What is wrong with the flags is wrong with every batch, and to halve it until the end takes minutes.
            self._works(MEMORY, self.sizes.smallest)
        return works

    def _works(self, kind: str, batch: int) -> bool:
        trial = self.trial(kind, self._flags(batch_size=batch))
        if trial.outcome == FAILED:
            raise TrialFailedError(f"--batch_size {batch}: the trial failed, and not for its size: {trial.reason}")
        if trial.outcome == REFUSED and batch == self.sizes.smallest:
            raise ValueError(trial.reason)
        return trial.fits

    def _rate(self, flags: Mapping[str, Any], number: int) -> float | None:
        return tables.images_per_second(self.trial(SPEED, flags, number))

    def _all_steps(self, flags: Mapping[str, Any]) -> Trial:
        """Return all that is known of the speed with some flags as one trial."""
        self.trial(SPEED, flags)
        return tables.joined(self.record.of(SPEED, flags))

    def _flags(self, **changed: Any) -> dict[str, Any]:
        """Return the flags that a fit changes as the command has them, but for some; `auto` is what it means here."""
        from engine.devices import choose_precision

        given = {name: getattr(self.config, name) for name in ("batch_size", *KNOBS)}
        return given | {"precision": choose_precision(self.config).value} | changed

    def _choices(self) -> dict[str, list[Any]]:
        from engine.devices import native_bf16

        choices = choices_of_flags(usable_cores(), self.on_gpu, not self.on_gpu and native_bf16(False)[0])
        return {name: choices[name] for name in KNOBS if name in self.options.vary}

    def _changed(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch, and of the flags found those that the command does not have."""
        before = self._flags()
        found = {name: value for name, value in flags.items() if name == "batch_size" or value != before[name]}
        implied = self.config.use_16bit and "precision" in found  # the two would contradict each other
        return found | ({"use_16bit": False} if implied else {})

    # ---------------------------------------------------------------- a trial

    def trial(self, kind: str, flags: Mapping[str, Any], number: int = 0) -> Trial:
        """Return the trial of a kind with some flags, the first or a later one, from the file or made now."""
        known = self.record.find(kind, flags, number)
        if known is not None:
            return known
        again = ", again" if number else ""
        say(f"trial {len(self.record.trials) + 1}, {kind}{again}: {tables.flags_text(flags)}")
        limit = self.record.limit_bytes
        cap = None if limit is None or self.on_gpu else limit * (1 - self.options.margin)
        done = replace(run_trial(self._request(kind, flags), self._seconds(kind, flags), cap), number=number)
        self.record.add(done)
        say(f"  {tables.outcome_text(done)}")
        return done

    def _seconds(self, kind: str, flags: Mapping[str, Any]) -> float:
        """Return how long a trial may take: what --trial_seconds gives three steps, in proportion."""
        o = self.options
        if kind in (MEMORY, SPEED):
            return (
                o.trial_seconds * (1 + sum(planned_steps(kind, o.timed_steps, flags["num_workers"], self.on_gpu))) / 3
            )
        return len(o.table_batches) * (o.trial_seconds + o.table_seconds)

    def _request(self, kind: str, flags: Mapping[str, Any]) -> dict[str, Any]:
        o = self.options
        changed: dict[str, Any] = {"use_16bit": False, "test_run": False, "check_val_every_n_epoch": 1}
        changed["stages"] = ()  # all is trained, as in none but the largest of them
        path = Path(o.output)
        return {
            "kind": kind,
            "flags": dict(flags),
            "options": replace(self.config, **changed, **flags).to_dict(),
            "timed_steps": o.timed_steps,
            "cap_bytes": self.record.limit_bytes,
            "margin": o.margin,
            "snapshot": str(path.with_name(f"{path.stem}.out_of_memory.pickle")) if o.snapshot else None,
            "batches": list(o.table_batches),
            "seconds": o.table_seconds,
        }

    # ---------------------------------------------------------------- what is told

    def _tell_batch(self, batch: int) -> str:
        """Return a line about the largest batch, and why there is no larger one."""
        tried = [trial for trial in self.record.trials if trial.kind == MEMORY]
        best = self.trial(MEMORY, self._flags(batch_size=batch))
        of_training = [each for each in self.record.trials if each.kind in (MEMORY, SPEED) and not each.fits]
        larger = [each for each in of_training if each.flags["batch_size"] > batch]
        text = f"largest batch that trains: {batch}"
        if best.peak_bytes is not None and best.cap_bytes is not None:
            used, cap = (f"{size / tables.MIB:,.0f}" for size in (best.peak_bytes, best.cap_bytes))
            text += f", {used} of {cap} MiB; {100 * self.options.margin:g} % of the memory is left free"
        smaller = [each for each in tried if each.fits and each.peak_bytes and each.flags["batch_size"] < batch]
        if smaller and best.peak_bytes:
            least = min(smaller, key=lambda each: int(each.flags["batch_size"]))
            more = (best.peak_bytes - (least.peak_bytes or 0)) / (batch - least.flags["batch_size"])
            text += f"; {more / tables.MIB:.2f} MiB an image"
        if best.plan:
            text += f"\nof that: {best.plan}"
        if larger:
            refused = min(larger, key=lambda each: int(each.flags["batch_size"]))
            return f"{text}\n{refused.flags['batch_size']} is {refused.outcome}: {refused.reason}"
        return f"{text}\nnothing larger was tried (--max_batch {self.options.max_batch})"

    def _tell_figures(self, best: Mapping[str, Any]) -> list[str]:
        """Return the lines of all tables; the trials for them are made now."""
        lines = [*tables.phase_table(self._all_steps(best))]
        if not self.options.table_seconds:
            return lines
        precisions = [best["precision"]]
        if "precision" in self.options.vary:
            precisions = list(dict.fromkeys([*self._choices()["precision"], best["precision"]]))
        batches = list(smaller_batches(best["batch_size"], self.sizes))
        trained = [self._all_steps({**best, "batch_size": b, "precision": p}) for p in precisions for b in batches]
        lines += tables.training_table(trained)
        inference = {name: best[name] for name in _OF_INFERENCE}
        kinds = {EMBEDDING: ("embedding: faces described", "faces")}
        if self.config.qaconv_loss_weight:
            kinds[MATCHING] = ("matching: pairs of local maps", "pairs")
        for kind, (title, unit) in kinds.items():
            lines += tables.rows_table(
                title, unit, [self.trial(kind, {**inference, "precision": p}) for p in precisions]
            )
        return lines

    def _tell_speed(self, before: Mapping[str, Any], best: Mapping[str, Any]) -> str:
        """Return a line about how fast the flags found are, how sure that is, and what the command's own are."""
        rates = {}
        for name, flags in (("found", best), ("given", before)):
            found = [tables.images_per_second(each) for each in self.record.of(SPEED, flags)]
            rates[name] = [rate for rate in found if rate is not None]
        text = f"with the flags found: {tables.spread_text(rates['found'])}"
        return text if before == best else f"{text}; with those of the command: {tables.spread_text(rates['given'])}"
