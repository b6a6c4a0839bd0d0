"""Machines without POSIX: every module imports, leaf packages work, and training on the CPU runs with spawned workers.

They are simulated: see no_posix/sitecustomize.py.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import SMALL_RUN
from short_runs import build, write_faces
from test_architecture import MODULES

ROOT = Path(__file__).resolve().parent.parent
NO_POSIX = ROOT / "tests" / "no_posix"
LEAF_TESTS = (
    *("tests/datasets/faces/test_images.py", "tests/datasets/records/test_record_dataset.py"),
    *("tests/heads/test_margin_heads.py",),
    *("tests/losses", "tests/transforms/test_tensor.py", "tests/ops", "tests/qaconv/test_statistics.py"),
    *("tests/nets/test_occlusion_head.py", "tests/evaluation/protocols/test_roc.py"),
)


def without_posix(*words, cwd=ROOT, **environment):
    """Run Python with some words where POSIX is absent."""
    paths = os.pathsep.join([str(NO_POSIX), str(ROOT)])
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )  # fmt: skip


def test_the_simulation_takes_the_names_from_our_modules_alone(tmp_path):
    program = (
        "import os; from engine import signals; print(hasattr(signals.os, 'fork'), hasattr(os, 'fork'))\n"
        "import datasets.faces.images as ours\n"
        "for line in ('import fcntl', 'import signal; signal.SIGKILL'):\n"
        "    try:\n"
        "        exec(line, vars(ours))\n"
        "    except (ImportError, AttributeError) as error:\n"
        "        print(error)\n"
    )
    done = without_posix("-c", program)
    first, *errors = done.stdout.splitlines()
    assert first == "False True", done.stderr
    assert "No module named 'fcntl' without POSIX" in errors[0] and "no attribute 'SIGKILL' without POSIX" in errors[1]


def test_every_module_imports():
    names = [".".join(module.path.with_suffix("").parts).removesuffix(".__init__") for module in MODULES]
    program = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        "        print(name, repr(error))\n"
        "print('all')"
    )
    done = without_posix("-c", program)
    faults = [line for line in done.stdout.splitlines() if "No module named 'triton'" not in line]
    assert faults == ["all"], done.stdout + done.stderr


@pytest.mark.slow
def test_leaf_packages_pass_their_tests():
    done = without_posix("-m", "pytest", "-p", "no:cacheprovider", "-x", *LEAF_TESTS)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_training_on_the_cpu_runs_with_spawned_workers(tmp_path):
    words = [*SMALL_RUN, "--data_root", write_faces(tmp_path / "faces"), "--batch_size", "8", "--epochs", "1"]
    words += ["--val_occlusion", "none", "--num_workers", "1"]
    done = without_posix(ROOT / "main.py", *words, cwd=tmp_path, MASKWISE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "experiments").iterdir()
    assert {"metrics.csv", "last.ckpt", "report"} <= {path.name for path in folder.iterdir()}
    done = without_posix(
        ROOT / "main.py", "--resume_from_checkpoint", folder / "last.ckpt", "--epochs", "2",
        cwd=tmp_path, MASKWISE_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_loaders_hand_to_their_workers_can_be_spawned(tmp_path):
    _, datamodule, _ = build(
        tmp_path, data_root=str(write_faces(tmp_path / "faces")), num_workers=1, occlusion_prob=1.0
    )
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        for one in loader if isinstance(loader, list) else [loader]:
            dataset, collate, start = pickle.loads(pickle.dumps((one.dataset, one.collate_fn, one.worker_init_fn)))
            index = next(iter(one.batch_sampler))[0]
            there, here = (collate([values[index]]) for values in (dataset, one.dataset))
            assert torch.equal(torch.as_tensor(there[0]), torch.as_tensor(here[0]))
            assert start is one.worker_init_fn
