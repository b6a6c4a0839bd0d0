"""What the occlusion head finds: the rates against plain loops, and the program from checkpoint to table."""

import json

import cv2
import numpy as np
import pytest
from untrained import write_checkpoint

from benchmarks.occlusion_head.__main__ import PROGRAM, main
from benchmarks.occlusion_head.measure import CLEAN, Cells, occlude, rates, threshold_at
from transforms import OCCLUDERS


@pytest.fixture
def gray_people(tmp_path):
    """Two people of two gray photographs each."""
    rng = np.random.default_rng(0)
    for person in "ab":
        (tmp_path / "people" / person).mkdir(parents=True)
        for place in range(2):
            pixels = rng.integers(40, 200, (112, 92), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "people" / person / f"{place}.pgm"), pixels)
    return tmp_path / "people"


def random_cells(num=12, size=9):
    rng = np.random.default_rng(1)
    return Cells(rng.random((num, size)), rng.random((num, size)))


def test_rates_are_shares_of_the_hidden_and_of_the_visible_cells():
    cells, labels = random_cells(), np.repeat([0, 1, 2], 4)
    found = lost = hidden = 0
    for true, predicted in zip(cells.true.ravel(), cells.predicted.ravel(), strict=True):
        hidden += true < 0.5
        found += true < 0.5 and predicted < 0.3
        lost += true >= 0.5 and predicted < 0.3
    measured = rates(cells, 0.3, labels)
    assert measured["found"][0] == pytest.approx(100 * found / hidden)
    assert measured["lost"][0] == pytest.approx(100 * lost / (cells.true.size - hidden))
    for value, low, high in measured.values():
        assert low < value < high


def test_of_one_person_there_is_no_spread_and_of_nothing_hidden_no_share():
    cells = random_cells()
    assert len({*rates(cells, 0.3, np.zeros(12, np.int64))["lost"]}) == 1
    seen = Cells(np.ones((2, 3)), np.full((2, 3), 0.7))
    measured = rates(seen, 0.8, np.arange(2))
    assert measured == {"found": None, "lost": [100.0, 100.0, 100.0]}


def test_the_threshold_loses_the_share_of_visible_cells_that_is_asked_for():
    cells = [random_cells(40), random_cells(20)]
    threshold = threshold_at(cells, 0.1)
    lost = np.concatenate([part.predicted[~part.hidden] < threshold for part in cells])
    assert 0.1 - 1 / len(lost) * 2 <= lost.mean() <= 0.1


@pytest.mark.parametrize("kind", [CLEAN, *OCCLUDERS])
def test_gray_photographs_stay_gray_and_each_draw_is_another(kind):
    images = np.repeat(np.random.default_rng(2).integers(40, 200, (2, 112, 112, 1), dtype=np.uint8), 3, axis=3)
    drawn, masks = occlude(images, kind, 0)
    assert (drawn == drawn[..., :1]).all() and masks.shape == (2, 112, 112)
    np.testing.assert_array_equal(drawn, occlude(images, kind, 0)[0])
    is_same = (drawn == occlude(images, kind, 1)[0]).all()
    assert is_same == bool(masks.all()) == (kind == CLEAN)


def test_the_program_measures_every_kind(gray_people, tmp_path, capsys):
    checkpoint, output = write_checkpoint(tmp_path / "last.ckpt"), tmp_path / "found.json"
    words = ["--model-path", str(checkpoint), "--people", str(gray_people), "--draws", "1", "--output", str(output)]
    assert main(words) == 0
    found = json.loads(output.read_text())
    assert found["num_people"] == 2 and list(found["kinds"]) == [CLEAN, *OCCLUDERS]
    lost = [row["3 % lost"]["lost"][0] for row in found["kinds"].values()]
    assert min(lost) <= 3.0
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in OCCLUDERS) and "2 people, 1 draws" in printed


def test_two_splits_count_together_each_at_its_own_threshold(gray_people, tmp_path):
    fine = write_checkpoint(tmp_path / "fine.ckpt", occlusion_head="fine")
    pyramid = write_checkpoint(tmp_path / "pyramid.ckpt", occlusion_head="pyramid")
    found = {}
    for name, paths in {"fine": [fine], "pyramid": [pyramid], "both": [fine, pyramid]}.items():
        words = [*("--model-path", *map(str, paths)), *("--people", *[str(gray_people)] * len(paths)), "--draws", "1"]
        assert main([*words, "--output", str(tmp_path / "found.json")]) == 0
        found[name] = json.loads((tmp_path / "found.json").read_text())
    both, alone = found["both"], [found["fine"], found["pyramid"]]
    assert both["num_people"] == 4
    assert both["thresholds"]["3 % lost"] == [one["thresholds"]["3 % lost"][0] for one in alone]
    assert both["thresholds"]["3 % lost"][0] != both["thresholds"]["3 % lost"][1]
    for kind, row in both["kinds"].items():
        # The same photographs behind the same occluders: as many cells of each.
        assert row["mse"] == pytest.approx(np.mean([one["kinds"][kind]["mse"] for one in alone]))
        for name in ("found", "lost") if kind != CLEAN else ("lost",):
            shares = [one["kinds"][kind]["3 % lost"][name][0] for one in alone]
            assert row["3 % lost"][name][0] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model-path", "none.ckpt", "--people", "{people}"], "no such checkpoint"),
        (["--model-path", "{checkpoint}", "--people", "nobody"], "nobody"),
        (
            ["--model-path", "{checkpoint}", "--people", "{people}", "--draws", "0"],
            "--draws: 1 or more expected, got 0",
        ),
        (["--model-path", "{headless}", "--people", "{people}"], "has no occlusion head"),
        (["--model-path", "{checkpoint}", "--people", "{people}", "{people}"], "expected, got 1 and 2"),
    ],
)
def test_bad_input_is_one_line(gray_people, tmp_path, capsys, words, message):
    headless = {"occlusion_loss_weight": 0.0, "occlusion_method": "none"}
    places = {
        "checkpoint": write_checkpoint(tmp_path / "last.ckpt"),
        "headless": write_checkpoint(tmp_path / "headless.ckpt", **headless),
        "people": gray_people,
    }
    with pytest.raises(SystemExit) as stop:
        main([word.format(**places) for word in words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert PROGRAM in error
