"""Foreign text is shown on one line, whatever it holds, and only what cannot be shown is changed."""

import logging
import re
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runs import log_into, start_log
from options.flags import FlagParser, user_errors
from system.terminal import LineFormatter, escaped, printable, shell_command, show

ANYTHING = st.text(st.characters(codec=None), max_size=60)  # lone surrogates among it
NASTY = "a\x1b[2J\r\nb\t\x00\x7f\x85\u202e\u2066\u200b\u2028\ufeff\udce9\ud800"
SHOWN = r"a\x1b[2J\r\nb\t\x00\x7f\u0085\u202e\u2066\u200b\u2028\ufeff\xe9\ud800"


@pytest.mark.parametrize(
    "text", ["", "person 7", "Zoë Kravitz", "王菲", "محمد", "😀", "A$AP_$0 \\frac % _^{}", "a\u3000b\xa0c", "'\"`"]
)
def test_text_that_can_be_shown_stays_as_it_is(text):
    assert printable(text) == text


def test_text_that_cannot_be_shown_becomes_visible():
    assert printable(NASTY) == SHOWN


def test_names_that_are_no_utf8_show_their_bytes():
    assert printable("Zoë".encode("latin-1")) == r"Zo\xeb"
    assert printable(Path("caf\udce9") / "1.png") == r"caf\xe9/1.png"


@given(ANYTHING)
def test_nothing_shown_can_end_a_line_move_the_cursor_or_fail_to_be_written(text):
    line = printable(text)
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(f"{line}x".splitlines()) == 1
    line.encode("utf-8")


@given(ANYTHING)
def test_a_name_can_be_had_back_from_a_file_that_programs_read(text):
    line = escaped(text)
    assert printable(line) == line
    shapes = {r"\\\\": lambda m: "\\", r"\\[nrt]": lambda m: {"n": "\n", "r": "\r", "t": "\t"}[m[0][1]]}
    shapes[r"\\x[0-9a-f]{2}"] = lambda m: chr(int(m[0][2:], 16) + (0xDC00 if int(m[0][2:], 16) >= 0x80 else 0))
    shapes[r"\\u[0-9a-f]{4}|\\U[0-9a-f]{8}"] = lambda m: chr(int(m[0][2:], 16))
    back = re.sub(
        "|".join(shapes), lambda m: next(f(m) for shape, f in shapes.items() if re.fullmatch(shape, m[0])), line
    )
    assert back == text


@given(ANYTHING, ANYTHING)
def test_two_names_are_never_written_alike(first, second):
    assert (escaped(first) == escaped(second)) == (first == second)


def test_text_is_cut_to_a_length():
    assert printable("abcdef", 6) == "abcdef"
    assert printable("abcdefg", 6) == "abcde…"
    assert len(printable("\x1b" * 1000, 20)) == 20


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash reads the line back")
def test_a_shell_gets_every_word_back():
    words = ["printf", "%s\\0", "a b", "", "it's", "$HOME", "\\n", "x\ny\x1b[1m\t'q'\\", "caf\udce9é"]
    line = shell_command(words)
    assert printable(line) == line
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1] == words[2:]


# ---------------------------------------------------------------- where it is used


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Start the log of a program and return a function that reads its file."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        kept = start_log()
        log_into(tmp_path, kept)
        yield lambda: (tmp_path / "run.log").read_text(encoding="utf-8")
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level


def test_a_record_is_one_line_of_terminal_and_file_whoever_wrote_it(log, capsys):
    logging.getLogger("some.library").warning("cannot read %s", NASTY)
    for text in (log(), capsys.readouterr().err):
        assert [line.split(" ", 1)[1] for line in text.splitlines()] == [f"WARNING cannot read {SHOWN}"]


def test_lightning_speaks_in_the_log_of_the_run_too(log):
    logging.getLogger("pytorch_lightning.utilities.rank_zero").warning("something\nof Lightning")
    assert r"WARNING something\nof Lightning" in log()


def test_a_warning_is_one_line(log):
    warnings.warn("first\x1b line\nsecond", stacklevel=1)
    (line,) = log().splitlines()
    assert r"first\x1b line second" in line


def test_the_traceback_of_a_defect_keeps_its_lines_and_no_name_in_it_is_raw():
    try:
        raise KeyError("x") from ValueError(NASTY)
    except KeyError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    text = LineFormatter("%(message)s").format(record)
    assert text.count("\n") > 5 and "\x1b" not in text and r"\x1b[2J\r" in text


def test_errors_for_the_user_are_one_line(capsys):
    with pytest.raises(SystemExit), user_errors("program"):
        raise ValueError(f"{NASTY} is wrong\n")
    with pytest.raises(SystemExit):
        FlagParser("program", "").read([NASTY])
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"program: error: {SHOWN} is wrong"
    assert second.startswith("program: error: ") and SHOWN in second


def test_what_is_shown_keeps_its_lines(capsys):
    show("one\n\x1btwo\n\nthree\n")
    assert capsys.readouterr().out == "one\n\\x1btwo\n\nthree\n"
