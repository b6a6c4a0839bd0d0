"""Pickles that hold nothing but lists, tuples, bools, ints and byte strings, read without the pickle machinery.

A pickle is a program for a stack machine, and the usual machine imports and calls whatever the program names. This one
knows only the instructions that put those five kinds of values together, in every protocol from 0 to 5, and refuses any
other before it does anything. Byte strings are not copied but located in the file, so that neither a stated length nor
a repetition can fill the memory.

Python 3 writes bytes in protocols 0 to 2 as the call `_codecs.encode(text, "latin1")`. That call is recognized, not
made; no other callable is known.

A subclass of `pickle.Unpickler` that refuses in `find_class` is not enough: the tests of this module hold small
files that make it reserve gigabytes (`test_stated_sizes_allocate_nothing`), copy one text ten thousand times
(`test_repetition_allocates_no_copies`) or nest without an end (`test_endless_nesting_is_cut_off`).

Reference: CPython's pickletools, which documents every instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import NoReturn

# An honest file needs at most 11 instructions an image: this is room for seven times the largest public sets.
MAX_INSTRUCTIONS = 2**20
_MAX_PROTOCOL = 5
# Bytes of a number, a memo key or a name. 2**63 has 19 digits.
_MAX_WORD = 64
_LATIN = (b"latin1", b"latin-1")

Buffer = bytes | mmap


@dataclass(frozen=True, slots=True)
class Span:
    """A string in the file.

    Attributes:
        start, end: its first byte and the one after its last.
        form: how it is written there: "raw", or the encoding of the text whose characters are the bytes.
        is_bytes: whether it is a byte string; text is legal only as an argument of `_codecs.encode`.
    """

    start: int
    end: int
    form: str = "raw"
    is_bytes: bool = True

    def read(self, data: Buffer) -> bytes:
        """Return the byte string.

        Raises:
            ValueError: if it is not written as `form` says.
        """
        written = data[self.start : self.end]
        return written if self.form == "raw" else written.decode(self.form).encode("latin-1")


class _Encode:
    """Stands for the function `_codecs.encode` on the stack."""


Value = int | Span | _Encode | list["Value"] | tuple["Value", ...]


def load_plain(data: Buffer, path: Path) -> Value:
    """Return the value that a pickle describes.

    Args:
        data: the pickle: a whole file.
        path: its name, for errors.
    Returns:
        lists, tuples, bools, ints and, in place of byte strings, `Span`s into `data`.
    Raises:
        ValueError: naming the file and the byte, if the pickle is damaged, holds or does anything else, states a length
            that the file does not have, or has more than MAX_INSTRUCTIONS.
    """
    return _Machine(data, path).run()


class _Machine:
    def __init__(self, data: Buffer, path: Path) -> None:
        self._data = data
        self._path = path
        self._position = 0
        self._instruction = 0  # where the present one starts
        self._stack: list[Value] = []
        self._marks: list[int] = []
        self._memo: dict[int, Value] = {}

    def run(self) -> Value:
        for _ in range(MAX_INSTRUCTIONS):
            self._instruction = self._position
            code = self._take(1)
            if code == b".":
                return self._finish()
            step = _STEPS.get(code)
            if step is None:
                self._refuse(f"instruction {code!r} builds or calls what a verification set does not hold")
            step(self)
        self._refuse(f"more than {MAX_INSTRUCTIONS} instructions; no verification set needs as many")

    def _finish(self) -> Value:
        value = self._pop()
        if self._stack or self._marks:
            self._refuse("the pickle ends in the middle of a value")
        if self._position != len(self._data):
            self._refuse(f"{len(self._data) - self._position} bytes follow the end of the pickle")
        return value

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"{self._path}, byte {self._instruction}: {reason}")

    # ---------------------------------------------------------------- reading

    def _check(self, length: int) -> None:
        left = len(self._data) - self._position
        if length > left:
            self._refuse(f"{length} bytes are announced and {left} follow; the file is cut off or damaged")

    def _skip(self, length: int) -> Span:
        """Step over that many bytes, and say where they are."""
        self._check(length)
        self._position += length
        return Span(self._position - length, self._position)

    def _take(self, length: int) -> bytes:
        """Return the next bytes, a handful."""
        self._check(length)
        self._position += length
        return self._data[self._position - length : self._position]

    def _number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _line(self) -> Span:
        end = self._data.find(b"\n", self._position)
        if end < 0:
            self._refuse("the line does not end; the file is cut off or damaged")
        line = self._skip(end - self._position)
        self._position += 1
        return line

    def _word(self, span: Span) -> bytes:
        """Return a short string as it is written: a name or a number, which are ASCII."""
        if span.end - span.start > _MAX_WORD:
            self._refuse(f"a name or number of {span.end - span.start} bytes")
        return self._data[span.start : span.end]

    def _decimal(self) -> int:
        word = self._word(self._line()).removesuffix(b"L")
        if not word.removeprefix(b"-").isdigit():
            self._refuse(f"{word!r} is not a number")
        return int(word)

    # ---------------------------------------------------------------- the stack

    def _pop(self) -> Value:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self._refuse("an instruction lacks its operand")
        return self._stack.pop()

    def _pop_mark(self) -> list[Value]:
        """Return all values above the last mark."""
        if not self._marks:
            self._refuse("an instruction lacks its mark")
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _extend(self, values: list[Value]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            self._refuse("values are appended to what is not a list")
        target.extend(values)
        self._stack.append(target)

    def _tuple(self, length: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(length)][::-1]))

    def _remember(self, key: int) -> None:
        value = self._pop()
        self._memo[key] = value
        self._stack.append(value)

    def _recall(self, key: int) -> None:
        if key not in self._memo:
            self._refuse(f"value {key} is used before it is remembered")
        self._stack.append(self._memo[key])

    # ---------------------------------------------------------------- values

    def _protocol(self) -> None:
        protocol = self._number(1)
        if protocol > _MAX_PROTOCOL:
            self._refuse(f"pickle protocol {protocol}; protocols up to {_MAX_PROTOCOL} are known")

    def _frame(self) -> None:
        length = self._number(8)
        self._skip(length)
        self._position -= length

    def _int(self) -> None:
        start = self._position
        written = self._data[start : start + 3]
        value = self._decimal()
        # Protocols 0 and 1 write bools as numbers with a leading zero.
        self._stack.append(bool(value) if written in (b"00\n", b"01\n") else value)

    def _long(self, length: int) -> None:
        if not 0 <= length <= 8:
            self._refuse(f"a number of {length} bytes; 8 are possible")
        self._stack.append(self._number(length, signed=True))

    def _string(self, length: int, form: str = "raw", is_bytes: bool = True) -> None:
        span = self._skip(length)
        self._stack.append(Span(span.start, span.end, form, is_bytes))

    def _quoted(self) -> None:
        line = self._line()
        quotes = self._data[line.start : line.start + 1] + self._data[line.end - 1 : line.end]
        if line.end - line.start < 2 or quotes not in (b"''", b'""'):
            self._refuse("a string without its quotes")
        # Python 2 wrote repr(), which escapes all but printable ASCII.
        self._stack.append(Span(line.start + 1, line.end - 1, "unicode_escape"))

    def _text_line(self) -> None:
        line = self._line()
        self._stack.append(Span(line.start, line.end, "raw-unicode-escape", is_bytes=False))

    def _function(self, module: Value, name: Value) -> None:
        if not isinstance(module, Span) or not isinstance(name, Span):
            self._refuse("a function is named by something else than text")
        named = (self._word(module), self._word(name))
        if named != (b"_codecs", b"encode"):
            self._refuse(f"it calls for {b'.'.join(named)!r}; only _codecs.encode may be named, and nothing is run")
        self._stack.append(_Encode())

    def _stack_function(self) -> None:
        name = self._pop()
        self._function(self._pop(), name)

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Encode):
            self._refuse("it calls what is not a function; nothing is run")
        match arguments:
            case (Span(is_bytes=False) as text, Span(is_bytes=False) as encoding) if self._word(encoding) in _LATIN:
                self._stack.append(Span(text.start, text.end, text.form))
            case _:
                self._refuse('_codecs.encode takes a text and "latin1", and gets something else')


_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": _Machine._protocol,
    b"\x95": _Machine._frame,
    # lists and tuples
    b"(": lambda m: m._marks.append(len(m._stack)),
    b"]": lambda m: m._stack.append([]),
    b"l": lambda m: m._stack.append(m._pop_mark()),
    b"a": lambda m: m._extend([m._pop()]),
    b"e": lambda m: m._extend(m._pop_mark()),
    b")": lambda m: m._stack.append(()),
    b"t": lambda m: m._stack.append(tuple(m._pop_mark())),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    # bools and ints
    b"\x88": lambda m: m._stack.append(True),
    b"\x89": lambda m: m._stack.append(False),
    b"I": _Machine._int,
    b"L": lambda m: m._stack.append(m._decimal()),
    b"J": lambda m: m._stack.append(m._number(4, signed=True)),
    b"K": lambda m: m._stack.append(m._number(1)),
    b"M": lambda m: m._stack.append(m._number(2)),
    b"\x8a": lambda m: m._long(m._number(1)),
    b"\x8b": lambda m: m._long(m._number(4, signed=True)),
    # byte strings, those of Python 3 before those of Python 2
    b"C": lambda m: m._string(m._number(1)),
    b"B": lambda m: m._string(m._number(4)),
    b"\x8e": lambda m: m._string(m._number(8)),
    b"U": lambda m: m._string(m._number(1)),
    b"T": lambda m: m._string(m._number(4)),
    b"S": _Machine._quoted,
    # text, and its way to bytes
    b"\x8c": lambda m: m._string(m._number(1), "utf-8", False),
    b"X": lambda m: m._string(m._number(4), "utf-8", False),
    b"\x8d": lambda m: m._string(m._number(8), "utf-8", False),
    b"V": _Machine._text_line,
    b"c": lambda m: m._function(m._line(), m._line()),
    b"\x93": _Machine._stack_function,
    b"R": _Machine._call,
    # what was built before
    b"p": lambda m: m._remember(m._decimal()),
    b"q": lambda m: m._remember(m._number(1)),
    b"r": lambda m: m._remember(m._number(4)),
    b"\x94": lambda m: m._remember(len(m._memo)),
    b"g": lambda m: m._recall(m._decimal()),
    b"h": lambda m: m._recall(m._number(1)),
    b"j": lambda m: m._recall(m._number(4)),
}
