"""How much of what drawn occluders hide an occlusion head finds, kind by kind, with intervals over people.

A cell of the map is hidden where its true visibility is below 0.5, else visible. It is called hidden where the
predicted one is below a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import transforms
from datasets import ImageFolderDataset
from models import FaceModel

CLEAN = "clean"
LOST = 0.03
_BATCH, _RESAMPLES = 64, 1000

Floats = NDArray[np.float64]


class People(NamedTuple):
    """Photographs uint8 [N, 112, 112, 3] RGB and whose they are, int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Cells(NamedTuple):
    """True and predicted visibility of images, float64 [N, h * w]."""

    true: Floats
    predicted: Floats

    @property
    def hidden(self) -> NDArray[np.bool_]:
        """Which cells are more hidden than visible, bool [N, h * w]."""
        return self.true < 0.5


def read_people(folder: Path) -> People:
    """Return the photographs of a folder with a folder for each person.

    Raises:
        FileNotFoundError, ValueError: if there is none, or it holds no images that can be read.
    """
    dataset = ImageFolderDataset(folder)
    return People(np.stack([dataset.read(place) for place in range(len(dataset))]), np.asarray(dataset.labels))


def occlude(images: NDArray[np.uint8], kind: str, draw: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images behind a kind of occluder and their masks, uint8 [N, 112, 112]; gray photographs stay gray."""
    if kind == CLEAN:
        return images, np.ones(images.shape[:3], np.uint8)
    number = list(transforms.OCCLUDERS).index(kind)
    generators = (np.random.default_rng([draw, number, place]) for place in range(len(images)))
    views = [transforms.OCCLUDERS[kind](image, rng) for image, rng in zip(images, generators, strict=True)]
    drawn = [transforms.grayscale(v.image) if _is_gray(i) else v.image for v, i in zip(views, images, strict=True)]
    return np.stack(drawn), np.stack([view.visibility for view in views])


def _is_gray(image: NDArray[np.uint8]) -> bool:
    return bool((image == image[..., :1]).all())


def predict(model: FaceModel, images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> Cells:
    """Return true and predicted visibility of images and their masks."""
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(images[start : start + _BATCH])
        visibility = model.describe(transforms.to_tensor(batch)).visibility
        assert visibility is not None, "the command line refuses a model without an occlusion head"
        mask = torch.from_numpy(masks[start : start + _BATCH])
        parts.append(torch.stack([transforms.visibility_map(mask, *visibility.shape[-2:]), visibility]).flatten(2))
    true, predicted = torch.cat(parts, dim=1).double().numpy()
    return Cells(true, predicted)


def threshold_at(cells: Sequence[Cells], lost: float = LOST) -> float:
    """Return the largest threshold at which at most `lost` of the visible cells are called hidden."""
    visible = np.sort(np.concatenate([part.predicted[~part.hidden] for part in cells]))
    return float(visible[int(lost * len(visible))])


def rates(cells: Cells, threshold: float | Floats, labels: NDArray[np.int64]) -> dict[str, list[float] | None]:
    """Return shares of hidden cells found and of visible cells lost, each with its 95 % interval over people.

    In percent, [share, lower, upper]; None where there are no such cells.

    Args:
        threshold: of all images, or float64 [N, 1].
        labels: int64 [N], whose each image is.
    """
    called = cells.predicted < threshold
    found = {"found": (cells.hidden & called, cells.hidden), "lost": (~cells.hidden & called, ~cells.hidden)}
    return {name: _with_interval(part.sum(1), whole.sum(1), labels) for name, (part, whole) in found.items()}


def _with_interval(part: NDArray[np.int64], whole: NDArray[np.int64], labels: NDArray[np.int64]) -> list[float] | None:
    """Return a ratio of sums in percent and its percentile bootstrap interval over people."""
    if not whole.any():
        return None
    sums = np.stack([np.bincount(labels, weights=values) for values in (part, whole)])
    drawn = np.random.default_rng(0).integers(sums.shape[1], size=(_RESAMPLES, sums.shape[1]))
    parts, wholes = sums[:, drawn].sum(2)
    ratios = parts[wholes > 0] / wholes[wholes > 0]
    return [100 * float(value) for value in (sums[0].sum() / sums[1].sum(), *np.quantile(ratios, (0.025, 0.975)))]


def measure(splits: Sequence[tuple[FaceModel, People]], num_draws: int) -> dict[str, object]:
    """Return thresholds, and by kind of occluder the rates at each and the mean squared error, over all splits.

    Args:
        splits: models, each with people that it was not trained on. The second threshold of each is its own.
    """
    kinds: dict[str, list[Cells]] = {kind: [] for kind in (CLEAN, *transforms.OCCLUDERS)}
    for kind, found in kinds.items():
        draws = 1 if kind == CLEAN else num_draws
        for model, people in splits:
            parts = [predict(model, *occlude(people.images, kind, draw)) for draw in range(draws)]
            found.append(Cells(*map(np.concatenate, zip(*parts, strict=True))))
    own = [threshold_at([found[place] for found in kinds.values()]) for place in range(len(splits))]
    thresholds = {"0.5": [0.5] * len(splits), "3 % lost": own}
    counts = [int(people.labels.max()) + 1 for _, people in splits]
    labels = [people.labels + sum(counts[:place]) for place, (_, people) in enumerate(splits)]
    rows = {kind: _row(found, thresholds, labels) for kind, found in kinds.items()}
    return {"thresholds": thresholds, "num_draws": num_draws, "num_people": sum(counts), "kinds": rows}


def _row(
    splits: Sequence[Cells], thresholds: dict[str, list[float]], labels: Sequence[NDArray[np.int64]]
) -> dict[str, object]:
    cells = Cells(*map(np.concatenate, zip(*splits, strict=True)))
    sizes = [len(part.true) for part in splits]
    whose = np.concatenate([np.tile(part, size // len(part)) for part, size in zip(labels, sizes, strict=True)])
    at = {name: rates(cells, np.repeat(values, sizes)[:, None], whose) for name, values in thresholds.items()}
    return {"mse": float(np.square(cells.true - cells.predicted).mean()), **at}


def table(found: dict[str, object]) -> list[str]:
    """Return the lines of the table of what `measure` found."""
    thresholds, kinds = found["thresholds"], found["kinds"]
    assert isinstance(thresholds, dict) and isinstance(kinds, dict)
    heads = [f"{part} at {name}" for name in thresholds for part in ("found", "lost")]
    lines = [f"{'':12}{'MSE':>8}" + "".join(f"{head:>24}" for head in heads)]
    for kind, row in kinds.items():
        cells = [row[name][part] for name in thresholds for part in ("found", "lost")]
        texts = ["{:.1f} [{:.1f}, {:.1f}]".format(*cell) if cell else "-" for cell in cells]
        lines.append(f"{kind:12}{row['mse']:8.4f}" + "".join(f"{text:>24}" for text in texts))
    limits = ", ".join(f"{name}: {' '.join(f'{value:.3f}' for value in own)}" for name, own in thresholds.items())
    return [*lines, f"thresholds: {limits}; {found['num_people']} people, {found['num_draws']} draws"]
