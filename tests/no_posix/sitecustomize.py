"""Python as it is without POSIX, for the modules of this tree alone: put this folder on PYTHONPATH.

Names of `os`, `signal` and `mmap` that Windows lacks are absent, modules that it lacks cannot be imported, and new
processes are spawned, not forked. Other packages ask for the platform's name and see what they always see.
"""

import builtins
import importlib
import multiprocessing
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ABSENT_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
WINDOWS_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
ABSENT_NAMES = {
    "os": set(
        """O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_NOCTTY O_SYNC POSIX_FADV_DONTNEED POSIX_FADV_RANDOM
        POSIX_FADV_SEQUENTIAL POSIX_FADV_WILLNEED WNOHANG WUNTRACED chown chroot ctermid fchdir fchown fork forkpty
        getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid getuid killpg lchown
        major memfd_create minor mkfifo mknod nice pidfd_open posix_fadvise posix_fallocate posix_spawn pread preadv
        pwrite register_at_fork sched_getaffinity sched_setaffinity sched_yield sendfile setpgid setpriority setsid
        setuid statvfs fstatvfs sync sysconf uname wait wait3 wait4 waitid WIFSIGNALED WTERMSIG""".split()
    ),
    "signal": set("ITIMER_REAL alarm pause pthread_kill pthread_sigmask setitimer sigpending sigwait".split()),
    "mmap": {"MAP_PRIVATE", "MAP_SHARED", "PROT_READ", "PROT_WRITE", "MAP_ANONYMOUS", "MAP_POPULATE"},
    "socket": {"AF_UNIX"},
}


def is_absent(module, name):
    if module == "signal" and name.startswith("SIG") and name.isalnum():
        return name not in WINDOWS_SIGNALS
    if module == "mmap" and name.startswith("MADV_"):
        return True
    return name in ABSENT_NAMES[module]


class WithoutPosix(types.ModuleType):
    """A module without some of its names."""

    def __getattr__(self, name):
        if is_absent(self.__name__, name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} without POSIX")
        return getattr(importlib.import_module(self.__name__), name)


STAND_INS = {name: WithoutPosix(name) for name in ABSENT_NAMES}
plain_import = builtins.__import__


def is_ours(path):
    return path is not None and Path(path).is_relative_to(ROOT) and ".venv" not in Path(path).parts


def import_without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    path = (globals or {}).get("__file__")
    if level == 0 and path != __file__ and is_ours(path):
        if name in ABSENT_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} without POSIX", name=name)
        if name in STAND_INS:
            return STAND_INS[name]
    return plain_import(name, globals, locals, fromlist, level)


builtins.__import__ = import_without_posix
multiprocessing.set_start_method("spawn")
