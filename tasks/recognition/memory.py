"""What a rank will hold of a recognizer, said before it is built."""

from __future__ import annotations

from pathlib import Path

import heads
import nets
import qaconv
from config import Config
from engine.out_of_memory import IMAGE_BYTES
from tasks.recognition.score_matrix import pairs_cross_ranks

LARGE_HEAD = 2**28  # bytes of weights, from which on it is worth to know what splitting the head would take


def plan_memory(
    config: Config, model: nets.Backbone, matcher: qaconv.QAConv | None, num_classes: int, num_ranks: int = 1
) -> str:
    """Return what a rank holds: network, head, and what else grows with identities or ranks; one line."""
    parameters = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    weights = sum(size for size, _ in parameters)
    trained = sum(size for size, is_trained in parameters if is_trained)
    size = weights + (1 + optimizer_states(config)) * trained
    parts = [f"backbone with gradient and optimizer state {megabytes(size)}"]
    parts.append(_plan_head(config, num_classes, num_ranks))
    parts += _plan_views(config, weights, num_classes, num_ranks)
    if config.class_embeddings and matcher is not None:
        size, dtype = matcher.class_embedding_bytes(num_classes), "float16"
        if config.check_mode:
            size, dtype = 4 * size, "float64"
        how = f"all on every rank: {dtype}, without momentum, updated sparsely"
        parts.append(f"class embeddings {megabytes(size)}, {how}")
    if matcher is not None:
        parts += plan_pairs(matcher, config, num_ranks)
    return "; ".join(parts)


def _plan_views(config: Config, backbone_bytes: int, num_classes: int, num_ranks: int) -> list[str]:
    """Return what a second view of each image takes, and a teacher; nothing without."""
    c, parts = config, []
    num_images = c.batch_size // num_ranks
    if c.trains_on_views:
        pixels = megabytes(2 * num_images * IMAGE_BYTES)
        parts.append(f"two views: {2 * num_images} images a step go through the network, pixels {pixels}")
    if c.has_teacher:
        is_file = c.teacher is not None and Path(c.teacher).is_file()  # a run that goes on does not need it
        size = Path(str(c.teacher)).stat().st_size if is_file else backbone_bytes
        parts.append(f"teacher {megabytes(size)}, without gradient")
    if c.classifier_weight:
        logits = megabytes(3 * 4 * num_images * num_classes)
        centers = megabytes(4 * c.embedding_size * num_classes)
        parts.append(f"its classifier about {centers}, logits of both and a gradient {logits}")
    return parts


def _plan_head(config: Config, num_classes: int, num_ranks: int) -> str:
    """Return the memory of a rank's head as text, and for a large one that is whole what splitting it would leave."""
    c, rate = config, config.partial_fc_rate or 1.0
    split = heads.shard_bytes(num_classes, c.embedding_size, num_ranks, rate, c.batch_size, c.most_identities)
    split_text = f"{megabytes(split)} split over {num_ranks} ranks at --partial_fc_rate {rate:g}"
    if c.partial_fc_rate:
        return f"head {split_text}"
    columns = heads.HEADS[c.head].num_centers * num_classes
    num_rows = c.batch_size // num_ranks * (2 if c.trains_on_views and c.head_views == "both" else 1)
    kernel, logits = 4 * c.embedding_size * columns, 4 * num_rows * columns
    dense = (
        f"head weights {megabytes(kernel)}, their gradient {megabytes(kernel)}, "
        f"optimizer state {megabytes(optimizer_states(c) * kernel)}, "
        f"logits of a batch and their gradient {megabytes(2 * logits)}"
    )
    return f"{dense} ({split_text})" if kernel > LARGE_HEAD and heads.HEADS[c.head].can_split else dense


def optimizer_states(config: Config) -> int:
    """Return the numbers that the optimizer keeps for each weight."""
    return 2 if config.optimizer == "adamw" else int(config.momentum > 0)


def plan_pairs(matcher: qaconv.QAConv, config: Config, num_ranks: int) -> list[str]:
    """Return a line about what pairs across ranks cost a rank in a step; none where they are off."""
    if not pairs_cross_ranks(config) or num_ranks == 1:
        return []
    num_gallery, number = config.batch_size, 8 if config.check_mode else 4
    num_probes = num_gallery // num_ranks
    channels, height, width = matcher.map_shape
    num_cells = height * width
    map_bytes, pair_products = number * channels * num_cells, matcher.matched_channels * num_cells**2
    others = megabytes((num_gallery - num_probes) * map_bytes)
    # A best match, its gradient twice on the way back, its index: for the cells of either side of a pair.
    matches = megabytes(2 * num_probes * num_gallery * num_cells * (3 * number + 1))
    return [
        f"pairs across {num_ranks} ranks: {num_probes} x {num_gallery} on each instead of {num_probes} x {num_probes} "
        f"(multiplications {num_probes * num_gallery * pair_products / 1e9:,.1f}e9 instead of "
        f"{num_probes * (num_probes + 1) / 2 * pair_products / 1e9:,.1f}e9), maps of other ranks received {others} and "
        f"their gradient sent {others} a step; all maps and their gradient {megabytes(2 * num_gallery * map_bytes)}, "
        f"best matches {matches}"
    ]


def megabytes(num_bytes: int) -> str:
    """Return a size as text."""
    return f"{num_bytes / 2**20:,.1f} MiB"
