"""Three data sets against one of the same total: a training step, and the plan of an epoch of millions of images.

Run as `python -m benchmarks mixture`. A step is forward pass with all losses, backward pass and SGD, on the same drawn
images: the people are those of one set with one margin head, or of three with one each. Steps take turns. The plan's
labels are drawn, its batches hold 4 images a person or single images; its seconds are the processor's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks.harness.measure import Step as Run
from benchmarks.harness.measure import alternate, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from benchmarks.sampler import long_tailed_labels
from config import IMAGES_PER_IDENTITY, Config
from datasets import MixtureBatchSampler, PKBatchSampler, Sample
from datasets.sampling.samplers import PlannedSampler
from engine import optim
from engine.module import Step
from train_val import Recognizer

SETS = 3
STEP_GOAL, PLAN_GOAL = 1.05, 4.0
WEIGHTS = (3.0, 2.0, 1.0)

STEP = Table(
    "finetuning_mixture_step",
    (
        Column("step", "what", width=24),
        Column("time", "time_ratio", "{:.3f}x"),
        Column("goal", "time_goal", "<= {:.2f}x"),
        Column("s", "seconds", "{:.4f}"),
        Column("people", "people", "{:,}"),
        Column("arch", "arch", width=14),
        Column("batch", "batch_size"),
    ),
)
PLAN = Table(
    "finetuning_mixture_plan",
    (
        Column("plan of an epoch", "what", width=40),
        Column("s", "seconds", "{:.2f}"),
        Column("goal", "goal", "<= {:.0f} s"),
        Column("images", "images", "{:,}"),
    ),
)


def build(num_sets: int, people: int, arch: str, batch_size: int) -> Run:
    """Return a training step of a batch whose images are of so many sets, in equal parts."""
    torch.manual_seed(0)
    config = Config(arch=arch, batch_size=batch_size, gpus=0)
    model = Recognizer(config.to_dict(), {f"set{number}": people // num_sets for number in range(num_sets)}).train()
    facts = SimpleNamespace(global_step=0, estimated_stepping_batches=1)
    model.trainer = facts  # type: ignore[assignment]  # all that a step reads of a trainer
    optimizer = optim.build_optimizer("sgd", optim.parameter_groups([model], 5e-4), 1e-3, 0.9)
    batch = _batch(num_sets, people // num_sets, batch_size)

    def step() -> None:
        optimizer.zero_grad()
        model.forward_terms(batch, Step(0)).total().backward()
        optimizer.step()

    return step


def _batch(num_sets: int, people: int, batch_size: int) -> Sample[Tensor, Tensor]:
    groups = torch.arange(batch_size // IMAGES_PER_IDENTITY).repeat_interleave(IMAGES_PER_IDENTITY)
    images = torch.randint(256, (batch_size, 112, 112, 3), dtype=torch.uint8)
    visible = torch.ones(batch_size, 112, 112, dtype=torch.uint8)
    visible[:, 60:] = 0
    places = torch.arange(batch_size)
    return Sample(images, groups % people, groups % num_sets, visible, places, torch.full_like(places, -1))


def plans(images: int, batch_size: int) -> Iterator[Row]:
    """Yield the processor time of samplers of 3 sets of so many images, and of one set of all, made and planned."""
    people = max(images // 70, batch_size)
    labels = [long_tailed_labels(images, people) for _ in range(SETS)]
    together = long_tailed_labels(SETS * images, SETS * people)
    three = partial(MixtureBatchSampler, labels, batch_size, WEIGHTS)
    cases: dict[str, tuple[Callable[[], PlannedSampler], float | None]] = {
        "three sets, 4 images a person": (partial(three, IMAGES_PER_IDENTITY), PLAN_GOAL),
        "three sets, single images": (partial(three, None), None),
        "one set of all, 4 images a person": (partial(PKBatchSampler, together, batch_size), None),
    }
    for name, (make, goal) in cases.items():
        start = time.process_time()
        make().plan()
        yield {"what": name, "seconds": time.process_time() - start, "goal": goal, "images": SETS * images}


def measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    """Yield the rows of both tables; ratios are against one set."""
    batch_size = scaled(args.batch_size, args.scale, least=SETS) // (SETS * IMAGES_PER_IDENTITY)
    batch_size = max(1, batch_size) * SETS * IMAGES_PER_IDENTITY
    people = SETS * scaled(args.people // SETS, args.scale, least=batch_size)
    sizes = {"one set": 1, f"{SETS} sets": SETS}
    runs = alternate({name: build(num, people, args.arch, batch_size) for name, num in sizes.items()}, args.repeats)
    medians = {name: statistics.median(values) for name, values in runs.items()}
    for name, num in sizes.items():
        yield (
            STEP,
            {
                "what": name,
                "time_ratio": ratio(medians[name], medians["one set"]),
                "time_goal": STEP_GOAL if num > 1 else None,
                "seconds": medians[name],
                "people": people,
                "arch": args.arch,
                "batch_size": batch_size,
                "runs": runs[name],
            },
        )
    for row in plans(scaled(args.images, args.scale, least=70 * batch_size), args.plan_batch_size):
        yield PLAN, row


BENCHMARK = Benchmark((STEP, PLAN), measure)
