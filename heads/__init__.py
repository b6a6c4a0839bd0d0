"""Margin heads: (embeddings, norms, labels) -> logits; split over ranks, they give the loss."""

from .adaface import AdaFace
from .arcface import ArcFace
from .cosface import CosFace
from .margin_head import MarginHead
from .partial_fc import PartialFC, shard_bytes

HEADS: dict[str, type[MarginHead]] = {"adaface": AdaFace, "arcface": ArcFace, "cosface": CosFace}


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
        m: margin; None is the published value: AdaFace 0.4, ArcFace 0.5, CosFace 0.4.
        h: AdaFace's concentration; None is the published 0.333. The other heads have none and take no notice.
        s: scale of the cosines.
        t_alpha: rate at which AdaFace's norm statistics move; likewise AdaFace's alone.
    Raises:
        ValueError: if the head is unknown or a value is out of its range.
    """
    if name not in HEADS:
        raise ValueError(f"build_head: unknown head {name!r}, expected one of {', '.join(HEADS)}")
    given = {"m": m, "h": h, "s": s, "t_alpha": t_alpha}
    options = {key: value for key in HEADS[name].options if (value := given[key]) is not None}
    return HEADS[name](embedding_size, num_classes, **options)


__all__ = ["HEADS", "AdaFace", "ArcFace", "CosFace", "MarginHead", "PartialFC", "build_head", "shard_bytes"]
