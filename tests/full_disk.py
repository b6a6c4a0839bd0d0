"""A disk that is full, also for root."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk(num_bytes=0):
    """Let no file grow beyond a size; writing further is an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
