"""Command-line flags generated from dataclass fields.

config.py says which options exist; this module knows how an option becomes a flag and how its value is checked. It is
apart from config.py because that file grows with every option and this one does not. Standard library only, so that
`--help` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar, get_args, get_origin, get_type_hints

from options.command import FlagParser, at_home, user_errors

# What reads flags is also found here.
__all__ = [
    "FIXED", "INVOCATION", "MAY_CHANGE", "FlagParser", "Option", "Options", "Spec", "add_flags", "flag", "flag_like",
    "merge_options", "parse_value", "user_errors",
]  # fmt: skip

LARGEST = 2**31 - 1  # of a number without an upper bound of its own: more overflows somewhere below
MAX_WORD = 4096  # characters of a word; no path is longer

T = TypeVar("T")
Section = TypeVar("Section", bound="Options")

# What happens to an option when a run is resumed.
FIXED = "fixed"  # the checkpoint decides, another value is refused
MAY_CHANGE = "may change"  # the checkpoint decides unless the flag is given
INVOCATION = "invocation"  # belongs to the command, never comes from the checkpoint


class Spec(NamedTuple):
    """What a field declares about its flag; see `flag`."""

    help: str
    choices: tuple[str, ...]
    within: str
    on_resume: str
    parse: Callable[[str], object] | None
    const: object
    before: object


class Option(NamedTuple):
    """One field of a section, read: `base` is bool, int, float or str, `many` a tuple of it, `optional` allows None."""

    name: str
    default: object
    base: type
    many: bool
    optional: bool
    spec: Spec


def flag(  # noqa: PLR0913  (all that a field can declare of its flag)
    default: T,
    help: str,
    *,
    choices: Iterable[str] = (),
    within: str = "",
    on_resume: str = FIXED,
    parse: Callable[[str], object] | None = None,
    const: object = None,
    before: object = None,
) -> T:
    """Return a dataclass field that is also a command-line flag of the same name.

    Args:
        default: the value when the flag is not given; written here and nowhere else.
        help: a few words for `--help`, which adds the default unless it is None.
        choices: the only values allowed; for a tuple of strings the only members.
        within: an interval such as "(0, 1]" or "[0, inf)" for a number. One that is not finite is always refused.
        on_resume: FIXED, MAY_CHANGE or INVOCATION.
        parse: turns the word of the command line into the value, where the field's type does not say how; of a tuple
            that is given several times all members then count.
        const: the value when the flag is given without a word; None: it needs one.
        before: what runs did before there was this option: its value where saved options lack it. None: the default.
    """
    spec = Spec(help, tuple(choices), within, on_resume, parse, const, before)
    return dataclasses.field(default=default, metadata={"spec": spec})


def flag_like(section: type[Options], name: str) -> Any:
    """Return a field that is a flag in all but its name as one of another section: default, help, bounds."""
    (field,) = (field for field in dataclasses.fields(section) if field.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


_READ: dict[type, list[Option]] = {}  # to read the types of annotations takes milliseconds


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every section: values are checked at birth and travel as primitives.

    Raises:
        ValueError: one line that names the flag, what is expected and what was given.
    """

    def __post_init__(self) -> None:
        for option in self.options():
            _check(option, getattr(self, option.name))

    @classmethod
    def options(cls) -> list[Option]:
        """Return the options of this section, or of all sections that this class inherits."""
        if cls not in _READ:
            hints = get_type_hints(cls)
            _READ[cls] = [_read_field(field, hints[field.name]) for field in dataclasses.fields(cls)]
        return list(_READ[cls])

    def to_dict(self) -> dict[str, object]:
        """Return the options as bool, int, float, str, None and lists of these: safe in JSON and in a checkpoint."""
        values = {option.name: getattr(self, option.name) for option in self.options()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Self:
        """Return the options that `to_dict` wrote; what is absent has the value of `flag(before=...)`, or its default.

        Raises:
            ValueError: if a key is not an option, or a value is not allowed.
        """
        unknown = sorted(values.keys() - {option.name for option in cls.options()})
        if unknown:
            raise ValueError(f"{cls.__name__}: unknown options {', '.join(unknown)}; was it saved by another version?")
        absent = {o.name: o.spec.before for o in cls.options() if o.name not in values and o.spec.before is not None}
        return cls(**absent, **{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def merge_options(saved: Section, given: Section, explicit: AbstractSet[str]) -> Section:
    """Return the options of a resumed run: the saved ones, with the changes that their `on_resume` allows.

    Args:
        saved: options of the run to resume.
        given: options of the command that resumes it.
        explicit: names of those that the user gave; of the others `given` holds the default only.
    Raises:
        ValueError: if an option that the user gave contradicts a saved one that is FIXED.
    """
    changes: dict[str, Any] = {}
    for option in saved.options():
        name, old, new = option.name, getattr(saved, option.name), getattr(given, option.name)
        if option.spec.on_resume == INVOCATION or (option.spec.on_resume == MAY_CHANGE and name in explicit):
            changes[name] = new
        elif name in explicit and new != old:
            raise ValueError(
                f"--{name} {_shown(new)} conflicts with {_shown(old)} in the checkpoint; leave the flag out, or change"
                f" it with --override {name}={_shown(new)}"
            )
    return dataclasses.replace(saved, **changes)


def _read_field(field: dataclasses.Field, annotation: object) -> Option:
    members = get_args(annotation)
    many = get_origin(annotation) is tuple
    base = members[0] if members else annotation
    assert isinstance(base, type), f"{field.name}: no flag can hold {annotation}"
    return Option(field.name, field.default, base, many, bool(members) and not many, field.metadata["spec"])


def _check(option: Option, value: object) -> None:
    if value is None and option.optional:
        return
    if isinstance(value, tuple) != option.many:
        raise ValueError(f"--{option.name} must {'' if option.many else 'not '}be a tuple, got {value!r}")
    for member in value if isinstance(value, tuple) else (value,):
        _check_member(option, member)


def _check_member(option: Option, value: object) -> None:
    choices = option.spec.choices
    accepted = (int, float) if option.base is float else option.base
    # bool is an int to Python; here True is no number.
    if not isinstance(value, accepted) or (isinstance(value, bool) and option.base is not bool):
        raise ValueError(f"--{option.name} must be of type {option.base.__name__}, got {value!r}")
    if choices and value not in choices:
        raise ValueError(f"--{option.name}: {value!r} is not one of {', '.join(choices)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(option, value)


def _check_number(option: Option, value: float) -> None:
    within = option.spec.within or "(-inf, inf)"
    low, high = (float(bound) for bound in within[1:-1].split(","))
    above = value > low if within[0] == "(" else value >= low
    below = value < high if within[-1] == ")" else value <= high
    if not (above and below) or value in (math.inf, -math.inf):
        raise ValueError(f"--{option.name} must be in {within}, got {_shown_number(value)}")
    limit = max(LARGEST, high) if math.isfinite(high) else LARGEST
    if abs(value) > limit:
        raise ValueError(f"--{option.name} must be at most {limit}, got {_shown_number(value)}")


def _shown_number(value: float) -> str:
    if isinstance(value, int) and abs(value) > 10**20:
        return f"a number of about {round(value.bit_length() * math.log10(2))} digits"
    return str(value)


def add_flags(
    parser: argparse.ArgumentParser, program: type[Options], *, separator: str = "_", defaults: bool = True
) -> None:
    """Add a flag for every option of a program, one help group per section that it inherits, the last one first.

    That is the order of the fields, as dataclasses collect them. A section alone may be a program. One that another
    section of the program inherits from is left out for it: so a program has defaults of its own. A section's
    docstring heads its group. Each flag exists with underscores and with dashes; the help shows the spelling with
    `separator`. A switch is taken back with `--no_` in front. With `defaults=False` a flag that is not given is absent
    from the namespace.
    """
    sections = list(_sections(program))
    for section in sections:
        if any(section is not other and issubclass(other, section) for other in sections):
            continue  # which another one refines
        assert section.__doc__, f"{section}: a section has a name"
        group = parser.add_argument_group(section.__doc__.splitlines()[0].rstrip("."))
        for option in section.options():
            _add_flag(group, option, separator, option.default if defaults else argparse.SUPPRESS)


def _sections(program: type) -> Iterator[type[Options]]:
    """Yield the sections of a program: what has options of its own, a section alone or those that it joins."""
    if issubclass(program, Options) and vars(program).get("__annotations__"):
        yield program
    else:
        for base in reversed(program.__bases__):
            yield from _sections(base)


def _add_flag(group: argparse._ArgumentGroup, option: Option, separator: str, default: object) -> None:
    shown = f"--{option.name.replace('_', separator)}"
    twins = _spellings(option.name) - {shown}
    add_hidden = partial(group.add_argument, dest=option.name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    if option.base is bool:
        group.add_argument(shown, dest=option.name, action="store_true", default=default, help=_help(option))
        for twin in twins:
            add_hidden(twin, action="store_true")
        for negation in _spellings(f"no_{option.name}"):
            add_hidden(negation, action="store_false")
        return
    one_word: dict[str, Any] = {"type": _converter(option), "metavar": _metavar(option)}
    if option.spec.const is not None:
        one_word |= {"nargs": "?", "const": option.spec.const}
    if option.many and option.spec.parse:
        one_word["action"] = _Extend
    group.add_argument(shown, dest=option.name, default=default, help=_help(option), **one_word)
    for twin in twins:
        add_hidden(twin, **one_word)


class _Extend(argparse.Action):
    def __call__(self, _: Any, namespace: argparse.Namespace, values: Any, __: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), *values))


def _spellings(name: str) -> set[str]:
    return {f"--{name}", f"--{name.replace('_', '-')}"}


def parse_value(option: Option, text: str) -> object:
    """Return the value that a word gives to an option; a switch is on or off, "none" takes an optional one back.

    Raises:
        argparse.ArgumentTypeError, ValueError: if it gives none.
    """
    if option.base is bool:
        words = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
        if text.lower() not in words:
            raise ValueError("a switch is on or off")
        return words[text.lower()]
    return None if option.optional and text == "none" else _converter(option)(text)


def _converter(option: Option) -> Callable[[str], object]:
    if option.spec.parse or not option.many:
        return option.spec.parse or (partial(_word, option.default) if option.base is str else option.base)
    return _members(option)


def _word(default: object, text: str) -> str:
    """Return a word that can be a path; what cannot is refused where its flag is named."""
    if not text and text != default:
        raise argparse.ArgumentTypeError("is empty; leave the flag out, or give a word")
    if "\0" in text:
        raise argparse.ArgumentTypeError("holds a zero byte, which no path can")
    if len(text) > MAX_WORD:
        raise argparse.ArgumentTypeError(f"is {len(text)} characters long; {MAX_WORD} are possible")
    return at_home(text)


def path_word(text: str) -> Path:
    """Return the path that a word without a flag gives; what cannot be one is refused as with a flag."""
    return Path(_word(None, text))


def _members(option: Option) -> Callable[[str], tuple[object, ...]]:
    def members(text: str) -> tuple[object, ...]:
        if text == "none":
            return ()
        if text == "all" and option.spec.choices:
            return option.spec.choices
        try:
            words = [word.strip() for word in text.split(",")]
            return tuple(_word(None, word) if option.base is str else option.base(word) for word in words)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected numbers with commas between, or none; got {text!r}") from None

    return members


def _metavar(option: Option) -> str:
    if option.spec.choices and not option.many:
        return f"{{{','.join(option.spec.choices)}}}"
    word = {int: "N", float: "X", str: "TEXT"}[option.base]
    return f"{word},..." if option.many else word


def _help(option: Option) -> str:
    text, default = option.spec.help, option.default
    if option.spec.const is not None:
        text += f" (without a word: {option.spec.const})"
    if default and default == option.spec.choices:
        text += " (default: all)"
    elif default is not None and default is not False and default != "":
        text += f" (default: {_shown(default)})"
    return text.replace("%", "%%")


def _shown(value: object) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
