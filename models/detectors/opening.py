"""Which detector a word names: `mtcnn`, `yunet` once it is fetched, or the path of its file or of a table of points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from datasets.cache_folder import cache_folder
from datasets.photos.detection import Detector
from datasets.photos.given_points import GivenPoints

DEFAULT, FETCHED = "mtcnn", "yunet"
_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class DetectorChoice:
    """A detector before it is opened: small, so that every process can open its own.

    Attributes:
        word: see `open_detector`.
    """

    word: str = DEFAULT

    def load(self) -> Detector | GivenPoints:
        """Return the detector, opened once in each process; see `open_detector`."""
        return _opened(self)


def open_detector(word: str = DEFAULT) -> Detector | GivenPoints:
    """Open a detector for this thread.

    Args:
        word: "mtcnn", the embedded one; "yunet", what `main.py fetch yunet` left in the cache folder; a path that ends
            in .csv, .tsv or .txt, a table of points (`GivenPoints`); any other path, YuNet's ONNX file.
    Raises:
        ValueError: if the file is missing, damaged or another one, or the package of the embedded one is not there.
    """
    if word == DEFAULT:
        from models.detectors.mtcnn import Mtcnn

        return Mtcnn()
    if Path(word).suffix.lower() in _TABLES:
        return GivenPoints(Path(word))
    from models.detectors.yunet import YuNet

    return YuNet(fetched_file() if word == FETCHED else Path(word))


def fetched_file() -> Path:
    """Return where `main.py fetch yunet` puts YuNet's file, in the user's cache folder."""
    return cache_folder() / "detectors" / "yunet.onnx"


@lru_cache(maxsize=1)
def _opened(choice: DetectorChoice) -> Detector | GivenPoints:
    return open_detector(choice.word)
