"""The progress bar of long work on a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from system.terminal import printable

T = TypeVar("T")


def tracked(
    items: Iterable[T], description: str, total: int | None = None, *, hidden: bool = False, transient: bool = False
) -> Iterable[T]:
    """Hand items on under a progress bar on stderr; there is none where that is no terminal, or if it is `hidden`."""
    # Who imports this to call a model may never show a bar.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    console = Console(stderr=True)
    disable = hidden or not console.is_terminal
    # What is converted may have a name that looks like rich's markup.
    return track(items, escape(printable(description)), total, console=console, disable=disable, transient=transient)
