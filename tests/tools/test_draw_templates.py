"""The committed assets are what the drawing code draws."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tools import draw_templates
from tools.drawing import masks, templates, textures
from transforms import TEMPLATE
from transforms.painting import assets
from transforms.painting.assets import ASSETS, load_template, load_texture


@pytest.mark.parametrize("name", templates.DRAWINGS)
def test_drawing_again_gives_the_committed_asset(name: str) -> None:
    committed = cv2.imread(str(ASSETS / name), cv2.IMREAD_UNCHANGED)
    drawn = templates.DRAWINGS[name]()
    if drawn.ndim == 3:
        drawn = drawn[..., [2, 1, 0, 3]]
    assert committed.shape == drawn.shape and committed.dtype == np.uint8
    # One gray level: the last bit of exp and sin differs between processors.
    assert np.abs(committed.astype(int) - drawn).max() <= 1


def test_no_asset_is_left_over_or_missing() -> None:
    assert {path.relative_to(ASSETS).as_posix() for path in ASSETS.rglob("*.png")} == set(templates.DRAWINGS)


def test_draw_all_writes_what_the_occluders_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("occluders/cloth.png", "textures/dots.png")
    monkeypatch.setattr(templates, "DRAWINGS", {name: templates.DRAWINGS[name] for name in names})
    templates.draw_all(tmp_path)
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    np.testing.assert_array_equal(load_template.__wrapped__("cloth"), masks.cloth())
    np.testing.assert_array_equal(load_texture.__wrapped__("dots")[128:256, :128], textures.dots())
    assert (tmp_path / templates.LANDMARKS).read_text(encoding="utf-8") == templates.landmarks_csv()


def test_landmark_file_holds_the_template() -> None:
    text = (ASSETS / templates.LANDMARKS).read_text(encoding="utf-8")
    assert text == templates.landmarks_csv()
    values = [[float(value) for value in row.split(",")[1:]] for row in text.splitlines()[1:]]
    np.testing.assert_allclose(values, TEMPLATE, atol=5e-5)


def test_template_is_the_published_one() -> None:
    expected = [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
    assert TEMPLATE.dtype == np.float32
    np.testing.assert_array_equal(TEMPLATE, np.array(expected, np.float32))


def test_assets_are_read_once_and_cannot_be_written() -> None:
    template = load_template("cloth")
    assert load_template("cloth") is template
    with pytest.raises(ValueError, match="read-only"):
        template[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        load_texture("dots")[0, 0] = 1


@pytest.mark.parametrize("draw", [textures.folds, textures.grain, textures.strands, textures.plaid, textures.flowers])
def test_tiles_have_no_seam(draw: textures.Tile) -> None:
    tile = draw().astype(float)
    inside = np.abs(np.diff(tile, axis=0)).mean(), np.abs(np.diff(tile, axis=1)).mean()
    across = np.abs(tile[0] - tile[-1]).mean(), np.abs(tile[:, 0] - tile[:, -1]).mean()
    assert across[0] < 3 * inside[0] + 2 and across[1] < 3 * inside[1] + 2


@pytest.mark.parametrize("argv", [["--out"], ["a", "b"], ["folder"]])
def test_a_word_that_is_no_flag_draws_nothing(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        draw_templates.main(argv)
    assert not list(tmp_path.iterdir()) and ": error: " in capsys.readouterr().err
