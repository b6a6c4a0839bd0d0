"""What goes to a terminal: foreign text on one line, for names may hold anything, and streams that may go away.

Standard library only, and below all other modules: everything that says something about a file needs it.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
import unicodedata
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

logger = logging.getLogger(__name__)

# Controls, what is invisible or turns the direction of the text, halves of characters, and ends of line.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_SECONDS_TO_TELL = 5.0  # a disk that hangs must not keep a program from ending
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str | bytes | os.PathLike[str], limit: int | None = None) -> str:
    r"""Return text that is safe to show on one line, whatever it holds.

    Control characters, ends of line, characters that are invisible or turn the direction of the text, and the bytes of
    a name that is not UTF-8 become visible as `\n`, `\x1b`, `\u202e` or `\xe9`; all else stays as it is.

    Args:
        text: foreign text; bytes are read as UTF-8.
        limit: longest result in characters, the last of which is then an ellipsis; None: any length.
    """
    plain = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else os.fspath(text)
    shown = plain if plain.isprintable() else "".join(map(_visible, plain))
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 1]}…"


def escaped(text: str | bytes | os.PathLike[str]) -> str:
    """Return text for a line of a file that programs read: as `printable`, and a backslash is doubled.

    Different texts stay different, and Python's or C's rules for string literals give the text back.
    """
    plain = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else os.fspath(text)
    return printable(plain.replace("\\", "\\\\"))


def show(text: str) -> None:
    """Write lines of text to stdout, each of them safe."""
    sys.stdout.write(_printable_lines(text.removesuffix("\n")) + "\n")


def shell_command(words: Iterable[str]) -> str:
    """Return the line by which a shell runs a command with these words, on one line whatever they hold.

    Words that cannot be shown stand in `$'...'`, which bash, zsh and ksh read.
    """
    return " ".join(map(_shell_word, words))


class LineFormatter(logging.Formatter):
    """Formats a record as one line, whoever wrote it; only the traceback of a defect has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line; a warning's second line, which quotes the program, joins the first."""
        if record.name == "py.warnings":
            record.message = " ".join(record.message.split())
        return printable(super().formatMessage(record).rstrip())

    def formatException(  # noqa: N802  # logging's name
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return a traceback, each of its lines safe."""
        return _printable_lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # logging's name
        """Return a stack, each of its lines safe."""
        return _printable_lines(super().formatStack(stack_info))


class Outlet:
    """Standard output or error of a program that works on when it cannot be written: what is lost is dropped.

    A full disk, a reader that has gone away as `head` does, a terminal that was closed: the first loss is told to the
    log, and each write is tried, for there may be room again. All but writing is the stream's own.

    Args:
        stream: the stream.
        name: of the stream, for the log.
    Attributes:
        error: what the first loss was; None: there was none.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self.error: OSError | ValueError | None = None
        self._stream = stream
        self._name = name
        self._teller: threading.Thread | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: somebody closed it
            self._lose(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write text, or drop it."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write out what was kept back, if it can be."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def isatty(self) -> bool:
        """Return whether this is a terminal, also of a stream that is closed."""
        return not self._stream.closed and self._stream.isatty()

    def leave(self) -> None:
        """Write out what was kept back; what cannot be written goes nowhere, lest Python's exit fails on it."""
        before = self.error
        self.error = None
        self.flush()
        if self.error is not None and not self._stream.closed:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            self._stream.flush()
        self.error = before or self.error
        if self._teller is not None:
            self._teller.join(_SECONDS_TO_TELL)

    def _lose(self, error: OSError | ValueError) -> None:
        self.error = self.error or error
        if self._teller is None:
            # By a thread: whoever writes may hold locks of the terminal, and the log writes to a terminal too.
            self._teller = threading.Thread(target=self._tell, args=(error,), daemon=True, name=f"loss of {self._name}")
            self._teller.start()

    def _tell(self, error: OSError | ValueError) -> None:
        reason = error.strerror if isinstance(error, OSError) else error
        # Whoever closes a pipe wants no more, and no word of it on the terminal either.
        level = logging.INFO if isinstance(error, BrokenPipeError) else logging.WARNING
        logger.log(level, "%s cannot be written (%s): what is shown there is lost", self._name, reason)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shell_word(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    quoted = escaped(word).replace("'", "\\'")
    return f"$'{quoted}'"
