"""Pretraining without labels: momentum contrast (MoCo v2) with a margin, and identities that are guessed."""

from tasks.moco.queue import KeyQueue

__all__ = ["KeyQueue"]
