"""The hardest pairs as pictures: what each network saw, which cells it matched, and what it took for hidden."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.report.page.answer import method_name
from evaluation.report.page.curves import KINDS
from evaluation.report.page.figures import figure
from evaluation.report.results import Results
from system.files import is_regular
from system.page.markup import Child, Markup, element

SIDE = 112  # pixels of a face in the drawing
MAX_SHEET = 2**22  # bytes of the sheet of samples
MAX_PICTURE = 2**18  # bytes; a pair of faces has some 10,000
_PICTURE = re.compile(r"pairs/[0-9]{1,6}\.jpg")
_SEEN = 0.97  # from here on a cell is drawn as it is
NOTE = (
    "Above: the pair as the network saw it, and lines between cells that are each other's best match, wider for a"
    " higher cosine. Below: the same, darker where the network takes a face for hidden."
)


def hardest(results: Results, name: str, folder: Path, anonymous: bool = False) -> list[Markup]:
    """Return a row of pictures for each condition and kind of a set's hardest pairs; none where nothing is known."""
    found = results["benchmarks"][name].get("hardest") or {}
    rows = []
    for condition, by_kind in found.items():
        for kind, text in KINDS.items():
            if not by_kind.get(kind):
                continue
            low = "lowest" if kind == "genuine" else "highest"
            title = f"{text[0].upper()}{text[1:]} with the {low} {method_name(by_kind['method'])} scores, {condition}"
            drawn = [
                element(
                    "li",
                    _pair(results, ("benchmarks", name, "hardest", condition, kind, number), pair, folder, anonymous),
                )
                for number, pair in enumerate(by_kind[kind])
            ]
            rows.append(element("section", element("h4", title), element("ul", drawn, class_="pairs")))
    return rows


def _pair(results: Results, place: tuple[str | int, ...], pair: Any, folder: Path, anonymous: bool) -> Markup:
    names = None if anonymous else pair.get("names")
    picture = None if anonymous else read_picture(folder, pair.get("picture"))
    told: list[Child] = ["score ", figure(results, (*place, "score"), "score"), element("br")]
    if names:
        told += [element("span", " / ".join(names)), element("br")]
    told.append(f"pair {pair['place'] + 1:,}")
    if pair.get("visibility"):
        told.append(f"; visible {' and '.join(f'{100 * _mean(seen):.0f} %' for seen in pair['visibility'])}")
    title = f"Pair {pair['place'] + 1}" + (f": {' and '.join(names)}" if names else "")
    return element("figure", _drawing(picture, pair, title), element("figcaption", told))


def _drawing(picture: str | None, pair: Any, title: str) -> Markup:
    """Return both faces joined by their matches, over both faces under what is hidden of them."""
    shown = pair.get("visibility")
    faces, again = _faces(picture, pair.get("picture"))
    below = [] if shown is None else [again, *(_shade(seen, side) for side, seen in enumerate(shown))]
    height = SIDE * (1 if shown is None else 2)
    return element(
        "svg", faces, _matches(pair), below, viewBox=f"0 0 {2 * SIDE} {height}", role="img", aria_label=title
    )


def _faces(picture: str | None, name: str) -> tuple[Markup, Markup]:
    """Return the picture, and the same once more below it; blank ones where there is none."""
    size = {"x": 0, "width": 2 * SIDE, "height": SIDE}
    if picture is None:
        above, below = (element("rect", y=top, class_="blank", **size) for top in (0, SIDE))
        return above, below
    name = name.replace("/", "-").removesuffix(".jpg")
    return element("image", id=name, href=picture, y=0, **size), element("use", href=f"#{name}", y=SIDE)


def _shade(seen: Sequence[Sequence[float]], side: int) -> list[Markup]:
    tall, wide = SIDE / len(seen), SIDE / len(seen[0])
    return [
        element(
            "rect", x=f"{side * SIDE + column * wide:.1f}", y=f"{SIDE + row * tall:.1f}", width=f"{wide:.1f}",
            height=f"{tall:.1f}", class_="hidden-cell", fill_opacity=f"{0.85 * (1 - share):.2f}",
        )
        for row, line in enumerate(seen)
        for column, share in enumerate(line)
        if share < _SEEN
    ]  # fmt: skip


def _matches(pair: Any) -> list[Markup]:
    matches = pair.get("matches") or []
    shape = pair.get("cells") or [7, 7]
    lines = []
    for a, b, cosine in matches:
        (x1, y1), (x2, y2) = _center(a, shape), _center(b, shape)
        width = f"{0.5 + 2.5 * max(0.0, cosine):.1f}"
        lines.append(
            element("path", d=f"M{x1:.1f} {y1:.1f}L{SIDE + x2:.1f} {y2:.1f}", class_="match", stroke_width=width)
        )
    return lines


def _center(cell: int, shape: Sequence[int]) -> tuple[float, float]:
    row, column = divmod(cell, shape[1])
    return (column + 0.5) * SIDE / shape[1], (row + 0.5) * SIDE / shape[0]


def _mean(seen: Sequence[Sequence[float]]) -> float:
    cells = [share for row in seen for share in row]
    return sum(cells) / len(cells)


def read_picture(folder: Path, name: object) -> str | None:
    """Return a picture of a report's folder as a data URI; None where its name or content is none that we write."""
    if not isinstance(name, str) or not _PICTURE.fullmatch(name):
        return None
    return data_uri(folder / name, "jpeg", b"\xff\xd8\xff", MAX_PICTURE)


def data_uri(path: Path, kind: str, magic: bytes, limit: int) -> str | None:
    """Return the content of an image file as a data URI; None where it is none, or larger than limit bytes."""
    if not is_regular(path) or path.stat().st_size > limit:
        return None
    content = path.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if content.startswith(magic) else None


def sample_sheet(path: Path) -> Markup | None:
    """Return the sheet of samples of a run; None where there is none."""
    uri = data_uri(path, "png", b"\x89PNG\r\n\x1a\n", MAX_SHEET)
    return (
        None
        if uri is None
        else element("img", src=uri, alt="The first training images with their masks", class_="sheet")
    )
