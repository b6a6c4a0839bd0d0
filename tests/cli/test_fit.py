"""`main.py fit`: the search, its trials in child processes, their file, and every flag."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs import ROOT, program, refusal
from short_runs import SMALL as SMALL_TRAINING
from short_runs import opened_data, write_faces

import main
from cli.machine import child, fitting, search, trials
from cli.machine.fit import FitOptions
from cli.machine.record import EMBEDDING, FAILED, FITS, FULL, MATCHING, MEMORY, REFUSED, SLOW, SPEED, Record, Trial
from cli.machine.tables import images_per_second, joined, percentiles
from cli.machine.watch import PHASES, GpuMeter
from config import Config
from engine.devices import native_bf16
from system.processes import session_members

MIB = 2**20

# ---------------------------------------------------------------- the search


@given(st.integers(0, 700), st.sampled_from([4, 8]), st.integers(8, 600), st.integers(1, 900))
def test_the_largest_batch_is_found_within_a_16th_whatever_the_machine(threshold, smallest, most, start):
    asked = []

    def fits(size):
        asked.append(size)
        return size <= threshold

    sizes = search.Sizes(4, smallest, most)
    found = search.largest_batch(fits, sizes, start)
    assert len(asked) == len(set(asked)) and all(size % 4 == 0 and smallest <= size <= most for size in asked)
    assert len(asked) <= 2 * math.log2(most) + 2
    best = min(threshold, most) // 4 * 4
    if best < smallest:
        assert found is None and smallest in asked
    else:
        assert found in asked and found <= best < found + max(4, found // 16)


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from([0.5, 1.0, 1.2, 2.0]), min_size=1), min_size=1))
def test_the_fastest_of_independent_flags_is_found_one_after_another(factors):
    choices = {name: range(len(values)) for name, values in factors.items()}

    def rate(flags, number=0):
        return math.prod(factors[name][index] for name, index in flags.items())

    best = search.climb(rate, dict.fromkeys(factors, 0), choices)
    assert rate(best) == math.prod(map(max, factors.values()))


def test_a_flag_that_brings_too_little_or_does_not_work_is_left_as_it_was():
    rates = {(0, 0): 100.0, (1, 0): 101.9, (0, 1): None, (0, 2): 103.0}
    best = search.climb(lambda flags, _: rates[tuple(flags.values())], {"a": 0, "b": 0}, {"a": [0, 1], "b": [0, 1, 2]})
    assert best == {"a": 0, "b": 2}


@pytest.mark.parametrize(
    ("rates", "best", "asked"),
    [
        # What there was had been disturbed, and is as fast as the others: it stays.
        ({0: [60, 100], 1: [100, 99], 2: [50]}, 0, [0, 1, 2, 0, 1]),
        # The better one had been.
        ({0: [100, 100], 1: [92, 110], 2: [None]}, 1, [0, 1, 2, 0, 1]),
        ({0: [100], 1: [89], 2: [80]}, 0, [0, 1, 2]),
    ],
)
def test_what_is_close_or_looks_better_is_measured_twice_and_the_highest_counts(rates, best, asked):
    order = []

    def rate(flags, number):
        order.append(flags["a"])
        return rates[flags["a"]][number]

    assert search.climb(rate, {"a": 0}, {"a": [0, 1, 2]}) == {"a": best} and order == asked


def test_what_is_tried_fits_the_machine():
    two = search.choices_of_flags(2, on_gpu=False, has_bf16=False)
    assert two == {
        **{"precision": ["32"], "compile": [False, True], "channels_last": [True, False]},
        **{"num_workers": [0, 1, 2], "threads": [1, 2]},
    }
    many = search.choices_of_flags(12, on_gpu=True, has_bf16=False)
    assert many["precision"] == ["32", "bf16", "16"]
    assert (many["num_workers"], many["threads"]) == ([0, 1, 2, 4, 8, 12], [1, 6, 11, 12])
    assert search.choices_of_flags(1, on_gpu=False, has_bf16=True)["precision"] == ["32", "bf16"]
    assert list(search.smaller_batches(20, search.Sizes(4, 8, 64))) == [20, 8]
    assert child.planned_steps(MEMORY, 8, 4, on_gpu=True) == (0, 2)
    assert child.planned_steps(SPEED, 8, 4, on_gpu=False) == (2, 8)
    assert child.planned_steps(SPEED, 8, 6, on_gpu=True) == (26, 12)


def test_bursts_of_batches_are_not_taken_for_speed():
    trial = Trial(SPEED, {}, FITS, images=8, step_seconds=[4.0, 0.1, 0.1, 0.1, 0.1, 3.6], peak_bytes=5)
    assert images_per_second(trial) == pytest.approx(6.0)
    slow = replace(trial, step_seconds=[10.0], peak_bytes=7, number=1)
    assert images_per_second(joined([trial, slow, replace(trial, outcome=FULL, number=2)])) == pytest.approx(56 / 18)
    assert joined([trial, slow]).peak_bytes == 7 and joined([replace(trial, outcome=FULL)]).outcome == FULL


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_percentiles_are_those_of_numpy_without_interpolation(seconds):
    expected = [np.percentile(seconds, part, method="inverted_cdf") for part in (50, 90, 99)]
    assert [*percentiles(seconds).values()] == expected


# ---------------------------------------------------------------- a child process

LIBRARY = "import json, os, signal, sys, time; request = json.load(sys.stdin)\n"


@pytest.fixture
def run_script(monkeypatch):
    """Return a function that runs a trial whose child is a few lines of Python without torch."""

    def run(lines, seconds=20.0, cap=None):
        monkeypatch.setattr(trials, "_START", LIBRARY + lines)
        return trials.run_trial({"kind": SPEED, "flags": {"batch_size": 8}, "words": "ä"}, seconds, cap)

    return run


def test_a_child_is_asked_and_answers(run_script):
    done = run_script(
        'for n in (1, 2): print(json.dumps({"row": {"batch": n, "is_asked": float(request["words"] == "ä")}}))\n'
        'print(json.dumps({"outcome": "fits", "images": 8, "step_seconds": [2.0], "peak_bytes": 5}))'
    )
    assert done == Trial(
        SPEED, {"batch_size": 8}, FITS, seconds=done.seconds, peak_bytes=5, images=8, step_seconds=[2.0],
        rows=[{"batch": 1, "is_asked": 1.0}, {"batch": 2, "is_asked": 1.0}],
    )  # fmt: skip
    assert 0 < done.seconds < 20 and images_per_second(done) == 4.0


@pytest.mark.parametrize(
    ("lines", "outcome", "reason"),
    [
        ("print(json.dumps({'began': True}), flush=True); time.sleep(60)", SLOW, "more than 0.6 s"),
        ("os.kill(os.getpid(), signal.SIGKILL)", FULL, "killed by the system"),
        ("print('{\"row\": {\"batch\"'); sys.stderr.write('one\\ntwo words\\n'); sys.exit(3)", FAILED, "two words"),
        ("raise OSError('no such thing')", FAILED, "OSError: no such thing"),
        ("print(json.dumps({'outcome': 'refused', 'reason': 'a flag'}))", REFUSED, "a flag"),
    ],
)
def test_a_child_that_does_not_end_well_says_why(run_script, lines, outcome, reason):
    done = run_script(lines, seconds=0.6 if outcome == SLOW else 20.0)
    assert done.outcome == outcome and reason in done.reason and "\n" not in done.reason
    assert not done.fits and images_per_second(done) is None


def test_what_it_takes_to_prepare_the_data_is_no_time_of_a_trial(run_script):
    lines = 'time.sleep(1); print(json.dumps({"began": True}), flush=True); print(json.dumps({"outcome": "fits"}))'
    done = run_script(lines, seconds=0.8)
    assert done.fits and done.seconds > 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc: what a process holds is not known")
def test_a_child_beyond_the_cap_is_killed_with_all_that_it_has_started(run_script, tmp_path):
    # Its worker, in a group of its own, holds the memory, outlives nobody, and neither would end by itself.
    lines = (
        f"if os.fork():\n open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n time.sleep(60)\n"
        f"os.setpgid(0, 0)\nheld = b'x' * {64 * MIB}\ntime.sleep(60)"
    )
    begin = time.monotonic()
    done = run_script(lines, seconds=60.0, cap=48 * MIB)
    assert time.monotonic() - begin < 30
    assert done.outcome == FULL and done.peak_bytes > 48 * MIB and done.cap_bytes == 48 * MIB
    assert session_members(int((tmp_path / "pid").read_text())) == []
    told = run_script('print(json.dumps({"outcome": "fits", "peak_bytes": 2**40}))', cap=2**39)
    assert told.outcome == FULL  # between two looks


# ---------------------------------------------------------------- what a child does


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("fit_faces"))


def request(faces, kind, **options):
    config = Config(**{**SMALL_TRAINING, "data_root": str(faces), **options})
    return {
        **{"kind": kind, "flags": {}, "options": config.to_dict(), "timed_steps": 3, "cap_bytes": None, "margin": 0.1},
        **{"snapshot": None, "batches": [1, 3], "seconds": 0.0},
    }


def answer(asked):
    rows = []
    threads = torch.get_num_threads()
    try:
        found = child.answered(asked, rows.append)
    finally:
        torch.set_num_threads(threads)
    return found, rows


def test_a_child_trains_so_many_steps_and_looks_into_one(faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # 32 images are two batches of 16, and two of them a step: epochs go by.
    course = {"accumulate_grad_batches": 2, "lr_schedule": "onecycle", "patience": 3}
    found, told = answer(request(faces, SPEED, **course))
    assert found["outcome"] == FITS and told == [{"began": True}] and found["images"] == 32
    assert "backbone with gradient and optimizer state" in found["plan"]
    assert len(found["step_seconds"]) == 3 and min(found["step_seconds"]) > 0
    assert tuple(found["phases"]) == PHASES
    phases = found["phases"].values()
    assert all(0 <= phase["seconds"] < 60 for phase in phases)
    if found["peak_bytes"] is not None:
        assert 50 * MIB < max(phase["peak_bytes"] for phase in phases) <= found["peak_bytes"]
    short, _ = answer(request(faces, MEMORY))
    assert (short["outcome"], short["images"], short["step_seconds"]) == (FITS, 16, [])
    assert list(tmp_path.iterdir()) == []


def test_a_child_says_what_the_training_refuses_and_when_memory_is_out(faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, _ = answer(request(faces, MEMORY, batch_size=64))
    assert found["outcome"] == REFUSED and "identities" in found["reason"]
    written = []

    def write(path):
        written.append(path)
        Path(path).write_text(str(len(written)))

    monkeypatch.setattr("engine.internals.write_gpu_memory", write)
    for error, outcome in (
        (torch.OutOfMemoryError("CUDA out of memory\nlong"), FULL),
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."), FULL),
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Bus error. It is possible"), FULL),
        (RuntimeError("a defect"), FAILED),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(child, "train", fail)
        found, _ = answer({**request(faces, MEMORY), "snapshot": "held.pickle"})
        assert found["outcome"] == outcome and str(error).partition("\n")[0] in found["reason"]
    assert [path.read_text() for path in tmp_path.iterdir()] == ["3"]  # the last one, whole
    found, _ = answer({**request(faces, MEMORY), "snapshot": "nowhere/held.pickle"})
    assert found["outcome"] == FAILED  # a defect takes no snapshot
    monkeypatch.setattr(child, "train", lambda *_: torch.empty(2**57))
    found, _ = answer({**request(faces, MEMORY), "snapshot": "nowhere/held.pickle"})
    assert found["outcome"] == FULL and "; no snapshot: " in found["reason"]


@pytest.mark.parametrize("kind", [EMBEDDING, MATCHING])
def test_a_child_describes_and_matches(faces, kind):
    found, told = answer(request(faces, kind))
    assert found["outcome"] == FITS and told.pop(0) == {"began": True}
    rows = told
    assert [(told["row"]["batch"], told["row"]["runs"]) for told in rows] == [(1, 5), (3, 5)]
    assert all(0 < told["row"]["p50"] <= told["row"]["p90"] <= told["row"]["p99"] for told in rows)


def test_the_warm_up_knows_what_the_loader_has_ahead(faces):
    options = opened_data(faces, num_workers=1).loader_options(persistent=True)
    assert options["prefetch_factor"] == child.IN_FLIGHT


# ---------------------------------------------------------------- the file


def test_the_file_gives_back_what_was_tried_and_refuses_what_is_not_its_own(tmp_path):
    path, about = tmp_path / "fit.json", {"arch": "ir_tiny", "occluders": ("cap", "hand")}
    record = Record(path, about)
    full = Trial(SPEED, {"batch_size": 8}, FITS, "", 1.5, 7, 8.0, 8, [0.5], {"data": {"seconds": 1.0}}, [{"p50": None}])
    full = replace(full, plan="backbone 1 MiB")
    for trial in (full, replace(full, kind=MEMORY, peak_bytes=None, cap_bytes=None, outcome=FULL)):
        record.add(trial)
    again = Record(path, about)
    assert again.trials == record.trials
    assert again.find(SPEED, {"batch_size": 8}) == full and again.find(SPEED, {"batch_size": 12}) is None
    again.add(second := replace(full, number=1))
    assert again.find(SPEED, {"batch_size": 8}, 1) == second and again.of(SPEED, {"batch_size": 8}) == [full, second]
    with pytest.raises(ValueError, match=r"another command or machine \(arch differ"):
        Record(path, about | {"arch": "ir_18"})
    for damage in (b"[]", b"{", b"\xff", b'{"about": {}, "limit_bytes": "x", "trials": []}', b"[" * 100_000):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="is damaged, or no file of fit"):
            Record(path, about)


# ---------------------------------------------------------------- the program, with a machine that is imagined


class Machine:
    """Holds 100 MiB and 2 more for each image; is fastest in some flags; notes what it is asked."""

    def __init__(self, faults=()):
        self.asked, self.limits, self.faults = [], [], dict(faults)

    def __call__(self, asked, seconds, cap):
        self.asked.append(asked)
        self.limits.append((seconds, cap))
        config = Config.from_dict(asked["options"])
        fault = self.faults.get((asked["kind"], asked["flags"].get("batch_size")))
        if fault is KeyboardInterrupt:
            raise fault
        peak = (100 + 2 * config.batch_size) * MIB
        on_gpu, cap = cap is None, cap or (1 - asked["margin"]) * (asked["cap_bytes"] or 300 * MIB)
        common = {"kind": asked["kind"], "flags": asked["flags"], "peak_bytes": peak, "cap_bytes": cap}
        if fault is not None:
            return Trial(**common, outcome=fault, reason="as imagined")
        if peak > cap:
            return Trial(**common, outcome=FULL, reason="as imagined")
        speed = (
            10.0
            * (1.8 if on_gpu and config.precision == "16" else 1.0)
            * (1.5 if config.num_workers == 1 else 1.0)
            * (0.5 if config.compile else 1.0)
        )
        step = {"images": config.batch_size, "step_seconds": [config.batch_size / speed]}
        row = {"batch": 2.0, "runs": 5.0, "p50": 1.0, "p90": 1.0, "p99": 1.0, "peak_bytes": None}
        return Trial(**common, outcome=FITS, rows=[row] if asked["kind"] in (EMBEDDING, MATCHING) else [], **step)

    def batches(self, kind):
        return [asked["flags"]["batch_size"] for asked in self.asked if asked["kind"] == kind]


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Return a function that runs the program on an imagined machine of two cores, and returns (exit code, machine)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "usable_cores", lambda: 2)

    def run(*words, **faults):
        machine = Machine({(kind, batch): fault for kind, (batch, fault) in faults.items()})
        monkeypatch.setattr(fitting, "run_trial", machine)
        words = ["--arch", "ir_tiny", "--gpus", "0", "--memory_limit", "300", *map(str, words)]
        try:
            return main.main(["fit", *words]), machine
        except SystemExit as end:
            return end.code, machine

    return run


@pytest.mark.fit_flag("memory_limit", "margin", "output")
def test_the_flags_to_copy_are_the_largest_batch_and_the_fastest_of_the_rest(fit, tmp_path, capsys):
    code, machine = fit("--output", "here.json")
    text = capsys.readouterr().out
    # 0.9 * 300 MiB hold 85 images: 84 in fours, of which 80 is near enough by the rule of a 16th.
    assert code == 0 and machine.batches(MEMORY) == [8, 16, 32, 64, 128, 96, 80, 88, 84]
    assert "largest batch that trains: 84, 268 of 270 MiB; 10 % of the memory is left free; 2.00 MiB an image" in text
    assert "flags to copy: --batch_size 84 --num_workers 1\n" in text
    assert "88 is out of memory" in text and "matching: pairs of local maps" in text
    assert "with the flags found: 15.0 images/s (the lowest of 3: 15.0); with those of the command: 10.0" in text
    written = json.loads((tmp_path / "here.json").read_text())
    assert written["result"]["flags"]["num_workers"] == 1 and len(written["trials"]) == len(machine.asked)
    assert {cap for _, cap in machine.limits} == {0.9 * 300 * MIB}
    fit("--margin", "0.5", "--memory_limit", "400", "--output", "other.json")
    assert "200 MiB; 50 % of the memory" in capsys.readouterr().out


@pytest.mark.fit_flag("max_batch", "vary", "trial_seconds", "timed_steps", "table_seconds", "table_batches")
def test_what_is_tried_is_as_the_flags_say(fit, capsys):
    words = ["--max_batch", "36", "--vary", "compile", "--trial_seconds", "7", "--timed_steps", "4"]
    code, machine = fit(*words, "--table_seconds", "0", "--precision", "auto")
    text = capsys.readouterr().out
    assert code == 0 and machine.batches(MEMORY) == [8, 16, 32, 36] and machine.batches(SPEED) == [36, 36]
    assert "with the flags found: 10.0 images/s (measured once)\n" in text
    assert "nothing larger was tried (--max_batch 36)" in text and "embedding" not in text
    assert [asked["flags"]["compile"] for asked in machine.asked[4:]] == [False, True]
    assert {asked["flags"]["precision"] for asked in machine.asked} == {"bf16" if native_bf16(False)[0] else "32"}
    assert {asked["flags"]["num_workers"] for asked in machine.asked} == {2}
    assert {asked["timed_steps"] for asked in machine.asked} == {4}
    assert {seconds for seconds, _ in machine.limits} == {7.0, 7.0 * 7 / 3}  # three steps, and more of them
    code, machine = fit("--max_batch", "8", "--vary", "none", "--table_batches", "2,5", "--output", "b.json")
    assert [(asked["kind"], asked["batches"]) for asked in machine.asked[-2:]] == [
        (EMBEDDING, [2, 5]),
        (MATCHING, [2, 5]),
    ]


@pytest.mark.fit_flag("snapshot")
def test_a_snapshot_is_asked_of_a_gpu_alone(fit, capsys, monkeypatch):
    assert fit("--snapshot")[0] == 2
    assert "--snapshot is of the memory of a GPU" in capsys.readouterr().err
    monkeypatch.setattr("engine.devices.uses_gpu", lambda options: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some GPU")
    options = FitOptions(snapshot=True, memory_limit=300.0)
    asked = fitting.Fitting(options, Config(arch="ir_tiny"), start=False)._request(MEMORY, {"batch_size": 8})
    assert asked["snapshot"] == "fit.out_of_memory.pickle" and asked["cap_bytes"] == 300 * MIB


def test_the_limit_is_refused_where_memory_cannot_be_seen(fit, monkeypatch, capsys):
    monkeypatch.setattr(fitting, "free_memory", lambda: None)
    assert fit()[0] == 2
    assert "--memory_limit: this system does not say what processes hold" in capsys.readouterr().err


def test_stages_are_tried_with_all_that_they_train(fit):
    stages = ["--stages", "1:heads.*", "--stages", "1:*=0.02", "--epochs", "2", "--check_val_every_n_epoch", "2"]
    _, machine = fit(*stages, "--max_batch", "8", "--vary", "none", "--table_seconds", "0")
    assert {(*asked["options"]["stages"], asked["options"]["fast_dev_run"]) for asked in machine.asked} == {(False,)}


# ---------------------------------------------------------------- a GPU that is imagined


class FakeEvent:
    """What GpuMeter asks of torch.cuda.Event, by the clock of the host."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, last):
        return 1000 * (last.time - self.time)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Let fit find a GPU of 10 GiB, 8 of them free, while what it starts computes on the CPU; return what is asked."""
    asked = []

    def note(name, value=None):
        # Raises where torch has no such name.
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *given, **more: asked.append((name, *given)) or value)

    gib = 2**30
    for name, value in {
        **{"mem_get_info": (8 * gib, 10 * gib), "max_memory_reserved": 3 * gib, "max_memory_allocated": 2 * gib},
        **{"get_device_name": "Some GPU", "is_bf16_supported": True, "set_per_process_memory_fraction": None},
        **{
            "device_count": 1,
            "synchronize": None,
            "reset_peak_memory_stats": None,
            "memory._record_memory_history": None,
        },
    }.items():
        note(name, value)
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    monkeypatch.setattr("engine.devices.uses_gpu", lambda options: options.gpus > 0)
    monkeypatch.setattr(GpuMeter, "device", torch.device("cpu"))
    return asked


@pytest.mark.parametrize("kind", [SPEED, MATCHING])
def test_a_child_on_a_gpu_is_held_to_its_share_of_what_is_free(faces, fake_gpu, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    options = {"gpus": 1, "precision": "bf16" if kind == MATCHING else "32"}
    found, told = answer({**request(faces, kind, **options), "snapshot": "held.pickle", "timed_steps": 2})
    assert found["outcome"] == FITS and told[0] == {"began": True}
    assert found["cap_bytes"] == 0.9 * 8 * 2**30
    shares = [share for name, *share in fake_gpu if name == "set_per_process_memory_fraction"]
    assert shares == [[pytest.approx(0.72)]]
    assert found["peak_bytes"] == 3 * 2**30 and not any("history" in each[0] for each in fake_gpu)
    if kind == MATCHING:
        assert {row["row"]["peak_bytes"] for row in told[1:]} == {2 * 2**30}
    else:
        assert len(found["step_seconds"]) == 2 and {each["peak_bytes"] for each in found["phases"].values()} == {2**31}


def test_a_snapshot_is_recorded_while_batches_are_tried(fake_gpu):
    asked = {"margin": 0.5, "cap_bytes": 2**30, "snapshot": "held.pickle", "kind": MEMORY}
    assert child.limit_gpu(asked) == 2**29
    assert ("set_per_process_memory_fraction", 0.05) in fake_gpu and ("memory._record_memory_history",) in fake_gpu


def test_a_fit_on_a_gpu_tries_fp16_too_and_leaves_the_limit_to_the_child(fake_gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    machine = Machine()
    monkeypatch.setattr(fitting, "run_trial", machine)
    words = ["fit", "--arch", "ir_tiny", "--vary", "precision", "--num_workers", "1", "--max_batch", "64"]
    assert main.main([*words, "--snapshot"]) == 0
    text = capsys.readouterr().out
    assert {cap for _, cap in machine.limits} == {None} and {asked["cap_bytes"] for asked in machine.asked} == {None}
    tried = {asked["flags"]["precision"] for asked in machine.asked if asked["kind"] == EMBEDDING}
    assert tried == {"32", "bf16", "16"} and "flags to copy: --batch_size 64 --precision 16\n" in text
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Another GPU")
    with pytest.raises(SystemExit) as end:
        main.main([*words, "--snapshot"])
    assert end.value.code == 2 and "another command or machine (device differ)" in capsys.readouterr().err


def test_an_interrupted_fit_goes_on_where_it_was(fit, capsys):
    assert fit("--table_seconds", "0", memory=(80, KeyboardInterrupt))[0] == 130
    assert "the same command goes on" in capsys.readouterr().err
    code, machine = fit("--table_seconds", "0")
    assert code == 0 and machine.batches(MEMORY) == [80, 88, 84]
    code, machine = fit("--table_seconds", "0")
    assert code == 0 and machine.asked == [] and "--batch_size 84" in capsys.readouterr().out
    assert fit()[0] == 2
    assert "another command or machine (table_seconds differ)" in capsys.readouterr().err


def test_a_given_batch_is_where_the_search_begins(fit):
    assert fit("--batch_size", "64", "--table_seconds", "0")[1].batches(MEMORY)[:3] == [64, 128, 96]
    machine = fit("--batch_size", "128", "--table_seconds", "0", "--output", "b.json")[1]
    assert machine.batches(MEMORY)[:3] == [128, 64, 124]


def test_a_batch_that_fails_in_more_steps_gives_way_to_the_next(fit, capsys):
    code, machine = fit("--vary", "none", "--table_seconds", "0", speed=(84, FULL))
    assert code == 0 and machine.batches(SPEED) == [84, 80]
    assert "flags to copy: --batch_size 80\n" in capsys.readouterr().out


def test_nothing_that_fits_is_a_mistake_in_the_input_a_failed_trial_is_none(fit, capsys):
    assert fit(memory=(8, SLOW))[0] == 2
    assert "nothing fits: --batch_size 8, the smallest, is too slow (as imagined)" in capsys.readouterr().err
    assert fit("--output", "b.json", memory=(16, FAILED))[0] == 1
    assert "--batch_size 16: the trial failed, and not for its size: as imagined" in capsys.readouterr().err


def test_what_the_training_refuses_is_a_mistake_in_the_input(fit, capsys):
    code, machine = fit("--batch_size", "64", memory=(8, REFUSED))
    assert code == 0 and machine.batches(MEMORY)[0] == 64  # the batch given is no worse for it
    assert fit("--output", "b.json", memory=(8, REFUSED))[0] == 2
    assert "main.py fit: error: as imagined" in capsys.readouterr().err
    assert fit("--output", "c.json", memory=(16, REFUSED))[0] == 0  # the data hold no larger batch
    assert "16 is refused: as imagined" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--evaluate", "--resume_from_checkpoint", "last.ckpt"), "--evaluate conflicts with fit"),
        (("--check_mode",), "--check_mode conflicts with fit"),
        (("--num_processes", "2", "--gpus", "0"), "fit measures one rank"),
        (("--max_batch", "4", "--gpus", "0"), "--max_batch 4: a batch of this training holds 8 images"),
        (("--output", "nowhere/fit.json"), "its folder does not exist"),
        (("--output", "."), "is a folder; give a file"),
        (("--timed_steps", "1"), "--timed_steps must be in"),
        (("--trial_seconds", "nan"), "--trial_seconds"),
        (("--table_batches", "8,0"), "--table_batches must be in"),
        (("--precision", "16", "--gpus", "0"), "--precision 16 needs a GPU"),
        (("--margin", "1"), "--margin must be in"),
        (("--vary", "lr"), "--vary: 'lr' is not one of"),
        (("--batch_size", "6"), "--batch_size must be divisible by 4"),
        (("--bacth_size", "8"), "did you mean --batch_size?"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, main.main, "fit", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_fit_of_a_small_net_ends_with_flags_that_train(faces, tmp_path):
    small = ["--arch", "ir_tiny", "--embedding_size", "16", "--gpus", "0", "--align", "no", "--data_root", faces]
    words = [
        "--max_batch",
        "8",
        "--timed_steps",
        "2",
        "--vary",
        "none",
        "--table_seconds",
        "0.05",
        "--num_workers",
        "1",
    ]
    done = program("main.py", "fit", *small, *words, "--table_batches", "1,2", cwd=tmp_path)
    flags = next(line for line in done.stdout.splitlines() if line.startswith("flags to copy: "))
    written = json.loads((tmp_path / "fit.json").read_text())
    assert written["result"]["batch_size"] == 8 and {each["outcome"] for each in written["trials"]} == {FITS}
    for phase in PHASES:
        assert f"{phase} " in done.stdout
    again = program("main.py", "fit", *small, *words, "--table_batches", "1,2", cwd=tmp_path)
    assert again.stdout == done.stdout and "trial" not in again.stderr
    program("main.py", *small, *flags.removeprefix("flags to copy: ").split(), "--fast_dev_run", cwd=tmp_path)
    little = ["--memory_limit", "64", "--output", "little.json"]
    refused = program("main.py", "fit", *small, *little, cwd=tmp_path, check=False)
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith("main.py fit: error: nothing fits")


@pytest.mark.slow
def test_a_fit_that_is_killed_leaves_no_child_behind(faces, tmp_path):
    command = [sys.executable, ROOT / "main.py", "fit", "--arch", "ir_tiny", "--gpus", "0", "--data_root", faces]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while "trial 1" not in process.stderr.readline():
        pass
    time.sleep(2.0)
    children = [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    begin = time.monotonic()
    while any(session_members(pid) for pid in children) and time.monotonic() - begin < 60:
        time.sleep(0.2)
    assert children and not any(session_members(pid) for pid in children)
