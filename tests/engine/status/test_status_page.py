"""The page of a run: what it tells while the run lives and after its end, and that nothing depends on it."""

import json
import logging
import math
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import second_task
import torch
from full_disk import full_disk
from hypothesis import given
from hypothesis import strategies as st
from page_results import Page
from second_task import train
from short_runs import metrics, state

from engine.callbacks import heartbeat
from engine.files import INCOMPLETE_CODE, WriteFailures
from engine.signals import Stopped, StopSignals
from engine.status import writing
from engine.status.record import Course, Point, Record
from engine.status.state import MAX_BYTES, IncidentTail
from engine.status.writing import StatusPage, with_last_words
from engine.trainer import build_trainer
from options.engine import EngineOptions
from system.page.courses import MAX_POINTS

HOSTILE = '"><script>alert(1)</script>\x1b[2J\u202e'


def read(folder):
    return json.loads((folder / "status.json").read_text(encoding="utf-8"))


def page_of(folder):
    return Page((folder / "status.html").read_text(encoding="utf-8"))


def labels(page):
    return {a.get("aria-label") for tag, a in page.tags if tag == "svg"}


def refreshes(page):
    return [a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "refresh"]


class At(pl.Callback):
    """Do something after a number of steps."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.do(trainer)


@pytest.mark.flag("status_seconds")
def test_status_seconds_0_writes_no_page_and_a_page_changes_no_bit_of_what_is_trained(tmp_path):
    ends = {}
    for seconds in (0.0, 0.02):
        folder = tmp_path / f"run_{seconds}"
        folder.mkdir()
        names = []
        watch = At(6, lambda _, names=names: names.extend(each.name for each in threading.enumerate()))
        module, _ = train(folder, watch, status_seconds=seconds, heartbeat_seconds=0.0, epochs=1)
        ends[seconds] = state(module), metrics(folder)
        assert (folder / "status.html").exists() == (folder / "status.json").exists() == bool(seconds)
        assert ("status page" in names) == bool(seconds)
        assert "status page" not in {each.name for each in threading.enumerate()}
    torch.testing.assert_close(ends[0.0], ends[0.02], rtol=0, atol=0)
    assert [] == refreshes(page_of(folder)) and read(folder)["state"] == "finished"


def test_a_run_that_goes_on_goes_on_with_its_curves(tmp_path):
    seen = {}

    def stop(trainer):
        (page,) = (each for each in trainer.callbacks if isinstance(each, StatusPage))
        page._tick(trainer)
        seen["page"], seen["status"] = page_of(tmp_path), read(tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "command.txt").write_text("2026-01-01 00:00:00 python main.py --lr 1\n")
    environment = [{"packages": {"torch": "1"}}, {"python": "3", "packages": {"torch": "2"}, "git_revision": "abc"}]
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(Stopped), StopSignals() as signals:
        train(tmp_path, At(11, stop), stop=signals, status_seconds=3600.0)
    running = seen["status"]
    assert (running["state"], running["step"], running["total_steps"], running["epochs"]) == ("training", 11, 24, 3)
    assert running["command"].endswith("--lr 1") and running["versions"] == {
        "python": "3",
        "torch": "2",
        "revision": "abc",
    }
    assert 0 <= running["waiting_share"] <= 1 and running["images_per_second"] > 0 and running["seconds_to_go"] > 0
    assert refreshes(seen["page"]) == [{"http-equiv": "refresh", "content": "3600"}]
    shown = {
        "Losses in training",
        "Learning rate",
        "Norm of the gradient",
        "Accuracy in validation",
        "Images per second",
    }
    assert shown <= labels(seen["page"])
    for said in ("training, step 11 of 24 (45.8%)", "of a run that died", "val_acc", "python main.py --lr 1"):
        assert said in seen["page"].words
    ended = read(tmp_path)
    assert (ended["state"], ended["words"]) == ("stopped", "stopped by SIGTERM after step 11")
    assert refreshes(page_of(tmp_path)) == [] and "of a run that died" not in page_of(tmp_path).words

    pages = []
    watch = At(12, lambda trainer: pages.extend(c for c in trainer.callbacks if isinstance(c, StatusPage)))
    train(tmp_path, watch, ckpt_path=tmp_path / "last.ckpt", status_seconds=3600.0)
    (lines,) = (page._record.lines() for page in pages)
    rows = [row for row in metrics(tmp_path) if "train_loss" in row]
    assert lines["train_loss"].steps == [row["step"] for row in rows] and rows[0]["step"] == 2
    assert lines["train_loss"].values == pytest.approx([row["train_loss"] for row in rows])
    best = max(metrics(tmp_path), key=lambda row: row.get("val_acc", -math.inf))
    assert read(tmp_path)["best"] == {"metric": "val_acc", "value": best["val_acc"], "step": best["step"]}


@pytest.mark.parametrize("has_folder", [True, False])
def test_of_several_ranks_the_one_that_has_the_folder_writes(tmp_path, has_folder):
    trainer = build_trainer(EngineOptions(gpus=0, num_processes=2), tmp_path if has_folder else None)
    assert sum(isinstance(each, StatusPage) for each in trainer.callbacks) == has_folder
    assert [each.name for each in trainer.loggers] == ["metrics", "status"] * has_folder


@pytest.mark.parametrize(("slow", "waits"), [("data", True), ("network", False)])
def test_the_share_of_waiting_is_that_of_the_data_alone(tmp_path, monkeypatch, slow, waits):
    shares = []

    def look(trainer):
        (page,) = (each for each in trainer.callbacks if isinstance(each, StatusPage))
        shares.append(page._waiting_share())

    def slowed(real, seconds):
        return lambda *args: time.sleep(seconds) or real(*args)

    if slow == "data":
        monkeypatch.setattr(second_task.VectorSet, "__getitem__", slowed(second_task.VectorSet.__getitem__, 0.02))
    else:
        terms = second_task.Autoencoder.forward_terms
        monkeypatch.setattr(second_task.Autoencoder, "forward_terms", slowed(terms, 0.25))
    train(tmp_path, At(7, look), epochs=1, status_seconds=3600.0, heartbeat_seconds=0.0)
    (share,) = shares
    assert 0 <= share <= 1 and (share > 0.5) is waits


@pytest.fixture
def supervised(tmp_path):
    """Return a function that does a run, whose work is a function, under a page, and returns what status.json says."""

    def run(work, failures=None):
        folder, failures = tmp_path / "<b>run", failures or WriteFailures()
        folder.mkdir(exist_ok=True)
        page = StatusPage(folder, EngineOptions(status_seconds=3600.0), failures)
        trainer = fake_trainer(page)
        session = SimpleNamespace(trainer=trainer, failures=failures)

        def whole(session):
            page.setup(trainer, None, "fit")
            page.teardown(trainer, None, "fit")
            assert json.loads((folder / "status.json").read_text())["state"] == "training", "there is a test to come"
            return work(folder)

        try:
            code = with_last_words(whole)(session)
        except (Exception, SystemExit) as error:  # noqa: BLE001
            code = error
        return code, folder

    return run


def fake_trainer(*callbacks):
    module = torch.nn.Identity()
    module.guard = SimpleNamespace(skipped=3)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace())
    return SimpleNamespace(
        callbacks=list(callbacks), global_step=7, current_epoch=2, world_size=1, global_rank=0, lightning_module=module,
        state=SimpleNamespace(stage=SimpleNamespace(value="train")), fit_loop=loop, estimated_stepping_batches=10,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        datamodule=SimpleNamespace(num_validated=100, drawn=lambda epoch, batches: {}),
    )  # fmt: skip


def said(level, code):
    def work(folder):
        logging.getLogger().log(level, "the %s", HOSTILE)
        return code

    return work


def fault(error):
    def work(folder):
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "expected", "words"),
    [
        (said(logging.WARNING, 0), 0, "finished", None),
        (said(logging.ERROR, INCOMPLETE_CODE), INCOMPLETE_CODE, "finished", "the "),
        (said(logging.ERROR, 1), 1, "failed", "the "),
        (said(logging.WARNING, 143), 143, "stopped", "the "),
        (said(logging.WARNING, 85), 85, "stopped", "the "),
        (fault(SystemExit(143)), 143, "stopped", None),
        (fault(SystemExit()), 0, "finished", None),
        (fault(SystemExit("the reason")), 1, "failed", None),
        (fault(TypeError(HOSTILE)), 1, "failed", "TypeError: "),
    ],
)
def test_the_last_words_of_a_run_are_those_of_its_exit_code(supervised, work, code, expected, words):
    _, folder = supervised(work)
    found, page = read(folder), page_of(folder)
    assert (found["state"], found["exit_code"], found["skipped_steps"]) == (expected, code, 3)
    assert found["words"] == (None if words is None else f'{words}"><script>alert(1)</script>\\x1b[2J\\u202e')
    assert refreshes(page) == [] and page.scripts == {} and "of a run that died" not in page.words
    assert words is None or words in page.words


def test_a_run_that_fails_before_anything_is_trained_says_so(tmp_path):
    page = StatusPage(tmp_path, EngineOptions(status_seconds=3600.0), WriteFailures())
    session = SimpleNamespace(trainer=fake_trainer(page), failures=WriteFailures())
    session.trainer.lightning_module = None  # which a trainer gets when it begins
    with pytest.raises(TypeError):
        with_last_words(lambda session: len(3))(session)
    assert read(tmp_path)["state"] == "failed" and read(tmp_path)["words"].startswith("TypeError: ")
    assert "TypeError: " in page_of(tmp_path).words


@pytest.mark.parametrize("kind", ["page", "heartbeat"])
def test_a_write_that_hangs_over_the_end_does_not_take_back_the_last_word(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(heartbeat, "_SECONDS_TO_STOP", 0.01)
    hangs, goes_on, real = threading.Event(), threading.Event(), heartbeat.write_json

    def slow(path, content):
        if threading.current_thread() is not threading.main_thread() and not hangs.is_set():
            hangs.set()
            assert goes_on.wait(30)
        real(path, content)

    for module in (heartbeat, writing):
        monkeypatch.setattr(module, "write_json", slow)
    failures, options = WriteFailures(), EngineOptions(status_seconds=0.01)
    beats = StatusPage(tmp_path, options, failures) if kind == "page" else heartbeat.Heartbeat(tmp_path, 0.01, failures)
    trainer = fake_trainer(beats)
    beats.setup(trainer, None, "fit")
    assert hangs.wait(30)
    (thread,) = (each for each in threading.enumerate() if each.name == beats.thread)
    beats.teardown(trainer, None, "fit")  # before the write that it cannot wait for
    beats.setup(trainer, None, "fit")  # a second thread is not joined by the first
    beats.teardown(trainer, None, "fit")
    goes_on.set()
    thread.join(30)
    assert not thread.is_alive() and failures.missing == {}
    name, last = ("status.json", "finished") if kind == "page" else ("heartbeat.json", "over")
    assert json.loads((tmp_path / name).read_text())["state"] == last


def test_no_name_and_no_message_changes_a_tag_of_the_page(supervised):
    def structure(text):
        def work(folder):
            (folder / "command.txt").write_text(f"now {text}\n")
            (folder / "incidents.jsonl").write_text(json.dumps({"step": 3, "cause": text}) + "\n")
            (folder / "environment.json").write_text(
                json.dumps([{"python": text, "packages": {text: text}, "git_revision": text}])
            )
            logging.getLogger().warning("%s", text)
            return 1

        _, folder = supervised(work)
        supervised(work)  # begins anew, with what the folder holds by now
        return page_of(folder)

    plain, hostile = structure("plain"), structure(HOSTILE)
    assert plain.structure == hostile.structure and "<script>alert(1)" in hostile.words
    assert "Incidents" in plain.words and "Warnings" in plain.words


def test_a_full_disk_is_told_once_and_ends_nothing(supervised, caplog):
    failures = WriteFailures()

    def fill(folder):
        with full_disk():
            (page,) = pages
            page._tick(trainer)
            page._tick(trainer)
        assert set(failures.missing) == {"status.html", "status.json"}
        return 0

    pages, real = [], StatusPage.setup

    def keep(self, *args):
        pages.append(self)
        real(self, *args)

    trainer = fake_trainer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StatusPage, "setup", keep)
        code, folder = supervised(fill, failures)
    assert code == 0 and failures.missing == {} and read(folder)["state"] == "finished"
    for name in ("status.html", "status.json"):
        told = [message for message in caplog.messages if message.startswith(name)]
        assert [message.split(" (")[0] for message in told] == [
            f"{name} could not be written",
            f"{name} can be written again",
        ]


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]), max_size=5 * MAX_POINTS))
def test_a_course_is_the_means_of_blocks_and_bounded(values):
    course = Course()
    for step, value in enumerate(values):
        course.add(Point(step, value))
    kept = [(step, value) for step, value in enumerate(values) if math.isfinite(value)]
    line = course.line()
    assert len(line.values) == math.ceil(len(kept) / line.block) <= MAX_POINTS + 1
    assert len(kept) <= MAX_POINTS * line.block and (line.block == 1 or len(kept) > MAX_POINTS * line.block // 2)
    for place, (step, value) in enumerate(zip(*line[:2], strict=True)):
        block = kept[place * line.block : (place + 1) * line.block]
        assert step == pytest.approx(sum(s for s, _ in block) / len(block))
        assert value == pytest.approx(sum(v for _, v in block) / len(block), abs=1e-6)
    assert (course.largest is None) == (not kept)
    if kept:
        assert course.largest == max(kept, key=lambda point: point[1])
        assert str(course.latest.value) == str(float(values[-1]))


def test_a_record_is_read_while_another_thread_adds_to_it():
    record, over = Record(), threading.Event()

    def add():
        for step in range(20_000):
            record.add(step, {f"m{step % 50}": step})
        over.set()

    thread = threading.Thread(target=add)
    thread.start()
    while not over.is_set():
        assert all(line.block >= 1 for line in record.lines().values())
        record.figures()
    thread.join()
    assert len(record.lines()) == 50


def test_incidents_are_read_on_and_counted_once(tmp_path):
    path = tmp_path / "incidents.jsonl"
    tail = IncidentTail(path)
    tail.read_on()
    assert tail.incidents == {"num": 0, "last": []}
    for number in range(30):
        with path.open("a") as stream:
            stream.write(json.dumps({"step": number, "cause": "c", "indices": [[1]]}) + "\n" + '{"step": 1, "ca')
        tail.read_on()
        tail.read_on()
        text = path.read_text()
        path.write_text(text[: text.rindex("\n") + 1])
    assert tail.incidents == {"num": 30, "last": [(number, "c") for number in range(20, 30)]}
    with path.open("a") as stream:
        stream.write("x" * (2 * MAX_BYTES) + "\n" + "[1]\n" + '{"step": 77, "cause": "after"}\n')
    for _ in range(4):
        tail.read_on()
    assert tail.incidents["num"] == 31 and tail.incidents["last"][-1] == (77, "after")
