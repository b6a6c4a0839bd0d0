"""From what was seen of the images to what is wrong with the set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.counted import counted
from datasets.doctor.alignment import SUSPECT_BELOW
from datasets.doctor.duplicates import Duplicates, find_duplicates
from datasets.doctor.examine import FaceSource, Looked, LookedSet
from datasets.doctor.measure import GRAY
from datasets.faces.folder_scan import names_alike
from datasets.faces.image_folder import ImageFolderDataset

Indices = NDArray[np.int64]

# Of synthetic faces 10 % have more blue than red, and 5 % more than 10 levels more: they are lit in all colors.
MAX_BLUE = 0.5
BLUE_BELOW = -10
MAX_CLEARLY_BLUE = 0.15
_MIN_COLOR = 20
# The eyes of an aligned face are then 9 pixels apart.
MIN_SIDE = 28
# Of aligned synthetic faces 1 to 1.5 % are suspected.
MAX_UNALIGNED = 0.03
# Of synthetic sets at most 4 %, the one of profiles included; shifted by 6 pixels 86 %, scaled by 0.85 32 %.
MAX_UNALIGNED_IN_SET = 0.15


class Finding(NamedTuple):
    """Something that a user should look at: a word for programs and a line for people."""

    kind: str
    text: str


class Channels(NamedTuple):
    """What the color of skin says about the channel order of some images.

    Attributes:
        num_color: images that are not gray.
        blue: share of these with more blue than red.
        clearly_blue: int64 [N], positions of those with more than -BLUE_BELOW levels more, the bluest first.
    """

    num_color: int
    blue: float
    clearly_blue: Indices

    @property
    def suspected(self) -> bool:
        """Whether red and blue of the whole set seem to be the wrong way round."""
        return self.num_color >= _MIN_COLOR and self.blue > MAX_BLUE

    @property
    def mixed(self) -> bool:
        """Whether they seem to be so in a part of it."""
        many = len(self.clearly_blue) > MAX_CLEARLY_BLUE * self.num_color
        return self.num_color >= _MIN_COLOR and many and not self.suspected


@dataclass
class Diagnosis:
    """Everything that `python -m datasets.check` says.

    Attributes:
        dataset, looked: the data set and what was seen of it; None if only benchmark sets were given.
        sets: benchmark sets that could be opened.
        broken: name and reason of those that could not.
    """

    dataset: FaceSource | None
    looked: Looked | None
    sets: list[LookedSet]
    broken: dict[str, str]
    duplicates: Duplicates | None = field(init=False, default=None)
    channels: Channels | None = field(init=False, default=None)
    unaligned: Indices = field(init=False)

    def __post_init__(self) -> None:
        self.unaligned = np.empty(0, np.int64)
        if self.looked is not None:
            self.duplicates = _duplicates(self.looked, self.sets)
            self.channels = channels_of(self.looked.rows)
            self.unaligned = _unaligned(self.looked)

    def findings(self) -> list[Finding]:
        """Return what a user should look at, the gravest first."""
        found = list(_of_sets(self))
        if self.dataset is not None and self.looked is not None:
            found = [*_of_files(self), *_of_copies(self), *_of_colors(self), *_of_places(self), *found]
        return found

    def shared_identities(self) -> list[str]:
        """Return the names of the identities with an image in a benchmark set."""
        if self.dataset is None or self.duplicates is None:
            return []
        labels = np.unique(self.dataset.labels[self.duplicates.shared_images])
        return [self.dataset.class_names[label] for label in labels.tolist()]

    def crosses(self, first: Indices, second: Indices) -> NDArray[np.bool_]:
        """Return which pairs of images of the set are of two identities."""
        assert self.dataset is not None
        return self.dataset.labels[first] != self.dataset.labels[second]


def channels_of(rows: NDArray[np.void]) -> Channels:
    """Return what the rows of some images say about their channel order."""
    positions = np.flatnonzero(rows["readable"] & (rows["warmth"] != GRAY))
    warmth = rows["warmth"][positions]
    order = np.argsort(warmth, kind="stable")
    clearly = positions[order[: int((warmth < BLUE_BELOW).sum())]]
    return Channels(len(warmth), float((warmth < 0).mean()) if len(warmth) else 0.0, clearly)


def share_unaligned(looked: LookedSet) -> float:
    """Return which share of a benchmark set does not lie where the faces of the data set do."""
    return float((looked.alignment < SUSPECT_BELOW).mean())


def _duplicates(looked: Looked, sets: list[LookedSet]) -> Duplicates:
    readable = np.flatnonzero(looked.rows["readable"])
    num = len(looked.rows)
    num_others = sum(len(other.rows) for other in sets)
    parts = [looked.rows[readable], *(other.rows for other in sets)]
    pixels, looks = (np.concatenate([part[name] for part in parts]) for name in ("pixels", "looks"))
    return find_duplicates(pixels, looks, np.append(readable, np.arange(num, num + num_others)), num)


def _unaligned(looked: Looked) -> Indices:
    """Return the images that look unaligned, the worst first; none where single images cannot be judged."""
    if looked.model is None or not looked.model.is_consistent:
        return np.empty(0, np.int64)
    found = np.flatnonzero(looked.rows["readable"] & (looked.alignment < SUSPECT_BELOW))
    return found[np.argsort(looked.alignment[found], kind="stable")]


def _of_files(diagnosis: Diagnosis) -> Iterator[Finding]:
    dataset, looked = diagnosis.dataset, diagnosis.looked
    assert dataset is not None and looked is not None
    if isinstance(dataset, ImageFolderDataset):
        yield from (Finding("left_out", line) for line in dataset.unread)
    if looked.unreadable:
        first = looked.unreadable[0]
        yield Finding(
            "unreadable",
            f"{counted(len(looked.unreadable), 'image')} unreadable; the first is {first.location} ({first.reason})",
        )
    width, height = looked.rows["size"].T
    stretched = int((looked.rows["readable"] & (width != height)).sum())
    if stretched:
        yield Finding(
            "not_square", f"{counted(stretched, 'image')} not square: stretched, while aligned crops are square"
        )
    # 0: the header does not tell.
    side = np.minimum(width, height)
    small = int((looked.rows["readable"] & (side > 0) & (side < MIN_SIDE)).sum())
    if small:
        yield Finding("small", f"{counted(small, 'image')} less than {MIN_SIDE} pixels wide or high: hardly a face")
    if alike := names_alike(dataset.class_names):
        yield Finding("case", alike)


def _of_copies(diagnosis: Diagnosis) -> Iterator[Finding]:
    copies = diagnosis.duplicates
    assert copies is not None
    across = int(diagnosis.crosses(copies.exact.first, copies.exact.second).sum())
    if len(copies.exact.first):
        yield Finding("exact_duplicates", f"{counted(len(copies.exact.first), 'exact copy')} of other images")
    if across:
        yield Finding(
            "exact_across_identities", f"{across} of the exact copies under another identity: labels are wrong"
        )
    across = int(diagnosis.crosses(copies.near.first, copies.near.second).sum())
    if across:
        yield Finding(
            "near_across_identities",
            f"{counted(across, 'pair')} of near duplicates under two identities: labels may be wrong",
        )
    if len(copies.shared.first):
        yield Finding(
            "shared_identities",
            f"{counted(len(diagnosis.shared_identities()), 'identity')} shared with the benchmark sets, by "
            f"{counted(len(copies.shared_images), 'image')} that are in both: leave them out, or results mean nothing",
        )


def _of_colors(diagnosis: Diagnosis) -> Iterator[Finding]:
    channels = diagnosis.channels
    assert channels is not None
    if channels.suspected:
        yield Finding(
            "channel_order",
            f"{channels.blue:.0%} of {channels.num_color} color images have more blue than red where faces show "
            "skin: the channels are probably the wrong way round (--swap_color_channel)",
        )
    if channels.mixed:
        yield Finding(
            "channel_order_mixed",
            f"{len(channels.clearly_blue)} of {channels.num_color} color images have clearly more blue than red "
            "where faces show skin: the channels of some may be the wrong way round",
        )


def _of_places(diagnosis: Diagnosis) -> Iterator[Finding]:
    looked = diagnosis.looked
    assert looked is not None
    if looked.check.is_suspect:
        yield Finding("unaligned_set", f"the faces are {looked.check}")
    elif looked.model is not None and not looked.model.is_consistent:
        yield Finding(
            "unaligned_set",
            f"the faces do not lie in one place: only in {looked.model.consistency:.0%} of cases is a face told from a "
            "moved one; single images cannot be judged",
        )
    num = int(looked.rows["readable"].sum())
    if len(diagnosis.unaligned) > MAX_UNALIGNED * num:
        yield Finding(
            "unaligned_images",
            f"{counted(len(diagnosis.unaligned), 'image')} ({len(diagnosis.unaligned) / num:.1%}) with the face "
            "elsewhere than the others; about 1 % are suspected by chance",
        )


def _of_sets(diagnosis: Diagnosis) -> Iterator[Finding]:
    for name, reason in diagnosis.broken.items():
        yield Finding("benchmark_unreadable", f"benchmark {name}: {reason}")
    model = diagnosis.looked.model if diagnosis.looked is not None else None
    for other in diagnosis.sets:
        if other.fault is not None:
            yield Finding("benchmark_unmeasurable", f"benchmark {other.benchmark.name}: {other.fault}")
        channels = channels_of(other.rows)
        if channels.suspected:
            yield Finding(
                "benchmark_channel_order",
                f"benchmark {other.benchmark.name}: {channels.blue:.0%} of its color images have more blue than red "
                "where faces show skin",
            )
        if model is not None and model.is_consistent and share_unaligned(other) > MAX_UNALIGNED_IN_SET:
            yield Finding(
                "benchmark_alignment",
                f"benchmark {other.benchmark.name}: {share_unaligned(other):.0%} of its faces do not lie where those "
                "of the data set do: other poses, or another alignment",
            )
