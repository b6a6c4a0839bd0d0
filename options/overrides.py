"""`--override`: options that a checkpoint fixes, changed in the run that goes on from it.

Standard library only. What shapes the weights is compared where the model can be built, see cli/training.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from options.flags import INVOCATION, Option, Options, parse_value

Section = TypeVar("Section", bound=Options)

# They change the batches of an epoch, so one that has begun could not be ended.
BETWEEN_EPOCHS = frozenset({"accumulate_grad_batches", "batch_size", "epoch_by", "val_check_interval"})
# Why others stay what they are although the weights would fit.
NEVER = {
    "check_mode": "the weights are of the other precision",
    "custom_num_class": "the data decide it",
    **dict.fromkeys(
        ("curriculum", "curriculum_epochs", "curriculum_floor", "curriculum_gamma", "data_balance", "epoch_share"),
        "the place in the data follows it",
    ),
    "data_format": "it decides which identities are trained on",
    "ema_decay": "the average began with the run",
    "head_start": "the class weights began with the run",
    **dict.fromkeys(
        ("lora_alpha", "lora_layers", "lora_rank", "lora_by_quality"), "the adapters were trained as they are"
    ),
    "lr_factors": "the optimizer's state is grouped by them",
    "min_sizes": "the boxes that the weights describe are against them",
    "monitor": "best.ckpt was chosen by the other one",
    "optimizer": "the checkpoint holds the state of the other one",
    "prefix": "the run folder has the other one",
    "sampler": "the place in the data is the other one's",
    "seed": "the order of the data and the identities held out follow it",
    "stages": "the optimizer's state is grouped by them",
    "synthetic_scenes": "it decides which scenes are trained on",
    "swap_color_channel": "the weights know the other order",
    "synthetic_identities": "it decides which identities are trained on",
    "synthetic_images": "it decides which images are trained on",
    "teacher": "the run has learned from the other one",
    "use_mxrecord": "it decides which identities are trained on",
    "val_identities": "it decides which identities are trained on",
}


def split_assignments(text: str) -> tuple[str, ...]:
    """Return the assignments of "lr=0.01,lr_milestones=4,8": a comma before a name parts two."""
    pairs = [re.fullmatch(r"\s*-*([\w-]+)\s*=(.*)", word, re.DOTALL) for word in re.split(r",(?=\s*[\w-]+\s*=)", text)]
    words = [f"{pair[1].replace('-', '_')}={pair[2].strip()}" for pair in pairs if pair]
    if len(words) < len(pairs):
        raise argparse.ArgumentTypeError(f"expected name=value, as in lr=0.01; got {text!r}")
    return tuple(words)


def changed_options(section: Section, assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values that assignments give to options of a section, those that change nothing left out.

    Raises:
        ValueError: one line if there is no such option, its value is none, or it cannot be changed in a run.
    """
    options = {option.name: option for option in section.options()}
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        value = _read(options, name, text)
        if value != getattr(section, name):
            _refuse(options[name])
            changes[name] = value
        else:
            changes.pop(name, None)
    return changes


def override(section: Section, assignments: Sequence[str]) -> Section:
    """Return a section with the options changed; see `changed_options`."""
    return dataclasses.replace(section, **changed_options(section, assignments))


def _read(options: dict[str, Option], name: str, text: str) -> object:
    if name not in options:
        raise ValueError(f"--override {name}={text}: there is no option of this name")
    try:
        return parse_value(options[name], text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ValueError(f"--override {name}={text}: {error}") from error


def _refuse(option: Option) -> None:
    reason = NEVER.get(option.name)
    if option.spec.on_resume == INVOCATION:
        reason = f"it belongs to the command; give --{option.name} itself"
    if reason is not None:
        raise ValueError(f"--override {option.name}: it cannot change within a run: {reason}")
