"""Checks of a detector: what its heads say belongs to the priors that decode it, at any size of image."""

from __future__ import annotations

import torch
from torch.nn import functional

from models.checking.subject import Subject, outputs_of
from models.checking.verdict import Verdict, failed, passed
from ops.boxes import priors

SIZES = ((64, 64), (96, 160), (100, 75), (225, 130))  # pixels; the last two are no multiples of a step
_ROUNDING = 1e-5


@torch.no_grad()
def check_priors(subject: Subject) -> Verdict:
    """At every size there is one row a prior, and the numbers are finite, probabilities of one face or none."""
    counts = []
    for height, width in SIZES:
        images = functional.interpolate(subject.images[:2], (height, width), mode="bilinear")
        found = outputs_of(subject.network, images)
        expected = len(priors(height, width))
        for name, values in found.items():
            if values.shape[1] != expected:
                return failed(f"{height} x {width}: {expected} priors, but {name} has {values.shape[1]} rows")
            if not bool(values.isfinite().all()):
                return failed(f"{height} x {width}: {name} is not finite")
        chances = found["conf"]
        if not (float(chances.min()) >= 0 and float((chances.sum(-1) - 1).abs().max()) <= _ROUNDING):
            return failed(f"{height} x {width}: conf does not hold probabilities")
        counts.append(f"{expected} at {height} x {width}")
    return passed(", ".join(counts))
