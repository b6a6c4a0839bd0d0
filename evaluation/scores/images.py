"""Scores of all pairs of a source of images, clean and occluded, by embedding and matcher."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.protocols.normalization import ScoreNormalization
from evaluation.scores.comparable import Sides, comparable_scores
from evaluation.scores.descriptions import FaceDescriptions
from evaluation.scores.scoring import score_all_pairs, score_pair_list
from evaluation.scores.search import score_shortlisted_pairs
from evaluation.scores.shares import image_shares

Scores: TypeAlias = Mapping[str, NDArray[np.float32]]  # by matcher, [N] in the order of the source's pairs


class ImagePairs(Protocol):
    """Pairs of images that can be looked at."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """uint8 [M, H, W, 3] RGB."""

    @property
    def places(self) -> NDArray[np.int64] | None:
        """int64 [N, 2], places of each pair in images; None: all unordered pairs, as np.triu_indices has them."""


class Matcher(Protocol):
    """A local matcher of maps and visibilities, as `evaluation.scores` wants it."""

    def __call__(self, a: Tensor, b: Tensor, c: Tensor | None, d: Tensor | None, /) -> Tensor:
        """Return scores [P, G]."""

    def match_pairs(self, a: Tensor, b: Tensor, c: Tensor | None, d: Tensor | None, /) -> Tensor:
        """Return scores [N]."""


class Scoring(NamedTuple):
    """How described images are compared."""

    matcher: Matcher | None = None  # None: by their embeddings alone
    normalization: ScoreNormalization | None = None  # makes the scores comparable; None: they are as they come


class Drawn(NamedTuple):
    """Scores of the occluded pairs of one draw of occluders."""

    scores: Scores
    exchanged: Scores  # of all pairs with the first image occluded, not the second; empty: there is no such difference


class ImageScores(NamedTuple):
    """Scores of all pairs of a source, those of further draws of occluders apart, and what can be seen of each face."""

    scores: dict[str, Scores]  # by condition
    matched: dict[str, NDArray[np.bool_]]  # where a shortlist chose: which pairs the matcher saw, by condition, [N]
    exchanged: Scores = MappingProxyType({})  # as in `Drawn`, of the first draw
    further: Sequence[Drawn] = ()
    # By condition, [2, M]: of each image as the first and as the second of a pair, the visible share that the occlusion
    # head predicts, behind the occluders of the first draw; empty: there is none.
    visible: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


def score_images(
    source: ImagePairs,
    describe: Callable[[NDArray[np.uint8]], FaceDescriptions],
    scoring: Scoring,
    hides: Sequence[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = (),
    hide_both: bool = False,
    shortlist: int = 0,
    progress: Callable[..., Any] = lambda steps, description: steps,
) -> ImageScores:
    """Describe the images of a source and score its pairs, clean and, where something hides faces, occluded.

    Clean images are described once, and the descriptions of one draw are held at a time; of each draw its scores stay.
    Where all pairs are scored and one image of each is occluded, they are scored once more with the other one occluded:
    in a search every image is the probe once.

    Args:
        source: the images and pairs.
        describe: images uint8 [M, H, W, 3] -> their descriptions.
        scoring: how two are compared.
        hides: each images -> the same, occluded, one for each draw of occluders; none: clean pairs only.
        hide_both: whether both images of a pair are occluded, not the second one alone.
        shortlist: of all pairs match those alone whose images are among this many nearest by embedding; 0: all.
        progress: (steps, description=...) -> the steps, watched.
    """
    matcher, normalization = scoring
    matched: dict[str, NDArray[np.bool_]] = {}
    visible: dict[str, NDArray[np.float32]] = {}

    def score(first: FaceDescriptions, second: FaceDescriptions, condition: str) -> Scores:
        watch, seen = partial(progress, description=f"scoring {condition} pairs"), None
        if source.places is not None:
            match_pairs = None if matcher is None else matcher.match_pairs
            found = score_pair_list(first, source.places, match_pairs, others=second, progress=watch)
        elif shortlist and matcher is not None:
            found, seen = score_shortlisted_pairs(first, matcher, shortlist, others=second, progress=watch)
            matched.setdefault(condition, seen)
        else:
            found = score_all_pairs(first, matcher, others=second, progress=watch)
        if normalization is None:
            return found
        return comparable_scores(found, Sides(first, second, source.places), normalization, seen)

    def score_hidden(hidden: FaceDescriptions) -> Drawn:
        first = hidden if hide_both else clean
        scores = score(first, hidden, "occluded")
        if "occluded" not in visible and (shares := image_shares(first, hidden)) is not None:
            visible["occluded"] = shares
        is_searched = source.places is None and not hide_both
        return Drawn(scores, score(hidden, clean, "occluded") if is_searched else {})

    clean = describe(source.images)
    with torch.inference_mode():
        scores = {"clean": score(clean, clean, "clean")}
        if (shares := image_shares(clean, clean)) is not None:
            visible["clean"] = shares
        drawn = [score_hidden(describe(hide(source.images))) for hide in hides]
    if not drawn:
        return ImageScores(scores, matched, visible=visible)
    return ImageScores({**scores, "occluded": drawn[0].scores}, matched, drawn[0].exchanged, drawn[1:], visible)
