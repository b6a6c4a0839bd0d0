"""Thousands of steps with workers: memory stays, and nothing is left behind. Measured is this file as a program.

pytest -m slow tests/training/test_soak.py: about 7 minutes on a core of its own.
"""

import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
from programs import ROOT
from short_runs import write_faces

import main
from engine import trainer as trainer_module
from engine.callbacks import workers

NUM_STEPS, FROM_STEP, EVERY = 5000, 500, 10
WINDOW = 25  # samples whose median is taken: memory goes up and down with the batches under way
IMAGES = {"identities": 40, "images": 20}  # 100 steps an epoch
# What a worker keeps of occluders is bounded, but with all of them it is complete after tens of thousands of images.
OCCLUDERS = ["--occluders", "sunglasses,block"]
FLAGS = [
    *OCCLUDERS,
    *("--arch", "ir_tiny", "--embedding_size", "16", "--batch_size", "8", "--lr", "0.001", "--gpus", "0"),
    *("--num_workers", "2", "--val_occlusion", "none", "--log_every_n_steps", "10", "--heartbeat_seconds", "1"),
    *("--checkpoint_every_n_steps", "50", "--precision", "bf16"),
]
RUNS = {"first": ["--epochs", "2"], "soaked": ["--epochs", "50", "--check_val_every_n_epoch", "5"]}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_thousands_of_steps_grow_no_memory_and_leave_nothing_behind(tmp_path):
    faces = write_faces(tmp_path / "faces", **IMAGES, pairs=16)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    program = [sys.executable, __file__, str(faces)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "out.txt").open("w") as stream:
        done = subprocess.run(program, cwd=tmp_path, env=environment, stdout=stream, stderr=stream, timeout=3600)
    assert done.returncode == 0, (tmp_path / "out.txt").read_text()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["steps"] == NUM_STEPS
    begin, end = (statistics.median(part) for part in (found["memory"][:WINDOW], found["memory"][-WINDOW:]))
    summary = (
        f"resident memory {begin / 1e6:.1f} MB after step {FROM_STEP}, {end / 1e6:.1f} MB at the end; "
        f"{found['seconds']:.0f} s; {found['left']}"
    )
    assert end < 1.02 * begin, summary
    assert found["left"]["soaked"] == found["left"]["first"], summary
    sys.stdout.write(summary)


class Measure(pl.Callback):
    """Keep the resident memory of this process and its workers, and the numbers of all of them."""

    def __init__(self):
        self.steps, self.memory, self.processes = 0, [], set()

    def on_train_batch_end(self, trainer, *_):
        self.steps = trainer.global_step
        if self.steps % EVERY == 0:
            alive = [os.getpid(), *workers.workers()]
            self.processes.update(alive)
            if self.steps >= FROM_STEP:
                self.memory.append(sum(workers.resident_bytes(each) or 0 for each in alive))


def measured_run(name, faces):
    """Train and return (steps, memory from FROM_STEP on, what is left afterwards)."""
    measure, callbacks = Measure(), trainer_module._callbacks
    trainer_module._callbacks = lambda *args: [*callbacks(*args), measure]
    assert main.main([*FLAGS, *RUNS[name], "--prefix", name, "--data_root", faces]) == 0
    trainer_module._callbacks = callbacks
    for handler in logging.getLogger().handlers:
        handler.close()
    gc.collect()
    return measure.steps, measure.memory, left_behind(measure.processes)


def left_behind(numbers):
    """Return the open files, threads, children, shared memory mapped and shared memory named of this process."""
    names = [path.name for path in Path("/dev/shm").glob("*")]
    return {
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "system threads": len(list(Path("/proc/self/task").iterdir())),
        "children": workers.workers(),
        "shared memory mapped": Path("/proc/self/maps").read_text().count("/dev/shm"),
        "shared memory named": [name for name in names if any(f"_{number}_" in name for number in numbers)],
    }


if __name__ == "__main__":
    begin = time.monotonic()
    results = {name: measured_run(name, sys.argv[1]) for name in RUNS}
    steps, memory, _ = results["soaked"]
    left = {name: result[2] for name, result in results.items()}
    seconds = time.monotonic() - begin
    Path("found.json").write_text(json.dumps({"steps": steps, "memory": memory, "left": left, "seconds": seconds}))
