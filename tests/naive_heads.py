"""Batches for the heads, and their losses by plain loops in float64, one number at a time, with no function of ours."""

import math

import torch
from torch.nn import functional

import nets


def features(size, dim=5, seed=0, least=2.0, most=140.0):
    """Return float64 Features with norms between `least` and `most`, and no feature map to speak of."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = functional.normalize(torch.randn(size, dim, generator=generator, dtype=torch.float64), dim=1)
    norms = least + (most - least) * torch.rand(size, 1, generator=generator, dtype=torch.float64)
    return nets.Features(embeddings, norms, torch.empty(0))


def cosine(embedding, kernel, column, eps=1e-4):
    """Return the cosine of an embedding with a column of the kernel, clamped."""
    weights = kernel[:, column].tolist()
    dot = sum(x * w for x, w in zip(embedding.tolist(), weights, strict=True))
    return min(max(dot / math.sqrt(sum(w * w for w in weights)), -1 + eps), 1 - eps)


def with_angle(value, angle, eps=1e-4):
    """Return cos(acos(value) + angle), the angle clamped."""
    return math.cos(min(max(math.acos(value) + angle, eps), math.pi - eps))


def cross_entropy(logits, labels):
    """Return the mean of log(sum(exp(row))) - row[label]."""
    rows = zip(logits, labels, strict=True)
    return sum(math.log(sum(math.exp(x) for x in row)) - row[label] for row, label in rows) / len(logits)


def accuracy(logits, labels):
    """Return the share of the rows whose greatest number is the label's."""
    return sum(max(row) == row[label] for row, label in zip(logits, labels, strict=True)) / len(logits)
