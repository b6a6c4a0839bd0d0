"""The program that trains detectors: its command line; cli/runs does the work."""

from __future__ import annotations

from collections.abc import Sequence

from cli import launching
from config import DetectionConfig, explicit_flags, get_detection_args


def main(argv: Sequence[str], prog: str = "main.py detect train") -> int:
    """Run the program with the words of its command line and return the exit code."""
    config = get_detection_args(argv, prog)
    return launching.train(prog, "cli.detection.run", config, explicit_flags(argv, DetectionConfig), argv)
