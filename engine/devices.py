"""What a run computes on: GPU or CPU, its ranks, its precision and its threads; decided here, once, and said why."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import cv2
import torch

from engine import internals
from options.engine import EngineOptions
from options.names import AUTO
from options.run import DeviceOptions
from system.cores import choose_threads, describe_waiting, usable_cores
from system.launch import find_launch

logger = logging.getLogger(__name__)

_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
_X86 = ("x86_64", "amd64", "i386", "i686")
NAMES = {"32": "float32", "bf16": "bf16", "16": "fp16"}
_WITHOUT_AVX512 = ("DEFAULT", "NO AVX", "AVX", "AVX2")  # names that torch gives to what it uses of an x86
_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}  # oneDNN's

Chosen = TypeVar("Chosen", bound=DeviceOptions)
Value = TypeVar("Value", str, int)


class Choice(NamedTuple, Generic[Value]):
    """A setting and the reason for it."""

    value: Value
    why: str


def uses_gpu(options: DeviceOptions) -> bool:
    """Return whether the run uses GPUs: asked for, and there."""
    return options.gpus > 0 and torch.cuda.is_available()


def local_ranks(options: EngineOptions) -> int:
    """Return the ranks on this machine: what torchrun or srun started, else one per GPU, else `--num_processes`.

    Raises:
        ValueError: if more GPUs are asked for than there are.
    """
    launch = find_launch()
    if launch is not None:
        return launch.ranks_per_node
    if uses_gpu(options) and options.gpus > torch.cuda.device_count():
        raise ValueError(f"--gpus {options.gpus}: this machine has {torch.cuda.device_count()}")
    return int(os.environ.get("LOCAL_WORLD_SIZE", options.gpus if uses_gpu(options) else options.num_processes))


def world_size(options: EngineOptions) -> int:
    """Return the ranks of the whole run."""
    launch = find_launch()
    return int(os.environ.get("WORLD_SIZE", local_ranks(options))) if launch is None else launch.num_ranks


def device_name(on_gpu: bool) -> str:
    """Return what the device calls itself."""
    if on_gpu:
        return torch.cuda.get_device_name()
    return str(_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def describe_machine() -> dict[str, object]:
    """Return the facts of CPU, GPU, cores, threads and memory on which speed and last digits depend."""
    has_gpu = torch.cuda.is_available()
    return {
        "cpu": device_name(on_gpu=False),
        "instruction_sets": sorted(name for name, there in _capabilities().items() if there is True),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "waiting": describe_waiting(),
        "memory_bytes": _memory_bytes(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if has_gpu else [],
        "cuda": torch.version.cuda,
        "gpu_driver": _gpu_driver() if has_gpu else None,
    }


def _capabilities() -> dict[str, object]:
    # Not in every torch of the range that pyproject.toml allows.
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None  # a system without sysconf, or without these names


def _gpu_driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.split("\n")[0].strip() or None if answer.returncode == 0 else None


# ---------------------------------------------------------------- precision


def native_bf16(on_gpu: bool) -> tuple[bool, str]:
    """Return whether the device itself computes in bfloat16, and the reason as text; elsewhere it is emulated."""
    if on_gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, f"{torch.cuda.get_device_name()} has {'' if native else 'no '}bfloat16 arithmetic"
    limits = {name: os.environ[name] for name in _ISA_LIMITS if name in os.environ}
    limited = f" under {', '.join(f'{name}={value}' for name, value in limits.items())}" if limits else ""
    capability = torch.backends.cpu.get_cpu_capability()
    # oneDNN multiplies, torch's own kernels do the rest: either alone would wait for the other's emulation.
    native = internals.onednn_has_bf16()
    if platform.machine().lower() in _X86:
        # To oneDNN any AVX-512 will do; without its instructions for bfloat16 a step takes 3 to 5 times as long.
        native = native and internals.x86_has_bf16()
        native = native and capability not in _WITHOUT_AVX512
        native = native and not _WITHOUT_BF16.intersection(limit.upper() for limit in limits.values())
    return (
        native,
        f"the CPU (PyTorch computes with {capability}{limited}) has {'' if native else 'no '}bfloat16 arithmetic",
    )


def choose_precision(options: DeviceOptions) -> Choice[str]:
    """Return "32", "bf16" or "16" for the device that the options get, and why; `auto` is bf16 only where it is native.

    Raises:
        ValueError: if the options contradict each other on this device.
    """
    on_gpu = uses_gpu(options)
    if options.precision == AUTO and not options.use_16bit:
        native, reason = native_bf16(on_gpu)
        return Choice("bf16" if native else "32", f"auto: {reason}")
    word = options.precision_on(on_gpu)
    if options.use_16bit:
        return Choice(word, "--use_16bit")
    return Choice(word, "the default" if options.precision is None else f"--precision {word}")


# ---------------------------------------------------------------- threads


def select_threads(options: DeviceOptions, ranks: int = 1) -> Choice[int]:
    """Return the threads of this process and why: the options', the environment's, or as many as the cores leave."""
    if options.threads:
        return Choice(options.threads, "--threads")
    if "OMP_NUM_THREADS" in os.environ:
        why = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
        launch = find_launch()
        if launch is not None and launch.launcher == "torchrun":
            why += ", which torchrun sets to 1 where nobody else has set it; --threads wins over it"
        return Choice(torch.get_num_threads(), why)
    cores, workers, on_gpu = usable_cores(), options.num_workers, uses_gpu(options)
    return Choice(
        choose_threads(cores, ranks, workers, on_gpu),
        f"usable cores {cores}, ranks here {ranks}, workers of each {workers}",
    )


def use_threads(number: int) -> None:
    """Let torch and OpenCV compute on so many threads in this process; workers of the data loader use one each."""
    torch.set_num_threads(number)
    cv2.setNumThreads(number)
    os.environ["OMP_NUM_THREADS"] = str(number)  # Lightning would choose for several ranks; those we start inherit it


# ---------------------------------------------------------------- both, for a run


def settle(options: Chosen, ranks: int = 1, saved: DeviceOptions | None = None) -> Chosen:
    """Return the options with the precision and the threads that hold from now on, use these threads, and log why.

    Args:
        options: of this run. One that goes on has those of its checkpoint, but for the flags given.
        ranks: of this run on this machine.
        saved: options of the checkpoint that the run goes on from; what they settled is kept on any machine.
    Raises:
        ValueError: if the options contradict each other on this device.
    """
    threads = select_threads(options, ranks)
    if saved is not None:
        threads = _after(saved.threads or None, threads)
    use_threads(threads.value)
    waiting = describe_waiting()
    logger.info("threads: %d (%s)%s", *threads, f", {waiting}" if waiting else "")
    if threads.value > (cores := usable_cores()):
        logger.warning(
            "threads: %d are more than the %d usable cores; --threads %d is faster", *threads[:1], cores, cores
        )
    if isinstance(options, EngineOptions) and options.check_mode:
        logger.info("precision: float64 (--check_mode)")
        return replace(options, precision=None, threads=threads.value)
    precision = choose_precision(options)
    if saved is not None and not saved.use_16bit:
        precision = _after(saved.precision or "32", precision)
    logger.info("precision: %s (%s)", NAMES[precision.value], precision.why)
    _warn_of_emulation(precision, uses_gpu(options))
    return replace(options, precision=precision.value, use_16bit=False, threads=threads.value)


def _after(before: Value | None, choice: Choice[Value]) -> Choice[Value]:
    """Return the choice with the reason that a run has for it which had another value, or the same, before."""
    if before is None:
        return choice
    changed = f"{choice.why}; it was {NAMES.get(str(before), before)} until here"
    return Choice(choice.value, "as the run began" if choice.value == before else changed)


def _warn_of_emulation(precision: Choice[str], on_gpu: bool) -> None:
    native, reason = native_bf16(on_gpu)
    if precision.value == "bf16" and not native:
        logger.warning(
            "bf16 (%s) is emulated here, and a step takes several times as long as in float32: %s; take --precision 32",
            precision.why,
            reason,
        )
