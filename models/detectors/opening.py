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
_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class DetectorChoice:
    """A detector before it is opened: small, so that every process can open its own.

    Attributes:
        word, overlap: see `open_detector`.
    """

    word: str = DEFAULT
    overlap: float | None = None

    def load(self) -> Detector | GivenPoints:
        """Return the detector, opened once in each process; see `open_detector`."""
        return _opened(self)


def open_detector(word: str = DEFAULT, overlap: float | None = None) -> Detector | GivenPoints:
    """Open a detector for this thread.

    Args:
        word: "mtcnn", the embedded one; "yunet", what `main.py fetch yunet` left in the cache folder; a path that ends
            in .csv, .tsv or .txt, a table of points (`GivenPoints`); one that ends in .pth, .pt, .ckpt or .safetensors,
            weights of a RetinaFace or FeatherFace (`TrainedDetector`); any other path, YuNet's ONNX file.
        overlap: intersection over union above which the surer of two faces suppresses the other, of a trained detector;
            None: its usual one. The others have rules of their own.
    Raises:
        ValueError, FileNotFoundError: if the file is missing, damaged or another one, or the package of the embedded
            one is not there.
    """
    if word == DEFAULT:
        from models.detectors.mtcnn import Mtcnn

        return Mtcnn()
    suffix = Path(word).suffix.lower()
    if suffix in _TABLES:
        return GivenPoints(Path(word))
    if suffix in _WEIGHTS:
        from models.detectors import trained

        return trained.TrainedDetector(Path(word), trained.OVERLAP if overlap is None else overlap)
    from models.detectors.yunet import YuNet

    return YuNet(fetched_file() if word == FETCHED else Path(word))


def fetched_file() -> Path:
    """Return where `main.py fetch yunet` puts YuNet's file, in the user's cache folder."""
    return cache_folder() / "detectors" / "yunet.onnx"


@lru_cache(maxsize=1)
def _opened(choice: DetectorChoice) -> Detector | GivenPoints:
    return open_detector(choice.word, choice.overlap)
