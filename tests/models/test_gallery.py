"""Galleries: pooling against a loop, people who come and go, and who is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from galleries import same
from portraits import load_model, write_people

from models import Gallery, Plan, calibrate
from models.gallery import NUM_STRANGERS, SHORTLIST
from models.pictures import read_face
from models.portraits import describe_portraits, scores_of
from models.templates import pool

OWN = "is a photograph of the gallery itself"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), num=6, images=3)


@pytest.fixture(scope="module")
def portraits(model, people):
    crops = [read_face(people / f"p{label}" / f"{image}.png") for label in range(2) for image in range(3)]
    return describe_portraits(model, np.stack(crops))


@pytest.fixture
def gallery(model, people):
    gallery = Gallery(model)
    gallery.enrol(people)
    return gallery


# ---------------------------------------------------------------- templates


def test_photographs_are_pooled_by_quality_as_a_loop_does(portraits):
    labels = np.array([0, 0, 0, 1, 1, 1])
    templates = pool(portraits, labels, "float16")
    for person in (0, 1):
        own = np.flatnonzero(labels == person).tolist()
        total = sum(portraits.faces.embedding[i] * portraits.norm[i] * portraits.visible[i] for i in own)
        np.testing.assert_allclose(templates.embedding[person], total / total.norm(), atol=1e-6)
        for view, held in zip(portraits.faces.views, templates.views, strict=True):
            for row in range(7):
                for column in range(7):
                    cells = [view.local_map[i, :, row, column] for i in own]
                    seen = [view.visibility[i, 0, row, column] for i in own]
                    weights = [portraits.norm[i] * v for i, v in zip(own, seen, strict=True)]
                    total = sum(w * cell for w, cell in zip(weights, cells, strict=True))
                    np.testing.assert_allclose(held.maps[person, row, column], total / total.norm(), atol=1e-3)
                    assert held.visibility[person, row, column] == pytest.approx(float(max(seen)))


def test_a_hidden_cell_of_one_photograph_leaves_the_template_to_the_others(portraits):
    view = portraits.faces.views[0]
    visibility = view.visibility.clone()
    visibility[0, :, 4:] = 0
    faces = replace(portraits.faces, views=(view._replace(visibility=visibility),))
    norm, visible = portraits.norm, portraits.visible
    two = pool(portraits._replace(faces=faces[:2], norm=norm[:2], visible=visible[:2]), np.array([0, 0]), "float16")
    alone = pool(portraits._replace(faces=faces[1:2], norm=norm[1:2], visible=visible[1:2]), np.array([0]), "float16")
    np.testing.assert_allclose(two.views[0].maps[0, 4:], alone.views[0].maps[0, 4:], atol=1e-3)
    np.testing.assert_array_equal(two.views[0].visibility[0, 4:], alone.views[0].visibility[0, 4:])
    assert np.abs(two.views[0].maps[0, :4].astype(float) - alone.views[0].maps[0, :4]).max() > 1e-2


def test_a_cell_that_is_hidden_in_every_photograph_is_zero_and_scores_stay_finite(model, portraits):
    views = tuple(v._replace(visibility=torch.zeros_like(v.visibility)) for v in portraits.faces.views)
    hidden = portraits._replace(faces=replace(portraits.faces, views=views))
    for dtype in ("float16", "int8"):
        templates = pool(hidden, np.arange(6), dtype)
        assert not templates.views[0].maps.any() and np.isfinite(templates.embedding).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("int8", 3)])
def test_photographs_that_come_later_are_pooled_as_if_they_had_been_there(model, people, dtype, tolerance):
    at_once, in_turn = Gallery(model, map_dtype=dtype), Gallery(model, map_dtype=dtype)
    at_once.enrol(people)
    for image in (0, 1, 2):
        for person in range(6):
            in_turn.add(f"p{person}", [people / f"p{person}" / f"{image}.png"])
    assert in_turn.names == at_once.names and len(in_turn.photographs) == 18
    same(at_once, in_turn, tolerance)


# ---------------------------------------------------------------- people come and go


def test_enrolling_again_changes_nothing_and_says_so(gallery, people):
    assert gallery.enrol(people)[:3] == (0, 0, 18)
    assert len(gallery) == 6 and len(gallery.photographs) == 18


def test_a_picture_of_two_people_is_left_out_and_said(gallery, people):
    done = gallery.add("twin", [people / "p0" / "0.png"])
    assert done[:3] == (0, 0, 0) and "twin" not in gallery.names
    assert done.failures == ("p0/0.png: the same picture is there as a photograph of p0, not of twin",)


def test_who_is_removed_is_gone_and_can_come_back(gallery, model, people):
    gallery.remove("p2")
    assert gallery.names == ["p0", "p1", "p3", "p4", "p5"] and len(gallery.photographs) == 15
    without = Gallery(model)
    for name in gallery.names:
        without.add(name, sorted((people / name).iterdir()))
    same(gallery, without)
    ways = [each.identify(people / "p4" / "0.png").candidates for each in (gallery, without)]
    assert [name for name, _ in ways[0]] == [name for name, _ in ways[1]]
    np.testing.assert_allclose([score for _, score in ways[0]], [score for _, score in ways[1]], atol=1e-2)
    assert OWN not in str(gallery.identify(people / "p2" / "0.png"))
    gallery.add("p2", [people / "p2" / "0.png"])
    assert gallery.names[-1] == "p2" and f"{OWN} (p2/0.png of p2)" in str(gallery.identify(people / "p2" / "0.png"))
    with pytest.raises(ValueError, match="nobody of the name 'p9'"):
        gallery.remove("p9")


def test_the_last_person_leaves_an_empty_gallery(model, people):
    gallery = Gallery(model)
    gallery.add("p0", [people / "p0" / "0.png"])
    gallery.remove("p0")
    assert len(gallery) == 0
    for call in (lambda: gallery.identify(people / "p0" / "0.png"), lambda: gallery.save("nowhere.npz")):
        with pytest.raises(ValueError, match="the gallery is empty"):
            call()


def test_what_cannot_be_read_is_left_out_or_refused_and_nothing_changes(model, people, tmp_path):
    copy = write_people(tmp_path / "people", num=3)
    (copy / "p0" / "0.png").write_bytes(b"no image")
    gallery = Gallery(model)
    done = gallery.enrol(copy)
    assert done[:3] == (3, 5, 0) and len(done.failures) == 1 and "0.png" in done.failures[0]
    with pytest.raises(ValueError, match=r"0\.png"):
        gallery.add("new", [copy / "p1" / "0.png", copy / "p0" / "0.png"])
    assert len(gallery) == 3
    (tmp_path / "bad" / "p0").mkdir(parents=True)
    (tmp_path / "bad" / "p0" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no photograph can be enrolled"):
        gallery.enrol(tmp_path / "bad")
    with pytest.raises(ValueError, match="at least one photograph"):
        gallery.add("new", [])


def test_two_photographs_without_labels_are_two_people(model, people, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes((people / f"p{number}" / "0.png").read_bytes())
    gallery = Gallery(model)
    assert gallery.enrol(tmp_path)[:2] == (2, 2) and gallery.names == ["0.png", "1.png"]
    found = gallery.identify(people / "p0" / "1.png")
    assert len(found.candidates) == 2 and found.known is not None and "too few to tell" in str(found)


# ---------------------------------------------------------------- who is it?


def test_candidates_are_those_of_all_scores_one_by_one(gallery, model, people):
    probe = people / "p3" / "1.png"
    faces = describe_portraits(model, read_face(probe)[None]).faces
    for name in scores_of(model):
        found = gallery.identify(probe, k=6, score=name)
        expected = {}
        for place, person in enumerate(gallery.names):
            listed = gallery._templates.describe(np.array([place]))
            cosine = float(faces.embedding[0] @ listed.embedding[0])
            with torch.inference_mode():
                views = [
                    float(model.matcher.match_pairs(a.local_map, b.local_map, a.visibility, b.visibility))
                    for a, b in zip(faces.views, listed.views, strict=True)
                ]
            qaconv = sum(views) / 2
            fused = 0.6 * (cosine - 0.1) / 0.3 + 0.4 * (qaconv + 0.2) / 0.7
            expected[person] = {"adaface": cosine, "qaconv": qaconv, "fused": fused}[name]
        ranked = sorted(expected, key=expected.get, reverse=True)
        assert [candidate.name for candidate in found.candidates] == ranked
        assert [candidate.score for candidate in found.candidates] == pytest.approx(
            [expected[person] for person in ranked], abs=1e-4
        )
        assert found.margin == pytest.approx(expected[ranked[0]] - expected[ranked[1]], abs=1e-4)


def test_a_probe_of_the_gallery_itself_is_said(gallery, people):
    assert f"{OWN} (p1/2.png of p1)" in str(gallery.identify(people / "p1" / "2.png"))
    gallery.remove("p1")
    assert OWN not in str(gallery.identify(people / "p1" / "2.png"))


def test_strangers_are_the_best_scores_among_the_others(gallery):
    strangers = gallery.strangers()
    assert set(strangers) == {"fused", "adaface", "qaconv"} and len(strangers["adaface"]) == 6
    cosines = gallery._templates.embedding @ gallery._templates.embedding.T
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_allclose(strangers["adaface"], np.sort(cosines.max(1)), atol=1e-6)


def test_strangers_are_matched_where_the_model_is(gallery, monkeypatch):
    """A device without numbers stands for a GPU: templates lie on the CPU."""
    places = set()

    def matched(match, *sides):
        places.update(tensor.device.type for side in sides for view in side.views for tensor in view)
        return torch.zeros(*(side.num_images for side in sides))

    monkeypatch.setattr("models.gallery.mean_over_views", matched)
    monkeypatch.setattr(type(gallery._model), "device", torch.device("meta"))
    gallery.strangers()
    assert places == {"meta"}


def test_the_open_set_threshold_lets_a_share_of_strangers_pass(gallery, people):
    strangers = gallery.strangers()["adaface"]
    third = gallery.identify(people / "p0" / "0.png", score="adaface", fpir=0.34)
    assert third.threshold == strangers[-2] and "34 % of 6 people" in str(third)
    strict = gallery.identify(people / "p0" / "0.png", score="adaface")
    assert strict.threshold > strangers[-1] and "too few to tell what 1 % reach" in str(strict)
    assert strict.known == (strict.candidates[0].score >= strict.threshold)


def test_who_stays_below_the_threshold_is_unknown(gallery, people):
    gallery._strangers = {name: np.full(6, 1e6) for name in gallery.strangers()}
    found = gallery.identify(people / "p0" / "0.png")
    assert found.known is False and str(found).startswith("unknown: score fused")
    gallery._strangers = {name: np.full(6, -1e6) for name in gallery.strangers()}
    found = gallery.identify(people / "p0" / "0.png")
    assert found.known is True and str(found).startswith(f"{found.candidates[0].name}: score fused")


def test_a_gallery_of_one_person_cannot_tell_who_is_unknown(model, people):
    gallery = Gallery(model)
    gallery.add("only", [people / "p0" / "0.png"])
    found = gallery.identify(people / "p1" / "0.png")
    assert found.known is None and found.threshold is None and found.margin is None
    assert "uncalibrated; nearest is only" in str(found) and "has no strangers" in str(found)


def test_a_calibration_decides_where_its_rate_is_low_enough(gallery, model, people):
    calibration = calibrate(model, people, plan=Plan(fars=(0.5, 0.05), num_draws=100))
    calibration = replace(calibration, covered_below=None)
    probe = people / "p0" / "0.png"
    found = gallery.identify(probe, fpir=0.4, calibration=calibration)  # 0.4 / 6 people
    assert found.threshold == calibration.point("fused", "clean", 0.05).threshold
    assert "for a FAR of 0.05: at most 30 % of strangers" in str(found)
    strict = gallery.identify(probe, fpir=0.01, calibration=calibration)
    assert "the calibration has no FAR as low as 1 % / people" in str(strict)
    with pytest.raises(ValueError, match="belongs to other weights"):
        other = replace(calibration, origin=calibration.origin._replace(model="0" * 64))
        gallery.identify(probe, calibration=other)


@pytest.mark.parametrize(
    ("words", "options"),
    [("k must be", {"k": 0}), ("fpir in", {"fpir": 1.0}), ("no such score", {"score": "x"})],
)
def test_wrong_arguments_are_refused(gallery, people, words, options):
    with pytest.raises(ValueError, match=words):
        gallery.identify(people / "p0" / "0.png", **options)


def test_large_galleries_match_a_short_list_and_sample_strangers(model, people):
    gallery = Gallery(model)
    gallery.enrol(people)
    row = gallery._templates
    many = np.resize(np.arange(6), 400)
    gallery._templates = row.rows(many)
    rng = np.random.default_rng(0)
    noisy = row.embedding[many] + rng.normal(0, 0.05, (400, row.embedding.shape[1])).astype(np.float32)
    gallery._templates = replace(gallery._templates, embedding=noisy / np.linalg.norm(noisy, axis=1, keepdims=True))
    gallery.names = [f"n{place}" for place in range(400)]
    gallery._strangers = {"adaface": np.zeros(2)}
    found = gallery.identify(people / "p0" / "0.png", k=400, score="adaface")
    assert len(found.candidates) == SHORTLIST
    probe = describe_portraits(model, read_face(people / "p0" / "0.png")[None]).faces.embedding[0].numpy()
    best = np.argsort(-(gallery._templates.embedding @ probe))[:SHORTLIST]
    assert {candidate.name for candidate in found.candidates} == {f"n{place}" for place in best}
    assert NUM_STRANGERS < 400
