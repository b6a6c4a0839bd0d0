"""One rank of a process group on the device: NCCL's collectives as they are used here, and a step through them.

A single GPU takes one rank: NCCL refuses two on one device. Ranks meet in a file; on the CPU they speak gloo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.case import Case, Cases, Figures, NotRunError, expect
from benchmarks.gpu.checks.training import Training
from benchmarks.gpu.checks.updates import NAN, changed, distance, expect_same
from engine.guard import RunningMeans
from ops import gather_objects

PATIENCE = timedelta(seconds=30)  # of a collective


@contextmanager
def one_rank(device: torch.device) -> Iterator[None]:
    """Make this process the only rank of a group while the block runs.

    Raises:
        NotRunError: if torch was built without NCCL.
    """
    options: dict[str, Any] = {"backend": "gloo"}
    if device.type == "cuda":
        if not distributed.is_nccl_available():
            raise NotRunError("torch has no NCCL")
        torch.cuda.set_device(device)  # objects travel on the current device
        options = {"backend": "nccl", "device_id": device}
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        distributed.init_process_group(
            **options, init_method=f"file://{folder}/meet", rank=0, world_size=1, timeout=PATIENCE
        )
        try:
            yield
        finally:
            distributed.destroy_process_group()


def check_collectives(device: torch.device) -> Figures:
    """Of one rank every collective must give back what went in, in each dtype that travels."""
    generator = torch.Generator().manual_seed(0)
    travelling = {
        "float32": torch.randn(5, 3, generator=generator),
        "float64": torch.randn(4, generator=generator, dtype=torch.float64),
        "float16": torch.randn(4, 2, generator=generator).half(),
        "int64": torch.arange(7),
        "uint8": torch.arange(7, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
    }
    with one_rank(device):
        for name, values in travelling.items():
            given = values.to(device)
            gathered = torch.empty_like(given)
            distributed.all_gather([gathered], given)
            _expect_equal(gathered, values, f"all_gather of {name}")
            copied = given.clone()
            distributed.broadcast(copied, 0)
            _expect_equal(copied, values, f"broadcast of {name}")
            if values.is_floating_point():
                for operation in (distributed.ReduceOp.SUM, distributed.ReduceOp.MAX):
                    reduced = given.clone()
                    distributed.all_reduce(reduced, operation)
                    _expect_equal(reduced, values, f"all_reduce of {name}")
                own = torch.empty_like(given)
                distributed.reduce_scatter(own, [given])
                _expect_equal(own, values, f"reduce_scatter of {name}")
        found = gather_objects({"scores": values.numpy(), "rank": 0})
        assert len(found) == 1 and found[0]["rank"] == 0, "all_gather_object"
    return {"dtypes": len(travelling)}


def _expect_equal(found: Tensor, wanted: Tensor, what: str) -> None:
    assert torch.equal(found.cpu(), wanted), f"{what} changed numbers"


def check_steps(device: torch.device) -> Figures:
    """Guarded steps, one of them spoilt, must be those of a process without a group; the means are reduced too."""
    alone = Training(device, "sgd")
    for number in (0, 1):
        alone.step([alone.batch(number)])
    with one_rank(device):
        grouped = Training(device, "sgd")
        grouped.step([grouped.batch(0)])
        before = grouped.state()
        grouped.step([grouped.batch(2)], [NAN])
        expect_same(before, grouped.state())
        grouped.steps = 1  # class maps are rounded by it
        grouped.step([grouped.batch(1)])
        grouped.guard.settle()
        assert grouped.guard.skipped == 1, f"{grouped.guard.skipped} steps were counted as skipped"
        assert changed(before, grouped.state()), "a good step changed nothing"
        means = RunningMeans()
        means.add({"one": torch.ones((), device=device)}, torch.ones((), dtype=torch.bool, device=device))
        assert means.take() == {"one": 1.0}, "running means"
    figures: Figures = {"difference": distance(grouped.state(), alone.state())}
    expect("difference from steps without a group", figures["difference"], 1e-3)
    return figures


def check_ddp(device: torch.device) -> Figures:
    """Gradients that DDP has averaged over one rank are those of the plain module."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).to(device)
    images = torch.randn(6, 3, 8, 8).to(device)
    with one_rank(device):
        wrapped = DistributedDataParallel(net, device_ids=[device.index] if device.type == "cuda" else None)
        gradients = []
        for module in (net, wrapped):
            net.zero_grad()
            module(images).square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten().cpu() for p in net.parameters() if p.grad is not None]))
    figures: Figures = {"difference": float((gradients[1] - gradients[0]).norm() / gradients[0].norm())}
    expect("difference of gradients", figures["difference"], 1e-5)
    return figures


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {
        "one rank: collectives": check_collectives,
        "one rank: guarded steps": check_steps,
        "one rank: DDP": check_ddp,
    }
    return {name: Case(check, 60.0) for name, check in checks.items()}
