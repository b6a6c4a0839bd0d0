"""Small synthetic data sets for the tests of the converter and the doctor."""

import os
import signal

import cv2
import numpy as np


def write_face(path, image, options=()):
    """Write an RGB image; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image[..., ::-1], list(options))
    assert done
    path.write_bytes(data.tobytes())


def read_rgb(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def contents(root):
    """Return {path below the root: bytes} of every file that is not hidden."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def killed(run):
    """Run a function in a process of its own that is to kill itself, and return whether it did."""
    child = os.fork()
    if not child:
        try:
            run()
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def kill_at(number, function):
    """Return the function, made to kill its process at the given call."""
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted
