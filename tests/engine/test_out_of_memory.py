"""What a run says when memory is exhausted."""

import numpy as np
import pytest
import torch

import main
from engine.out_of_memory import advice, available_memory, is_out_of_memory
from train_val import Recognizer

ENDLESS = 2**57


@pytest.mark.parametrize("allocate", [np.empty, torch.empty])
def test_exhausted_memory_is_told_from_other_errors(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(ENDLESS)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(caught.value)


def test_the_line_says_whose_memory_it_is():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
    assert is_out_of_memory(error)
    line = advice(error, 256, 7)
    assert line.startswith("out of GPU memory in step 7: lower --batch_size (256)") and "\n" not in line
    assert advice(MemoryError(), 256, 7).startswith("out of memory in step 7")
    for words in (
        "CUDA error: out of memory\nCUDA kernel errors",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling",
    ):
        assert is_out_of_memory(RuntimeError(words)) and not is_out_of_memory(ValueError(words))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "cgroup/memory.max": "1000\n"}, 1000),
        ({"proc/self/cgroup": "0::/job/step\n", "cgroup/job/step/memory.max": "2000\n"}, 2000),
        ({"proc/self/cgroup": "0::/job/step\n", "cgroup/job/memory.max": "3000\n"}, 3000),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "cgroup/job/step/memory.max": "max\n",
                "cgroup/job/memory.max": "5000\n",
                "cgroup/memory.max": "4000\n",
            },
            4000,
        ),
        ({"proc/self/cgroup": "0::/../../host/path\n", "cgroup/memory.max": "6000\n"}, 6000),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/a\n0::/\n",
                "cgroup/memory/docker/a/memory.limit_in_bytes": "7000\n",
                "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            7000,
        ),
        ({"proc/self/cgroup": "4:cpu,memory:/a\n", "cgroup/memory/a/memory.limit_in_bytes": "8000\n"}, 8000),
        ({"proc/self/cgroup": "0::/job\n", "cgroup/job/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/job\n", "cgroup/job/memory.max": "what is this\n"}, None),
        ({"proc/self/cgroup": "5:cpu:/x\n", "cgroup/cpu/x/memory.limit_in_bytes": "1000\n"}, None),
    ],
    ids=str,
)
def test_memory_is_bounded_by_every_control_group_of_the_process(write_groups, files, expected):
    free = available_memory()
    write_groups(files)
    assert available_memory() == expected if expected else available_memory() > free / 2


def test_a_run_out_of_memory_ends_with_one_line_and_exit_code_1(noise_faces, tmp_path, monkeypatch, capfd):
    training_step = Recognizer.training_step

    def exhaust(self, batch, batch_idx):
        if self.trainer.global_step == 1:
            torch.empty(ENDLESS)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(Recognizer, "training_step", exhaust)
    monkeypatch.chdir(tmp_path)
    flags = "--arch ir_tiny --batch_size 8 --gpus 0 --num_workers 0 --epochs 2 --checkpoint_every_n_steps 1"
    assert main.main([*flags.split(), "--data_root", noise_faces]) == 1
    found = capfd.readouterr().err
    (line,) = [line for line in found.splitlines() if "out of memory" in line]
    assert "in step 2: lower --batch_size (8)" in line
    assert "Traceback" not in found
    assert list((tmp_path / "experiments").glob("*/last.ckpt"))
