"""Functions run on several gloo ranks, each a process."""

import multiprocessing
import tempfile
from pathlib import Path

import torch
from torch import distributed


def on_ranks(num_ranks, function, *args):
    """Return [function(*args) on each rank], plain data or tensors; the function must be importable."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "heads"])  # what is imported once need not be imported by every rank
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
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_ranks)
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
