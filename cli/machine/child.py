"""What a child of fit does: a training of some steps, or descriptions and matches of faces, and what they take."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.machine.record import EMBEDDING, FAILED, FITS, FULL, MEMORY, REFUSED, SPEED
from cli.machine.tables import percentiles
from engine.signals import stop_with_parent
from system.cores import bound_waiting

if TYPE_CHECKING:  # torch is imported when the parent can be answered
    import torch
    from torch import Tensor

    from cli.machine.watch import HostMeter
    from config import Config
    from models import FaceModel

NUM_WARMUP = 2  # steps before those that are timed, or runs
MIN_RUNS, MAX_RUNS = 5, 1000  # of a row
IN_FLIGHT = 4  # batches that each worker of the loader has made ahead, as `TrainingData.loader_options` has it
# What a smoke test would shrink.
_SIZES = frozenset(("batch_size", "synthetic_identities", "synthetic_images"))
_KILLED = "killed by signal: Killed"  # says torch of a worker


def main() -> None:
    """Answer the request on standard input by lines of JSON on standard output: rows, and at the end all the rest.

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
    from engine import internals
    from engine.out_of_memory import is_out_of_memory

    try:
        work = train if request["kind"] in (MEMORY, SPEED) else measure_rows
        return {"outcome": FITS, **work(request, tell)}
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent is told
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if is_out_of_memory(error) or _KILLED in str(error):
            if request["snapshot"] is not None:
                internals.write_gpu_memory(request["snapshot"])
            return {"outcome": FULL, "reason": reason}
        if isinstance(error, ValueError | OSError):
            return {"outcome": REFUSED, "reason": reason}
        traceback.print_exc()
        return {"outcome": FAILED, "reason": f"{type(error).__name__}: {reason}"}


def limit_gpu(request: Mapping[str, Any]) -> float:
    """Let torch take no more of the GPU than the request allows, and return how many bytes these are."""
    import torch

    from engine import internals

    free, total = torch.cuda.mem_get_info()
    cap = min(free, request["cap_bytes"] or free) * (1 - request["margin"])
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
    if request["snapshot"] is not None:
        internals.record_gpu_memory()
    return cap


def train(request: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Train as main.py does, for some steps of the whole run's plan, without validation and files."""
    from cli import training
    from cli.machine.watch import StepWatch, meter_on
    from config import Config
    from engine.devices import uses_gpu

    config = Config.from_dict(request["options"])
    on_gpu = uses_gpu(config)
    known = {"cap_bytes": limit_gpu(request)} if on_gpu else {}
    session = training.prepare(config, _SIZES, [])
    watch = StepWatch(meter_on(on_gpu), *_steps(request, config, on_gpu))
    trainer = session.trainer
    trainer.callbacks.append(watch)  # type: ignore[attr-defined]  # Lightning's list
    trainer.limit_train_batches, trainer.limit_val_batches = 1.0, 0
    trainer.fit_loop.max_epochs = max(config.epochs, watch.num_steps)  # an epoch has one at least
    trainer.fit(session.model, datamodule=session.datamodule)
    return known | {
        "peak_bytes": watch.meter.highest or None,
        "images": watch.batches * config.batch_size,
        "step_seconds": watch.step_seconds if request["kind"] == SPEED else [],
        "phases": watch.phases,
    }


def _steps(request: Mapping[str, Any], config: Config, on_gpu: bool) -> tuple[int, int]:
    """Return the steps of warm-up and those to time; one more is looked into: three tell the memory."""
    if request["kind"] == MEMORY:
        return 0, 2
    # What workers have made ahead hides that they are too slow. On a CPU the step is what takes time.
    ahead = IN_FLIGHT * config.num_workers if on_gpu else 0
    return NUM_WARMUP + ahead, int(request["timed_steps"])


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
    device = torch.device("cuda" if on_gpu else "cpu")
    model = FaceModel(config).to(device).eval()
    if not config.channels_last:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
    dtype = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}[choose_precision(config).value]
    build = _describing if request["kind"] == EMBEDDING else _matching
    meter = meter_on(on_gpu)
    for batch in request["batches"]:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
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
