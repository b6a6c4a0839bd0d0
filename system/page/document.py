"""The shell of a page that needs nothing else: no network, no library, and what it says stands there without script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from system.page.markup import Child, Markup, element, script_json

_STYLE = Path(__file__).parent / "page.css"


class Script(NamedTuple):
    """A script of a page, and the data that it finds in the element "data"."""

    text: str
    data: Mapping[str, object]


def document(
    title: str,
    about: Sequence[str],
    sections: Mapping[str, Child],
    script: Script | None = None,
    refresh: int | None = None,
) -> str:
    """Return a page of sections by their headings; those without content are left out.

    The policy lets nothing in but pictures within the page and this very style and script, whatever a defect lets out.

    Args:
        title: of the page.
        about: a few words below it.
        sections: in their order.
        script: what brings the page to life; None: nothing does.
        refresh: seconds after which a browser loads the page again; None: it does not.
    """
    style = _STYLE.read_text(encoding="utf-8")
    allowed = "'none'" if script is None else f"'{_digest(script.text)}'"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src {allowed};"
        " base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        None if refresh is None else element("meta", http_equiv="refresh", content=refresh),
        element("title", title),
        element("style", Markup(style)),
    )
    shown = {heading: content for heading, content in sections.items() if content}
    links = [element("li", element("a", heading, href=f"#part-{place}")) for place, heading in enumerate(shown)]
    body = element(
        "body",
        element("a", "Skip to the answer", href="#part-0", class_="skip"),
        element("header", element("h1", title), element("p", ", ".join(about)) if about else None),
        element("nav", element("ul", links), aria_label="Contents"),
        element("main", [_section(*item, place) for place, item in enumerate(shown.items())]),
        None if script is None else _running(script),
    )
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def _running(script: Script) -> list[Markup]:
    return [
        element("script", script_json(script.data), type="application/json", id="data"),
        element("script", Markup(script.text)),
    ]


def _section(heading: str, content: Child, place: int) -> Markup:
    return element("section", element("h2", heading, id=f"heading-{place}"), content, id=f"part-{place}", tabindex=-1,
                   aria_labelledby=f"heading-{place}")  # fmt: skip


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
