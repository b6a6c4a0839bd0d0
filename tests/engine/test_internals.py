"""Private names of Lightning, torch and multiprocessing are there, and do what the engine trusts them to do."""

import ast
import multiprocessing
import platform
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from programs import ROOT
from pytorch_lightning import Trainer
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from engine import internals

FOREIGN = {"torch", "pytorch_lightning", "lightning_fabric", "multiprocessing"}
# What Python documents or names itself, and the methods of its named tuples.
PUBLIC = {"_replace", "_asdict", "_fields", "_exit", "_current_frames"}


class Gate:
    """Numbers, one of which waits for an event."""

    def __init__(self, event):
        self._event = event

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            self._event.wait(30)
        return index


def test_a_stack_tells_which_batch_a_loader_waits_for():
    event, seen, reader = multiprocessing.Event(), [], threading.get_ident()

    def observe():
        while len(seen) < 2 or seen[-1] != seen[-2] or seen[-1] is None or seen[-1][1] != 2:
            seen.append(internals.awaited_batch(sys._current_frames().get(reader)))
            time.sleep(0.05)
        event.set()

    observer = threading.Thread(target=observe)
    loader = iter(DataLoader(Gate(event), batch_size=None, num_workers=1))
    observer.start()
    assert list(loader) == [0, 1, 2, 3]
    observer.join()
    assert seen[-1] == (id(loader), 2)
    assert internals.awaited_batch(sys._getframe()) is None and internals.awaited_batch(None) is None


def test_started_processes_are_listed_also_when_they_have_died():
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
    process.start()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process in internals.started_processes()
    process.join()
    assert process not in internals.started_processes()


def test_an_error_in_place_of_a_batch_is_raised_by_the_main_process():
    sent = internals.wrapped_error(OSError("lost"), "in DataLoader worker process 3")
    assert internals.is_wrapped_error(sent) and not internals.is_wrapped_error((1, 2))
    with pytest.raises(OSError, match=r"(?s)Caught OSError in DataLoader worker process 3\..*lost"):
        sent.reraise()


def send_what_cannot_be_sent(told):
    internals.on_lost_object(lambda queue, error, lost: told.send((type(error).__name__, lost[0])))
    multiprocessing.Queue().put((7, lambda: None))
    time.sleep(1)


def test_what_a_queue_cannot_send_is_told_to_the_handler():
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_what_cannot_be_sent, args=(sender,))
    process.start()
    assert receiver.poll(20) and receiver.recv()[1] == 7
    process.join()


def test_exit_codes_are_those_of_the_workers_of_the_loader_that_failed():
    def _try_get_data(self):
        return sys._getframe()

    loader = SimpleNamespace(_workers=[SimpleNamespace(pid=1, exitcode=-9), SimpleNamespace(pid=2, exitcode=None)])
    assert internals.worker_exit_codes([_try_get_data(loader)]) == {1: -9, 2: 0}
    assert internals.worker_exit_codes([sys._getframe()]) == {}
    torch_loader = internals._LoaderWithWorkers
    assert torch_loader._try_get_data.__code__.co_varnames[0] == "self"
    assert "_workers" in torch_loader.__init__.__code__.co_names


def test_many_tensors_move_as_each_alone():
    tensors, ends = [torch.arange(3.0), torch.ones(2)], [torch.zeros(3), torch.full((2,), 5.0)]
    expected = [tensor + 0.25 * (end - tensor) for tensor, end in zip(tensors, ends, strict=True)]
    internals.lerp_all(tensors, ends, 0.25)
    torch.testing.assert_close(tensors, expected)


@pytest.mark.parametrize("name", [name for name in vars(internals.foreach) if not name.startswith("__")])
def test_each_of_many_tensors_is_changed_as_one_alone(name):
    tensors = [torch.tensor([3.0, -4.0]), torch.full((2, 2), 0.5)]
    second = {"add_": 2.0, "clamp_max_": 1.0, "clamp_min": 1.0, "clamp_min_": 1.0, "div_": 2.0, "mul": 3.0, "mul_": 3.0}
    arguments = [second[name]] if name in second else [[each + 1 for each in tensors]] if name == "sub_" else []
    alone = [getattr(torch, name, None) or getattr(torch.Tensor, name)] * 2
    each = [[argument[place] if type(argument) is list else argument for argument in arguments] for place in (0, 1)]
    expected = [one(tensor.clone(), *given) for one, tensor, given in zip(alone, tensors, each, strict=True)]
    found = getattr(internals.foreach, name)(tensors, *arguments)
    torch.testing.assert_close(tensors if name.endswith("_") else [*found], expected, equal_nan=True)


@pytest.mark.parametrize("refused", [0.0, 1.0])
def test_a_loss_scaler_skips_the_update_that_is_refused(refused):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer, scaler = torch.optim.SGD([weight], lr=0.5), torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    internals.refuse_update(scaler, optimizer, torch.tensor(refused))
    scaler.step(optimizer)
    assert weight.tolist() == ([1.0, 1.0] if refused else [0.5, 0.5])


def test_a_schedule_says_the_rates_that_it_is_told():
    schedule = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.ones(1)], lr=1.0), lambda step: 1.0)
    internals.remember_rates(schedule, [0.25])
    assert schedule.get_last_lr() == [0.25]


def test_ddp_asks_a_module_which_parameters_are_not_its_business():
    assert "_ddp_params_and_buffers_to_ignore" in DistributedDataParallel.__init__.__code__.co_consts


def test_lightning_takes_no_signal_and_broadcasts_none():
    """That signals are received all the same is seen by tests/cli/test_interruptions.py."""
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    internals.leave_signals_alone(trainer)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    trainer._signal_connector.register_signal_handlers()
    assert {number: signal.getsignal(number) for number in before} == before
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None
    assert "_broadcast_sigterm_tensor" in vars(_TrainingEpochLoop)


def test_lightning_calls_what_it_is_given_around_each_fetch_of_training():
    """That the wait is added up is seen by test_status_page.py; here, that the names are still Lightning's."""
    loop = SimpleNamespace()
    waited = internals.clock_fetches(SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=loop)))
    assert waited() == 0
    loop._on_before_fetch()
    time.sleep(0.02)
    loop._on_after_fetch()
    assert 0.02 <= waited() < 10
    assert {"_on_before_fetch", "_on_after_fetch"} <= set(_TrainingEpochLoop.on_run_start.__code__.co_names)


def test_the_cpu_is_asked_for_bfloat16():
    assert isinstance(internals.onednn_has_bf16(), bool)
    if platform.machine() == "x86_64" and Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text()
        assert internals.x86_has_bf16() == ("avx512_bf16" in flags or "amx_tile" in flags)


def test_lightning_keeps_the_workers_of_a_validation_where_they_are_ended():
    """That they end is seen by test_idle_workers.py; here, that the name is still Lightning's."""
    fetcher = SimpleNamespace(teardown=lambda: ended.append(True))
    ended, loop = [], SimpleNamespace(_data_fetcher=fetcher)
    internals.end_validation_workers(
        SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=loop)))
    )
    assert ended and loop._data_fetcher is None
    assert "_data_fetcher" in _EvaluationLoop.__init__.__code__.co_names


def test_the_memory_of_a_gpu_is_recorded_and_written(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **options: calls.append(options))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", calls.append)
    internals.record_gpu_memory()
    internals.write_gpu_memory("held.pickle")
    assert calls == [{"max_entries": 100_000}, "held.pickle"]  # without a GPU torch has the names, and can do neither


# ---------------------------------------------------------------- nowhere else


def private_uses(path):
    """Return the private names of foreign packages that a module of the engine touches."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = {"self", "cls", "super()"}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    found = [each.attr for each in attributes if ast.unparse(each.value) not in ours]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in FOREIGN:
            found += [*(alias.name for alias in node.names), *str(node.module).split(".")]
    return {name for name in found if name.startswith("_") and not name.startswith("__")} - PUBLIC


def test_no_other_module_of_the_engine_touches_a_private_name():
    modules = [path for path in (ROOT / "engine").rglob("*.py") if path.name != "internals.py"]
    assert len(modules) > 20
    assert {path.name: names for path in modules if (names := private_uses(path))} == {}
    assert private_uses(ROOT / "engine/internals.py") >= {"_data_fetcher", "_children", "_workers", "_utils"}
