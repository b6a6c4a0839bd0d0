"""The page in headless Chromium: nothing is logged or asked for, the slider works, axe-core finds nothing serious."""

import json

import pytest
from browser import AXE, Browser, needs_axe, needs_chromium
from page_results import build, write_report_of

from evaluation.report.page import PAGE, Run, build_comparison, read_metrics, write_page
from evaluation.report.results import read_results

pytestmark = needs_chromium
RIGHT, HOME = ("ArrowRight", 39), ("Home", 36)
METRICS = "step,lr,train_loss,val_acc\n1,0.1,3,0.5\n2,0.1,2,0.75\n"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return {name: path} of a page with everything, one with hostile names, and one that compares two runs."""
    root = tmp_path_factory.mktemp("pages")
    (root / "metrics.csv").write_text(METRICS)
    results = {"usual": build(), "hostile": build(HOSTILE, person=HOSTILE, run=HOSTILE, head=HOSTILE)}
    found = {}
    for name, each in results.items():
        folder = write_report_of(root / name, each)
        found[name] = write_page(folder, read_results(folder / "results.json"), root)
    metrics = read_metrics(root / "metrics.csv")
    runs = [Run("first", results["usual"], metrics), Run(HOSTILE, results["usual"], {})]
    (root / "comparison.html").write_text(build_comparison(runs), encoding="utf-8")
    return found | {"comparison": root / "comparison.html"}


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("name", ["usual", "hostile", "comparison"])
def test_nothing_is_logged_and_nothing_is_asked_for(browser, pages, name):
    browser.open(pages[name])
    assert browser.problems == []
    assert browser.requests == [pages[name].as_uri()]
    assert browser.run("document.querySelectorAll('main section[id]').length") >= 4
    assert not browser.run("[...document.images].some(image => !image.complete || !image.naturalWidth)")


def test_sections_and_pictures_are_there(browser, pages):
    browser.open(pages["usual"])
    headings = browser.run("[...document.querySelectorAll('h2')].map(each => each.textContent)")
    assert headings == ["Answer", "Set lfw", "Paired differences", "Not resolved", "Protocol", "Training"]
    assert browser.run("document.querySelectorAll('svg[role=img]').length") == 2 + 6 + 4 + 3
    drawn = "[...document.querySelectorAll('svg[role=img]')].every(each => each.getBoundingClientRect().height > 50)"
    assert browser.run(drawn)
    assert browser.run("document.querySelectorAll('.pairs image').length") == 4


def test_the_slider_moves_by_keys_and_says_the_rates_of_results_json(browser, pages):
    browser.open(pages["usual"])
    det = json.loads((pages["usual"].parent / "results.json").read_text())
    det = det["benchmarks"]["lfw"]["conditions"]["clean"]["adaface"]["det"]
    assert browser.run("[...document.querySelectorAll('.slider')].every(each => !each.hidden)")
    browser.run("document.querySelector('input[data-slider]').focus()")
    browser.press(*HOME)
    places = []
    for number in range(3):
        said = browser.run("document.querySelector('output').textContent")
        assert said == browser.run("document.querySelector('input').getAttribute('aria-valuetext')")
        assert (
            f"FAR {100 * det['fmr'][number]:.2f} %" in said and f"TAR {100 * (1 - det['fnmr'][number]):.2f} %" in said
        )
        places.append(float(browser.run("document.querySelector('line.chosen').getAttribute('x1')")))
        browser.press(*RIGHT)
    assert places == sorted(set(places))
    assert browser.run("document.querySelectorAll('circle.chosen').length") == 2  # on ROC and DET


def test_the_page_begins_with_a_way_to_skip_what_stands_before_the_answer(browser, pages):
    browser.open(pages["usual"])
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.getAttribute('href')") == "#part-0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_is_of_the_scheme_and_print_is_light(browser, pages, scheme):
    background = "getComputedStyle(document.body).backgroundColor"
    browser.open(pages["usual"])
    browser.emulate("", scheme)
    assert (browser.run(background) == "rgb(255, 255, 255)") == (scheme == "light")
    browser.emulate("print", scheme)
    assert browser.run(background) == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('.slider')).display") == "none"
    browser.emulate()


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["usual", "comparison"])
def test_axe_finds_nothing_serious(browser, pages, name, scheme):
    browser.open(pages[name])
    browser.emulate("", scheme)
    browser.run(AXE.read_text(encoding="utf-8"))
    found = browser.run(
        "axe.run().then(found => found.violations.map(each => [each.id, each.impact, each.nodes[0].html]))"
    )
    browser.emulate()
    assert [each for each in found if each[1] in ("serious", "critical")] == []


@needs_axe
def test_axe_would_find_something(browser, pages, tmp_path):
    broken = tmp_path / PAGE
    text = pages["usual"].read_text(encoding="utf-8")
    broken.write_text(text.replace('role="img" aria-label="ROC of lfw"', 'role="img"').replace(' lang="en"', ""))
    browser.open(broken)
    browser.run(AXE.read_text(encoding="utf-8"))
    found = browser.run("axe.run().then(found => found.violations.map(each => each.id))")
    assert {"svg-img-alt", "html-has-lang"} <= set(found)
