"""Checks of what a recognizer makes of faces: drawn people, who show whether it was trained and in which order."""

from __future__ import annotations

import numpy as np
import torch

import nets
from evaluation import Interval, auc
from models.checking.counts import EMBEDDING_SIZE
from models.checking.faces import Pairs, by_area, embed
from models.checking.subject import Subject
from models.checking.verdict import Verdict, failed, passed, skipped

LEAST_CHANGE = 0.01  # of the area under the curve: what a swapped order must cost to count as one
LEAST_GAIN = 0.05  # of the area, over a net without training: draws of one differ by 0.02, as a standard deviation
MIRROR = (0.75, 0.9)  # AUC: nets without training reach 0.56 to 0.88, two published recognizers 1.000
_SEED = 0  # of the net that is compared with


def check_people(subject: Subject) -> Verdict:
    """Images of a person are more alike than those of strangers, and more so than to a net that was never trained."""
    model = subject.recognizer
    images, labels = subject.faces.shown_to(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        fresh = nets.build_model(model.arch, EMBEDDING_SIZE).eval()  # drawn at random, more numbers tell more
    with torch.inference_mode():
        untrained = np.concatenate([fresh(part).embedding.numpy() for part in images.split(16)])
    pairs, found = Pairs.of(labels), embed(model, images)
    area, gain = pairs.auc(found), pairs.gain(found, untrained)
    words = (
        f"AUC of {len(np.unique(labels))} drawn people {_spelled(area)}, of a net without training "
        f"{pairs.plain_auc(untrained):.3f}"
    )
    if not gain.upper >= LEAST_GAIN:
        return failed(f"{words}: no better, so it is untrained, or has learned nothing that drawn faces show")
    if not (gain.lower > 0 and gain.estimate >= LEAST_GAIN):
        return skipped(f"it cannot be told from drawn faces: {words}, difference {_spelled(gain)}")
    return passed(words)


def check_color_order(subject: Subject) -> Verdict:
    """The file states the order that was asked for, and people are not told better with red and blue swapped."""
    if subject.asked not in (None, subject.stated) and subject.stated is not None:
        return failed(f"the file states {subject.stated}, and {subject.asked} was asked for")
    model = subject.recognizer
    images, labels = subject.faces.shown_to(model)
    pairs, found = Pairs.of(labels), embed(model, images)
    swapped = embed(model, images.flip(1))
    gain, area = pairs.gain(found, swapped), pairs.plain_auc(found)
    words = f"AUC {area:.3f}, with red and blue swapped {area - gain.estimate:.3f}, difference {_spelled(gain)}"
    if gain.upper < 0 and gain.estimate < -LEAST_CHANGE:
        return failed(f"{words}: people are told better in the other order")
    if gain.lower > 0:
        return passed(words)
    return skipped(f"it cannot be told from drawn faces: {words}")


def _spelled(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.lower:.3f}, {interval.upper:.3f}]"


def check_mirror(subject: Subject) -> Verdict:
    """A face is told by its mirror image from strangers, by far."""
    model = subject.recognizer
    images, labels = subject.faces.shown_to(model)
    firsts = np.unique(labels, return_index=True)[1]
    faces = embed(model, images[firsts])
    cosines = faces @ embed(model, images[firsts].flip(-1)).T
    is_own = np.eye(len(cosines), dtype=bool)
    area = auc(cosines.ravel(), is_own.ravel())
    words = (
        f"cosine of a face with its mirror image {cosines[is_own].mean():.3f}, with a stranger's"
        f" {cosines[~is_own].mean():.3f}, AUC {area:.3f}"
    )
    return by_area(area, MIRROR, words)
