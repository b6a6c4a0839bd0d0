"""The programs as a user runs them, on the device: short trainings of drawn faces, and what is made of their ends.

A rehearsal on the CPU runs some of them alone: each takes longer there than on a GPU.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from benchmarks.gpu.case import OF_RUNS, Case, Cases, Figures, need_cuda, need_modules
from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic
from system import ROOT

SECONDS = 150.0
PEOPLE = SyntheticSpec(num_identities=16, images_per_identity=8, benchmark_pairs=40)
BASE = ("--epochs", "2", "--log_every_n_steps", "1", "--heartbeat_seconds", "0", "--num_workers", "2")
# Drawn faces are aligned; to look whether they are takes a detector, whose package may be missing.
SMALL = (
    *("--arch", "ir_tiny", "--embedding_size", "32", "--batch_size", "16", "--optimizer", "adamw", "--lr", "1e-3"),
    *("--align", "no"),
)
SGD = ("--optimizer", "sgd", "--lr", "0.01")  # in place of SMALL's


class Training(NamedTuple):
    """A run: the words after `main.py` that stand for it, and whether a rehearsal on the CPU makes it."""

    words: tuple[str, ...]
    rehearsed: bool = False


TRAININGS = {
    "fp16, class maps": Training((*SMALL, "--precision", "16", "--class_embeddings", "--k_nearest", "4")),
    "bf16, compiled, recomputed": Training(
        (*SMALL, *SGD, "--precision", "bf16", "--compile", "--activation_checkpointing")
    ),
    "split head, averaged weights": Training(
        (
            *(*SMALL, *SGD, "--precision", "bf16", "--partial_fc_rate", "0.5", "--ema_decay", "0.9"),
            *("--occlusion_head", "pyramid"),
        )
    ),
    "pretraining": Training(
        ("pretrain", *SMALL, "--precision", "bf16", "--queue_size", "64", "--projection_size", "16"), True
    ),
}
DETECTOR = (
    *("detect", "train", "--arch", "featherface_v2", "--image_size", "128", "--val_size", "128", "--batch_size", "4"),
    *("--synthetic_scenes", "16", "--synthetic_val_scenes", "8", "--precision", "bf16"),
)


def run(words: Sequence[str], folder: Path, codes: Sequence[int] = (0,)) -> str:
    """Run `main.py` in a folder and return what it prints; fail with its last line if it ends with another code."""
    command = [sys.executable, str(ROOT / "main.py"), *words]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "COLUMNS": "200"}, capture_output=True, encoding="utf-8",
        errors="replace", timeout=SECONDS - 5,
    )  # fmt: skip
    if done.returncode not in codes:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise AssertionError(f"main.py {words[0]} ... ended with {done.returncode}: {last}")
    return done.stdout


def train(words: Sequence[str], folder: Path, device: torch.device) -> tuple[Path, Figures]:
    """Train in a folder and return that of the run, and what its metrics say: all losses must be finite."""
    need_modules(*OF_RUNS)
    run([*words, *BASE, "--gpus", str(int(device.type == "cuda"))], folder)
    (made,) = (folder / "experiments").iterdir()
    with (made / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        losses = [float(row["train_loss"]) for row in csv.DictReader(stream) if row.get("train_loss")]
    assert losses, f"{made.name}: no loss was logged"
    assert all(map(math.isfinite, losses)), f"{made.name}: a loss is not finite"
    return made, {"steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1]}


def faces() -> str:
    """Return the folder of the drawn faces, drawn by the first check of a part that asks."""
    return str(prepare_synthetic(spec=PEOPLE, jobs=1, progress=False))


def check_training(training: Training, device: torch.device) -> Figures:
    """A run must come to its end with finite losses."""
    if not training.rehearsed:
        need_cuda(device)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return train([*training.words, "--data_root", faces()], Path(folder), device)[1]


def check_detector(device: torch.device) -> Figures:
    """A detector's training must come to its end; found boxes are suppressed on the device."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return train(DETECTOR, Path(folder), device)[1]


def check_course(device: torch.device) -> Figures:
    """A run in float32 with workers must go on from its checkpoint, and what it leaves must be evaluated and sound."""
    data = faces()
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, gpus = Path(name), str(int(device.type == "cuda"))
        made, figures = train([*SMALL, "--precision", "32", "--data_root", data], folder, device)
        checkpoint = str(made / "last.ckpt")
        run(["--resume_from_checkpoint", checkpoint, "--epochs", "3", "--gpus", gpus], folder)
        with (made / "metrics.csv").open(encoding="utf-8", newline="") as stream:
            steps = [int(float(row["step"])) for row in csv.DictReader(stream) if row.get("train_loss")]
        assert steps == sorted(set(steps)) and len(steps) > figures["steps"], f"steps after going on: {steps[-3:]}"
        run(["check-model", checkpoint, "--json", "checks.json"], folder, codes=(0, 1))  # such a net knows nobody yet
        checks = json.loads((folder / "checks.json").read_text(encoding="utf-8"))["checks"]
        status = {each["check"]: each["status"] for each in checks}
        wanted = {name: "passed" for name in ("shapes", "rows", "determinism", "gradients", "save and load")}
        wanted |= {"gpu": "passed" if device.type == "cuda" else "skipped"}
        wrong = [name for name, outcome in wanted.items() if status.get(name) != outcome]
        assert not wrong, f"check-model: {', '.join(f'{name} {status.get(name)}' for name in wrong)}"
        evaluation = ["evaluate", "--model_path", checkpoint, "--data_path", f"{data}/lfw", "--gpus", gpus]
        evaluation += ["--align", "no"]
        run([*evaluation, "--precision", "bf16", "--num_workers", "0", "--output_dir", "evaluation"], folder)
        assert (folder / "evaluation/results.json").exists(), "no results.json"
        return figures


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {"program: float32, goes on, is judged": check_course}
    checks |= {f"program: {name}": partial(check_training, training) for name, training in TRAININGS.items()}
    checks["program: detector"] = check_detector
    return {name: Case(check, SECONDS) for name, check in checks.items()}
