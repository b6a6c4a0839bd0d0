"""Runs of tasks beside recognition: what their programs have in common."""
