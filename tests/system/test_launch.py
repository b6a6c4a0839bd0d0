"""What a process learns from the variables of its launcher."""

import os

import pytest
from short_runs import SMALL

from config import Config
from engine.devices import local_ranks, world_size
from engine.trainer import build_trainer
from system.launch import Launch, find_launch, is_main_process

CONFIG = Config(**{**SMALL, "num_processes": 3})
LAUNCHERS = ("TORCHELASTIC_", "SLURM_", "RANK", "LOCAL_", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
SBATCH = {"JOB_ID": 4711, "JOB_NAME": "train", "NNODES": 4, "NTASKS": 32, "NTASKS_PER_NODE": 8, "NODELIST": "n[1-4]"}
TASK = {**SBATCH, "PROCID": 11, "LOCALID": 3, "NODEID": 1}
STEP = {"STEP_ID": 0, "STEP_NUM_TASKS": 32, "STEP_NUM_NODES": 4}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "GROUP_RANK": "1"}
TORCHRUN |= {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Set variables, after all that a launcher of these tests may have set are gone."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)

    def put(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return put


def slurm(variables):
    return {f"SLURM_{name}": value for name, value in variables.items()}


def test_without_a_launcher_this_process_starts_the_ranks_itself(environment):
    assert find_launch() is None and is_main_process()
    assert (local_ranks(CONFIG), world_size(CONFIG)) == (3, 3)
    environment({"LOCAL_RANK": 1, "NODE_RANK": 0, "WORLD_SIZE": 3})  # as Lightning starts its further ranks
    assert find_launch() is None and not is_main_process()
    assert (local_ranks(CONFIG), world_size(CONFIG)) == (3, 3)


def test_torchrun_says_the_rank(environment):
    environment(TORCHRUN)
    assert find_launch() == Launch("torchrun", rank=5, num_ranks=8, ranks_per_node=4)
    assert not is_main_process()
    assert (local_ranks(CONFIG), world_size(CONFIG)) == (4, 8)


@pytest.mark.parametrize("more", [{}, STEP, {**STEP, "JOB_NAME": "bash"}, {**STEP, "JOB_NAME": "interactive"}])
def test_srun_says_the_rank_also_in_an_interactive_job(environment, more):
    environment(slurm({**TASK, **more}))
    assert find_launch() == Launch("srun", rank=11, num_ranks=32, ranks_per_node=8)
    assert not is_main_process()
    assert (local_ranks(CONFIG), world_size(CONFIG)) == (8, 32)
    environment({"SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0})
    assert is_main_process()


def test_torchrun_in_a_task_of_srun_comes_first(environment):
    environment({**slurm({**TASK, **STEP}), **TORCHRUN})
    assert find_launch() == Launch("torchrun", rank=5, num_ranks=8, ranks_per_node=4)


@pytest.mark.parametrize(
    "variables",
    [
        SBATCH,  # a shell with an allocation
        {**TASK, "PROCID": 0, "JOB_NAME": "bash"},  # the shell itself is a task
        {**TASK, "PROCID": 0, "STEP_NUM_TASKS": 1},  # one task of a job that has more
        {"PROCID": 0, "NTASKS": 1, "JOB_NAME": "train"},
    ],
)
def test_a_process_that_is_no_task_of_several_starts_the_ranks_itself(environment, variables):
    environment(slurm(variables))
    assert find_launch() is None and is_main_process()
    assert (local_ranks(CONFIG), world_size(CONFIG)) == (3, 3)
    environment({"LOCAL_RANK": 2})
    assert not is_main_process(), "one of the ranks that it started"


@pytest.mark.parametrize("given", [{}, {"NTASKS_PER_NODE": 16}])
def test_slurm_must_have_equally_many_tasks_on_every_node(environment, given):
    variables = {name: value for name, value in TASK.items() if name != "NTASKS_PER_NODE"}
    environment(slurm({**variables, **given}))
    with pytest.raises(ValueError, match=r"32 tasks on 4 nodes .* give --nodes and --ntasks-per-node"):
        find_launch()


@pytest.mark.parametrize(
    ("variables", "rank", "nodes"),
    [
        (TORCHRUN, 5, 2),
        (slurm({**TASK, **STEP}), 11, 4),
        (slurm({**TASK, **STEP, "JOB_NAME": "bash"}), 11, 4),
        (slurm({**TASK, "PROCID": 0, "STEP_NUM_TASKS": 1}), 0, 1),
    ],
)
def test_lightning_sees_the_same_ranks(environment, tmp_path, variables, rank, nodes):
    environment(variables)
    trainer = build_trainer(CONFIG, None)
    assert (trainer.global_rank, trainer.world_size, trainer.num_nodes) == (rank, world_size(CONFIG), nodes)
