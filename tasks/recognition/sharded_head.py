"""Heads in a run, whole or split over the ranks: how they are built, their place in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

import heads
from config import Config
from engine.composite import ShardSGD
from engine.module import TrainingModule


class Shard(NamedTuple):
    """A head that is split over the ranks, and what updates it."""

    head: heads.PartialFC
    optimizer: ShardSGD


Shards = Mapping[str, Shard]  # by the data set's name


def build_heads(config: Config, num_classes: Mapping[str, int]) -> dict[str, heads.Head]:
    """Return the head of every data set, by its name, as the options of the set say."""
    by_set = config.by_set()
    return {name: _build_head(by_set.get(name, config), count) for name, count in num_classes.items()}


def _build_head(config: Config, num_classes: int) -> heads.Head:
    """Return the head that the options ask for; one that is split takes its ranks from the process group."""
    c = config
    count = 1 if c.partial_fc_rate else num_classes
    options = heads.HeadOptions(m=c.m, h=c.h, s=c.s, t_alpha=c.t_alpha)
    head = heads.build_from_options(c.head, c.embedding_size, count, options)
    if not c.partial_fc_rate:
        return head
    return heads.PartialFC(head, num_classes, c.partial_fc_rate, c.seed, c.most_identities)


def weigh_sets(by_set: nn.ModuleDict, weights: Mapping[str, float], class_shares: Mapping[str, Tensor]) -> None:
    """Let the mean loss of each data set, whose heads these are, weigh what is stated, and tell its classes' shares."""
    for name, head in by_set.items():
        assert isinstance(head, heads.Head)
        head.set_weight, head.class_shares = weights[name], class_shares[name]


def check_frozen(config: Config, num_classes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the patterns of what is frozen; a head that is split, which no optimizer updates, cannot be.

    Raises:
        ValueError: one line with the pattern.
    """
    names = [f"heads.{name}.{key}" for name in num_classes for key in ("weight", "kernel")]
    hit = [pattern for pattern in config.frozen if any(fnmatchcase(name, pattern) for name in names)]
    if hit and config.partial_fc_rate:
        raise ValueError(f"--freeze {hit[0]}: a head that is split cannot be frozen; use --partial_fc_rate 0")
    return config.frozen


def check_patterns(module: TrainingModule, num_classes: Mapping[str, int]) -> None:
    """Refuse patterns of the options that fit no parameter; what fits a split head fits both of its names.

    It has one name in training and another in a checkpoint, which a run of any number of ranks goes on from.

    Raises:
        ValueError: one line with the flag and the pattern.
    """
    is_split = bool(getattr(module.options, "partial_fc_rate", 0.0))
    for key in ("weight", "kernel") if is_split else ("",):
        module.check_patterns([f"heads.{name}.{key}" for name in num_classes if is_split])


def check_several_sets(config: Config, num_classes: Mapping[str, int]) -> None:
    """Refuse what several data sets, each with labels and a head of its own, do not go together with.

    Raises:
        ValueError: one line with the flag.
    """
    if len(num_classes) == 1:
        return
    if config.partial_fc_rate:
        raise ValueError("--partial_fc_rate: the heads of several data sets cannot be split; use 0")
    if config.class_embeddings:
        raise ValueError("--class_embeddings: they know one data set's classes; leave them out with several")
    if config.qaconv_loss_weight and config.pairwise_reduction in ("mean", "row_sum"):
        raise ValueError(
            f"--pairwise_reduction {config.pairwise_reduction} counts every pair, and pairs from two data sets have no "
            "label; use ranking or balanced"
        )


def gather_into(checkpoint: MutableMapping[str, Any], shards: Shards) -> None:
    """Replace the shards in a checkpoint's `state_dict` by dense heads, and add `head_momentum`.

    The file knows nothing of ranks. All ranks must call it together; rank 0, which writes the file, has all classes.
    """
    state, momenta = checkpoint["state_dict"], {}
    for name, (head, optimizer) in shards.items():
        prefix = f"heads.{name}."
        for key in head.state_dict():
            del state[prefix + key]
        state.update({prefix + key: value for key, value in head.gather_dense_state().items()})
        if optimizer.momentum is not None:
            momenta[name] = head.gather_classes(optimizer.momentum)
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
    for name, (head, optimizer) in shards.items():
        optimizer.momentum = head.own_classes(momenta[name]) if name in momenta else None
