"""How a program that trains begins, before torch is imported: who launched it, and with whom it ends."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from importlib import import_module

from engine.signals import StopSignals, stop_with_parent, watch_rank_0
from options.command import user_errors
from options.engine import EngineOptions
from system.cores import bound_waiting
from system.launch import find_launch, is_main_process


def begin(prog: str) -> bool:
    """Let this rank end with its launcher and with rank 0, let its threads wait asleep; return whether it is rank 0.

    Call it when the options are known to be right, and import torch after it: how threads wait is read then.
    """
    with user_errors(prog):
        launched, is_main = find_launch(), is_main_process()
    if launched is None:
        watch_rank_0(is_main)
    elif launched.launcher == "torchrun":
        stop_with_parent(launched.launcher)
    bound_waiting()
    return is_main


def train(prog: str, module: str, config: EngineOptions, explicit: AbstractSet[str], argv: Sequence[str]) -> int:
    """Train under the eyes of signals, and return the exit code.

    Args:
        prog: the name that the program was called by.
        module: has `prepare(config, explicit, argv, stop)`, which gives a session, and `run(session)`; it is imported
            here, for it needs torch.
        config: options of the command.
        explicit: names of those that the user gave.
        argv: the words of the command, for the record.
    """
    is_main = begin(prog)
    work = import_module(module)
    with StopSignals(config.requeue, is_main) as stop:
        with user_errors(prog):
            session = work.prepare(config, explicit, argv, stop)
        code: int = work.run(session)
        return code
