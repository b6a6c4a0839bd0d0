"""Lists of people who are the same in several data sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.faces.merged_identities import read_merged_identities

SETS = {"web": ["ann", "bob", "cy"], "masked": ["x/1", "x 2", "x#3"], "drawn": ["q", "ann"]}


def read(tmp_path, text):
    path = tmp_path / "same.txt"
    path.write_text(text, encoding="utf-8")
    return {name: numbers.tolist() for name, numbers in read_merged_identities(path, SETS).items()}


def test_people_of_several_sets_become_one_and_equality_is_carried_on(tmp_path):
    text = "# who is who\n\nweb/bob = masked/x 2 # by hand\r\n  drawn/q=masked/x 2  \nmasked/x#3 = drawn/ann\n"
    assert read(tmp_path, text) == {"web": [0, 1, 2], "masked": [3, 1, 4], "drawn": [1, 4]}
    assert read(tmp_path, "masked/x/1 = web/cy = drawn/ann\nweb/cy = web/cy\n") == {
        "web": [0, 1, 2],
        "masked": [2, 3, 4],
        "drawn": [5, 2],
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 3)), st.tuples(st.integers(0, 2), st.integers(0, 3))),
        min_size=1,
        max_size=8,
    )
)
def test_a_naive_closure_finds_the_same_people_or_the_same_clash(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("merged") / "same.txt"
    sets = {f"s{number}": [f"p{label}" for label in range(4)] for number in range(3)}
    path.write_text("".join(f"s{a}/p{b} = s{c}/p{d}\n" for (a, b), (c, d) in pairs))
    group = {(number, label): {(number, label)} for number in range(3) for label in range(4)}
    for first, second in pairs:
        merged = group[first] | group[second]
        group |= dict.fromkeys(merged, merged)
    if any(len({number for number, _ in members}) < len(members) for members in group.values()):
        with pytest.raises(ValueError, match=r"line \d: .*would become one person"):
            read_merged_identities(path, sets)
        return
    numbers = read_merged_identities(path, sets)
    flat = np.concatenate([*numbers.values()])
    for place, own in zip(group, flat, strict=True):
        assert {other for other, number in zip(group, flat, strict=True) if number == own} == group[place]
    firsts = flat[np.sort(np.unique(flat, return_index=True)[1])]
    assert firsts.tolist() == list(range(len(firsts)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web/ann = masked/x/1\nweb/dan = masked/x 2", "line 2: data set web has no person 'dan'"),
        ("net/ann = web/ann", "line 1: there is no data set 'net'; the sets are web, masked, drawn"),
        ("web/ann", "line 1: expected set/person = set/person, got 'web/ann'"),
        ("web/ann = ", "line 1: expected set/person, got ''"),
        ("ann = web/ann", "line 1: expected set/person, got 'ann'"),
        ("web/ann = web/bob", "line 1: 'ann' and 'bob' of data set web would become one person; merge them in the set"),
        ("web/ann = drawn/q\ndrawn/q = web/bob", "line 2: 'ann' and 'bob' of data set web would become one person"),
        ("# nothing\n", "holds no line such as set/person = set/person"),
        ("", "holds no line"),
    ],
)
def test_wrong_lists_are_refused_with_their_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"same.txt.*{message}") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read the merged identities"):
        read_merged_identities(tmp_path / "none.txt", SETS)
