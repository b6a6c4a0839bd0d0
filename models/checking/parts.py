"""Checks of what a run keeps beside a backbone: class weights, matcher, occlusion head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evaluation import auc
from models.checking.faces import IMAGES, by_area
from models.checking.subject import Subject, outputs_of
from models.checking.verdict import Verdict, failed, passed, skipped

SAME_CLASS = 0.999  # cosine of the weights of two identities that nothing tells apart
SYMMETRY = 1e-4  # of the spread of scores
COVERED = 0.25  # share of a cell that shows, below which it is hidden
MASK = (0.6, 0.75)  # AUC, of which 0.5 says nothing and less takes hidden for visible
_COMPARED = 2048  # classes that are compared with all others


def check_head(subject: Subject) -> Verdict:
    """There is one class a stored identity, of positive length, and no two are the same."""
    classes = subject.classes
    if classes is None:
        return skipped("the file has no identities")
    if missing := [name for name in classes.counts if name not in classes.kernels]:
        return failed(f"no class weights of data set {missing[0]}")
    found = []
    for name, kernel in classes.kernels.items():
        count = classes.counts[name]
        if kernel.ndim != 2 or kernel.shape[1] != count * classes.num_centers:
            of_each = f" of {classes.num_centers} centers each" if classes.num_centers > 1 else ""
            return failed(f"{count} identities{of_each} are stored, but the class weights are {[*kernel.shape]}")
        lengths = torch.linalg.vector_norm(kernel.float(), dim=0)
        if not bool((lengths > 0).all() and lengths.isfinite().all()):
            return failed(f"class {int((~(lengths > 0)).int().argmax())}: weights of length {float(lengths.min()):.3g}")
        closest, pair = _closest(kernel.float(), classes.num_centers)
        if closest >= SAME_CLASS:
            return failed(f"classes {pair[0]} and {pair[1]} have the same weights: cosine {closest:.4f}")
        lower, upper = (float(value) for value in lengths.aminmax())
        found.append(f"{count} classes, lengths {lower:.3g} to {upper:.3g}, nearest two {closest:.3f}")
    total = sum(classes.counts.values())
    if classes.maps is not None and len(classes.maps) != total:
        return failed(f"{total} identities are stored, but the matcher has maps of {len(classes.maps)}")
    return passed("; ".join(found))


def _closest(kernel: Tensor, num_centers: int) -> tuple[float, tuple[int, int]]:
    """Return the largest cosine of two identities' weights [D, identities * centers], and which they are."""
    unit = functional.normalize(kernel, dim=0)
    best, pair = -1.0, (0, 0)
    for start in range(0, min(unit.shape[1], _COMPARED), 256):
        block = slice(start, min(start + 256, _COMPARED))
        cosines = unit[:, block].T @ unit
        classes = torch.arange(unit.shape[1]) // num_centers
        cosines[classes[block, None] == classes] = -1.0
        place = int(cosines.argmax())
        row, column = divmod(place, unit.shape[1])
        if float(cosines[row, column]) > best:
            best, pair = float(cosines[row, column]), (int(classes[start + row]), int(classes[column]))
    return best, pair


@torch.no_grad()
def check_matcher(subject: Subject) -> Verdict:
    """Scores do not depend on which image is the probe, none beats an image with itself, hidden faces score too."""
    matcher = subject.recognizer.matcher
    if matcher is None:
        return skipped("it has no matcher")
    expected = subject.recognizer.model.map_shape
    if matcher.map_shape != expected:
        return failed(f"it is built for maps of {[*matcher.map_shape]}, and the backbone's are {[*expected]}")
    said = outputs_of(subject.recognizer, subject.images)
    maps, seen = said["local_map"], said.get("visibility")
    scores = matcher(maps, maps.clone(), seen, seen)
    spread = float(scores.max() - scores.min())
    apart = float((scores - matcher(maps.clone(), maps, seen, seen).T).abs().max()) / (spread or 1.0)
    own, others = scores.diagonal(), scores[~torch.eye(len(scores), dtype=torch.bool)]
    # The published layers may weigh a cell negatively; then only the mean is sure.
    is_beaten = (
        bool((scores > own[:, None]).any()) if matcher.score == "weighted" else bool(own.mean() <= others.mean())
    )
    hidden = matcher(maps, maps.clone(), *(2 * [maps.new_zeros(len(maps), 1, *expected[1:])]))
    faults = {
        f"{len(scores)} faces give scores that are not finite": not bool(scores.isfinite().all()),
        "all pairs have the same score": spread == 0,
        f"the score changes with the order of two images, by {apart:.1e} of the spread": not apart <= SYMMETRY,
        "a stranger scores higher than a face with itself": is_beaten,
        "with all cells hidden scores are not finite": not bool(hidden.isfinite().all()),
    }
    if fault := next((words for words, holds in faults.items() if holds), None):
        return failed(fault)
    means = f"a face with itself {own.mean():.2f}, others {others.mean():.2f}"
    return passed(f"symmetric within {apart:.0e} of the spread; {means}")


@torch.no_grad()
def check_occlusion_head(subject: Subject) -> Verdict:
    """Visibility is in [0, 1], and lower in the cells that a drawn mask covers than there without the mask."""
    masked, visible = subject.faces.masked
    plain = subject.faces.images[::IMAGES]
    free, covered = (outputs_of(subject.recognizer, images).get("visibility") for images in (plain, masked))
    if free is None or covered is None:
        return skipped("it has no occlusion head")
    low, high = (float(value) for value in torch.cat([free, covered]).aminmax())
    if not (low >= 0 and high <= 1):
        return failed(f"visibility from {low:.3g} to {high:.3g}")
    is_hidden = functional.adaptive_avg_pool2d(visible, (free.shape[-2], free.shape[-1])) < COVERED
    seen = torch.cat([free[is_hidden], covered[is_hidden]]).numpy()
    area = auc(seen, np.arange(len(seen)) < len(seen) // 2)
    words = (
        f"visibility of cells that a drawn mask covers {float(covered[is_hidden].mean()):.3f}, without it"
        f" {float(free[is_hidden].mean()):.3f}, AUC {area:.3f}"
    )
    return by_area(area, MASK, words)
