"""What a run computes on: precision and threads, chosen once, kept when it goes on, and the reasons in the log."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import cv2
import pytest
import torch
from programs import ROOT

from config import Config, EvaluationConfig, merge_for_resume
from engine import devices

SMALL = {"arch": "ir_tiny", "batch_size": 8, "gpus": 0}


@pytest.fixture(autouse=True)
def threads_as_before(monkeypatch):
    """Give torch and OpenCV back what a test takes, and the environment too."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def cpu(monkeypatch):
    """A CPU of which a test says what it has."""

    def have(capability="AVX512", onednn=True, machine="x86_64", instructions=("avx512_bf16",)):
        monkeypatch.setattr(devices.torch.backends.cpu, "get_cpu_capability", lambda: capability)
        onednn_namespace = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: onednn)
        monkeypatch.setattr(devices.torch, "ops", SimpleNamespace(mkldnn=onednn_namespace))
        monkeypatch.setattr(devices.platform, "machine", lambda: machine)
        for name in ("avx512_bf16", "amx_tile"):
            monkeypatch.setattr(devices.torch.cpu, f"_is_{name}_supported", lambda name=name: name in instructions)

    return have


@pytest.fixture
def gpu(monkeypatch):
    def have(native):
        monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(devices.torch.cuda, "get_device_name", lambda: "Some GPU")

        def is_bf16_supported(including_emulation=True):
            return native or including_emulation

        monkeypatch.setattr(devices.torch.cuda, "is_bf16_supported", is_bf16_supported)

    return have


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("facts", "expected", "reason"),
    [
        ({}, "bf16", "computes with AVX512) has bfloat16 arithmetic"),
        ({"instructions": ("amx_tile",)}, "bf16", "has bfloat16"),
        ({"instructions": ()}, "32", "has no bfloat16"),
        ({"onednn": False}, "32", "has no bfloat16"),
        ({"capability": "AVX2"}, "32", "computes with AVX2) has no bfloat16"),
        ({"capability": "DEFAULT"}, "32", "has no bfloat16"),
        ({"capability": "DEFAULT", "machine": "aarch64", "instructions": ()}, "bf16", "has bfloat16"),
        ({"capability": "DEFAULT", "machine": "arm64", "onednn": False}, "32", "has no bfloat16"),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [Config(**SMALL, precision="auto"), EvaluationConfig(
    model_path="a", data_path="b", gpus=0, precision="auto",
)], ids=["main", "main_eval"])  # fmt: skip
def test_auto_is_bf16_only_where_the_cpu_computes_in_it(cpu, log, options, facts, expected, reason):
    cpu(**facts)
    assert devices.settle(options).precision == expected
    (said,) = [message for message in log.messages if message.startswith("precision: ")]
    assert "auto" in said and reason in said
    assert not [record for record in log.records if record.levelno > logging.INFO]


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "32")])
def test_auto_is_bf16_only_where_the_gpu_computes_in_it(gpu, native, expected):
    gpu(native)
    assert devices.choose_precision(Config(precision="auto")).value == expected


@pytest.mark.parametrize("asked", [{"precision": "bf16"}, {"use_16bit": True}], ids=str)
def test_emulated_bf16_is_warned_of_once_with_the_remedy(cpu, log, asked):
    cpu(capability="AVX2", onednn=False)
    settled = devices.settle(Config(**SMALL, **asked))
    assert (settled.precision, settled.use_16bit) == ("bf16", False)
    (warning,) = [record.message for record in log.records if record.levelno == logging.WARNING]
    assert "emulated" in warning and "--precision 32" in warning and "AVX2" in warning


def test_an_explicit_use_16bit_wins_over_the_auto_of_a_recipe(cpu, gpu):
    cpu(capability="AVX2")
    assert devices.choose_precision(Config(**SMALL, precision="auto", use_16bit=True)).value == "bf16"
    gpu(native=True)
    assert devices.choose_precision(Config(precision="auto", use_16bit=True)).value == "16"


def test_check_mode_is_float64_under_a_recipe_of_auto(log):
    assert devices.settle(Config(**SMALL, precision="auto", check_mode=True)).precision is None
    assert "precision: float64 (--check_mode)" in log.messages


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this CPU has no AVX-512 to forbid")
@pytest.mark.parametrize(
    "variables",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"DNNL_MAX_CPU_ISA": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    ],
    ids=str,
)
def test_auto_respects_what_the_user_forbids_the_cpu(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = "from engine import devices; print(devices.native_bf16(on_gpu=False))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(False, ")
    assert all(f"{name}={value}" in done.stdout for name, value in variables.items())


# ---------------------------------------------------------------- threads


@pytest.mark.evaluation_flag("threads")
@pytest.mark.flag("threads")
@pytest.mark.parametrize(
    ("options", "environment", "expected", "why"),
    [
        ({"threads": 3}, "1", 3, "--threads"),
        ({}, "1", 1, "OMP_NUM_THREADS=1"),
        ({}, None, 5, "usable cores 10"),
        ({"threads": 4}, None, 4, "--threads"),
    ],
    ids=str,
)
def test_threads_are_the_flag_s_the_environment_s_or_what_the_cores_leave(
    monkeypatch, log, options, environment, expected, why
):
    monkeypatch.setattr(devices, "usable_cores", lambda: 10)
    if environment is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(1)  # as OMP_NUM_THREADS=1 has it
    assert devices.settle(Config(**SMALL, **options), ranks=2).threads == expected
    assert torch.get_num_threads() == cv2.getNumThreads() == expected
    (said,) = [message for message in log.messages if message.startswith("threads: ")]
    assert said.startswith(f"threads: {expected} ({why}")


def test_what_torchrun_has_set_is_named(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    choice = devices.select_threads(Config(**SMALL))
    assert "OMP_NUM_THREADS=1, which torchrun sets" in choice.why and "--threads" in choice.why


def test_more_threads_than_cores_are_used_and_warned_of(monkeypatch, log):
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    assert devices.settle(Config(**SMALL, threads=3)).threads == 3
    assert any("3 are more than the 2 usable cores" in message for message in log.messages)


# ---------------------------------------------------------------- a run that goes on


def go_on(saved, given, explicit):
    """Return the options of a run that goes on from settled ones."""
    merged = merge_for_resume(saved.to_dict(), given, explicit)
    return devices.settle(merged, saved=saved)


@pytest.mark.parametrize(
    ("began", "given", "word", "said"),
    [
        ("bf16", {}, "bf16", "as the run began"),
        ("32", {}, "32", "as the run began"),
        ("32", {"precision": "auto"}, "32", "as the run began"),
        ("bf16", {"precision": "auto"}, "bf16", "as the run began"),
        ("bf16", {"precision": "32"}, "32", "--precision 32; it was bf16 until here"),
        ("32", {"precision": "bf16"}, "bf16", "--precision bf16; it was float32 until here"),
        ("32", {"use_16bit": True}, "bf16", "--use_16bit; it was float32 until here"),
        ("bf16", {"use_16bit": True}, "bf16", "as the run began"),
        ("32", {"use_16bit": True, "precision": "auto"}, "bf16", "--use_16bit; it was float32 until here"),
        ("16", {"precision": "bf16"}, "bf16", "--precision bf16; it was fp16 until here"),
        (None, {}, "32", "as the run began"),
        (None, {"precision": "bf16"}, "bf16", "--precision bf16; it was float32 until here"),
    ],
    ids=str,
)
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_precision_is_kept_on_any_machine_and_changed_by_a_flag_alone(cpu, log, capability, began, given, word, said):
    cpu(capability=capability, onednn=capability == "AVX512")
    saved = Config(**SMALL | {"gpus": 1}, precision=began)
    found = go_on(saved, Config(**SMALL, **given), {"gpus", *given})
    assert (found.precision, found.use_16bit) == (word, False)
    assert any(message.startswith("precision: ") and said in message for message in log.messages)


def test_fp16_of_a_gpu_cannot_go_on_without_one_and_the_flag_is_named():
    with pytest.raises(ValueError, match="--precision 16 needs a GPU; use bf16 on the CPU"):
        go_on(Config(**SMALL | {"gpus": 1}, precision="16"), Config(), set())


@pytest.mark.parametrize(("given", "expected", "said"), [
    ({}, 3, "as the run began"), ({"threads": 2}, 2, "--threads; it was 3 until here"),
])  # fmt: skip
@pytest.mark.parametrize("environment", ["1", None])
def test_threads_are_kept_on_any_machine_and_changed_by_a_flag_alone(
    monkeypatch, log, given, expected, said, environment
):
    monkeypatch.setattr(devices, "usable_cores", lambda: 64)
    if environment is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    assert go_on(Config(**SMALL, threads=3), Config(**SMALL, **given), set(given)).threads == expected
    assert any(message.startswith(f"threads: {expected} ({said}") for message in log.messages)


def test_a_run_saved_before_there_were_threads_chooses_them(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    saved = {name: value for name, value in Config(**SMALL).to_dict().items() if name != "threads"}
    before = Config.from_dict(saved)
    assert devices.settle(merge_for_resume(saved, Config(**SMALL), set()), saved=before).threads == 3
