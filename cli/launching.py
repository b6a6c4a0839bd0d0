"""How a program that trains begins, before torch is imported: who launched it, and with whom it ends."""

from __future__ import annotations

from engine.signals import stop_with_parent, watch_rank_0
from options.command import user_errors
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
