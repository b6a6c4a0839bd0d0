"""Heads split over the ranks, in a run: their memory, the norm of their gradient, their place in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

import heads
from config import IMAGES_PER_IDENTITY, Config
from engine import updates

LARGE_HEAD = 2**28  # bytes of weights, from which on it is worth to know what splitting the head would take

Shards = Mapping[str, heads.PartialFC]


def find_shards(modules: nn.ModuleDict) -> dict[str, heads.PartialFC]:
    """Return those of the heads that are split over the ranks, by the data set's name."""
    return {name: head for name, head in modules.items() if isinstance(head, heads.PartialFC)}


def build_head(config: Config, num_classes: int) -> heads.Head:
    """Return the head that the options ask for; one that is split takes its ranks from the process group."""
    c = config
    count = 1 if c.partial_fc_rate else num_classes
    options = heads.HeadOptions(m=c.m, h=c.h, s=c.s, t_alpha=c.t_alpha)
    head = heads.build_from_options(c.head, c.embedding_size, count, options)
    if not c.partial_fc_rate:
        return head
    return heads.PartialFC(head, num_classes, c.partial_fc_rate, c.seed, c.batch_size // IMAGES_PER_IDENTITY)


def check_frozen(config: Config, num_classes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the patterns of what is frozen; a head that is split, which no optimiser updates, cannot be.

    Raises:
        ValueError: one line with the pattern.
    """
    names = [f"heads.{name}.{key}" for name in num_classes for key in ("weight", "kernel")]
    hit = [pattern for pattern in config.frozen if any(fnmatchcase(name, pattern) for name in names)]
    if hit and config.partial_fc_rate:
        raise ValueError(f"--freeze {hit[0]}: a head that is split cannot be frozen; use --partial_fc_rate 0")
    return config.frozen


def plan_memory(config: Config, num_classes: int, num_ranks: int) -> str:
    """Return the memory of a rank's head as text, and for a large one that is whole what splitting it would leave."""
    c, rate = config, config.partial_fc_rate or 1.0
    groups = c.batch_size // IMAGES_PER_IDENTITY
    split = heads.shard_bytes(num_classes, c.embedding_size, num_ranks, rate, c.batch_size, groups)
    split_text = f"{megabytes(split)} split over {num_ranks} ranks at --partial_fc_rate {rate:g}"
    if c.partial_fc_rate:
        return f"head {split_text}"
    columns = heads.HEADS[c.head].num_centers * num_classes
    kernel, logits = 4 * c.embedding_size * columns, 4 * c.batch_size // num_ranks * columns
    dense = (
        f"head weights {megabytes(kernel)}, their gradient {megabytes(kernel)}, "
        f"optimiser state {megabytes(optimiser_states(c) * kernel)}, "
        f"logits of a batch and their gradient {megabytes(2 * logits)}"
    )
    return f"{dense} ({split_text})" if kernel > LARGE_HEAD and heads.HEADS[c.head].can_split else dense


def optimiser_states(config: Config) -> int:
    """Return the numbers that the optimiser keeps for each weight."""
    return 2 if config.optimizer == "adamw" else int(config.momentum > 0)


def gradient_norms(parameters: Mapping[str, Tensor], shards: Shards) -> tuple[dict[str, Tensor], Tensor]:
    """Return the norm of each parameter's gradient, and that of all together; all ranks must call it together.

    Args:
        parameters: those with a gradient, by name.
        shards: the heads among their owners that are split; their norms are those of all classes.
    """
    split = {id(shard.weight) for shard in shards.values()}
    names = [name for name, parameter in parameters.items() if id(parameter) not in split]
    norms = updates.gradient_norms([parameters[name] for name in names])
    of_shards = {f"heads.{name}.weight": shard.gradient_norm() for name, shard in shards.items()}
    whole = torch.stack([norms.norm(), *of_shards.values()]).norm() if shards else norms.norm()
    return dict(zip(names, norms.unbind(), strict=True)) | of_shards, whole


def gather_into(checkpoint: MutableMapping[str, Any], shards: Shards) -> None:
    """Replace the shards in a checkpoint's `state_dict` by dense heads, and add `head_momentum`.

    The file knows nothing of ranks. All ranks must call it together; rank 0, which writes the file, has all classes.
    """
    state, momenta = checkpoint["state_dict"], {}
    for name, shard in shards.items():
        prefix = f"heads.{name}."
        for key in shard.state_dict():
            del state[prefix + key]
        state.update({prefix + key: value for key, value in shard.gather_dense_state().items()})
        if shard.momentum is not None:
            momenta[name] = shard.gather_classes(shard.momentum)
    checkpoint["head_momentum"] = momenta


def load_dense(head: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a head, split or not, the state of a dense one, its statistics alone, or nothing."""
    if not state:
        return
    if isinstance(head, heads.PartialFC) and "kernel" not in state:
        head.margin.load_state_dict(dict(state))
    else:
        head.load_state_dict(dict(state), strict="kernel" in state)


def restore_momentum(checkpoint: Mapping[str, Any], shards: Shards) -> None:
    """Take each shard's part of `head_momentum`; their weights are loaded with the state dict."""
    momenta = checkpoint.get("head_momentum", {})
    for name, shard in shards.items():
        shard.momentum = shard.own_classes(momenta[name]) if name in momenta else None


def megabytes(num_bytes: int) -> str:
    """Return a size as text."""
    return f"{num_bytes / 2**20:,.1f} MiB"
