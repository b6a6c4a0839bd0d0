"""Time of the PK sampler at the scale of MS1MV2: construction and plan of one epoch, against a plain Python loop.

Run as `python -m benchmarks sampler`. The labels are drawn; no image is needed.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.measure import Step, alternate, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from datasets.sampling.samplers import PKBatchSampler

INSTANCES = 4
# The plain loop takes minutes at full scale: it runs on this share of the identities, and times are per image.
PLAIN_SHARE = 0.02
PLAIN = "plan by images, plain loop"
BY_IMAGES = "plan by images"

TABLE = Table(
    "sampler",
    (
        Column("what", "what", width=28),
        Column("time", "time_ratio", "{:.3f}x"),
        Column("seconds", "seconds", "{:.3f}"),
        Column("images", "num_images", "{:,}", width=11),
        Column("identities", "num_identities", "{:,}"),
        Column("batch", "batch_size"),
    ),
)


def long_tailed_labels(num_images: int, num_identities: int) -> NDArray[np.int64]:
    """Return sorted labels whose images per identity spread as in web-collected sets: log-normal, at least one."""
    weights = np.random.default_rng(0).lognormal(0.0, 0.7, num_identities)
    counts = 1 + np.floor((num_images - num_identities) * weights / weights.sum()).astype(np.int64)
    counts[: num_images - counts.sum()] += 1
    return np.repeat(np.arange(num_identities), counts)


def plain_epoch(labels: list[int], per_batch: int) -> list[list[int]]:
    """Return an epoch as the usual loop makes it: random identities with groups left, until too few have any."""
    rng = random.Random(0)
    images: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        images[label].append(index)
    groups: dict[int, list[list[int]]] = defaultdict(list)
    for label, own in images.items():
        rng.shuffle(own)
        padded = own + [own[i % len(own)] for i in range(-len(own) % INSTANCES)]
        groups[label] = [padded[i : i + INSTANCES] for i in range(0, len(padded), INSTANCES)]
    available = list(groups)
    batches = []
    while len(available) >= per_batch:
        chosen = rng.sample(available, per_batch)
        batches.append([index for label in chosen for index in groups[label].pop()])
        available = [label for label in available if groups[label]]
    return batches


def plan_next_epoch(sampler: PKBatchSampler) -> None:
    """Plan an epoch anew; the plan of the current one would be remembered."""
    sampler.set_epoch(sampler.epoch + 1)
    sampler.plan()


def build_steps(labels: NDArray[np.int64], small: list[int], batch_size: int) -> dict[str, Step]:
    """Return construction and planning of the sampler, and the plain loop over the small set."""
    shuffled = np.random.default_rng(1).permutation(labels)
    by_images = PKBatchSampler(labels, batch_size, epoch_by="images")
    by_identities = PKBatchSampler(labels, batch_size, epoch_by="identities")
    return {
        "construct, labels sorted": lambda: PKBatchSampler(labels, batch_size),
        "construct, labels shuffled": lambda: PKBatchSampler(shuffled, batch_size),
        "plan by identities": partial(plan_next_epoch, by_identities),
        BY_IMAGES: partial(plan_next_epoch, by_images),
        PLAIN: lambda: plain_epoch(small, batch_size // INSTANCES),
    }


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    num_identities = scaled(args.identities, args.scale, least=args.batch_size)
    num_images = scaled(args.images, args.scale, least=INSTANCES * num_identities)
    labels = long_tailed_labels(num_images, num_identities)
    # Twice a batch's identities, or the loop would stop before its first batches.
    small = labels[labels < max(PLAIN_SHARE * num_identities, args.batch_size // 2)].tolist()
    runs = alternate(build_steps(labels, small, args.batch_size), args.repeats)
    runs[PLAIN] = [num_images / len(small) * seconds for seconds in runs[PLAIN]]
    plain = statistics.median(runs[PLAIN])
    for name, values in runs.items():
        seconds = statistics.median(values)
        row: Row = {
            "what": name,
            "time_ratio": ratio(seconds, plain) if name in (BY_IMAGES, PLAIN) else None,
            "seconds": seconds,
            "num_images": num_images,
            "num_identities": num_identities,
            "batch_size": args.batch_size,
            "runs": values,
        }
        yield TABLE, row


BENCHMARK = Benchmark((TABLE,), _measure)
