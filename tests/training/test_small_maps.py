"""Runs of a network whose map is 3 x 3, and whose earlier map of 7 x 7 is not twice that."""

import json

import pytest
import torch
from observed import recognizer, trained_step
from short_runs import SMALL

import nets
from cli import training
from config import Config

SHAPES = {"plain": (3, 3), "fine": (3, 3), "pyramid": (28, 28)}


@pytest.mark.parametrize("occlusion_head", SHAPES)
def test_every_occlusion_head_and_the_matcher_take_a_step_on_maps_of_3_x_3(occlusion_head):
    model, loss, terms = trained_step(arch="edgeface_xxs", occlusion_head=occlusion_head)
    assert torch.isfinite(torch.tensor(loss)) and {"train_occlusion_loss", "train_pairwise_loss"} <= terms.keys()
    features, visibility = nets.see(model.model, model.occlusion_head, torch.zeros(2, 3, 112, 112))
    assert features.feature_map.shape == (2, 168, 3, 3) and visibility.shape == (2, 1, *SHAPES[occlusion_head])
    described = model.eval().describe(torch.zeros(2, 3, 112, 112))
    assert described.visibility.shape == (2, 1, 3, 3) and described.local_map.shape == (2, 168, 3, 3)
    scores = model.matcher(described.local_map, described.local_map, described.visibility, described.visibility)
    assert scores.shape == (2, 2) and scores.isfinite().all()


def test_the_fine_head_gives_each_cell_the_mean_of_the_finer_cells_that_it_covers():
    model = recognizer(arch="edgeface_xxs", occlusion_head="fine").eval()
    finer = []
    model.occlusion_head.layers.register_forward_hook(lambda _module, _inputs, logits: finer.append(logits.sigmoid()))
    with torch.no_grad():
        _, visibility = nets.see(model.model, model.occlusion_head, torch.rand(1, 3, 112, 112))
    assert finer[0].shape == (1, 1, 7, 7)
    covered = (slice(0, 3), slice(2, 5), slice(4, 7))  # cells at a border between two belong to both
    for row, rows in enumerate(covered):
        for column, columns in enumerate(covered):
            torch.testing.assert_close(visibility[0, 0, row, column], finer[0][0, 0, rows, columns].mean())


@pytest.mark.slow
def test_a_run_with_edgeface_trains_validates_and_reports(noise_faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"arch": "edgeface_xxs", "occlusion_head": "fine", "val_occlusion": ("block",), "data_root": noise_faces}
    session = training.prepare(Config(**{**SMALL, **options}), frozenset(), [])
    assert training.run(session) == 0
    results = json.loads((session.folder / "report" / "results.json").read_text())
    hardest = results["benchmarks"]["lfw"]["hardest"]["occluded"]
    pairs = [pair for kind, found in hardest.items() if kind != "method" for pair in found]
    assert pairs
    for pair in pairs:
        assert pair["cells"] == [3, 3] and torch.tensor(pair["visibility"]).shape == (2, 3, 3)
        assert all(cell < 9 for match in pair["matches"] for cell in match[:2])
