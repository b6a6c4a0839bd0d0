import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import pytest
from benchmark_sets import assert_one_line
from hypothesis import given
from hypothesis import strategies as st

from datasets.benchmarks import plain_pickle
from datasets.benchmarks.plain_pickle import Span, load_plain

FILE = Path("some.bin")


def read(data):
    """Return the value with its byte strings in place."""

    def resolve(value):
        if isinstance(value, list | tuple):
            return type(value)(resolve(item) for item in value)
        return value.read(data) if isinstance(value, Span) else value

    return resolve(load_plain(data, FILE))


def refuse(data, *names):
    with pytest.raises(ValueError) as caught:
        load_plain(data, FILE)
    assert_one_line(caught.value, "some.bin, byte ", *names)
    assert not isinstance(caught.value, UnicodeError)


def same(first, second):
    """Compare with types: True is not 1, a list no tuple."""
    assert type(first) is type(second)
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            same(one, other)
    else:
        assert first == second


LEAVES = st.one_of(st.binary(min_size=1), st.booleans(), st.integers(-(2**63), 2**63 - 1))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.lists(inner).map(tuple), max_leaves=30)


@given(VALUES, st.integers(0, 5))
def test_what_python_writes_is_read_back_in_every_protocol(value, protocol):
    same(read(pickle.dumps(value, protocol=protocol)), value)


@pytest.mark.parametrize("protocol", range(6))
def test_long_lists_large_strings_and_repeated_objects(protocol):
    every_byte = bytes(range(256)) * 300
    value = ([every_byte, b"'\\\n\r\x00", every_byte] * 1500, [True, False] * 1100, tuple(range(300)))
    same(read(pickle.dumps(value, protocol=protocol)), value)


def python2_repr(data):
    escapes = {9: "\\t", 10: "\\n", 13: "\\r", 39: "\\'", 92: "\\\\"}
    return "".join(escapes.get(b, chr(b) if 32 <= b < 127 else f"\\x{b:02x}") for b in data).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"(lp0\nS'" + python2_repr(bytes(range(256))) + b"'\np1\naI01\naI00\naI7\naL8L\na.",  # protocol 0
        b"]q\x00(T" + struct.pack("<i", 256) + bytes(range(256)) + b"q\x01I01\nI00\nK\x07L8L\ne.",  # protocol 1
        b"\x80\x02]q\x00(T" + struct.pack("<i", 256) + bytes(range(256)) + b"q\x01\x88\x89K\x07\x8a\x01\x08e.",
    ],
)
def test_what_python_2_wrote_is_read(data):
    same(read(data), [bytes(range(256)), True, False, 7, 8])
    assert pickle.loads(data, encoding="bytes")[0] == bytes(range(256))  # the bytes above are a pickle


def test_short_strings_of_python_2_and_both_quotes():
    same(read(b"(U\x02ab" + b'S"it\'s"\n' + b"S''\nt."), (b"ab", b"it's", b""))


class Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda call: call, lambda call: ([b"x", call], [True]), lambda call: [(b"x", call)]])
def test_code_is_refused_before_it_runs(tmp_path, protocol, wrap):
    marker = tmp_path / "ran"
    for call in (Call(os.mkdir, str(marker)), Call(eval, f"open({str(marker)!r}, 'w')"), Call(exec, "1")):
        refuse(pickle.dumps(wrap(call), protocol=protocol))
    assert not marker.exists()


FOREIGN = [
    None,
    1.5,
    "text",
    2**300,
    {},
    {1},
    frozenset(),
    bytearray(b"x"),
    1j,
    OrderedDict(),
    Path("x"),
    range(3),
    print,
    Call,
    Span(0, 0),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", FOREIGN, ids=[type(value).__name__ for value in FOREIGN])
def test_other_types_are_refused(protocol, value):
    for wrapped in (value, [b"x", value]):
        data = pickle.dumps(wrapped, protocol=protocol)
        if isinstance(value, str):  # text is known as an argument; the reader of the file refuses it as a value
            continue
        refuse(data)


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02cos\nsystem\n)\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02\x82\x01.",  # extension registry
        b"Pid\n.",
        b"K\x01Q.",
        b"\x80\x05\x97.",
        b"\x80\x02]}b.",  # state
        b"c_codecs\ndecode\n(Vx\nVlatin1\ntR.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"c_codecs\nencode\n(Vx\ntR.",
        b"c_codecs\nencode\n(Vx\nVlatin1\nVstrict\ntR.",
        b"c_codecs\nencode\n(S'x'\nVlatin1\ntR.",
        b"c_codecs\nencode\n(]Vlatin1\ntR.",
        b"c_codecs\nencode\n(c_codecs\nencode\nVlatin1\ntR.",
        b"c_codecs\nencode\n]R.",
        b"c_codecs\nencode\nc_codecs\nencode\nR.",
        b"(Vx\nVlatin1\ntp0\n(g0\ng0\nR.",
        b"K\x01(Vx\nVlatin1\ntR.",
        b"\x80\x04]]\x93.",
        b"c" + b"a" * 100 + b"\nencode\n.",
    ],
)
def test_instructions_that_name_or_call_are_refused(program):
    refuse(program)


def test_the_refusal_names_the_function():
    refuse(pickle.dumps([b"x", Call(os.system, "true")], protocol=2), "posix.system", "nothing is run")


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x80",
        b"\x80\x06].",
        b"\xff\xd8\xff\xe0",
        b".",
        b"(.",
        b"](.",
        b"]].",
        b"a.",
        b"]a.",
        b"K\x01K\x02a.",
        b"](a.",
        b"e.",
        b"(e.",
        b"l.",
        b"t.",
        b"\x85.",
        b"K\x01\x87.",
        b"(K\x01\x85(K\x01\x86.",
        b"q\x00.",
        b"h\x00.",
        b"g5\n.",
        b"g-1\n.",
        b"gx\n.",
        b"]p\n.",
        b"I\n.",
        b"I 1\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"I1",
        b"\x8a\x09" + b"x" * 9 + b".",
        b"\x8b\xff\xff\xff\xff.",
        b"\x8b\x00\x00\x00\x7f.",
        b"S'x\n.",
        b"S'\n.",
        b"Sx\n.",
        b"S'x'",
        b"C\x05abc.",
        b"B\xff\xff\xff\xffabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"T\xff\xff\xff\xffabc.",
        b"U\x05abc.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f].",
        b"\x80\x04\x95\x03].",
        b"]. ",
        b"].].",
    ],
)
def test_damaged_programs_are_refused(program):
    refuse(program)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cut_anywhere_is_refused(protocol):
    data = pickle.dumps(([b"abc\xff", b"d" * 300], [True]), protocol=protocol)
    for length in range(len(data)):
        refuse(data[:length])
    read(data)


def peak_of(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "program",
    [
        b"]" * 20_000,
        b"]" * 20_000 + b"a" * 19_999 + b".",
        b"(" * 20_000 + b"t" * 20_000 + b".",
        b")" + b"\x85" * 20_000,
        b"]q\x00h\x00a",
        b"]q\x00" + b"h\x00h\x00a" * 10_000,
    ],
)
def test_nesting_and_cycles_neither_crash_nor_pass_for_a_set(program):
    try:
        load_plain(program, FILE)
    except ValueError as error:
        assert_one_line(error, "some.bin, byte")


def test_endless_nesting_is_cut_off(monkeypatch):
    monkeypatch.setattr(plain_pickle, "MAX_INSTRUCTIONS", 1000)
    refuse(b"]" * 1001, "byte 999: more than 1000 instructions")
    same(read(b"]" + b"]a" * 499 + b"."), [[]] * 499)


@pytest.mark.parametrize("stated", [2**31 - 1, 2**32 - 1])
def test_stated_sizes_allocate_nothing(stated):
    size = struct.pack("<I", stated)
    for program in (
        b"B" + size,
        b"X" + size,
        b"T" + size,
        b"]r" + size + b"h\x00.",
        b"\x8e" + size + b"\xff\xff\xff\x7f",
    ):
        assert peak_of(lambda data=program: refuse(data)) < 2**20


def test_repetition_allocates_no_copies():
    # One text of 1 MB, turned into bytes ten thousand times: 10 GB where it is done, nothing where it is noted down.
    text = b"X" + struct.pack("<I", 2**20) + b"x" * 2**20
    head = b"\x80\x02(c_codecs\nencode\nq\x00" + text + b"X\x06\x00\x00\x00latin1\x86q\x01"
    program = head + b"h\x00h\x01R" * 10_000 + b"l."
    peak = peak_of(lambda: load_plain(program, FILE))
    assert peak < 4 * 2**20
    assert load_plain(program, FILE)[-1].read(program) == b"x" * 2**20


def test_text_that_is_no_image_of_bytes_is_found_when_it_is_read():
    data = pickle.dumps(Call(__import__("_codecs").encode, "\u20ac", "latin1"), protocol=2)
    span = load_plain(data, FILE)
    with pytest.raises(UnicodeError):
        span.read(data)
