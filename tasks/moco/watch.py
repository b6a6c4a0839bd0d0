"""What says that a contrastive training goes wrong: how the embeddings of a batch lie, and where the loss sits."""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.representation.measures import alignment, rankme, std_per_dimension, uniformity
from tasks.moco.contrast import Comparison, Rules

COLLAPSED_WITHIN = 0.01  # of the loss of an encoder that gives every image one embedding
FIRST_STEP = 100  # before it, all encoders look collapsed


def chance_loss(left_out: Tensor, rules: Rules) -> Tensor:
    """Return the mean of ln(1 + n e^{margin / temperature}), n the negatives of a row: the loss of a collapsed encoder.

    Args:
        left_out: [B, K] bool.
    """
    counts = (~left_out).sum(dim=1).double()
    return torch.log1p(counts * torch.tensor(rules.margin / rules.temperature, dtype=torch.double).exp()).mean()


def compared_values(compared: Comparison, rules: Rules) -> dict[str, Tensor]:
    """Return mean cosines, the negatives of a query, the loss of a collapsed encoder."""
    kept = ~compared.left_out
    count = kept.sum()
    negative = compared.similarity.detach().where(kept, 0).sum() / count.clamp_min(1)
    return {
        "positive_cosine": compared.positive.detach().mean(),
        "negative_cosine": negative,
        "negatives": count / len(kept),
        "chance_loss": chance_loss(compared.left_out, rules),
    }


def spread_values(queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """Return how the unit vectors of a batch [B, dim] lie; the host waits for them.

    spread: the mean over dimensions of their standard deviation, times the root of dim: 1 evenly on the sphere, 0
    collapsed. alignment: mean squared distance of query and key. uniformity: log of the mean of e^{-2 d^2} over pairs
    of queries, 0 collapsed (Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", arXiv:2005.10242). rank: RankMe, e to the entropy of the singular values (Garrido et
    al., arXiv:2210.02885).
    """
    values, positives = queries.detach().double().cpu().numpy(), keys.double().cpu().numpy()
    measured = {
        "spread": float(std_per_dimension(values).mean()) * values.shape[1] ** 0.5,
        "alignment": alignment(values, positives),
        "uniformity": uniformity(values),
        "rank": rankme(values),
    }
    return {name: torch.tensor(value, dtype=torch.double, device=queries.device) for name, value in measured.items()}


def collapse(values: dict[str, float], step: int) -> str | None:
    """Return what to say of a row of metrics.csv whose loss is that of a collapsed encoder; None of any other."""
    loss, chance = values.get("train_nce_loss"), values.get("chance_loss")
    if step < FIRST_STEP or loss is None or chance is None or abs(loss - chance) > COLLAPSED_WITHIN * chance:
        return None
    return (
        f"step {step}: the loss is {loss:.3f}, and ln(1 + K e^(m/T)) = {chance:.3f} is what an encoder has that gives "
        f"every image one embedding: collapsed, or not begun to learn (spread {values.get('spread', float('nan')):.2f} "
        "of 1); lower --lr, warm up longer, or raise --temperature"
    )
