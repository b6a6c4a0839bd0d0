"""A step of momentum contrast, without data, against the sum of the parts that no step can do without.

Run as `python -m benchmarks contrast_step`. Parts: the query encoder forwards and backwards, the key encoder forwards,
one product of queries and queue. The whole step is what training does with a batch that is there: key encoder follows,
views to tensors, both encoders, keys in groups, comparison with the queue, loss, backward pass, SGD, keys enqueued.
Parts and whole take turns in one process; the ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.harness.measure import Step, alternate
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from config import PretrainingConfig
from datasets import Sample
from engine import module as training
from engine import optim
from tasks.moco.module import Pretrainer
from transforms import to_tensor

NUM_IMAGES = 4096  # of the data that the batch is said to come from
GOAL = 1.1
WHOLE = "whole step"

TABLE = Table(
    "pretraining_step",
    (
        Column("step", "what", width=34),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("goal", "goal", "<= {:.2f}x"),
        Column("ms", "milliseconds", "{:.1f}"),
        Column("arch", "arch", width=14),
        Column("batch", "batch_size"),
        Column("queue", "queue_size"),
    ),
)


def draw_batch(batch_size: int) -> Sample:
    """Return two views of random images, uint8 [B, 112, 112, 3], as a loader gives them."""

    def view(second: Sample | None) -> Sample:
        ones, index = torch.ones(batch_size, dtype=torch.long), torch.randperm(NUM_IMAGES)[:batch_size]
        image = torch.randint(256, (batch_size, 112, 112, 3), dtype=torch.uint8)
        return Sample(image, ones, 0 * ones, None, index, -ones, second)

    return view(view(None))


def build_steps(config: PretrainingConfig) -> dict[str, Step]:
    """Return the parts and, as the last, the whole step; the queue is full."""
    torch.manual_seed(config.seed)
    module, batch = Pretrainer(config.to_dict(), NUM_IMAGES).train(), draw_batch(config.batch_size)
    contrast, second = module.contrast, batch.second
    assert second is not None
    groups = optim.parameter_groups([module], config.weight_decay)
    optimizer = optim.build_optimizer("sgd", groups, lr=1e-4, momentum=config.momentum)
    views = [to_tensor(batch.image), to_tensor(second.image)]
    keys = torch.nn.functional.normalize(torch.randn(config.queue_size, config.projection_size), dim=1)
    places = torch.arange(config.queue_size) % NUM_IMAGES
    contrast.enqueue(keys, places, module.clusters[places])
    queries = keys[: config.batch_size].clone()
    gradient = torch.randn_like(queries)

    def query() -> None:
        contrast.encode_queries(views[0]).backward(gradient)
        optimizer.zero_grad()

    @torch.no_grad()
    def key() -> Tensor:
        encoded: Tensor = contrast.key(views[1])
        return encoded

    def whole() -> None:
        contrast.follow(config.key_momentum)
        module.forward_terms(batch, training.Step(0)).total().backward()
        optimizer.step()
        optimizer.zero_grad()
        contrast.enqueue(queries, batch.index, module.clusters[batch.index])  # as `on_train_batch_end` does

    return {
        "query encoder, forward and backward": query,
        "key encoder, forward": key,
        "product of queries and queue": lambda: queries @ contrast.queue.keys.T,
        WHOLE: whole,
    }


def measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    """Yield a row for each part, for their sum and for the whole step."""
    config = PretrainingConfig(
        arch=args.arch, batch_size=scaled(args.batch_size, args.scale, least=8), gpus=0, num_workers=0,
        queue_size=scaled(args.queue_size, args.scale, least=64),
    )  # fmt: skip
    runs = alternate(build_steps(config), args.repeats)
    whole = runs.pop(WHOLE)
    sums = [sum(parts) for parts in zip(*runs.values(), strict=True)]
    for what, seconds in (*runs.items(), ("sum of the parts", sums), (WHOLE, whole)):
        shares = [one / total for one, total in zip(seconds, sums, strict=True)]
        yield (
            TABLE,
            {
                "what": what,
                "time_ratio": statistics.median(shares),
                "goal": GOAL if what == WHOLE else None,
                "milliseconds": 1e3 * statistics.median(seconds),
                "arch": config.arch,
                "batch_size": config.batch_size,
                "queue_size": config.queue_size,
                "runs": seconds,
            },
        )


BENCHMARK = Benchmark((TABLE,), measure)
