"""Markup that foreign text cannot break out of: every text is escaped where it enters, only `Markup` passes as is."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import TypeAlias

from system.terminal import printable


class Markup(str):
    """HTML or SVG that `element` has made."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"  # Markup is a str
Attribute: TypeAlias = "str | int | float | bool | None"

_WITHOUT_END = frozenset(("meta", "input", "img", "br"))
# What ends a script or begins a comment in it; JSON reads the escapes back.
_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def element(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """Return an element.

    Args:
        name: of ours, never foreign.
        children: texts, which are escaped; Markup, which is not; lists of these; None is left out.
        attributes: names of ours, a trailing underscore is dropped and others become dashes; values are escaped, of
            True the name alone stands, None and False are left out.
    """
    start = f"<{name}{''.join(_attribute(*item) for item in attributes.items())}>"
    return Markup(start) if name in _WITHOUT_END else Markup(f"{start}{joined(children)}</{name}>")


def joined(children: Child) -> Markup:
    """Return text, Markup or lists of them as one piece; texts are escaped."""
    if isinstance(children, Markup):
        return children
    if children is None:
        return Markup("")
    if isinstance(children, str | int):
        return Markup(html.escape(printable(str(children))))
    return Markup("".join(map(joined, children)))


def script_json(value: object) -> Markup:
    """Return JSON for the inside of a script element of a type that is not run; the text cannot end it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII alone
    return Markup(text.translate(_IN_SCRIPT))


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], caption: Child, **attributes: Attribute) -> Markup:
    """Return a table that scrolls by itself where it is too wide; the first cell of a row heads it."""
    columns = [element("th", cell, scope="col") for cell in head]
    body = [
        element("tr", [element("th", first, scope="row"), [element("td", cell) for cell in others]])
        for first, *others in rows
    ]
    parts = [element("caption", caption), element("thead", element("tr", columns)), element("tbody", body)]
    name = caption if isinstance(caption, str) else "table"
    # It scrolls by keys too.
    return element(
        "div", element("table", parts, **attributes), class_="scroll", tabindex=0, role="group", aria_label=name
    )


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    plain = name.removesuffix("_").replace("_", "-")
    return f" {plain}" if value is True else f' {plain}="{html.escape(printable(str(value)))}"'
