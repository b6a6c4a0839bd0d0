"""A share of the slow tests for every commit: which one, the commit's own name decides, so that commits share them."""

import subprocess
import time
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def in_share(test_id, revision, num_shares):
    """Return whether a test belongs to the share of a revision (hexadecimal digits)."""
    return zlib.crc32(test_id.encode()) % num_shares == int(revision[:8], 16) % num_shares


def head_revision():
    """Return the revision of the tree, "0" outside git."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "0"


class SlowShare:
    """A plugin that leaves out what is not in the share, and skips what is left when the time is over."""

    def __init__(self, num_shares, minutes):
        self._num_shares = num_shares
        self._minutes = minutes
        self._deadline = time.monotonic() + 60 * minutes

    @pytest.hookimpl(trylast=True)  # -m has chosen before
    def pytest_collection_modifyitems(self, config, items):
        revision = head_revision()
        out = [item for item in items if not in_share(item.nodeid, revision, self._num_shares)]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if in_share(item.nodeid, revision, self._num_shares)]

    def pytest_runtest_setup(self, item):
        if time.monotonic() > self._deadline:
            pytest.skip(f"the {self._minutes:g} minutes for slow tests are over")
