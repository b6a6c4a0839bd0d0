"""The sheet of samples of a detector: its first views with boxes and points."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import pytorch_lightning as pl

from datasets import DetectionBatch
from datasets.counted import counted
from tasks.sample_sheet import Cells, SampleSheet

SIDE: Final = 320  # pixels of a view in the picture
NUM_VIEWS: Final = 16
COLUMNS: Final = 4
FACE, IGNORED, POINT = (40, 200, 60), (150, 150, 150), (230, 60, 40)


class DetectionSheet(SampleSheet):
    """Draw the first views of a run into `samples.png`: faces green, ignored ones gray, points red."""

    columns = COLUMNS

    def cells(self, trainer: pl.Trainer, batch: Any) -> Cells:
        """Return the pictures of a batch, their captions the numbers of photographs and faces."""
        assert isinstance(batch, DetectionBatch)
        number = min(NUM_VIEWS, len(batch.images))
        drawn = np.stack([_drawn(batch, row) for row in range(number)])
        counts = [len(each) for each in batch.boxes]
        captions = [
            f"{index}: {counted(count, 'face')}" for index, count in zip(batch.index.tolist(), counts, strict=True)
        ]
        return drawn, None, captions[:number]


def _drawn(batch: DetectionBatch, row: int) -> np.ndarray:
    """Return a view with its faces, uint8 [SIDE, SIDE, 3] RGB."""
    image = batch.images[row].cpu().numpy()
    scale = SIDE / image.shape[0]
    canvas = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for box, ignored in zip(batch.boxes[row].tolist(), batch.ignored[row].tolist(), strict=True):
        x1, y1, x2, y2 = (round(scale * value) for value in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), IGNORED if ignored else FACE, 1)
    for x, y in batch.points[row].flatten(0, 1).tolist():
        if not np.isnan(x + y):
            cv2.circle(canvas, (round(scale * x), round(scale * y)), 2, POINT, -1)
    return np.asarray(canvas, np.uint8)
