import io
import json
import logging
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from programs import ROOT
from rich.console import Console
from rich.progress import Progress

from config import Config
from engine import runs


def test_run_folders_started_in_the_same_second_are_two(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: runs.create_run_folder(tmp_path, "run"), range(16)))
    assert len(set(folders)) == 16
    assert all(folder.is_dir() and folder.name.startswith("run_") for folder in folders)


def test_the_counter_says_which_run_is_newest_whatever_the_clock_says(tmp_path, monkeypatch):
    created = []
    for day in (
        datetime(2026, 12, 31),
        datetime(2027, 1, 1),
        datetime(2026, 6, 1),
    ):  # a new year, then a clock set back
        monkeypatch.setattr(runs, "datetime", SimpleNamespace(now=lambda day=day: day))
        created += [runs.create_run_folder(tmp_path, "run"), runs.create_run_folder(tmp_path, "run")]
    (tmp_path / "run_longer_06-01_99").mkdir()
    (tmp_path / "run_06-01_99").touch()
    assert runs.run_folders(tmp_path, "run") == created[::-1]
    assert runs.run_folders(tmp_path / "nowhere", "run") == []


@pytest.mark.parametrize(
    ("before", "further", "stays"),
    [((), (), False), ((), ("scores.npz",), True), (("deep/out",), (), True), (("deep",), (), False)],
)
def test_bad_input_leaves_no_folder_of_its_own_but_what_was_there_or_came_to_more(tmp_path, before, further, stays):
    folder = tmp_path / "deep/out"
    for name in before:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="bad input"), runs.leaving_nothing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with runs.lock_folder(folder):
            runs.log_into(folder, runs.start_log())
            for name in further:
                (folder / name).touch()
            raise ValueError("bad input")
    assert folder.exists() == stays and (tmp_path / "deep").exists() == (stays or bool(before))
    assert not stays or {path.name for path in folder.iterdir()} == {"run.lock", "run.log", *further}


def test_a_folder_that_another_process_has_taken_stays(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="in use"), runs.leaving_nothing(folder):
        folder.mkdir()
        (folder / "run.lock").touch()
        monkeypatch.setattr(runs, "lock_folder", lambda folder: (_ for _ in ()).throw(ValueError("in use")))
        runs.lock_folder(folder)
    assert (folder / "run.lock").exists()


def test_record_holds_config_command_versions_and_revision(tmp_path):
    config = Config(seed=7)
    runs.write_record(tmp_path, config, ["main.py", "--seed", "7"])
    runs.write_record(tmp_path, config, ["main.py", "--resume_from_checkpoint", "a b.ckpt"])
    assert Config.from_dict(json.loads((tmp_path / "config.json").read_text())) == config
    commands = (tmp_path / "command.txt").read_text().splitlines()
    assert commands[0].endswith("main.py --seed 7")
    assert commands[1].endswith("--resume_from_checkpoint 'a b.ckpt'")
    environments = json.loads((tmp_path / "environment.json").read_text())
    assert len(environments) == 2
    assert environments[0]["packages"]["torch"]
    assert "git_revision" in environments[0]


class Screen(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_log_lines_stand_above_a_progress_bar_on_the_same_terminal_only(monkeypatch, is_terminal):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    bar_screen = Screen(is_terminal=True)
    log_screen = bar_screen if is_terminal else Screen(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", log_screen)
    try:
        runs.start_log()
        with Progress(console=Console(file=bar_screen, force_terminal=True, width=100), auto_refresh=False) as bar:
            bar.add_task("bar", total=10)
            bar.refresh()
            before = len(log_screen.getvalue())
            logging.getLogger("any").warning("line")
            written = log_screen.getvalue()[before:]
    finally:
        logging.captureWarnings(False)
    line, bar_after = written.split(" WARNING line\n", 1)
    assert ("bar" in bar_after) == is_terminal
    assert line.startswith("\r\x1b[2K") == is_terminal  # the bar is wiped away before


def test_the_command_that_goes_on_is_for_a_shell_and_works_where_the_run_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(runs.command_to_go_on(Path("experiments/it's mine_1/last.ckpt")))
    assert words[0] == sys.executable and words[2:] == ["--resume_from_checkpoint", "experiments/it's mine_1/last.ckpt"]
    assert Path(words[1]).resolve() == ROOT / "main.py"


def test_the_environment_names_cpu_instructions_cores_threads_memory_and_gpus(tmp_path):
    runs.write_record(tmp_path, Config(), ["main.py"])
    (found,) = json.loads((tmp_path / "environment.json").read_text())
    assert found["cpu"] and found["torch_cpu_capability"]
    assert 1 <= found["usable_cores"] <= found["cpu_count"] and found["threads"] >= 1
    assert found["memory_bytes"] > 2**28
    assert isinstance(found["gpus"], list) and found.keys() >= {"gpu_driver", "cuda", "instruction_sets", "waiting"}
