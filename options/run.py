"""Options: what a run computes on, begins with and writes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from options.flags import INVOCATION, MAY_CHANGE, Options, flag
from options.names import AUTO, BACKENDS, COUNT, NOT_NEGATIVE, WANDB_MODES
from options.overrides import split_assignments

MAX_PREFIX_BYTES = 200  # a name has 255, and the date and a number follow


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Device."""

    gpus: int = flag(1, "number of GPUs; 0, or a machine without one: CPU", within=NOT_NEGATIVE, on_resume=MAY_CHANGE)
    num_workers: int = flag(2, "workers that read images", within=NOT_NEGATIVE, on_resume=MAY_CHANGE)
    precision: str | None = flag(
        None, "float32 (the default) or mixed precision; auto: bf16 where the device computes in it, else float32",
        choices=("32", "bf16", "16", AUTO), on_resume=MAY_CHANGE,
    )  # fmt: skip
    use_16bit: bool = flag(False, "mixed precision: fp16 on a GPU, bf16 on the CPU", on_resume=MAY_CHANGE)
    threads: int = flag(
        0, "threads of each rank; 0: OMP_NUM_THREADS, else what the cores of this process leave beside the workers",
        within="[0, 1024]", on_resume=MAY_CHANGE,
    )  # fmt: skip

    def precision_on(self, gpu: bool) -> str:
        """Return "32", "bf16" or "16" for a GPU or the CPU; "auto" is left to `devices.choose_precision`.

        Raises:
            ValueError: if the flags contradict each other there, or ask for fp16 on the CPU.
        """
        implied = ("16" if gpu else "bf16") if self.use_16bit else None
        if implied and self.precision not in (None, AUTO, implied):
            device = "a GPU" if gpu else "the CPU"
            raise ValueError(f"--use_16bit means {implied} on {device}: it conflicts with --precision {self.precision}")
        chosen = implied or self.precision or "32"
        if chosen == "16" and not gpu:
            raise ValueError("--precision 16 needs a GPU; use bf16 on the CPU")
        return chosen

    def _check_precision(self) -> None:
        # Whether there is a GPU is not known here: refuse what is wrong on every device the run may get.
        if self.gpus == 0 or self.precision == "32":
            self.precision_on(gpu=self.gpus > 0)


@dataclass(frozen=True, kw_only=True)
class SystemOptions(Options):
    """Run."""

    num_processes: int = flag(1, "ranks on the CPU", within=COUNT, on_resume=MAY_CHANGE)
    distributed_backend: str = flag(
        "ddp", "dp and ddp2 no longer exist: ddp is used", choices=BACKENDS, parse=str.lower,
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    compile: bool = flag(False, "compile the backbone", on_resume=MAY_CHANGE)
    activation_checkpointing: bool = flag(
        False, "compute the backbone's activations again in the backward pass: less memory, the same numbers",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    prefix: str = flag("maskwise", "first part of the run folder's name")
    monitor: str = flag("val_acc", "metric whose largest value makes best.ckpt")
    log_every_n_steps: int = flag(50, "steps between two lines of metrics", within=COUNT, on_resume=MAY_CHANGE)
    heartbeat_seconds: float = flag(
        60.0, "seconds between two lines on pace and memory, and without a batch until a stall is said; 0 = neither",
        within=NOT_NEGATIVE, on_resume=MAY_CHANGE,
    )  # fmt: skip
    status_seconds: float = flag(
        30.0, "seconds between two writings of status.html and status.json in the run folder; 0 = none",
        within=NOT_NEGATIVE, on_resume=MAY_CHANGE,
    )  # fmt: skip
    save_all_models: bool = flag(False, "keep a checkpoint of every epoch", on_resume=MAY_CHANGE)
    tensorboard: bool = flag(
        False, "also write TensorBoard's files into the run folder; needs tensorboardX", on_resume=MAY_CHANGE
    )
    wandb: str = flag("disabled", "also log to Weights & Biases", choices=WANDB_MODES, on_resume=MAY_CHANGE)
    wandb_project: str = flag("maskwise", "project of the W&B run", on_resume=MAY_CHANGE)
    wandb_entity: str | None = flag(None, "user or team that it belongs to; else W&B's default", on_resume=MAY_CHANGE)
    wandb_name: str | None = flag(None, "its name; else the run folder's", on_resume=MAY_CHANGE)
    wandb_artifacts: bool = flag(
        False, "with --wandb online, also upload checkpoints, beside the training", on_resume=MAY_CHANGE
    )
    resume_from_checkpoint: str | None = flag(
        None, "go on with the run of this last.ckpt; auto: with the newest run of --prefix, if there is one",
        on_resume=INVOCATION,
    )  # fmt: skip
    override: tuple[str, ...] = flag(
        (), "change options that the checkpoint fixes, as in lr=0.01,weight_decay=1e-4; may be repeated",
        parse=split_assignments, on_resume=INVOCATION,
    )  # fmt: skip
    requeue: bool = flag(
        False, "after a signal start the job again: by scontrol under SLURM, by exit code 85 elsewhere",
        on_resume=INVOCATION,
    )  # fmt: skip
    start_from_model_statedict: str | None = flag(
        None, "start with this file's weights: a backbone from elsewhere, or what fits of a checkpoint of ours",
        on_resume=INVOCATION,
    )  # fmt: skip
    check_mode: bool = flag(
        False, "take the same course on any number of ranks: float64, batch norms in eval mode, no dropout, pairs"
        " across ranks",
    )  # fmt: skip
    fast_dev_run: bool = flag(False, "one small batch of everything, nothing saved", on_resume=INVOCATION)
    test_run: bool = flag(False, "50 batches an epoch", on_resume=INVOCATION)

    def __post_init__(self) -> None:
        super().__post_init__()
        prefix = self.prefix
        if not prefix or "/" in prefix or "\\" in prefix:
            raise ValueError(f"--prefix must be a plain folder name, got {prefix!r}")
        if len(os.fsencode(prefix)) > MAX_PREFIX_BYTES:
            raise ValueError(f"--prefix must be short enough for a folder's name: {MAX_PREFIX_BYTES} bytes")
        # A job that is started again by the same command needs both: weights to begin with, then its own checkpoint.
        if self.start_from_model_statedict and self.resume_from_checkpoint not in (None, AUTO):
            raise ValueError("--resume_from_checkpoint conflicts with --start_from_model_statedict")
        if self.fast_dev_run and self.test_run:
            raise ValueError("--fast_dev_run conflicts with --test_run")


@dataclass(frozen=True, kw_only=True)
class StartOptions(Options):
    """What a recognizer starts with."""

    load: str = flag(
        "all", "what --start_from_model_statedict takes of a checkpoint of ours: backbone, matcher, occlusion head,"
        " statistics and, for the same identities, class weights, as far as they fit; or the backbone alone; of a"
        " pretraining's the backbone of the query encoder, or of the key encoder",
        choices=("all", "backbone", "query", "key"), on_resume=INVOCATION,
    )  # fmt: skip
    evaluate: bool = flag(False, "test only, with the checkpoint given", on_resume=INVOCATION)
