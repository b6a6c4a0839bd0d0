"""Signs of life: what they say, that they end, and that nothing depends on them."""

import json
import logging
import threading
import time
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from full_disk import full_disk
from short_runs import fit, metrics, state, write_faces

from engine.callbacks import Heartbeat, heartbeat
from engine.files import WriteFailures

BATCH = SimpleNamespace(index=torch.zeros(8))
HOUR = 3600.0


@pytest.fixture
def clocks(monkeypatch):
    """Clocks that stand still until a test moves them."""
    clocks = SimpleNamespace(steady=1000.0, wall=1.7e9)
    fake = SimpleNamespace(monotonic=lambda: clocks.steady, time=lambda: clocks.wall)
    monkeypatch.setattr(heartbeat, "time", fake)
    return clocks


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return str(write_faces(tmp_path_factory.mktemp("faces")))


def fake_trainer(step=0, world_size=1, rank=0, stage="train"):
    return SimpleNamespace(
        global_step=step, current_epoch=2, estimated_stepping_batches=100, world_size=world_size, global_rank=rank,
        state=SimpleNamespace(stage=SimpleNamespace(value=stage)),
        strategy=SimpleNamespace(root_device=torch.device("cpu"), launcher=None),
        datamodule=SimpleNamespace(num_validated=100, drawn=lambda epoch, batches: {}),
        lightning_module=torch.nn.Identity(),
    )  # fmt: skip


def train(beat, trainer, clocks, num_steps, seconds):
    for _ in range(num_steps):
        clocks.steady += seconds
        trainer.global_step += 1
        beat.on_train_batch_end(trainer, None, None, BATCH, 0)


def read(folder):
    return json.loads((folder / "heartbeat.json").read_text())


def beating():
    return [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_a_beat_tells_pace_time_to_go_and_memory_of_a_resumed_run(tmp_path, clocks):
    beat, trainer = Heartbeat(tmp_path, HOUR), fake_trainer(step=40, world_size=2)
    beat.setup(trainer, None, "fit")
    found = read(tmp_path)
    assert (found["step"], found["total_steps"], found["seconds_to_go"]) == (40, None, None)
    clocks.steady += 100  # before training there is much to prepare
    beat.on_train_start(trainer, None)
    train(beat, trainer, clocks, num_steps=20, seconds=0.5)
    beat.on_validation_start(trainer, None)
    clocks.steady += 2
    beat.on_validation_end(trainer, None)
    beat.teardown(trainer, None, "fit")
    found = read(tmp_path)
    assert (found["state"], found["step"], found["total_steps"], found["epoch"]) == ("over", 60, 100, 2)
    assert found["images_per_second"] == pytest.approx(2 * 20 * 8 / 112, abs=0.01)
    assert found["seconds_to_go"] == pytest.approx(40 * 10 / 20)
    assert found["running_seconds"] == 112
    assert 5e7 < found["memory_bytes"] < 1e11 and found["gpu_memory_bytes"] is None
    assert list(tmp_path.iterdir()) == [tmp_path / "heartbeat.json"]


@pytest.mark.parametrize(("begins", "ends"), [
    ("on_validation_start", "on_validation_end"), ("on_test_start", "on_test_end"),
])  # fmt: skip
def test_a_validation_tells_its_pairs_and_does_not_raise_the_time_to_go(tmp_path, clocks, begins, ends):
    beat, trainer = Heartbeat(tmp_path, HOUR), fake_trainer(world_size=2)
    beat.on_train_start(trainer, None)
    train(beat, trainer, clocks, num_steps=10, seconds=0.5)
    before = beat._beat(trainer)
    assert (before["pairs"], before["total_pairs"], before["pairs_per_second"]) == (None, None, None)
    getattr(beat, begins)(trainer, None)
    for done in (10, 20, 30):
        clocks.steady += 2
        beat.on_validation_batch_end(trainer, None, None, SimpleNamespace(index=torch.zeros(5)), 0)
        found = beat._beat(trainer)
        assert (found["pairs"], found["total_pairs"], found["pairs_per_second"]) == (done, 100, 5.0)
        assert found["seconds_to_go"] == before["seconds_to_go"] == 45.0
        assert f"{done} of 100 pairs, 5.0 pairs/s, " in heartbeat._line(found)
    getattr(beat, ends)(trainer, None)
    train(beat, trainer, clocks, num_steps=10, seconds=0.5)
    after = beat._beat(trainer)
    assert after["pairs"] is None and after["seconds_to_go"] == 40.0


def test_a_pause_of_training_does_not_raise_the_time_to_go(clocks):
    beat, trainer = Heartbeat(None, HOUR), fake_trainer()
    beat.on_train_start(trainer, None)
    train(beat, trainer, clocks, num_steps=10, seconds=0.5)
    clocks.steady += 1000
    assert beat._beat(trainer)["seconds_to_go"] == 45.0


def test_the_pace_is_that_of_the_last_interval(tmp_path, clocks):
    beat, trainer = Heartbeat(tmp_path, HOUR), fake_trainer()
    for seconds, expected in ((1.0, 8.0), (0.25, 32.0)):
        beat.setup(trainer, None, "fit")
        train(beat, trainer, clocks, num_steps=10, seconds=seconds)
        beat.teardown(trainer, None, "fit")
        assert read(tmp_path)["images_per_second"] == expected


def test_of_several_data_sets_the_shares_drawn_since_the_beat_before_are_told(tmp_path, clocks):
    def drawn(epoch, batches):
        return {"web": 100 * epoch + 6 * batches, "masked": 50 * epoch + 2 * max(0, batches - 4)}

    beat, trainer = Heartbeat(tmp_path, HOUR), fake_trainer()
    trainer.datamodule.drawn = drawn
    assert beat._beat(trainer)["drawn"] == {}
    for batch in range(4, 8):  # a run that goes on at batch 4
        beat.on_train_batch_end(trainer, None, None, BATCH, batch)
    found = beat._beat(trainer)
    assert found["drawn"] == {"web": 0.75, "masked": 0.25}
    assert ", drawn web 75%, masked 25%, " in heartbeat._line({**found, "seconds_to_go": 3.0})
    trainer.current_epoch = 3
    beat.on_train_batch_end(trainer, None, None, BATCH, 0)
    assert beat._beat(trainer)["drawn"] == {"web": 0.58, "masked": 0.42}
    assert beat._beat(trainer)["drawn"] == {}, "nothing since"


@pytest.mark.parametrize("jump", [-3e7, 3e7])
def test_a_jump_of_the_wall_clock_changes_nothing_but_the_time_shown(tmp_path, clocks, jump):
    found = []
    for wall in (clocks.wall, clocks.wall + jump):
        beat, trainer = Heartbeat(tmp_path, HOUR), fake_trainer()
        beat.setup(trainer, None, "fit")
        beat.on_train_start(trainer, None)
        clocks.wall = wall
        train(beat, trainer, clocks, num_steps=10, seconds=0.5)
        beat.teardown(trainer, None, "fit")
        found.append(read(tmp_path))
    times = [each.pop("time") for each in found]
    assert times[0] != times[1]
    for each in found:
        each.pop("memory_bytes")
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("stage", "expected"), [("train", "training"), ("validate", "validating"), ("test", "testing")]
)
def test_the_state_is_that_of_the_trainer(tmp_path, caplog, stage, expected):
    caplog.set_level(logging.INFO)
    beat = Heartbeat(tmp_path, 0.05)
    beat.setup(fake_trainer(step=7, stage=stage), None, "fit")
    while not (beats := [message for message in caplog.messages if message.startswith("heartbeat: ")]):
        time.sleep(0.01)
    beat.teardown(fake_trainer(), None, "fit")
    assert beats[0].startswith(f"heartbeat: {expected}, step 7 of None, epoch 2, 0.0 images/s, memory ")


@pytest.mark.parametrize("end", ["teardown", "on_exception"])
def test_the_thread_ends_with_training_however_that_ends(tmp_path, end):
    beat, trainer = Heartbeat(tmp_path, HOUR), fake_trainer()
    beat.setup(trainer, None, "fit")
    assert len(beating()) == 1
    getattr(beat, end)(trainer, None, None)
    assert beating() == []
    assert read(tmp_path)["state"] == {"teardown": "over", "on_exception": "failed or stopped"}[end]


def test_a_full_disk_is_told_and_the_next_beat_is_written_again(tmp_path, clocks):
    failures = WriteFailures()
    beat, trainer = Heartbeat(tmp_path, HOUR, failures), fake_trainer()
    beat.setup(trainer, None, "fit")
    trainer.global_step = 5
    with full_disk():
        beat.teardown(trainer, None, "fit")
    assert list(failures.missing) == ["heartbeat.json"]
    assert read(tmp_path)["step"] == 0
    beat.setup(trainer, None, "test")
    assert failures.missing == {} and read(tmp_path)["step"] == 5
    beat.teardown(trainer, None, "test")


class Pause(pl.Callback):
    """Let the last batch of an epoch of 4 wait until that is said."""

    def __init__(self, messages):
        self._messages = messages

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        deadline = time.monotonic() + 30
        while batch_idx == 3 and not self.said() and time.monotonic() < deadline:
            time.sleep(0.05)

    def said(self):
        return [message for message in self._messages() if "no batch was finished" in message]


def test_a_stall_is_told_once_and_so_is_its_end(faces, tmp_path, caplog):
    pause = Pause(lambda: caplog.messages)
    fit(tmp_path, pause, data_root=faces, heartbeat_seconds=0.2, batch_size=8, epochs=2, check_val_every_n_epoch=2)
    told = [message for message in caplog.messages if "no batch was finished" in message or "goes on" in message]
    said, *_ = pause.said()
    assert said.endswith(" s: the data loader has no workers")
    assert told[told.index(said) + 1] == "training goes on"


def test_a_rank_that_writes_nothing_tells_its_stall_too(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    beat, trainer = Heartbeat(None, 0.05), fake_trainer(world_size=2, rank=1)
    beat.setup(trainer, None, "fit")
    time.sleep(0.5)
    beat.teardown(trainer, None, "fit")
    assert list(tmp_path.iterdir()) == []
    (said,) = caplog.messages
    assert said.startswith("rank 1: no batch was finished for 0 s: the data loader has no workers; ")
    assert said.endswith("perhaps it waits for another rank, which says so too")


def test_a_slow_step_is_no_stall_where_steps_are_slow(tmp_path, clocks, caplog):
    beat, trainer = Heartbeat(None, 0.05), fake_trainer()
    beat.on_train_start(trainer, None)
    train(beat, trainer, clocks, num_steps=5, seconds=30.0)
    for waited, expected in ((299, 0), (2, 1)):
        clocks.steady += waited
        beat._look_for_stall(trainer)
        assert len(caplog.messages) == expected


def test_what_occupies_the_module_is_told_and_is_no_stall(clocks, caplog):
    beat, trainer = Heartbeat(None, 0.05), fake_trainer()
    beat.on_train_start(trainer, None)
    train(beat, trainer, clocks, num_steps=5, seconds=0.1)
    with heartbeat.occupied(trainer.lightning_module, "guessing"):
        with heartbeat.occupied(trainer.lightning_module, "embedding") as say:
            say("embedding, batch 3 of 40")
            clocks.steady += HOUR
            beat._look_for_stall(trainer)
            assert caplog.messages == []
            found = beat._beat(trainer)
            assert found["occupation"] == "embedding, batch 3 of 40"
            assert heartbeat._line(found).startswith("embedding, batch 3 of 40, step ")
        assert beat._beat(trainer)["occupation"] == "guessing"
    assert beat._beat(trainer)["occupation"] is None
    clocks.steady += 2
    beat._look_for_stall(trainer)
    (said,) = caplog.messages
    assert said.startswith("no batch was finished for 2 s")


@pytest.mark.flag("heartbeat_seconds")
def test_heartbeat_seconds_0_beats_not_and_changes_no_bit_of_what_is_trained(faces, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    ends = {}
    for seconds in (0.0, 0.02):
        caplog.clear()
        folder = tmp_path / str(seconds)
        folder.mkdir()
        model, _, _ = fit(folder, data_root=faces, heartbeat_seconds=seconds)
        ends[seconds] = (state(model), metrics(folder))
        beats = [message for message in caplog.messages if message.startswith("heartbeat: ")]
        assert bool(beats) == (folder / "heartbeat.json").exists() == bool(seconds)
        assert beating() == []
    torch.testing.assert_close(ends[0.0], ends[0.02], rtol=0, atol=0)
