"""Time of the PK sampler at the scale of MS1MV2: construction and plan of one epoch, against a plain Python loop.

Run `python -m benchmarks.sampler`. The labels are drawn; no image is needed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datasets.samplers import EPOCH_MODES, PKBatchSampler

REPEATS = 3
INSTANCES = 4
# The plain loop takes minutes at full scale: it runs on this share of the identities, and times are per image.
PLAIN_SHARE = 0.02


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


def median_seconds(run: Callable[[], object]) -> float:
    """Return the median duration of a few calls."""
    durations = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_800_000)
    parser.add_argument("--identities", type=int, default=85_742)
    parser.add_argument("--batch_size", type=int, default=256)
    args = parser.parse_args()
    labels = long_tailed_labels(args.images, args.identities)
    shuffled = np.random.default_rng(1).permutation(labels)
    small = labels[labels < PLAIN_SHARE * args.identities].tolist()
    plain = median_seconds(lambda: plain_epoch(small, args.batch_size // INSTANCES)) / len(small) * args.images
    print(f"{args.images} images, {args.identities} identities, batches of {args.batch_size}, median of {REPEATS}")
    print(f"{'':24} {'seconds':>9} {'plain loop / this':>18}")
    for order, chosen in (("sorted", labels), ("shuffled", shuffled)):
        build = median_seconds(lambda chosen=chosen: PKBatchSampler(chosen, args.batch_size))  # type: ignore[misc]
        print(f"{'construct, ' + order:24} {build:9.3f} {'-':>18}")
    for mode in EPOCH_MODES:
        sampler = PKBatchSampler(labels, args.batch_size, epoch_by=mode)
        plan = median_seconds(
            lambda sampler=sampler: (
                sampler.load_state_dict(  # type: ignore[misc]
                    {"seed": 0, "epoch": sampler.epoch + 1, "batches_done": 0}
                )
                or sampler.plan()
            )
        )
        ratio = f"{plain / plan:.0f}" if mode == "images" else "-"
        print(f"{'plan, by ' + mode:24} {plan:9.3f} {ratio:>18}")
        print(f"  {sampler.summary()}")
    print(f"{'plain loop, scaled up':24} {plain:9.3f} {'1':>18}")


if __name__ == "__main__":
    main()
