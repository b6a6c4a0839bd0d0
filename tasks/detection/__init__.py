"""Training a detector of faces: its data, its losses over priors, its validation."""

from losses import multibox_loss
from ops.boxes import decode, encode, nms, priors

__all__ = ["decode", "encode", "multibox_loss", "nms", "priors"]
