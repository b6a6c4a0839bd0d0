"""Margin heads: (embeddings, norms, labels) -> logits; whole or split over ranks, they give loss and class weights."""

from options import names
from options.names import registered

from .adaface import AdaFace
from .arcface import ArcFace
from .cosface import CosFace
from .curricularface import CurricularFace
from .head import Embedded, Head, HeadLoss, HeadOptions
from .magface import MagFace
from .margin_head import MarginHead
from .partial_fc import PartialFC, shard_bytes
from .subcenter_arcface import SubcenterArcFace

HEADS: dict[str, type[MarginHead]] = {name: registered(place) for name, place in names.HEADS.items()}


def build_head(
    name: str,
    embedding_size: int,
    num_classes: int,
    m: float | None = None,
    h: float | None = None,
    s: float = 64.0,
    t_alpha: float = 0.01,
) -> MarginHead:
    """Return a margin head; `head(embeddings [B, D], norms [B, 1], labels [B])` gives logits [B, num_classes].

    Args:
        name: a key of `HEADS`.
        embedding_size: length D of the embeddings.
        num_classes: identities to tell apart.
        m: margin; None is the published value: AdaFace 0.4, ArcFace 0.5, CosFace 0.4, CurricularFace 0.5, MagFace 0.8
            (of the longest embeddings), sub-center ArcFace 0.5.
        h: AdaFace's concentration; None is the published 0.333. The other heads have none and take no notice.
        s: scale of the cosines.
        t_alpha: rate at which AdaFace's norm statistics and CurricularFace's t move; likewise theirs alone.
    Raises:
        ValueError: if the head is unknown or a value is out of its range.
    """
    return build_from_options(name, embedding_size, num_classes, HeadOptions(m=m, h=h, s=s, t_alpha=t_alpha))


def build_from_options(name: str, embedding_size: int, num_classes: int, options: HeadOptions) -> MarginHead:
    """Return a margin head; see `build_head`. What a head has no use for is not looked at.

    Raises:
        ValueError: if the head is unknown or a value is out of its range.
    """
    if name not in HEADS:
        raise ValueError(f"build_head: unknown head {name!r}, expected one of {', '.join(HEADS)}")
    given = {key: value for key in HEADS[name].options if (value := getattr(options, key)) is not None}
    return HEADS[name](embedding_size, num_classes, **given)


__all__ = [
    "HEADS", "AdaFace", "ArcFace", "CosFace", "CurricularFace", "Embedded", "Head", "HeadLoss", "HeadOptions",
    "MagFace", "MarginHead", "PartialFC", "SubcenterArcFace", "build_from_options", "build_head", "shard_bytes",
]  # fmt: skip
