"""Nothing printed ends a program: what cannot be written is dropped, and said once where it can be."""

import os
import subprocess
import sys

import pytest
from programs import ROOT, SMALL_RUN
from untrained import write_checkpoint

PRINTS = """
import logging, sys, warnings
from engine import runs
from options import command
from pathlib import Path
from rich.console import Console
from rich.progress import track

def work():
    runs.log_into(Path("."), runs.start_log())
    for number in track(range(20), "a bar"):
        print("x" * 1000, flush=number % 2)
        Console().print("a table")
        sys.stderr.write("y" * 1000)
        sys.stdout.writelines(["a", "b"])
        logging.getLogger("any").warning("a line")
        warnings.warn(f"a warning {number}")
    Path("done").touch()
    return CODE

command.launch("p", work)
"""
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a full disk")  # noqa: PTH110
LOSSES = {
    "| true": 0, "2>&1 | true": 0, "2>&1 >/dev/null | true": 0, ">&-": 0, "2>&-": 0, ">&- 2>&-": 0,
    "> /dev/full": 0, "2> /dev/full": 0, "> /dev/full 2>&1": 0,
}  # fmt: skip
SLOW = ("| true", ">&-", "2>&-", "2> /dev/full")  # one stream, which others have with the second one


def shell(line, cwd, **environment):
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@FULL
@pytest.mark.parametrize("where", [pytest.param(w, marks=[pytest.mark.slow] * (w in SLOW)) for w in LOSSES])
def test_whatever_becomes_of_the_output_the_program_works_to_its_end(where, tmp_path):
    done = shell(f"{sys.executable} -c '{PRINTS.replace('CODE', '7')}' {where}", tmp_path)
    assert done.returncode == 7 and (tmp_path / "done").exists()
    log = (tmp_path / "run.log").read_text()
    assert log.count("a line") == log.count("a warning") == 20
    for word in ("Traceback", "Logging error", "Exception ignored", "BrokenPipe"):
        assert word not in log + done.stderr
    lost = [name for name in ("stdout", "stderr") if f"{name} cannot be written" in log]
    assert (
        len(lost)
        == log.count("cannot be written")
        == ("full" in where or "|" in where) + ("2>&1" in where and "null" not in where)
    )


@FULL
def test_a_full_disk_is_told_on_the_other_stream_and_a_closed_pipe_is_not(tmp_path):
    code = "from options import command; command.launch('p', lambda: print('x' * 10**5) or 0)"
    full = shell(f'{sys.executable} -c "{code}" > /dev/full', tmp_path)
    assert full.stderr == "stdout cannot be written (No space left on device): what is shown there is lost\n"
    piped = shell(f'{sys.executable} -c "{code}" | true', tmp_path)
    assert (full.returncode, piped.returncode, piped.stderr) == (0, 0, "")


def test_output_goes_on_when_there_is_room_again(tmp_path):
    code = """
import resource
from options import command
def work():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    print("one", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    print("two", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print("three", flush=True)
    return 0
command.launch("p", work)
"""
    assert shell(f"{sys.executable} -c '{code}' > out", tmp_path).returncode == 0
    assert (tmp_path / "out").read_text().endswith("three\n")


def test_a_terminal_that_is_gone_ends_nothing(tmp_path):
    own, other = os.openpty()
    command = [sys.executable, "-c", PRINTS.replace("CODE", "0")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=other, stderr=other)
    os.close(other)
    os.read(own, 100)
    os.close(own)  # from now on the terminal answers EIO
    assert process.wait(200) == 0 and (tmp_path / "done").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_written_escaped(encoding, tmp_path):
    show = r"lambda: terminal.show('Zo\u00eb \u738b \udcff \u2026') or 0"
    code = f"from options import command; from system import terminal; command.launch('p', {show})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.endswith(rb" \u738b \xff \u2026" + b"\n") and done.stderr == b""


# ---------------------------------------------------------------- the programs


@FULL
@pytest.mark.slow
def test_a_run_whose_output_cannot_be_written_trains_and_ends_as_any_other(faces, tmp_path):
    flags = " ".join([*SMALL_RUN, "--data_root", str(faces), "--epochs", "1", "--val_occlusion", "none"])
    done = shell(f"{sys.executable} {ROOT / 'main.py'} {flags} > /dev/full 2>&1", tmp_path)
    (folder,) = (tmp_path / "experiments").iterdir()
    assert done.returncode == 0 and (folder / "report/results.json").exists() and (folder / "last.ckpt").exists()
    log = (folder / "run.log").read_text()
    assert log.count("stdout cannot be written (No space left on device)") == 1
    assert log.count("stderr cannot be written (No space left on device)") == 1


@pytest.mark.slow
def test_an_evaluation_of_which_head_reads_one_line_is_quiet_and_whole(faces, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "model.ckpt")
    flags = f"--model-path {checkpoint} --data-path {faces / 'train'} --output-dir out"
    done = shell(f"{sys.executable} {ROOT / 'main_eval.py'} {flags} | head -1", tmp_path)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and done.stdout.startswith("Verification")
    assert "Error" not in done.stderr and "Exception" not in done.stderr
    assert {"results.json", "report.txt", "scores.npz", "accuracy.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
