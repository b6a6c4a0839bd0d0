"""Functions run on several gloo ranks, each a process."""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest
import torch
from torch import distributed


def forkserver():
    """Return the context of processes that one server forks, which imports once what each would import for seconds.

    Python 3.11 does not tell the server where modules lie, and passes over what is not found: PYTHONPATH tells it.
    """
    context = multiprocessing.get_context("forkserver")
    # Runs that are killed cannot be imported where test_portability takes POSIX away.
    context.set_forkserver_preload(["broken_runs", "short_runs"] if hasattr(signal, "SIGKILL") else ["torch"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ensure_running()
    return context


def on_ranks(num_ranks, function, *args):
    """Return [function(*args) on each rank], plain data or tensors; the function must be importable."""
    context = forkserver()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_rank, args=(rank, num_ranks, folder, function, args)) for rank in range(num_ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=120)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        assert codes == num_ranks * [0], f"exit codes of the ranks: {codes}"
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def _rank(rank, num_ranks, folder, function, args):
    gc.freeze()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_ranks)
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
