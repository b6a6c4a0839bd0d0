"""Checks of a model: whether a file holds the network that it should, and whether that behaves as it must."""

from .checks import CHECKS, run_checks
from .subject import Subject, open_subject
from .verdict import FAILED, PASSED, SKIPPED, Result, Verdict

__all__ = ["CHECKS", "FAILED", "PASSED", "SKIPPED", "Result", "Subject", "Verdict", "open_subject", "run_checks"]
