"""Cores by affinity and cgroup quota, the threads chosen from them, and how these wait."""

import os
import re
import subprocess
import sys

import pytest
from programs import ROOT

from system import cores


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"proc/self/cgroup": "0::/job/step\n", "cgroup/job/step/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/job/step\n", "cgroup/job/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/../../host/path\n", "cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/job\n", "cgroup/job/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/job\n", "cgroup/job/cpu.max": "max 100000", "cgroup/cpu.max": "800000 100000"}, 8),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/a\n0::/\n",
                "cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us": "600000\n",
                "cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
        (
            {
                "proc/self/cgroup": "4:cpuacct,cpu:/docker/a\n",
                "cgroup/cpu/cpu.cfs_quota_us": "150000\n",
                "cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
        ({"proc/self/cgroup": "3:cpuset:/\n", "cgroup/cpuset/cpu.cfs_quota_us": "100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "what is this\n"}, 64),
    ],
    ids=str,
)
def test_cores_follow_the_smallest_quota_of_all_cgroups(write_groups, files, expected, monkeypatch):
    monkeypatch.setattr(cores, "_cores_by_affinity", lambda: 64)
    write_groups(files)
    assert cores.usable_cores() == expected


def test_no_part_of_the_program_counts_cores_in_its_own_way():
    by_itself = re.compile(r"cpu_count|sched_getaffinity")
    modules = [path for path in ROOT.rglob("*.py") if not {".venv", "tests"} & set(path.parts)]
    found = {path.name for path in modules if by_itself.search(path.read_text(encoding="utf-8"))}
    assert found <= {"cores.py", "runs.py", "measure.py"}  # the two describe the machine


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_follow_the_affinity_of_the_process():
    one = sorted(os.sched_getaffinity(0))[0]
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from system import cores; print(cores.usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("num_cores", "ranks", "workers", "on_gpu", "expected"),
    [
        (2, 1, 2, False, 2),  # two cores compute; reading takes a small part of both
        (1, 1, 2, False, 1),
        (2, 2, 2, False, 1),
        (2, 4, 0, False, 1),
        (8, 2, 2, False, 4),
        (16, 1, 2, False, 15),
        (64, 1, 2, False, 62),
        (64, 1, 16, False, 60),
        (64, 1, 0, False, 64),
        (16, 1, 2, True, 14),
        (16, 2, 16, True, 1),
    ],
)
def test_ranks_divide_the_cores_and_leave_some_to_their_workers(num_cores, ranks, workers, on_gpu, expected):
    assert cores.choose_threads(num_cores, ranks, workers, on_gpu) == expected


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_how_threads_wait_is_bounded_unless_the_user_has_said_it(name):
    environment = {"PATH": "/bin"}
    cores.bound_waiting(environment)
    assert environment.keys() == {"PATH", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    assert cores.describe_waiting(environment).startswith("GOMP_SPINCOUNT=")
    given = {name: "17"}
    cores.bound_waiting(given)
    assert given == {name: "17"} and cores.describe_waiting(given) == f"{name}=17"


@pytest.mark.parametrize("program", ["main.py", "main_eval.py"])
def test_how_threads_wait_is_set_before_torch_is_loaded(program, tmp_path):
    # What stands in torch's place tells what it would have read.
    told = "print(os.environ.get('GOMP_SPINCOUNT', 'unset'), flush=True)"
    (tmp_path / "torch.py").write_text(f"import os; {told}; os._exit(0)")
    argv = [] if program == "main.py" else ["--model-path", "a", "--data-path", "b"]
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    code = f"import runpy, sys; sys.path[:0] = [{str(tmp_path)!r}]; sys.argv = {[program, *argv]!r}\n"
    code += f"sys.path.insert(1, {str(ROOT)!r}); runpy.run_path({str(ROOT / program)!r}, run_name='__main__')"
    for extra, expected in (({}, cores.SPIN_COUNT), ({"GOMP_SPINCOUNT": "77"}, "77")):
        done = subprocess.run([sys.executable, "-c", code], env=clean | extra, capture_output=True, text=True)
        assert done.stdout == f"{expected}\n", done.stderr
