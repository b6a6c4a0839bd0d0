"""Whether a run runs, has ended or died, as its folder tells it; and the program that says so of several."""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from page_results import Page
from programs import refusal

from cli.watching import status as program
from engine.status.overview import build_overview, look_at
from engine.status.state import read_state
from system.processes import is_alive, this_process

HOUR = 3600.0
HOSTILE = "<img src=x onerror=alert(1)>&"


def write(folder, *, age=0.0, **changed):
    """Write the status.json of a run, by this process, written `age` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    status = {
        **{"schema": 1, "state": "training", "words": None, "written_at": time.time() - age, "every_seconds": 30},
        **{"process": this_process(), "step": 5, "total_steps": 20, "epoch": 1, "seconds_to_go": 61.0},
        **{"images_per_second": 12.34, "best": {"metric": "val_acc", "value": 0.5, "step": 4}},
    }
    (folder / "status.json").write_text(json.dumps(status | changed))
    return folder


@pytest.fixture(scope="module")
def dead():
    """Return a process of this machine that is over, but for its parent's question."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        began = int(stat.rpartition(")")[2].split()[19])
        process = {"pid": child.pid, "host": platform.node(), "began": began}
        assert is_alive(process) and not is_alive(process | {"began": began - 1}), "the number of another process"
        child.kill()
        while is_alive(process):
            time.sleep(0.01)
        yield process


ELSEWHERE = {"pid": 1, "host": "another host", "began": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize(
    ("process", "state", "age", "verdict"),
    [
        ("own", "training", 1, "running"),
        ("own", "training", HOUR, "silent"),
        ("dead", "training", 1, "died"),
        ("dead", "finished", HOUR, "finished"),
        ("dead", "stopped", HOUR, "stopped"),
        ("own", "failed", HOUR, "failed"),
        ("elsewhere", "validating", 1, "running"),
        ("elsewhere", "validating", HOUR, "died"),
    ],
)
def test_a_verdict_follows_from_the_last_word_the_process_and_the_age(tmp_path, dead, process, state, age, verdict):
    processes = {"own": this_process(), "dead": dead, "elsewhere": ELSEWHERE}
    found = read_state(write(tmp_path / "run", state=state, age=age, process=processes[process]))
    assert (found.verdict, found.doing, found.step, found.total_steps) == (verdict, state, 5, 20)
    assert found.age == pytest.approx(age, abs=5) and found.seconds_to_go == 61


@pytest.mark.parametrize("beat", ["over", "failed or stopped", "training"])
def test_runs_of_before_are_read_from_what_they_left(tmp_path, dead, beat):
    (tmp_path / "heartbeat.json").write_text(json.dumps({"state": beat, "step": 3, "total_steps": 9, "epoch": 0}))
    (tmp_path / "run.lock").write_text(f"process {dead['pid']} on {dead['host']} since 2026-01-01 00:00:00")
    (tmp_path / "metrics.csv").write_text("step,train_loss,val_acc\n1,3,\n2,,0.25\n3,2,0.125\n")
    (tmp_path / "config.json").write_text('{"monitor": "val_acc"}')
    run = look_at(tmp_path)
    assert run.state.verdict == {"over": "finished", "training": "died"}.get(beat, "stopped or failed")
    assert run.cells()[3:6] == ["3 of 9 (33%)", "0", "val_acc 0.25 at step 2"]


OF_LONG_AGO = '{"schema": 1, "process": {"pid": 1, "host": "x", "began": null}, "written_at": -5e14}'
OF_THIS = (
    '{"schema": 1, "process": {"pid": 1, "host": "x", "began": null}, "written_at": "x", "step": 1e400, "words": 3}'
)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[1]", '{"schema": 1}', '{"schema": 1, "process": {}}', OF_THIS, OF_LONG_AGO]
)
def test_whatever_stands_there_is_no_error(tmp_path, text):
    for name in ("status.json", "heartbeat.json", "config.json", "run.lock"):
        (tmp_path / name).write_text(text)
    (tmp_path / "metrics.csv").write_text("no,metrics\n1,2\n")
    run = look_at(tmp_path)
    assert run.state.step is None and "not the metrics.csv of a run" in run.fault
    assert "Not readable" in build_overview([run], tmp_path, 0.0)


def test_the_program_tells_of_every_run_in_the_terminal_and_on_a_page(tmp_path, capsys, dead):
    root = tmp_path / "runs"
    write(root / "first")
    write(root / "killed", process=dead)
    ended = write(root / HOSTILE, state="failed", words=f"step 7: {HOSTILE}\x1b[2J")
    (ended / "metrics.csv").write_text("step,train_loss\n1,3\n2,2\n")
    (ended / "status.html").write_text("x")
    (ended / "report").mkdir()
    (ended / "report" / "index.html").write_text("x")
    (root / "no run").mkdir()
    assert program.main([str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, *rows = lines[:4]
    assert head.split()[:3] == ["run", "state", "written"]
    for name, verdict in (("first", "running, training"), ("killed", "died, training"), (HOSTILE, "failed")):
        (row,) = (row for row in rows if row.startswith(name))
        assert f"  {verdict}" in row and "  5 of 20 (25%)" in row
        assert ("  12.3" in row) == ("  0:01:01" in row) == (name == "first")
    assert lines[4:] == [f"{HOSTILE}: step 7: {HOSTILE}\\x1b[2J", f"page: {root}/status.html"]
    page = Page((root / "status.html").read_text(encoding="utf-8"))
    assert not any(tag == "img" for tag, _ in page.tags) and f"step 7: {HOSTILE}" in page.words
    links = [a["href"] for tag, a in page.tags if tag == "a" and not a["href"].startswith("#")]
    folder = "%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%26"
    assert links == [f"{folder}/status.html", f"{folder}/report/index.html"]
    assert any(a.get("aria-label", "").startswith("train_loss of ") for _, a in page.tags)
    assert program.main([str(root / "first"), "--output-dir", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "status.html").is_file() and not (root / "first" / "status.html").exists()
    own = refusal(capsys, program.main, root, "--output-dir", root / "killed")
    assert "is the folder of a run" in own and not (root / "killed" / "status.html").exists()


def test_what_holds_no_run_is_one_line(tmp_path, capsys):
    assert "no such folder" in refusal(capsys, program.main, tmp_path / "nowhere")
    assert "no run in it" in refusal(capsys, program.main, tmp_path)
    assert list(tmp_path.iterdir()) == []
