"""The command line of every program: parser, argument files, one-line errors, `--version`, and how it starts and ends.

flags.py says what an option is; this module knows what a shell and a terminal can do to a program. Standard library
only, so that `--help` answers at once and a Python without the packages is told so.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # before anything below needs it
    sys.stderr.write("error: Python 3.11 or newer is needed; run `make setup` and use .venv/bin/python\n")
    raise SystemExit(2)

import argparse
import difflib
import logging
import os
import re
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from system import ROOT
from system.terminal import LineFormatter, Outlet, printable

MAX_FILE_BYTES = 2**18  # of an argument file
MAX_WORDS = 2**13  # of all argument files together: argparse takes minutes for ten times as many
MAX_FILES = 100  # argument files of a command, each time one is named
MAX_MESSAGE = 1000  # characters of an error
PACKAGE_NAMES = {"torch": "PyTorch", "pytorch_lightning": "PyTorch Lightning", "cv2": "OpenCV", "numpy": "NumPy"}
OUTPUT_LOST_CODE = 74  # as of other files that could not be written, see docs/reliability.md


def _message(text: str) -> str:
    """Return text for one line of a terminal; of a long one the middle, for the remedy stands at the end."""
    if len(text) > MAX_MESSAGE:
        text = f"{text[: MAX_MESSAGE // 2]}...{text[-MAX_MESSAGE // 4 :]}"
    return printable(text)


class FlagParser(argparse.ArgumentParser):
    """Parser whose errors are one line with exit code 2, and which reads flags from `@file` arguments.

    A file holds flags as on the command line, over any number of lines; `#` starts a comment, quotes keep spaces. A
    file may name another one, relative to itself. Flags are never abbreviated; of two alike the last one wins. An
    unknown flag is answered with the known one that is most like it.

    Args:
        prog: the command, as in "main.py".
        description: what it does; lines that start with blanks keep their shape.
        example: a command that works, for the end of the help; "" for none.
    """

    def __init__(self, prog: str, description: str, example: str = "") -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [@file.args ...] [--flag value ...]",
            description=description,
            epilog=f"example:\n  {example}" if example else None,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.notes: list[str] = []  # on what was given, for the log
        self._num_files = 0
        self._num_words = 0
        self.add_argument(
            "--version",
            action=_Version,
            nargs=0,
            default=argparse.SUPPRESS,
            help="version and git revision",
        )

    def read(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """Return the values by option name; None reads the command line."""
        return vars(self.parse_args(argv))

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the namespace, with argument files read; what is unknown ends the program."""
        words = self._expand(sys.argv[1:] if args is None else args, Path(), ())
        self._refuse_unknown(words)
        values, alone = self.parse_known_args(words, namespace)
        if alone:
            self.error(
                f"no flag takes {' '.join(alone)[:200]}: write --flag before a value; {self.prog} --help lists all"
            )
        return values

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after one line on stderr."""
        self.exit(2, f"{self.prog}: error: {_message(message)}\n")

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        known = self._option_string_actions
        given = words[: words.index("--")] if "--" in words else words
        flags = [word.partition("=")[0] for word in given if re.match("--?[^-0-9.]", word)]
        unknown = [word for word in dict.fromkeys(flags) if word not in known and word[:2] not in known]
        if unknown:
            self.error("; ".join(f"unknown flag {word}{self._suggestion(word)}" for word in unknown))

    def _suggestion(self, word: str) -> str:
        """Return "; did you mean --x?" with the flag most like a word, in the spelling of the help."""
        shown = [flag for action in self._actions if action.help != argparse.SUPPRESS for flag in action.option_strings]
        dashes = any("-" in flag[2:] for flag in shown)
        known = sorted(self._option_string_actions, reverse=dashes)  # of two spellings the last one counts
        names = {_plain(flag): flag for flag in [*known, *shown]}
        close = difflib.get_close_matches(_plain(word), names, 1)
        close += [name for name in names if name.startswith(_plain(word))]
        return f"; did you mean {names[close[0]]}?" if close else f"; {self.prog} --help lists all"

    # ---------------------------------------------------------------- argument files

    def _expand(self, words: Iterable[str], folder: Path, opened: tuple[tuple[int, int], ...]) -> list[str]:
        expanded: list[str] = []
        for word in words:
            expanded += self._read_file(folder / at_home(word[1:]), opened) if word.startswith("@") else [word]
        return expanded

    def _read_file(self, path: Path, opened: tuple[tuple[int, int], ...]) -> list[str]:
        self._num_files += 1
        if self._num_files > MAX_FILES:
            self.error(f"argument file {path}: more than {MAX_FILES} files are named, one by another")
        try:
            text, place = _read_small_file(path)
            if place in opened:
                self.error(f"argument file {path} includes itself")
            words = shlex.split(text, comments=True)
        except OSError as error:
            self.error(f"cannot read argument file {path}: {error.strerror}")
        except ValueError as error:
            self.error(f"cannot read argument file {path}: {error}")
        self._num_words += len(words)
        if self._num_words > MAX_WORDS:
            self.error(f"argument file {path}: more than {MAX_WORDS} words in all: is it a list of flags?")
        return self._expand(words, path.parent, (*opened, place))


def at_home(text: str) -> str:
    """Return a path with a leading `~` replaced by the home folder.

    Shells do so at the start of a word only: not in `--flag=~/x`, after a comma, in quotes or in argument files.
    """
    return os.path.expanduser(text) if text.partition(os.sep)[0] == "~" else text  # noqa: PTH111


def _read_small_file(path: Path) -> tuple[str, tuple[int, int]]:
    """Return the text of a regular file and what identifies it; neither a pipe nor a device is waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
        status = os.fstat(stream.fileno())
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES // 1024} KB: is it a list of flags?")
    if b"\0" in content:
        raise ValueError("it holds zero bytes: it is no text")
    return content.decode("utf-8-sig"), (status.st_dev, status.st_ino)


def as_typed(prog: str) -> str:
    """Return the words that start a program: the name of a file follows `python`."""
    return f"python {prog}" if prog.partition(" ")[0].endswith(".py") else prog


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraphs, but neither an example, which would not work in pieces, nor what begins with a blank."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return text
        fill = super()._fill_text
        return "\n\n".join(p if p.startswith(" ") else fill(p, width, indent) for p in text.split("\n\n"))


class _Version(argparse.Action):
    """`--version`: git is asked only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser._print_message(f"{version()}\n", sys.stdout)
        parser.exit()


class Alias(argparse.Action):
    """A flag of another program that sets an option of ours, with a note on its name here."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        """Set the option; a FlagParser notes it."""
        setattr(namespace, self.dest, self.const)
        if isinstance(parser, FlagParser):
            parser.notes.append(f"{self.option_strings[0]}: --{self.dest} {self.const} is its name here")


def _plain(word: str) -> str:
    return word.replace("_", "-").lower()


def version() -> str:
    """Return the version of the package and, in a checkout, the git revision."""
    number = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    revision = _git_revision()
    return f"maskwise {number}" + (f" (git {revision})" if revision else "")


def _git_revision() -> str | None:
    if not (ROOT / ".git").exists():
        return None  # git would answer for a checkout around this folder
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, encoding="utf-8", errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


@contextmanager
def user_errors(prog: str) -> Iterator[None]:
    """End the program with exit code 2 and one line on stderr when the block raises a ValueError or an OSError.

    Those are what bad input raises; anything else is a defect of ours and keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{prog}: error: {_message(_reason(error))}\n")
        raise SystemExit(2) from error


@contextmanager
def interruptible(prog: str, how_to_go_on: str = "the same command goes on") -> Iterator[None]:
    """End the program with exit code 130 and one line that says how to go on when the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise SystemExit(_say(f"{prog}: interrupted; {how_to_go_on}", 130)) from stop


def _reason(error: ValueError | OSError) -> str:
    """Return what an error says; of one of the system first the file, then what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        file = error.filename
        return f"{os.fsdecode(file) if isinstance(file, bytes) else file}: {error.strerror}"
    return str(error).strip()


# ---------------------------------------------------------------- start and end


def launch(prog: str, program: Callable[[], int]) -> NoReturn:
    """Run a program for the shell that started it, and leave with its exit code.

    Standard streams that are closed become the null device; what an encoding lacks is written escaped. Output that
    cannot be written ends no program, see `Outlet`; only where it was all there was to do, as by `--help`, the exit
    code tells of it, unless its reader went away, as `head` does. Ctrl-C and a missing package are one line.

    Args:
        prog: the command, for messages.
        program: its main function, which returns the exit code.
    """
    _open_streams()
    assert logging.lastResort is not None, "a program without a log of its own says what it must by this"
    logging.lastResort.setFormatter(LineFormatter("%(message)s"))
    streams = sys.stdout, sys.stderr
    outlets = Outlet(sys.stdout, "stdout"), Outlet(sys.stderr, "stderr")
    sys.stdout, sys.stderr = outlets
    try:
        code = _run(prog, program, outlets[0])
    finally:
        for outlet in outlets:
            outlet.leave()
        sys.stdout, sys.stderr = streams
    sys.exit(code)


def _run(prog: str, program: Callable[[], int], stdout: Outlet) -> int:
    try:
        return program()
    except SystemExit as stop:
        stdout.flush()
        code = stop.code if isinstance(stop.code, int) else 0
        lost = stdout.error is not None and not isinstance(stdout.error, BrokenPipeError)
        return OUTPUT_LOST_CODE if lost and not code else code
    except KeyboardInterrupt:
        return _say(f"{prog}: interrupted", 130)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        if error.name is None or (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file():
            raise
        command = f".venv/bin/python{' ' if prog.endswith('.py') else ''}{prog.removeprefix('python')}"
        package = PACKAGE_NAMES.get(name, name) if find_spec("torch") else "PyTorch"
        return _say(f"{prog}: error: {package} is not installed for this Python; run `make setup` and use {command}", 2)


def _say(line: str, code: int) -> int:
    sys.stderr.write(f"{_message(line)}\n")
    return code


def _open_streams() -> None:
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The next file that is opened would get the number, and what is printed. The lowest free one is this.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # open for as long as the program runs
        if mode == "w" and hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
