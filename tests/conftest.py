"""A small synthetic data set and a short run over it, shared by several test folders."""

import gc
import logging
import multiprocessing
import os
import shutil

import pytest
from hypothesis import settings
from programs import SMALL_RUN, kill_group, program
from slow_share import SlowShare

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

settings.register_profile("patient", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("patient")


def pytest_addoption(parser):
    parser.addoption("--share", type=int, default=1, help="run one test in so many, which, HEAD decides")
    parser.addoption("--minutes", type=float, default=15, help="with --share: skip what has not begun by then")


def pytest_configure(config):
    if config.getoption("--share") > 1:
        config.pluginmanager.register(SlowShare(config.getoption("--share"), config.getoption("--minutes")))


def pytest_collection_finish(session):
    """Leave all that was imported and collected out of garbage collections: a run asks for one in each validation."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def blank_pictures():
    """Leave the plots of all runs in this process blank; `drawn_pictures` has them."""
    import pictures

    pictures.leave_blank()


@pytest.fixture
def drawn_pictures(monkeypatch):
    """Draw plots as a program does."""
    import pictures

    monkeypatch.setattr("evaluation.report.plots._save", pictures.draw)


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """Kill what a failed test has started and not ended: Python would wait for it at its exit, for ever."""
    before = multiprocessing.active_children()
    yield
    for process in multiprocessing.active_children():
        if process not in before and not process.daemon:
            kill_group(process)


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Work in an empty folder, in which no run may begin."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "experiments").exists()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keep what programs cache in a folder of the test."""
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_groups(tmp_path, monkeypatch):
    """Return a function that writes the files from which a process learns of its control groups; there are none yet."""
    monkeypatch.setattr("system.cgroups._PROC", tmp_path / "proc")
    monkeypatch.setattr("system.cgroups._CGROUPS", tmp_path / "cgroup")

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.fixture(autouse=True)
def no_log_outlives_its_test():
    """Close the log that a program has begun in this process: a later test would write into its file."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    # pytest adds handlers of its own for each part of a test, and takes them away itself.
    for handler in [h for h in root.handlers if h not in before and not type(h).__module__.startswith("_pytest")]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def quiet_log(monkeypatch):
    """Let a program set up its log without touching the handlers of the tests."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    yield
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Return a function that fills a folder of the session once, for all workers of xdist; nobody changes it then."""
    root = tmp_path_factory.getbasetemp()
    shared = fcntl is not None and "PYTEST_XDIST_WORKER" in os.environ
    if shared:
        root = root.parent

    def fill(name, make):
        folder, done = root / f"once_{name}", root / f"once_{name}.done"
        with (root / f"once_{name}.lock").open("w") as lock:
            if shared:
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def faces(once):
    """Folder with synthetic training identities in `train` and the five benchmarks of 40 pairs."""
    from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic

    spec = SyntheticSpec(num_identities=12, images_per_identity=8, benchmark_pairs=40)
    (folder,) = once("faces", lambda root: prepare_synthetic(root, spec, jobs=1, progress=False)).iterdir()
    return folder


@pytest.fixture(scope="session")
def trained(faces, once):
    """Run folder of two finished epochs."""
    flags = [*SMALL_RUN, "--data_root", faces, "--epochs", "2"]
    (folder,) = (once("trained", lambda cwd: program("main.py", *flags, cwd=cwd)) / "experiments").iterdir()
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Let a report travel from xdist's workers whatever a test has logged: names that are not UTF-8, for one."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def noise_faces(tmp_path_factory):
    """Folder with 8 training identities of 4 images in `train` and the benchmark `lfw` of 6 pairs."""
    from short_runs import write_faces

    return str(write_faces(tmp_path_factory.mktemp("noise")))
