"""Which file of one folder of identities belongs to which of another: `hr/<person>/<name>` and `lr/<person>/<name>`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from datasets.counted import counted
from datasets.faces.listed_images import stem_of

HR = "hr"
PARTNERS = ("lr", "dsr")  # as a camera saw them; the same after a super-resolution
LAYOUT = f"expected {HR}/<person>/<image> with {' or '.join(f'{name}/<person>/<image>' for name in PARTNERS)}"
_MAX_NAMED = 3


def is_paired(root: Path) -> bool:
    """Return whether a folder holds folders of identities by resolution, not the identities themselves."""
    folder = root / HR
    return folder.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())


def partner_of(root: Path, name: str | None = None) -> Path:
    """Return the folder that holds the partners of `root/hr`.

    Args:
        root: folder of both.
        name: of the partners' folder; None: the one of PARTNERS that is there.
    Raises:
        ValueError: if there is none, or both and no name says which.
    """
    if not (root / HR).is_dir():
        raise ValueError(f"{root}: holds no folder {HR}; {LAYOUT}")
    present = [each for each in PARTNERS if (root / each).is_dir()]
    if name is None and len(present) > 1:
        raise ValueError(f"{root}: holds {' and '.join(present)}; say which one is the partner of {HR}")
    if name is None and not present:
        raise ValueError(f"{root}: holds {HR} alone; {LAYOUT}, or train on {root / HR} with a degradation")
    folder = root / (name or present[0])
    if not folder.is_dir():
        raise ValueError(f"{root}: holds no folder {folder.name}, the partners of {HR}; {LAYOUT}")
    return folder


def match_partners(root: Path, own: Iterable[str], others: Iterable[str], names: tuple[str, str]) -> list[str]:
    """Return the partner of each image: of the same person and the same name, whose suffix may be another.

    Args:
        root: folder of both, for messages.
        own: `<person>/<image>` of each image.
        others: likewise, where partners are looked for.
        names: of the two folders.
    Returns:
        One of `others` for each of `own`, in their order.
    Raises:
        ValueError: one line, if people are named differently by case or by the encoding of accents, an image has no
            partner on the other side, or two images of one person have the same name but for the suffix.
    """
    first, second = (_by_stem(root / name, files) for name, files in zip(names, (own, others), strict=True))
    people = [{stem.partition("/")[0] for stem in stems} for stems in (first, second)]
    _refuse_other_names(root, people[0] - people[1], people[1] - people[0], names)
    alone = [sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())]
    faults = [
        f"{counted(len(stems), 'image')} of {mine} without a partner in {other}, the first {_listed(stems)}"
        for stems, mine, other in zip(alone, names, names[::-1], strict=True)
        if stems
    ]
    if faults:
        raise ValueError(f"{root}: {'; '.join(faults)}; add the partners or take these images out")
    return [second[stem] for stem in first]


def _by_stem(folder: Path, files: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        other = found.setdefault(stem_of(file), file)
        if other != file:
            raise ValueError(f"{folder}: {other} and {file} have one name but for the suffix; remove one of them")
    return found


def _refuse_other_names(root: Path, mine: set[str], theirs: set[str], names: tuple[str, str]) -> None:
    """Refuse people of one side alone whom the other side has by a name that looks the same."""
    by_look = {_look(name): name for name in theirs}
    alike = sorted((name, by_look[_look(name)]) for name in mine if _look(name) in by_look)
    if alike:
        # On a screen two encodings of one accent are the same.
        mine_name, their_name = map(ascii, alike[0])
        raise ValueError(
            f"{root}: {counted(len(alike), 'identity')} under different names, the first {mine_name} in {names[0]} and "
            f"{their_name} in {names[1]}; rename the folders"
        )


def _look(name: str) -> str:
    return unicodedata.normalize("NFKC", name.casefold())


def _listed(stems: list[str]) -> str:
    return ", ".join(stems[:_MAX_NAMED])
