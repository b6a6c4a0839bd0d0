"""Stand-ins for SLURM's programs: srun starts all tasks on this machine, each told that it is where SLURM says."""

import os
import stat
import sys

SRUN = """#!{python}
import os, signal, subprocess, sys, time

option, *words = sys.argv[1:]
assert option == "--kill-on-bad-exit=1", option
nodes, width = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
tasks = []
signal.signal(signal.SIGTERM, lambda number, frame: [task.send_signal(number) for task in tasks])
for rank in range(nodes * width):
    place = {{"SLURM_PROCID": rank, "SLURM_NODEID": rank // width, "SLURM_LOCALID": rank % width, "SLURM_STEP_ID": 0}}
    place |= {{"SLURM_STEP_NUM_TASKS": nodes * width, "SLURM_STEP_NUM_NODES": nodes}}
    tasks.append(subprocess.Popen(words, env=os.environ | {{name: str(value) for name, value in place.items()}}))
while not any(codes := [task.poll() for task in tasks]) and None in codes:
    time.sleep(0.05)
for task in tasks:
    task.kill()
    task.wait()
sys.exit(max(code or 0 for code in codes))
"""
SCONTROL = """#!/bin/sh
case "$1" in
    show) test "$2 $3" = "hostnames node[1-9]" && printf '127.0.0.1\\nelsewhere\\n' ;;
    *) echo "$@" >> {note} ;;
esac
"""


def install(folder):
    """Write srun and scontrol into a folder; return the file in which scontrol notes what it is asked to do."""
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text.format(python=sys.executable, note=folder / "note"))
        (folder / name).chmod(stat.S_IRWXU)
    return folder / "note"


def batch_environment(programs, submitted_from, nodes, tasks_per_node):
    """Return the variables that sbatch gives to a job's script."""
    job = {"JOB_ID": 4711, "JOB_NAME": "maskwise", "JOB_NODELIST": "node[1-9]", "NODELIST": "node[1-9]"}
    job |= {"NNODES": nodes, "NTASKS": nodes * tasks_per_node, "NTASKS_PER_NODE": tasks_per_node}
    job |= {"SUBMIT_DIR": submitted_from, "PROCID": 0, "NODEID": 0, "LOCALID": 0}  # the script is a task too
    path = f"{programs}:{os.environ['PATH']}"
    return {**{f"SLURM_{name}": str(value) for name, value in job.items()}, "PATH": path}
