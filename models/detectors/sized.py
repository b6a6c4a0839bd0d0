"""A detector that looks at photographs in one size or several, and joins what it finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from datasets.photos.aligned import LONG_SIDE
from datasets.photos.detection import Detection, Detector, Image, check_image
from datasets.photos.given_points import GivenPoints
from datasets.photos.views import Look, brought_back, view
from models.detectors.found import OVERLAP
from models.detectors.opening import DEFAULT, open_detector
from ops.boxes import nms


@dataclass(frozen=True)
class TestSizes:
    """In which sizes photographs are looked at, without which a detector's figures mean nothing.

    Attributes:
        max_side: pixels of the longer side at most; smaller photographs keep their size. 0: all do.
        scales: times that size, for each view.
        mirror: whether each view is looked at mirrored too.
        overlap: intersection over union above which two faces are one and the surer stays, in what all views found
            together and, of a trained detector, in each; YuNet and MTCNN go over each view by rules of their own first.
    """

    __test__ = False  # for pytest

    max_side: int = LONG_SIDE
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False
    overlap: float = OVERLAP

    def describe(self) -> str:
        """Return the sizes in words."""
        side = f"longer side {self.max_side} pixels at most" if self.max_side else "the photographs' own size"
        times = "" if self.scales == (1.0,) else f", times {', '.join(f'{scale:g}' for scale in self.scales)}"
        return side + times + (", each mirrored too" if self.mirror else "")

    def facts(self) -> dict[str, Any]:
        """Return the attributes by name, for a document."""
        return asdict(self) | {"scales": list(self.scales)}


class SizedDetector:
    """A detector that is shown photographs as `TestSizes` says; a `Detector` itself.

    Args:
        detector: any.
        sizes: of its views.
    """

    def __init__(self, detector: Detector, sizes: TestSizes) -> None:
        self.name, self.threshold = detector.name, detector.threshold
        self._detector, self._sizes = detector, sizes

    def detect(self, image: Image, threshold: float | None = None) -> list[Detection]:
        """Return the faces in an image, see `Detector`.

        What the views show is joined by `ops.boxes.nms` in pixels of the view of scale 1. Of equal scores the earlier
        view's comes first, then the one that the detector has first.
        """
        check_image(image)
        usual = min(1.0, self._sizes.max_side / max(image.shape[:2])) if self._sizes.max_side else 1.0
        found: list[Detection] = []
        for scale in self._sizes.scales:
            for mirrored in (False, True)[: 1 + self._sizes.mirror]:
                seen, back = view(image, Look("", mirrored=mirrored), usual * scale)
                found += [brought_back(one, back) for one in self._detector.detect(seen, threshold)]
        boxes = torch.from_numpy(np.array([one.box for one in found], np.float64).reshape(-1, 4))
        scores = torch.tensor([one.score for one in found], dtype=boxes.dtype)
        return [found[row] for row in nms(boxes * usual, scores, self._sizes.overlap).tolist()]


@dataclass(frozen=True)
class SizedChoice:
    """A `SizedDetector` before it is opened, once in each process.

    Attributes:
        word: see `open_detector`; no table of points.
        sizes: of its views.
    """

    word: str = DEFAULT
    sizes: TestSizes = TestSizes()

    def load(self) -> SizedDetector:
        """Return the detector of this process.

        Raises:
            ValueError, FileNotFoundError: one line, if it cannot be opened or is a table of points.
        """
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(choice: SizedChoice) -> SizedDetector:
    detector = open_detector(choice.word, choice.sizes.overlap)
    if isinstance(detector, GivenPoints):
        raise ValueError(f"{detector.path}: a table of points finds no faces; give a detector")
    return SizedDetector(detector, choice.sizes)
