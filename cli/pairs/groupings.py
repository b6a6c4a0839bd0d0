"""Groups of the pairs of an evaluation: by the user's list, by occluder, by how much of both faces is to be seen."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cli.pairs.score_files import ScoredPairs
from config import EvaluationConfig
from datasets.text_file import read_text
from evaluation import Grouping, visible_bins
from evaluation.scores.images import ImageScores

logger = logging.getLogger(__name__)

MAX_GROUPS = 60  # of pairs in a report
MAX_PAIRS = 500_000  # beyond, what nobody asked for by a flag is left out: its intervals would take minutes
NO_GROUP = "no group"


class Grouped(ScoredPairs, Protocol):
    """What is asked of a set of pairs here."""

    @property
    def keys(self) -> Sequence[tuple[int, ...]]:
        """What the occluder of each image is drawn by, with the seed."""


def list_groups(source: Grouped, options: EvaluationConfig) -> dict[str, Grouping]:
    """Return {"--groups": the groups of the pairs} where the flag is given.

    Raises:
        ValueError: if the list does not fit the images.
    """
    return {} if options.groups is None else {"--groups": listed_groups(Path(options.groups), source)}


def find_groups(
    source: Grouped, scored: ImageScores, options: EvaluationConfig, listed: Mapping[str, Grouping]
) -> dict[str, dict[str, Grouping]]:
    """Return {condition: {what the groups are by: the groups of the pairs}}, those listed and what scores tell."""
    found = {condition: dict(listed) for condition in scored.scores}
    if source.pairs.issame.size > MAX_PAIRS:
        logger.info("more than %d pairs: no figures by visible share and by occluder", MAX_PAIRS)
        return found
    for condition, (first, second) in scored.visible.items():
        least = np.minimum(first[source.pairs.first], second[source.pairs.second])
        found[condition]["visible share of the lesser face, predicted"] = visible_bins(least)
    if "occluded" in found and len(options.occluders) > 1:
        found["occluded"]["occluder of the second face"] = occluder_groups(source, options)
    return found


def occluder_groups(source: Grouped, options: EvaluationConfig) -> Grouping:
    """Return the occluder of the second image of each pair, drawn as `transforms.occlude` draws it first of all."""
    drawn = [int(np.random.default_rng((options.seed, *key)).integers(len(options.occluders))) for key in source.keys]
    return Grouping(options.occluders, np.array(drawn)[source.pairs.second])


def read_groups(path: Path) -> dict[str, str]:
    """Return {person or image: group} of a CSV of two columns; a first line whose second word is "group" is a heading.

    Raises:
        ValueError: naming file and line, if a row has not two fields or a name comes again with another group.
    """
    groups: dict[str, str] = {}
    rows = csv.reader(StringIO(read_text(path, "groups")))
    for row in rows:
        fields = [field.strip() for field in row]
        if not any(fields) or (rows.line_num == 1 and fields[1:] == ["group"]):
            continue
        if len(fields) != 2 or not all(fields):
            raise ValueError(
                f"{path}, line {rows.line_num}: expected 'person or image, group', got {','.join(row)[:80]!r}"
            )
        if groups.setdefault(fields[0], fields[1]) != fields[1]:
            raise ValueError(f"{path}, line {rows.line_num}: {fields[0][:80]!r} has a second group; keep one")
    if not groups:
        raise ValueError(f"{path}: no groups in it; expected lines 'person or image, group'")
    return groups


def listed_groups(path: Path, source: Grouped) -> Grouping:
    """Return the group of each pair: the one of both images, or the two in alphabetical order.

    A person is named like its folder, in a benchmark set by its number in identities.npy; an image by its path below
    the folder of people, which counts before the person.

    Raises:
        ValueError: if the list is damaged, a name fits nothing, no image has a group, or there are too many.
    """
    groups = read_groups(path)
    names, places = _names_of_images(source, path)
    known = {name for alike in names for name in alike}
    if unknown := [name for name in groups if name not in known]:
        raise ValueError(
            f"{path}: {len(unknown)} of {len(groups)} names fit neither a person nor an image of the pairs, the first"
            f" is {unknown[0][:80]!r}; correct or remove them"
        )
    of_images = Grouping.of([next((groups[name] for name in alike if name in groups), NO_GROUP) for alike in names])
    if num_without := sum(of_images.names[place] == NO_GROUP for place in of_images.places.tolist()):
        logger.warning("%s: %d of %d images have no group; they are %r", path, num_without, len(names), NO_GROUP)
    first, second = (of_images.places[side].astype(np.int32) for side in places)
    count = len(of_images.names)
    codes, pair_places = np.unique(np.minimum(first, second) * count + np.maximum(first, second), return_inverse=True)
    if len(codes) > MAX_GROUPS:
        raise ValueError(f"{path}: {len(codes)} groups of pairs; at most {MAX_GROUPS} make a table that can be read")
    ends = [(of_images.names[code // count], of_images.names[code % count]) for code in codes.tolist()]
    titles = [low if low == high else f"{low} | {high}" for low, high in ends]
    return Grouping(titles, pair_places.astype(np.int16))


def _names_of_images(source: Grouped, path: Path) -> tuple[list[tuple[str, ...]], list[NDArray[np.int64]]]:
    """Return the names that each image or person goes by, and the places in them of both images of each pair."""
    if source.paths and ", byte " not in source.paths[0]:
        parts = [PurePath(image).parts for image in source.paths]
        return [("/".join(part[-2:]), part[-2]) for part in parts], [source.pairs.first, source.pairs.second]
    if not source.paths and source.identities is not None:
        people, numbers = np.unique(source.identities, return_inverse=True)
        return [(str(person),) for person in people.tolist()], [numbers[::2], numbers[1::2]]
    raise ValueError(f"--groups {path}: the images have no names here, neither folders of people nor identities")
