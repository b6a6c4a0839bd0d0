"""What a validation says: findings of all ranks in the order of the photographs, and figures of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets import DetectionBatch
from engine.guard import NonFiniteError
from evaluation import Found, Truth, coco_ap, face_sizes, find_faces, landmark_errors
from models.detectors.found import found_faces
from nets import Detections
from ops import boxes, gather_objects

Floats = NDArray[np.float64]

METRICS: Final = ("val_ap", "val_ap50", "val_recall")  # of which more is better
LEAST_SCORE: Final = 0.02  # of what average precision judges, as for WIDER FACE
USED_SCORE: Final = 0.5  # from which on a face counts as found in recall and errors of points
IOU: Final = 0.5  # of these
MAX_DETECTIONS: Final = 750  # of a photograph: WIDER FACE's have up to 709 faces


class Findings(NamedTuple):
    """One photograph: its faces, and what the detector found, in pixels of the size at which it was tested."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    truth: Truth
    points: Floats  # [N, 5, 2], NaN where not labeled
    found: Found
    found_points: Floats  # [M, 5, 2]


class Validation:
    """Collects the findings of one pass over the photographs; ranks exchange them, never maps."""

    def __init__(self) -> None:
        self._findings: list[Findings] = []
        self._bad: list[int] = []

    def clear(self) -> None:
        """Forget what was collected."""
        self._findings, self._bad = [], []

    def add(self, batch: DetectionBatch, detections: Detections, priors: Tensor) -> None:
        """Note what a detector in eval mode says about a batch; `priors` [P, 4] are those of its size."""
        side = batch.images.shape[1]
        detections = Detections(*(each.to(priors) for each in detections))
        corners = boxes.decode(detections.loc, priors)
        finite = [each.isfinite().all(dim=2).all(dim=1) for each in (corners, *detections[1:])]
        sound = torch.stack(finite).all(dim=0)
        self._bad += batch.index[~sound].tolist()
        kept = sound.nonzero()[:, 0].tolist()
        found = found_faces(Detections(*(each[sound] for each in detections)), priors, side, side, LEAST_SCORE)
        for row, faces in zip(kept, found, strict=True):
            truth = Truth(_numpy(batch.boxes[row]), batch.ignored[row].cpu().numpy())
            self._findings.append(
                Findings(
                    int(batch.index[row]), truth, _numpy(batch.points[row]),
                    Found(_numpy(faces.boxes), _numpy(faces.scores)), _numpy(faces.points),
                )
            )  # fmt: skip

    def gather(self, num_photos: int, place: str) -> list[Findings]:
        """Return the findings of all ranks, by photograph; all ranks must call it together.

        Raises:
            NonFiniteError: if the detector said something that is not finite of any; `place` is where in the training.
            RuntimeError: if a photograph was seen by no rank or more than once.
        """
        parts = gather_objects((self._findings, self._bad))
        if bad := sorted(index for _, indices in parts for index in indices):
            raise NonFiniteError(
                f"{place}: what the detector says of {len(bad)} of {num_photos} photographs is not finite, the first is"
                f" number {bad[0]}; lower --lr or warm up"
            )
        findings = sorted((each for own, _ in parts for each in own), key=lambda each: each.index)
        if [each.index for each in findings] != list(range(num_photos)):
            raise RuntimeError(
                f"validation: findings of {len(findings)} photographs of {num_photos}; each once expected"
            )
        return findings


def figures(findings: Sequence[Findings]) -> dict[str, float]:
    """Return the figures of a validation, all in [0, 1] but the error.

    val_ap is the mean of the average precision over the overlaps 0.50 to 0.95, val_ap50 that at 0.50, as COCO has them.
    val_recall is the share of the faces that are found with a score of 0.5 at an overlap of 0.5, and val_nme the mean
    distance of their labeled points over the square root of the box's area; it is left out where there are none.
    """
    result = coco_ap([each.truth for each in findings], [each.found for each in findings], MAX_DETECTIONS)
    finders = [find_faces(each.truth, each.found, IOU, USED_SCORE) for each in findings]
    counted = [~each.truth.ignored for each in findings]
    hits = [(finder >= 0) & counts for finder, counts in zip(finders, counted, strict=True)]
    recall = sum(int(hit.sum()) for hit in hits) / sum(int(counts.sum()) for counts in counted)
    values = {"val_ap": result.ap, "val_ap50": result.ap_50, "val_recall": recall}
    columns = [
        (each.found_points[finder[hit]], each.points[hit], face_sizes(each.truth.boxes[hit]))
        for each, finder, hit in zip(findings, finders, hits, strict=True)
    ]
    predicted, true, lengths = (np.concatenate(column) for column in zip(*columns, strict=True))
    if not np.isnan(true).any(axis=2).all():
        values["val_nme"] = landmark_errors(predicted, true, lengths).mean
    return values


def _numpy(values: Tensor) -> Floats:
    return values.detach().cpu().double().numpy()
