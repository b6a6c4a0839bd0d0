"""The pages of runs in headless Chromium: nothing is logged or asked for, the page of a dead run says so."""

import json
import time

import pytest
import pytorch_lightning as pl
from browser import AXE, Browser, needs_axe, needs_chromium
from second_task import train

from engine.status.overview import build_overview, look_at
from engine.status.page import build_page
from engine.status.writing import StatusPage

pytestmark = needs_chromium
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


class Look(pl.Callback):
    """Keep the page of a run, as it is in its middle and as it would be two hours after it was killed there."""

    def __init__(self, root):
        self.root = root

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 12:
            (page,) = (each for each in trainer.callbacks if isinstance(each, StatusPage))
            page._tick(trainer)
            status = json.loads((page._folder / "status.json").read_text(encoding="utf-8"))
            status |= {"run": HOSTILE, "command": HOSTILE, "incidents": {"num": 1, "last": [(3, HOSTILE)]}}
            for name, age in (("alive", 0.0), ("dead", 7200.0)):
                text = build_page(status | {"written_at": time.time() - age}, page._record.lines(), page._pace.lines())
                (self.root / f"{name}.html").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    run = root / "run"
    run.mkdir()
    train(run, Look(root), status_seconds=600.0)
    (root / "ended.html").write_text((run / "status.html").read_text(encoding="utf-8"), encoding="utf-8")
    (root / "overview.html").write_text(build_overview([look_at(run)], root, time.time()), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("name", ["alive", "dead", "ended", "overview"])
def test_a_page_shows_its_charts_and_asks_for_nothing(browser, pages, name):
    browser.open(pages / f"{name}.html")
    assert browser.problems == [] and browser.requests == [(pages / f"{name}.html").as_uri()]
    drawn = "[...document.querySelectorAll('svg[role=img]')].map(each => each.getBoundingClientRect().height)"
    heights = browser.run(drawn)
    assert len(heights) >= (2 if name == "overview" else 6) and min(heights) > 20
    assert browser.run("document.images.length") == 0


@pytest.mark.parametrize(("name", "is_told"), [("alive", False), ("dead", True), ("ended", False)])
def test_the_page_of_a_run_that_died_says_so(browser, pages, name, is_told):
    browser.open(pages / f"{name}.html")
    assert browser.run("document.body.innerText.includes('its run has died')") is is_told
    if name != "ended":
        assert ("120 minutes old" if is_told else " s old") in browser.run("document.getElementById('age').innerText")


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["dead", "overview"])
def test_axe_finds_nothing_serious(browser, pages, name, scheme):
    browser.open(pages / f"{name}.html")
    browser.emulate("", scheme)
    browser.run(AXE.read_text(encoding="utf-8"))
    found = browser.run("axe.run().then(all => all.violations.map(each => [each.id, each.impact, each.nodes[0].html]))")
    browser.emulate()
    # A page without a server can be shown anew in no other way; who needs it to stay as it is opens a copy.
    wanted = {"meta-refresh"} if name == "dead" else set()
    assert {each[0] for each in found if each[1] in ("serious", "critical")} == wanted
