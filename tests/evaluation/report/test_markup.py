"""Markup: no text that is foreign becomes a tag, an attribute or a script."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from page_results import Page, build

from evaluation.report.page import build_page
from system.page.markup import Markup, element, joined, script_json
from system.terminal import printable

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><script>alert(1)</script>", "<!--", "-->",
    "' onload='alert(1)", "javascript:alert(1)", "&lt;b&gt;", "&amp", "]]>", "</title></style></svg>", "\u2028\u2029",
    "\x00\x1b[2J\r\n", "\udce9\ud800", "\u202eevil", "~1/~0", "😀 王菲 محمد", "`${alert(1)}`", "{{7*7}}", "", " ",
)  # fmt: skip
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30), st.text(alphabet="<>\"'&/=!-abc ", max_size=20))


@given(text=texts)
def test_text_stays_text_and_an_attribute_an_attribute(text):
    page = Page(element("p", text, element("b", text, title=text), class_=text))
    assert page.tags == [("p", {"class": printable(text)}), ("b", {"title": printable(text)})]
    assert page.words.replace(" ", "") == 2 * printable(text).replace(" ", "")


@given(value=st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5))
def test_json_within_a_script_ends_it_never_and_is_read_back(value):
    text = script_json(value)
    page = Page(element("script", text, type="application/json"))
    assert [tag for tag, _ in page.tags] == ["script"] and "<" not in text and "\u2028" not in text
    assert json.loads(page.scripts["application/json"]) == value


def test_markup_passes_and_all_else_is_escaped():
    assert joined(["<", Markup("<br>"), None, 3, [["&"]]]) == "&lt;<br>3&amp;"
    assert element("input", hidden=True, disabled=False, for_="x", data_from=None) == '<input hidden for="x">'
    assert isinstance(element("p"), Markup) and not isinstance(element("p") + "", Markup)


@pytest.fixture(scope="module")
def plain_structure(tmp_path_factory):
    return Page(build_page(tmp_path_factory.mktemp("none"), named("plain"))).structure


def named(text):
    """Return results in which every name that is foreign is this text."""
    return build(text, person=text, num_pairs=40, run=text, head="h" + text, data=text, methods=("adaface",))


@settings(max_examples=25, deadline=None)
@given(text=texts.filter(bool))
@example("<script>alert(1)</script>")
@example('"><img src=x onerror=alert(1)>')
def test_no_name_changes_a_tag_of_the_page(plain_structure, tmp_path_factory, text):
    page = build_page(tmp_path_factory.getbasetemp(), named(text))
    assert Page(page).structure == plain_structure
    page.encode("utf-8")  # halves of characters are no text
