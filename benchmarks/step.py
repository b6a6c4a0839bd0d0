"""The training step on the CPU: its precision, memory format and recomputation, and where a whole step's time goes.

Run as `python -m benchmarks step`. The first table is backbone, AdaFace, cross entropy, backward pass and SGD; the
second a step of maskwise with its default flags, on the synthetic faces or on --data_root. There the images are read
in this process, so that all of their time is seen; workers would hide it behind the rest.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

import heads
import nets
from benchmarks.harness.measure import Step, compare, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.step_clock import StepClock, Stretch
from benchmarks.harness.tables import Column, Row, Table
from config import IMAGES_PER_IDENTITY, Config
from data import FaceDataModule
from engine import optim
from options.names import ONLY_DATASET
from train_val import Recognizer

NUM_CLASSES = 1000
NUM_WARMUP = 3  # steps of the second table that do not count


class Variant(NamedTuple):
    """How the backbone computes."""

    memory_format: torch.memory_format
    bf16: bool
    compiled: bool = False
    recomputed: bool = False


VARIANTS = {
    "float32, contiguous": Variant(torch.contiguous_format, bf16=False),
    "float32, channels-last": Variant(torch.channels_last, bf16=False),
    "bf16, channels-last": Variant(torch.channels_last, bf16=True),
    "float32, --activation_checkpointing": Variant(torch.channels_last, bf16=False, recomputed=True),
    "bf16, --activation_checkpointing": Variant(torch.channels_last, bf16=True, recomputed=True),
}
if shutil.which("c++"):  # what torch compiles with on the CPU
    VARIANTS |= {
        "float32, --compile": Variant(torch.channels_last, bf16=False, compiled=True),
        "bf16, --compile": Variant(torch.channels_last, bf16=True, compiled=True),
    }

STEP = Table(
    "step",
    (
        Column("variant", "variant", width=36),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("memory", "memory_ratio", "{:.2f}x"),
        Column("s", "seconds", "{:.3f}"),
        Column("images/s", "images_per_second", "{:.1f}"),
        Column("MiB", "extra_mib", "{:,.0f}"),
        Column("arch", "arch", width=14),
        Column("batch", "batch_size"),
    ),
)

SHARES = Table(
    "step_shares",
    (
        Column("part", "part", width=16),
        Column("share", "share", "{:.1%}"),
        Column("forward", "forward", "{:.1%}"),
        Column("backward", "backward", "{:.1%}"),
        Column("ms", "milliseconds", "{:.1f}"),
    ),
    runs="shares_steps",
)


def build_step(variant: Variant, arch: str, batch_size: int) -> Step:
    """Return a training step; images come contiguous, as transforms.to_tensor gives them."""
    torch.manual_seed(0)
    model = nets.build_model(arch).train()
    model.to(memory_format=variant.memory_format)  # type: ignore[call-overload]  # torch's stubs do not know it
    model.activation_checkpointing = variant.recomputed
    if variant.compiled:
        model.compile()
    head = heads.build_head("adaface", model.embedding_size, NUM_CLASSES)
    groups = optim.parameter_groups([model, head], weight_decay=5e-4)
    optimizer = optim.build_optimizer("sgd", groups, lr=0.01, momentum=0.9)
    images = torch.rand(batch_size, 3, model.input_size, model.input_size) * 2 - 1
    labels = torch.randint(NUM_CLASSES, (batch_size,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.bf16):
            features = model(images)
            loss = F.cross_entropy(head(features.embedding, features.norm, labels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_variants(arch: str, batch_size: int, repeats: int) -> Iterator[Row]:
    """Yield a row for each variant; ratios are against the first."""
    steps = {name: build_step(variant, arch, batch_size) for name, variant in VARIANTS.items()}
    costs = compare(steps, repeats)
    first = next(iter(costs.values()))
    for name, cost in costs.items():
        yield {
            "variant": name,
            "time_ratio": ratio(cost.seconds, first.seconds),
            "memory_ratio": ratio(cost.extra_mib, first.extra_mib),
            "seconds": cost.seconds,
            "images_per_second": batch_size / cost.seconds,
            "extra_mib": cost.extra_mib,
            "arch": arch,
            "batch_size": batch_size,
            "runs": cost.runs,
        }


def time_steps(config: Config, num_steps: int) -> StepClock:
    """Train so many steps as main.py does and return the clock that followed them."""
    datamodule = FaceDataModule(config)
    datamodule.setup()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    model = Recognizer(config.to_dict(), {ONLY_DATASET: datamodule.num_classes})
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_steps=num_steps, max_epochs=-1, limit_val_batches=0, callbacks=[clock],
            use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, logger=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(model, datamodule=datamodule)
    return clock


def share_rows(medians: dict[Stretch, float], batch_size: int) -> Iterator[Row]:
    """Yield the share of each part, in the order of a step, and the whole."""
    whole = sum(medians.values())
    has_backward = {stretch.part for stretch in medians if stretch.backward}
    for part in dict.fromkeys(stretch.part for stretch in medians):
        forward, backward = medians.get(Stretch(part), 0.0), medians.get(Stretch(part, backward=True), 0.0)
        yield {
            "part": part,
            "share": (forward + backward) / whole,
            "forward": forward / whole if part in has_backward else None,
            "backward": backward / whole if part in has_backward else None,
            "milliseconds": 1000 * (forward + backward),
        }
    yield {"part": f"whole step of {batch_size}", "share": 1.0, "milliseconds": 1000 * whole}


def _measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    for row in measure_variants(args.arch, scaled(args.batch_size, args.scale, least=4), args.repeats):
        yield STEP, row
    batch_size = IMAGES_PER_IDENTITY * scaled(args.shares_batch_size // IMAGES_PER_IDENTITY, args.scale, least=4)
    config = Config(arch=args.shares_arch, batch_size=batch_size, data_root=args.data_root, num_workers=0, gpus=0)
    medians = time_steps(config, NUM_WARMUP + args.shares_steps).medians(NUM_WARMUP)
    for row in share_rows(medians, config.batch_size):
        yield SHARES, row


BENCHMARK = Benchmark((STEP, SHARES), _measure)
