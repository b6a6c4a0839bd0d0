"""A step of fine-tuning with low-rank adapters against one of the whole net: time, memory, the optimizer's state.

Run as `python -m benchmarks lora`. A step is forward pass, 1 - cosine to given embeddings, backward pass and AdamW.
Adapters of rank 8 are on every linear layer and 1x1 convolution; everything else is frozen, batch norms in eval mode.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

import nets
from benchmarks.harness.measure import Step, compare, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from engine import optim

FORMS = {
    "whole net": None,
    "LoRA, rank 8": nets.LoraForm(rank=8),
    "two adapters by quality, rank 8": nets.LoraForm(rank=8, by_quality=True),
}
TIME_GOAL, STATE_GOAL = 0.85, 0.15

LORA = Table(
    "finetuning_lora",
    (
        Column("step", "what", width=34),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("goal", "time_goal", "<= {:.2f}x"),
        Column("gradients and state", "state_ratio", "{:.3f}x"),
        Column("goal", "state_goal", "<= {:.2f}x"),
        Column("peak MiB", "extra_mib", "{:,.0f}"),
        Column("s", "seconds", "{:.3f}"),
        Column("trained", "trained", "{:,}"),
        Column("arch", "arch", width=14),
        Column("batch", "batch_size"),
    ),
)


class Tuning(NamedTuple):
    """A step, and what it trains."""

    step: Step
    model: nn.Module
    optimizer: Optimizer

    @property
    def held(self) -> int:
        """Numbers of gradients and of the optimizer's state, after a step."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        states = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return sum(parameter.numel() for parameter in trained) + sum(tensor.numel() for tensor in states)


def build(form: nets.LoraForm | None, arch: str, batch_size: int) -> Tuning:
    """Return a step of fine-tuning a net with adapters, or the whole of it; gradients are kept as they are."""
    torch.manual_seed(0)
    model = nets.build_model(arch).train()
    images = torch.rand(batch_size, 3, model.input_size, model.input_size) * 2 - 1
    targets = nn.functional.normalize(torch.randn(batch_size, model.embedding_size), dim=1)
    if form is not None:
        nets.add_lora(model, ["*"], form)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.eval()
        if form.by_quality:
            nets.set_quality(model, torch.rand(batch_size))
    optimizer = optim.build_optimizer("adamw", optim.parameter_groups([model], 0.05), 1e-4, 0.0)

    def step() -> None:
        optimizer.zero_grad()
        (1 - (model(images).embedding * targets).sum(1)).mean().backward()
        optimizer.step()

    return Tuning(step, model, optimizer)


def measure(args: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    """Yield a row for each form; ratios are against the whole net."""
    batch_size = scaled(args.batch_size, args.scale, least=2)
    tunings = {name: build(form, args.arch, batch_size) for name, form in FORMS.items()}
    costs = compare({name: tuning.step for name, tuning in tunings.items()}, args.repeats)
    first = next(iter(FORMS))
    for name in FORMS:
        yield (
            LORA,
            {
                "what": name,
                "time_ratio": ratio(costs[name].seconds, costs[first].seconds),
                "time_goal": TIME_GOAL if name == "LoRA, rank 8" else None,
                "state_ratio": ratio(tunings[name].held, tunings[first].held),
                "state_goal": STATE_GOAL if name == "LoRA, rank 8" else None,
                "extra_mib": costs[name].extra_mib,
                "seconds": costs[name].seconds,
                "trained": sum(p.numel() for p in tunings[name].model.parameters() if p.requires_grad),
                "arch": args.arch,
                "batch_size": batch_size,
                "runs": costs[name].runs,
            },
        )


BENCHMARK = Benchmark((LORA,), measure)
