"""Several draws of occluders, and who is occluded in a search, through the program."""

import numpy as np
import pytest
import torch
from benchmark_sets import draw_images, write_bin
from short_runs import write_faces
from untrained import write_checkpoint

import models
from cli import folder_evaluation
from cli.pairs import image_sets
from config import EvaluationConfig
from evaluation.report.results import read_results

pytestmark = pytest.mark.usefixtures("own_cache")

FIGURES = ("accuracy", "balanced_accuracy", "auc", "eer")


@pytest.fixture
def checkpoint(tmp_path):
    return str(write_checkpoint(tmp_path / "last.ckpt"))


def options(checkpoint, data_path, output_dir, **others):
    paths = {"model_path": checkpoint, "data_path": str(data_path), "output_dir": str(output_dir)}
    return EvaluationConfig(**{**paths, "occlude": "one", "gpus": 0, "num_workers": 1, **others})


def evaluated(*arguments, **others):
    config = options(*arguments, **others)
    assert folder_evaluation.run(config) == 0
    return read_results(f"{config.output_dir}/results.json")


def entries_of(results):
    (benchmark,) = results["benchmarks"].values()
    return benchmark["conditions"]


@pytest.mark.evaluation_flag("occlusion_draws")
@pytest.mark.parametrize("kind", ["people", pytest.param("set", marks=pytest.mark.slow)])
def test_figures_are_means_over_draws_each_of_which_is_that_of_its_seed(tmp_path, checkpoint, kind, capsys):
    if kind == "people":
        data = write_faces(tmp_path / "data", identities=5, images=3, pairs=0) / "train"
    else:
        write_bin(data := tmp_path / "mine.bin", draw_images(24), [True, False] * 6)
    mean = evaluated(checkpoint, data, tmp_path / "mean", occlusion_draws=2)
    text = capsys.readouterr().out
    seeds = folder_evaluation.draw_seeds(options(checkpoint, data, "out", occlusion_draws=2))
    alone = [evaluated(checkpoint, data, tmp_path / str(seed), seed=seed) for seed in seeds]
    assert len(set(seeds)) == 2 and seeds[0] == 42
    assert entries_of(mean)["clean"] == entries_of(alone[0])["clean"]
    for method, entry in entries_of(mean)["occluded"].items():
        drawn = [entries_of(results)["occluded"][method] for results in alone]
        assert entry["occlusion_draws"]["num"] == 2
        for name in FIGURES:
            values = [one[name] for one in drawn]
            assert entry[name] == pytest.approx(np.mean(values))
            assert entry["occlusion_draws"]["std"][name] == pytest.approx(np.std(values, ddof=1))
        assert entry["accuracy_interval"]["estimate"] == pytest.approx(entry["accuracy"])
        if kind == "people":
            shares = [one["identification"]["rank_accuracy"]["1"] for one in drawn]
            assert entry["identification"]["rank_accuracy"]["1"] == pytest.approx(np.mean(shares))
    assert "std of 2 draws" in text and "means over 2 draws" in text and str(seeds[1]) in text
    name = "scores.npz" if kind == "people" else "scores_mine.npz"
    with np.load(tmp_path / "mean" / name) as saved, np.load(tmp_path / str(seeds[1]) / name) as one:
        np.testing.assert_array_equal(saved["occluded2_adaface"], one["occluded_adaface"])
        assert ("exchanged2_adaface" in saved) == (kind == "people")
    if kind == "set":
        name = "combined minus embedding, accuracy, occluded"
        found, *drawn = (results["comparisons"][name]["estimate"] for results in (mean, *alone))
        assert found == pytest.approx(np.mean(drawn))


def test_clean_images_are_described_once_and_one_draw_is_held_at_a_time(tmp_path, checkpoint, monkeypatch):
    source = image_sets.read_folder(options(checkpoint, write_faces(tmp_path / "data", pairs=0) / "train", "out"))
    whole, living, most = folder_evaluation.describe, [], []

    class Held:
        """Counts the descriptions that are alive."""

        def __init__(self):
            living.append(self)

        def __del__(self):
            most.append(-1)

    def describe(*arguments):
        most.append(+1)
        described = whole(*arguments)
        object.__setattr__(described, "held", Held())
        living.clear()
        return described

    monkeypatch.setattr(folder_evaluation, "describe", describe)
    config = options(checkpoint, "d", "out", occlusion_draws=4)
    assert len(folder_evaluation.score(models.load(checkpoint), source, config).further) == 3
    assert most.count(+1) == 1 + 4
    assert np.cumsum(most).max() == 2, "the clean ones and those of one draw"


@pytest.mark.parametrize("method", ["adaface", "qaconv"])
@pytest.mark.parametrize("occlude", ["one", "both"])
def test_a_search_has_occluded_probes_and_a_clean_gallery_or_both_occluded(tmp_path, checkpoint, occlude, method):
    data = write_faces(tmp_path / "data", identities=6, images=3, pairs=0) / "train"
    exact = {"occlude": occlude, "map_dtype": "float32"}
    results = evaluated(checkpoint, data, tmp_path / "out", **exact)
    model, config = models.load(checkpoint), options(checkpoint, data, "out", **exact)
    source, device = image_sets.read_folder(config), torch.device("cpu")
    hidden_images = folder_evaluation.occlude_images(source.images, source.keys, config)
    hidden, clean = (folder_evaluation.describe(model, x, config, device) for x in (hidden_images, source.images))
    gallery = hidden if occlude == "both" else clean
    with torch.inference_mode():
        square = (hidden.embedding @ gallery.embedding.T).numpy()
        if method == "qaconv":
            views = zip(hidden.restored().views, gallery.restored().views, strict=True)
            square = np.mean(
                [model.matcher(a.local_map, b.local_map, a.visibility, b.visibility).numpy() for a, b in views], axis=0
            )
    np.fill_diagonal(square, -np.inf)
    is_mate = source.labels[:, None] == source.labels
    best = np.where(is_mate, square, -np.inf).max(1)
    ranks = 1 + (np.where(is_mate, -np.inf, square) >= best[:, None]).sum(1)
    entry = entries_of(results)["occluded"][method]["identification"]
    assert entry["rank_accuracy"] == pytest.approx({str(k): np.mean(ranks <= k) for k in (1, 5)})
    assert (entry["probes"], entry["gallery"]) == ("occluded", "occluded" if occlude == "both" else "clean")
    roles = f"probes are occluded, the others {entry['gallery']}"
    assert roles in (tmp_path / "out" / "report.txt").read_text()
    of_clean = entries_of(results)["clean"][method]["identification"]
    assert (of_clean["probes"], of_clean["gallery"]) == ("clean", "clean")
