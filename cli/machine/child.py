"""What a child of fit does: a training of some steps, or descriptions and matches of faces, and what they take."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.machine.record import EMBEDDING, FAILED, FITS, FULL, MEMORY, REFUSED, SPEED
from cli.machine.tables import percentiles
from engine.signals import LOST, stop_with_parent
from system.cores import bound_waiting
from system.files import replacing

if TYPE_CHECKING:  # torch is imported when the parent can be answered
    import torch
    from torch import Tensor

    from cli.machine.watch import HostMeter
    from models import FaceModel

NUM_WARMUP = 2  # steps before those that are timed, or runs
MIN_RUNS, MAX_RUNS = 5, 1000  # of a row
IN_FLIGHT = 4  # batches that each worker of the loader has made ahead, as `TrainingData.loader_options` has it
# What is told of a worker that the system has killed, or for whose batch the shared memory was too small.
_WORKER_FULL = ("killed by signal: Killed", "killed by signal: Bus error", f"{LOST} (OSError: [Errno 28]")


def main() -> None:
    """Answer the request on standard input by lines of JSON on standard output.

    They are `began`, once the data are ready; a `row` for each batch of a table; at the end all the rest.
    A request holds `kind`; `flags`; `options`, of the training with these flags; `timed_steps`; `cap_bytes`, `margin`,
    `snapshot` for a GPU: the bytes that may be taken of it, or None: of what is free; the share that is left free; a
    file for what it held when it was full, or None; `batches` and `seconds` of the rows.
    """
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what others print is no answer
    stop_with_parent("fit")
    with suppress(OSError):  # should the system run out of memory, this process is the one to kill
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")

    def tell(values: Mapping[str, Any]) -> None:
        answer.write(json.dumps(values) + "\n")
        answer.flush()

    bound_waiting()  # is read when torch is imported
    tell(answered(request, tell))


def answered(request: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Return what a request finds out, with `outcome`, and `reason` where it is none; rows are told before."""
    from engine.out_of_memory import is_out_of_memory

    try:
        work = train if request["kind"] in (MEMORY, SPEED) else measure_rows
        return {"outcome": FITS, **work(request, tell)}
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent is told
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if is_out_of_memory(error) or any(text in str(error) for text in _WORKER_FULL):
            return {"outcome": FULL, "reason": reason + _write_snapshot(request["snapshot"])}
        if isinstance(error, ValueError | OSError):
            return {"outcome": REFUSED, "reason": reason}
        traceback.print_exc()
        return {"outcome": FAILED, "reason": f"{type(error).__name__}: {reason}"}


def _write_snapshot(path: str | None) -> str:
    """Write what the GPU's memory holds, if there is a path, and return what to add to the reason."""
    from engine import internals

    if path is None:
        return ""
    try:
        with replacing(Path(path)) as temporary:
            internals.write_gpu_memory(str(temporary))
    except (OSError, RuntimeError) as error:  # the trial has told what it was for all the same
        return f"; no snapshot: {error}"
    return ""


def limit_gpu(request: Mapping[str, Any]) -> float:
    """Let torch take no more of the GPU than the request allows, and return how many bytes these are."""
    import torch

    from engine import internals

    free, total = torch.cuda.mem_get_info()
    cap = min(free, request["cap_bytes"] or free) * (1 - request["margin"])
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
    if request["snapshot"] is not None and request["kind"] == MEMORY:  # it takes time
        internals.record_gpu_memory()
    return cap


def train(request: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Train as main.py does, for some steps, with its data; without validation and files."""
    from cli.machine.watch import StepWatch, meter_on
    from cli.refusals import check_training
    from cli.training import begin, build_model
    from config import Config
    from engine import runs
    from engine.devices import uses_gpu
    from engine.files import WriteFailures
    from engine.trainer import build_trainer
    from tasks.recognition.callbacks import build_callbacks
    from tasks.recognition.memory import plan_memory

    runs.start_log(True)
    config = Config.from_dict(request["options"])
    on_gpu = uses_gpu(config)
    known = {"cap_bytes": limit_gpu(request)} if on_gpu else {}
    steps = planned_steps(request["kind"], request["timed_steps"], config.num_workers, on_gpu)
    watch = StepWatch(meter_on(on_gpu), *steps, began=lambda: tell({"began": True}))
    config = replace(config, epochs=max(config.epochs, watch.num_steps))  # an epoch has one at least
    config, _, datamodule, _ = begin(config, frozenset(), writes=False)
    model = build_model(config, datamodule)
    check_training(config, datamodule, has_matcher=model.matcher is not None)
    without_files = replace(config, fast_dev_run=True)
    callbacks = build_callbacks(without_files, None, WriteFailures())
    trainer = build_trainer(without_files, None, callbacks=[*callbacks, watch])
    trainer.limit_train_batches, trainer.limit_val_batches = 1.0, 0
    trainer.fit_loop.max_epochs = config.epochs
    trainer.fit(model, datamodule=datamodule)
    return known | {
        "peak_bytes": watch.meter.highest or None,
        "images": watch.batches * config.batch_size,
        "step_seconds": watch.step_seconds if request["kind"] == SPEED else [],
        "phases": watch.phases,
        "plan": plan_memory(config, model.model, model.matcher, datamodule.num_classes),
    }


def planned_steps(kind: str, timed_steps: int, num_workers: int, on_gpu: bool) -> tuple[int, int]:
    """Return a training's steps of warm-up and those to time; one more is looked into: three tell the memory."""
    if kind == MEMORY:
        return 0, 2
    if not on_gpu:  # the step is what takes time
        return NUM_WARMUP, timed_steps
    # What workers have made ahead hides that they are too slow, and batches come in bursts of as many as there are.
    return NUM_WARMUP + IN_FLIGHT * num_workers, max(timed_steps, 2 * num_workers)


def measure_rows(request: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Tell a row for each batch: what describing so many faces takes, or matching so many pairs."""
    import torch

    from cli.machine.watch import meter_on
    from config import Config
    from engine.devices import choose_precision, settle, uses_gpu
    from models import FaceModel

    config = settle(Config.from_dict(request["options"]))
    on_gpu = uses_gpu(config)
    known = {"cap_bytes": limit_gpu(request)} if on_gpu else {}
    meter = meter_on(on_gpu)
    model = FaceModel(config).to(meter.device).eval()
    if not config.channels_last:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
    dtype = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}[choose_precision(config).value]
    build = _describing if request["kind"] == EMBEDDING else _matching
    tell({"began": True})
    for batch in request["batches"]:
        with torch.inference_mode(), torch.autocast(meter.device.type, dtype, enabled=dtype is not None):
            run = build(model, batch, dtype)
            meter.take_peak()
            seconds = list(_timed(run, meter, request["seconds"]))
        tell({"row": {"batch": batch, "runs": len(seconds), **percentiles(seconds), "peak_bytes": meter.take_peak()}})
    return known | {"peak_bytes": meter.highest or None}


def _describing(model: FaceModel, batch: int, dtype: torch.dtype | None) -> Callable[[], object]:
    import torch

    images = torch.rand(batch, 3, 112, 112, generator=torch.Generator().manual_seed(0)).to(model.device) * 2 - 1
    return lambda: model.describe(images)


def _matching(model: FaceModel, batch: int, dtype: torch.dtype | None) -> Callable[[], object]:
    import torch

    from ops import unit_map

    generator, matcher = torch.Generator().manual_seed(0), model.matcher
    assert matcher is not None, "asked for with a matcher only"
    matcher.inference_dtype = dtype  # as an evaluation does
    _, height, width = matcher.map_shape

    def face() -> tuple[Tensor, Tensor | None]:
        drawn = unit_map(torch.randn(batch, *matcher.map_shape, generator=generator).to(model.device))
        if model.occlusion_head is None:
            return drawn, None
        return drawn, torch.rand(batch, 1, height, width, generator=generator).to(model.device)

    (a, seen_a), (b, seen_b) = face(), face()
    return lambda: matcher.match_pairs(a, b, seen_a, seen_b)


def _timed(run: Callable[[], object], meter: HostMeter, seconds: float) -> Iterator[float]:
    """Yield the seconds of runs, until they are so many together."""
    for _ in range(NUM_WARMUP):
        run()
    spent = 0.0
    for number in range(MAX_RUNS):
        if number >= MIN_RUNS and spent >= seconds:
            return
        begin = meter.mark()
        run()
        took = meter.between(begin, meter.mark())
        spent += took
        yield took
