"""Which rank this process is, told by the variables of whatever started it: torchrun, srun, or ourselves.

Known before any process group exists. Standard library only.
"""

from __future__ import annotations

import os
from typing import NamedTuple

# Names that SLURM gives to jobs with a shell: what runs in it was not started by srun.
_SHELLS = ("bash", "interactive")


class Launch(NamedTuple):
    """A rank that torchrun or srun has started."""

    launcher: str  # "torchrun" or "srun"
    rank: int
    num_ranks: int  # of the whole run
    ranks_per_node: int


def find_launch() -> Launch | None:
    """Return what started this process as one of several ranks, or None: then it starts its further ranks itself.

    torchrun comes first: it may run in a task of srun. A single task of srun counts as none.

    Raises:
        ValueError: if SLURM does not have as many tasks on every node.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return Launch("torchrun", int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"]))
    num_ranks = _num_tasks()
    if num_ranks == 1:
        return None
    if "SLURM_NTASKS_PER_NODE" not in env or int(env["SLURM_NTASKS_PER_NODE"]) * _num_nodes() != num_ranks:
        raise ValueError(
            f"SLURM: {num_ranks} tasks on {_num_nodes()} nodes with --ntasks-per-node "
            f"{env.get('SLURM_NTASKS_PER_NODE', 'not given')}; give --nodes and --ntasks-per-node, one task a GPU"
        )
    return Launch("srun", int(env["SLURM_PROCID"]), num_ranks, num_ranks // _num_nodes())


def is_main_process() -> bool:
    """Return whether this process is rank 0 of the run."""
    launch = find_launch()
    if launch is not None:
        return launch.rank == 0
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def _num_tasks() -> int:
    """Return the tasks that srun started together with this process; 1 without srun."""
    env = os.environ
    if "SLURM_PROCID" not in env:
        return 1
    everywhere = "1" if env.get("SLURM_JOB_NAME") in _SHELLS else env.get("SLURM_NTASKS", "1")
    return int(env.get("SLURM_STEP_NUM_TASKS", everywhere))


def _num_nodes() -> int:
    return int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", "1")))
