"""Galleries and templates evaluated as a user evaluates them."""

import json
import logging

import numpy as np
import pytest
from programs import refusal
from protocol_layouts import write_images, write_janus, write_tinyface
from untrained import write_checkpoint

import models
from cli import report
from cli.evaluate import main
from cli.search_evaluation import comparable, embed, search_all
from config import EvaluationConfig
from datasets import open_tinyface
from evaluation import ScoreNormalization, identify, tar_at_nearest_far
from evaluation.report.results import read_results


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "last.ckpt")


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers


def evaluate(checkpoint, data, output, *flags):
    return main([str(word) for word in words_of(checkpoint, data, output, *flags)])


def words_of(checkpoint, data, output, *flags):
    return ["--model-path", checkpoint, "--data-path", data, "--output-dir", output, "--gpus", "0", *flags]


def test_tinyface_is_searched_among_its_distractors(tmp_path, checkpoint, capsys):
    write_tinyface(tmp_path / "set" / "Testing_Set")
    (tmp_path / "set" / "Testing_Set" / "Probe" / "3_2.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    assert evaluate(checkpoint, tmp_path / "set", tmp_path / "out", "--batch-size", "2") == 0
    found = json.loads((tmp_path / "out" / "identification.json").read_text())
    (entry,) = found["searches"].values()
    assert (entry["num_probes"], entry["num_strangers"], entry["num_gallery"]) == (2, 0, 4)
    assert entry["cmc"]["5"]["estimate"] == 1.0 and "tpir_at_fpir" not in entry
    assert found["protocol"]["ranks_count"] == "images" and found["protocol"]["unreadable"] == 1
    images = open_tinyface(tmp_path / "set")
    options = EvaluationConfig(model_path="m", data_path="d", gpus=0, num_workers=1)
    features, readable, cells = embed(models.load(checkpoint), images, options)
    assert readable.sum() == len(cells) == 6
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    probes, gallery = features[:2], features[2:]
    ranks = search_all(probes, gallery, np.array([1, 0]), np.array([1, 0, -1, -1]), by_entry=True).rank()
    assert entry["cmc"]["1"]["estimate"] == np.mean(ranks <= 1)
    text = capsys.readouterr().out
    assert "tinyface: searches" in text and (tmp_path / "out" / "identification.txt").read_text() in text
    results, page = read_results(tmp_path / "out" / "results.json"), tmp_path / "out" / "index.html"
    assert results["searches"]["tinyface"]["entries"] == found["searches"] and not results["benchmarks"]
    assert entry["probes"] == "probe" and entry["gallery"] == "matches and distractors"
    assert "matches and distractors" in page.read_text() and str(checkpoint) in page.read_text()
    before = page.read_text()
    page.unlink()
    assert report.main([str(tmp_path / "out")]) == 0 and page.read_text() == before
    assert evaluate(checkpoint, tmp_path / "set", tmp_path / "out", "--anonymous") == 0
    assert str(checkpoint) not in page.read_text()


@pytest.mark.evaluation_flag("score_normalization")
def test_what_a_checkpoint_knows_of_scores_counts_in_a_search_and_not_among_templates(tmp_path):
    learned = ScoreNormalization(
        mean={"adaface": [0.0, 9.0, 0, 0, 0, 0], "qaconv": [0.0] * 6},
        log_std={"adaface": [0.0] * 6, "qaconv": [0.0] * 6},
        correlation=[0.0] * 6,
        center=[0.0] * 6,
        scale=[1.0] * 6,
        least=[0.0, 0.0],
        weights={"adaface": 0.5, "qaconv": 0.5},
        source="a test",
        num_impostors=100,
    )
    checkpoint = write_checkpoint(tmp_path / "last.ckpt", normalization=learned)
    write_tinyface(tmp_path / "set" / "Testing_Set")
    told = []
    for number, flags in enumerate(((), ("--score-normalization", "none"))):
        assert evaluate(checkpoint, tmp_path / "set", tmp_path / f"out{number}", *flags) == 0
        found = json.loads((tmp_path / f"out{number}" / "identification.json").read_text())
        told.append(found["protocol"]["score_normalization"])
    assert told == ["checkpoint, by what is visible: a test", "none"]
    model, options = models.load(checkpoint), EvaluationConfig(model_path="m", data_path="d", gpus=0, num_workers=1)
    features, _, cells = embed(model, open_tinyface(tmp_path / "set"), options)
    people = np.array([1, 1, 0]), np.array([1, 0, -1, -1])
    raw = search_all(features[:3], features[3:], *people, by_entry=True)
    normalize = comparable(cells[:3], cells[3:], learned)
    known = search_all(features[:3], features[3:], *people, by_entry=True, normalize=normalize)
    hidden = 2 - cells[:3].mean(1)[:, None] - cells[3:].mean(1)
    expected = features[:3] @ features[3:].T - 9 * hidden
    np.testing.assert_allclose(known.best, expected.max(1), rtol=1e-4)
    assert not np.allclose(raw.best, known.best)
    write_janus(tmp_path / "IJBC")
    assert evaluate(checkpoint, tmp_path / "IJBC", tmp_path / "templates") == 0
    protocol = read_results(tmp_path / "templates" / "results.json")["protocol"]
    assert protocol["score_normalization"].startswith("none: ")


def test_strangers_of_rof_have_rates_or_are_said_not_to_resolve_them(tmp_path, checkpoint, capsys):
    names = [f"neutral/{person}/1.png" for person in "abc"]
    names += [f"masked/{person}/2.png" for person in "abc"]
    names += [f"sunglasses/{person}/1.png" for person in ["a", *(f"x{number}" for number in range(12))]]
    write_images(tmp_path / "rof", names)
    assert evaluate(checkpoint, tmp_path / "rof", tmp_path / "out") == 0
    searches = json.loads((tmp_path / "out" / "identification.json").read_text())["searches"]
    masked, sunglasses = searches["masked in the gallery"], searches["sunglasses in the gallery"]
    assert masked["num_probes"] == 3 and "tpir_at_fpir" not in masked
    assert sunglasses["num_strangers"] == 12
    rates = sunglasses["tpir_at_fpir"]
    assert rates["0.1"]["any_rank"] in (0.0, 1.0) and rates["0.01"]["rank_1"] is None
    assert "FPIR 0.003: not resolved by 12 strangers" in capsys.readouterr().out


@pytest.mark.evaluation_flag("keep_norm", "detector_scores")
def test_templates_are_compared_and_searched(tmp_path, checkpoint, capsys):
    meta = write_janus(tmp_path / "IJBC")
    points = meta / "ijbc_name_5pts_score.txt"
    lines = points.read_text().splitlines()
    points.write_text("\n".join(f"{line[:-3]}{0.1 * (number + 1):.1f}" for number, line in enumerate(lines)) + "\n")
    sums = {}
    for flags in ((), ("--no-keep-norm",), ("--no-detector-scores",)):
        output = tmp_path / f"out{len(sums)}"
        assert evaluate(checkpoint, tmp_path / "IJBC", output, *flags) == 0
        results = read_results(output / "results.json")
        entry = results["benchmarks"]["ijbc"]["conditions"]["clean"]["adaface"]
        assert (entry["num_genuine"], entry["num_impostor"]) == (3, 6)
        assert results["protocol"]["keep_norm"] == (flags != ("--no-keep-norm",))
        assert results["protocol"]["detector_scores"] == (flags != ("--no-detector-scores",))
        assert results["protocol"]["interval_method"].startswith("95 % percentile bootstrap over identities")
        assert set(results["protocol"]["tar_at_nearest_far"]) == {"0.1", "0.01", "0.001", "0.0001", "1e-05", "1e-06"}
        sums[flags] = tuple(entry["fold_threshold"])
        searches = json.loads((output / "identification.json").read_text())["searches"]
        assert list(searches) == ["probes in G1", "probes in G2", "probes in G1 and G2"]
        counts = [(one["num_probes"], one["num_strangers"], one["num_gallery"]) for one in searches.values()]
        assert counts == [(2, 1, 2), (1, 2, 1), (3, 0, 3)]
        assert results["searches"]["ijbc"]["entries"] == searches
        page = (output / "index.html").read_text()
        assert "Searches of ijbc" in page and "templates of G1" in page and "pairs of single images" in page
    assert len(set(sums.values())) == 3
    assert "tar_at_nearest_far" in capsys.readouterr().out


def test_a_missing_image_or_a_flag_of_pairs_is_one_line(tmp_path, checkpoint, capsys):
    write_janus(tmp_path / "IJBC")
    (tmp_path / "IJBC" / "loose_crop" / "3.jpg").unlink()
    line = refusal(capsys, main, *words_of(checkpoint, tmp_path / "IJBC", tmp_path / "out"))
    assert "1 of 12 images are not in" in line and not (tmp_path / "out" / "results.json").exists()
    flags = ("--occlude", "one", "--shortlist", "3")
    line = refusal(capsys, main, *words_of(checkpoint, tmp_path / "IJBC", tmp_path / "o", *flags))
    assert "--occlude, --shortlist: " in line and "leave it out" in line


def test_a_search_in_blocks_is_the_search_as_one(monkeypatch):
    rng = np.random.default_rng(0)
    probes, gallery = (rng.normal(size=(number, 4)).astype(np.float32) for number in (9, 5))
    people = rng.integers(6, size=9), rng.integers(5, size=5)
    whole = identify(probes @ gallery.T, *people)
    monkeypatch.setattr("cli.search_evaluation._CELLS", 12)
    blocks = search_all(probes, gallery, *people, by_entry=False)
    assert blocks.rank().tolist() == whole.rank().tolist() and np.allclose(blocks.best, whole.best)
    assert tar_at_nearest_far([0.9, 0.1], np.array([True, False]), [1e-6]) == {1e-6: 1.0}
