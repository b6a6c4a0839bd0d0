"""verify, calibrate, enrol and identify as a user runs them: what each flag changes, and one line for what is wrong."""

import shutil

import cv2
import numpy as np
import pytest
from photographs import background, faces, place, write
from portraits import load_model, write_model, write_people
from programs import program, refusal
from untrained import write_checkpoint

from cli.answers import calibrate, enrol, identify, verify
from cli.data import align
from models import AS_GIVEN, Calibration, Gallery, portraits, split_pairs
from options.answers import SCORES, CalibrateOptions


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture
def pair(people):
    return people / "p0" / "0.png", people / "p0" / "1.png"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A model without a calibration beside it."""
    return write_model(tmp_path_factory.mktemp("bare") / "last.ckpt")


@pytest.fixture(scope="module")
def calibrated(people, tmp_path_factory):
    """A model with one."""
    path = write_model(tmp_path_factory.mktemp("calibrated") / "last.ckpt")
    run(calibrate, people, "--model_path", path, "--fars", "0.5,0.1", "--draws", "100")
    return path


@pytest.fixture(scope="module")
def gallery(people, bare, tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery") / "gallery.npz"
    run(enrol, path, people, "--model_path", bare)
    return path


def run(program, *words):
    assert program.main([str(word) for word in words]) == 0


def said(capsys, program, *words):
    capsys.readouterr()
    run(program, *words)
    return capsys.readouterr().out


def test_the_names_and_defaults_of_the_flags_are_those_of_the_functions():
    assert SCORES == portraits.SCORES
    options = CalibrateOptions(model_path="m")
    assert (options.fars, options.max_pairs, options.draws, options.seed) == tuple(split_pairs.USUAL)


@pytest.mark.slow
def test_a_new_user_gets_from_people_to_answers(people, tmp_path):
    model = write_model(tmp_path / "last.ckpt")
    flags = ("--model_path", model)
    probe = people / "p1" / "0.png"
    before = program("main.py", "verify", probe, people / "p1" / "1.png", *flags, cwd=tmp_path)
    assert before.stdout.startswith("uncalibrated: ")
    program("main.py", "calibrate", people, *flags, "--fars", "0.1", cwd=tmp_path)
    after = program("main.py", "verify", probe, people / "p1" / "1.png", *flags, cwd=tmp_path)
    assert "same person: score fused" in after.stdout
    program("main.py", "enrol", "gallery.npz", people, *flags, cwd=tmp_path)
    found = program("main.py", "identify", "gallery.npz", probe, *flags, cwd=tmp_path)
    assert found.stdout.startswith(f"{probe}: ") and "photograph of the gallery itself" in found.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery.npz", "last.calibration.json", "last.ckpt"]


@pytest.mark.answer_flag("calibration")
def test_the_calibration_beside_the_model_is_used_unless_told_otherwise(capsys, pair, calibrated, bare, tmp_path):
    assert "threshold" in said(capsys, verify, *pair, "--model_path", calibrated).splitlines()[0]
    none = said(capsys, verify, *pair, "--model_path", calibrated, "--calibration", "none")
    assert none.startswith("uncalibrated: ")
    shutil.copy(calibrated.with_suffix(".calibration.json"), tmp_path / "c.json")
    named = said(capsys, verify, *pair, "--model_path", bare, "--calibration", tmp_path / "c.json")
    assert "threshold" in named.splitlines()[0]


@pytest.mark.answer_flag("score", "far")
def test_score_and_rate_choose_the_threshold(capsys, pair, calibrated):
    known = Calibration.load(calibrated.with_suffix(".calibration.json"))
    for score in SCORES:
        text = said(capsys, verify, *pair, "--model_path", calibrated, "--score", score, "--far", "0.5")
        limits = [known.point(score, condition, 0.5).threshold for condition in ("clean", "masked")]
        assert f"score {score} " in text and any(f"threshold {limit:.4f}" in text for limit in limits)
    assert "false-accept rate of 10 %" in said(capsys, verify, *pair, "--model_path", calibrated)


@pytest.mark.answer_flag("impostors", "model_path")
def test_a_score_is_ranked_among_the_people_given(capsys, pair, people, bare):
    text = said(capsys, verify, *pair, "--model_path", bare, "--impostors", people)
    assert f"of 28 pairs of different people (8 people of {people.name})" in text


@pytest.mark.answer_flag("picture")
def test_the_picture_shows_both_faces_and_is_written_whole(pair, bare, people, tmp_path):
    file = tmp_path / "answer.png"
    run(verify, *pair, "--model_path", bare, "--impostors", people, "--picture", file)
    picture = cv2.imread(str(file))
    assert picture.shape == (548, 1008, 3)
    crop = cv2.imread(str(pair[1]))
    shown = cv2.resize(picture[50:498, 536:984], (112, 112), interpolation=cv2.INTER_AREA)
    plain = np.median(np.abs(shown.astype(int) - crop))
    assert plain < 60  # darker where cells are hidden
    assert np.corrcoef(shown.ravel(), crop.ravel())[0, 1] > 0.7
    assert [path.name for path in tmp_path.iterdir()] == ["answer.png"]


@pytest.mark.answer_flag("arch", "color_space")
def test_weights_from_elsewhere_are_read_in_the_order_that_is_said(capsys, pair, people, tmp_path):
    import torch

    own = torch.load(write_checkpoint(tmp_path / "own.ckpt"), weights_only=True)["state_dict"]
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": {name: value for name, value in own.items() if name.startswith("model.")}}, path)
    flags = ("--model_path", path, "--impostors", people)
    rgb, bgr = (said(capsys, verify, *pair, *flags, "--color_space", order) for order in ("rgb", "bgr"))
    assert rgb.startswith("uncalibrated: score adaface") and rgb != bgr
    assert "channel order" in refusal(capsys, verify.main, *pair, *flags)
    line = refusal(capsys, verify.main, *pair, *flags, "--color_space", "rgb", "--arch", "ir_18")
    assert "weights.ckpt" in line
    line = refusal(capsys, verify.main, *pair, *flags, "--encoder", "key")
    assert "weights.ckpt: has one encoder, and --encoder key chooses of the two in a checkpoint of a" in line


@pytest.mark.answer_flag("fars", "max_pairs", "draws", "seed", "output", "pairs")
def test_what_shapes_a_calibration(capsys, people, bare, tmp_path, monkeypatch):
    counts = []
    draw = split_pairs.PeopleDraws
    monkeypatch.setattr(
        split_pairs, "PeopleDraws", lambda pairs, num, seed: counts.append(num) or draw(pairs, num, seed)
    )

    def thresholds(name, *words):
        file = tmp_path / f"{name}.json"
        run(calibrate, people, "--model_path", bare, "--fars", "0.5", "--output", file, *words)
        return Calibration.load(file)

    plain = thresholds("plain", "--draws", "100")
    assert {point.far for point in plain.points} == {0.5}
    assert not bare.with_suffix(".calibration.json").exists()
    thresholds("more", "--draws", "200")
    assert counts == [100, 100, 200, 200]
    other = thresholds("other", "--draws", "100", "--seed", "1")
    assert [point.threshold for point in other.points] != [point.threshold for point in plain.points]
    few = thresholds("few", "--draws", "100", "--max_pairs", "10")
    assert few.points[0].found_far.pairs == 6 and plain.points[0].found_far.pairs == 24
    lines = [f"p{a}/0.png p{b}/1.png {int(a == b)}" for a in range(8) for b in range(8)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    listed = thresholds("listed", "--draws", "100", "--pairs", tmp_path / "pairs.txt")
    assert listed.points[0].found_far.pairs == 12
    assert "listed pairs are left out" in capsys.readouterr().out


@pytest.mark.answer_flag("remove", "map_dtype")
def test_a_gallery_grows_and_shrinks(capsys, people, bare, tmp_path):
    file, flags = tmp_path / "g.npz", ("--model_path", bare)
    assert "added 16 photographs, 8 new people; 0" in said(capsys, enrol, file, people, *flags, "--map_dtype", "int8")
    with np.load(file) as arrays:
        assert arrays["maps_0"].dtype == np.int8
    assert "added 0 photographs, 0 new people; 16" in said(capsys, enrol, file, people, *flags)
    text = said(capsys, enrol, file, *flags, "--remove", "p0", "--remove", "p7")
    assert "removed p0\nremoved p7\ngallery of 6 people, 12 photographs" in text


@pytest.mark.answer_flag("top", "fpir")
def test_several_probes_are_looked_up_and_a_bad_one_is_one_line(capsys, people, bare, gallery, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    probes = [people / "p1" / "0.png", tmp_path / "bad.png", people / "p2" / "0.png"]
    words = [str(word) for word in (gallery, *probes, "--model_path", bare, "--top", "2", "--fpir", "0.3")]
    assert identify.main(words) == 2
    out, err = capsys.readouterr()
    assert out.count("\n1. ") == out.count("\n2. ") == 2 and "\n3. " not in out
    assert err.count("\n") == 1 and err.startswith("main.py identify: error: ") and "bad.png" in err
    assert "30 % of 8 people" in out


def test_answers_in_python_are_those_of_the_programs(capsys, people, bare, gallery):
    model = load_model(bare.parent / "again.ckpt")
    found = Gallery.load(gallery, model, AS_GIVEN).identify(people / "p3" / "1.png")
    text = said(capsys, identify, gallery, people / "p3" / "1.png", "--model_path", bare)
    assert text == f"{people / 'p3' / '1.png'}: {found}\n"


# ---------------------------------------------------------------- what is wrong


def test_what_is_wrong_is_one_line_and_nothing_is_written(capsys, people, pair, bare, calibrated, gallery, tmp_path):
    flags, other = ("--model_path", bare), ("--model_path", write_model(tmp_path / "other.ckpt", embedding_size=8))
    empty = tmp_path / "empty"
    empty.mkdir()
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    huge = tmp_path / "huge.pgm"
    huge.write_bytes(b"P5 20000 20000 255\n")
    known = calibrated.with_suffix(".calibration.json")
    before = sorted(path.name for path in tmp_path.iterdir())
    out = tmp_path / "out"
    for words, program_, argv in [
        ("--model_path is missing", verify, [*pair]),
        ("nowhere.ckpt", verify, [*pair, "--model_path", "nowhere.ckpt"]),
        ("dot.png: 1 x 1 pixels show no face", verify, [pair[0], tmp_path / "dot.png", *flags]),
        ("huge.pgm: 20000 x 20000 pixels", verify, [huge, pair[0], *flags]),
        ("belongs to other weights", verify, [*pair, *other, "--calibration", known]),
        ("gallery.npz: no gallery that can be used", identify, [gallery, pair[0], *other]),
        ("no calibration that can be used", verify, [*pair, *flags, "--calibration", tmp_path / "dot.png"]),
        ("needs a calibration", verify, [*pair, *flags, "--far", "0.1"]),
        ("add --calibration none", verify, [*pair, "--model_path", calibrated, "--impostors", people]),
        ("its folder does not exist", verify, [*pair, *flags, "--picture", out / "a.png"]),
        ("its folder does not exist", calibrate, [people, *flags, "--output", out / "a.json"]),
        ("is a folder; give a file", enrol, [empty, people, *flags]),
        ("empty: holds no images", calibrate, [empty, *flags, "--output", tmp_path / "c.json"]),
        ("empty: holds no images", enrol, [tmp_path / "g.npz", empty, *flags]),
        ("nothing to do", enrol, [tmp_path / "g.npz", *flags]),
        ("no such gallery", enrol, [tmp_path / "g.npz", *flags, "--remove", "p0"]),
        ("nobody of the name 'x'", enrol, [gallery, *flags, "--remove", "x"]),
        (
            "24 pairs of different people in a half resolve none of the FARs",
            calibrate,
            [people, *flags, "--fars", "1e-3"],
        ),
        ("--fars needs at least one rate", calibrate, [people, *flags, "--fars", "none"]),
        ("--far must be in", verify, [*pair, *flags, "--far", "0"]),
        ("No such file", identify, [tmp_path / "g.npz", pair[0], *flags]),
    ]:
        line = refusal(capsys, program_.main, *argv)
        assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_unknown_score_is_said_once_for_all_probes(capsys, pair, gallery, bare, tmp_path):
    line = refusal(capsys, identify.main, gallery, *pair, "--model_path", bare, "--score", "other")
    assert "invalid choice" in line or "is not one of" in line


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Folders of people, photographs with a background around the face."""
    root = tmp_path_factory.mktemp("photographs")
    for person, face in enumerate(faces()[:2]):
        for number in range(2):
            image = background(np.random.default_rng(person)).copy()
            place(face, image, scale=1.2 + 0.2 * number)
            (root / f"p{person}").mkdir(exist_ok=True)
            cv2.imwrite(str(root / f"p{person}" / f"{number}.png"), image[..., ::-1])
    return root


@pytest.mark.answer_flag("align", "detector")
def test_photographs_are_aligned_unless_told_otherwise(capsys, photographs, bare, people, tmp_path):
    pair = photographs / "p0" / "0.png", photographs / "p0" / "1.png"
    flags = ("--model_path", bare, "--impostors", people)

    def scored(*more):
        run(verify, *pair, *flags, *more)
        shown = capsys.readouterr()
        return shown.out.split("score fused ")[1].split()[0], shown.err

    asked, by_itself, as_given = scored("--align", "yes"), scored(), scored("--align", "no")
    assert asked[0] == by_itself[0] != as_given[0]
    assert "photographs are aligned by mtcnn: 2 of 2 images" in by_itself[1] and not as_given[1]
    gallery = tmp_path / "gallery.npz"
    run(enrol, gallery, photographs, "--model_path", bare)
    assert Gallery.origin_of(gallery).detector.startswith("mtcnn")
    assert "p0" in said(capsys, identify, gallery, pair[0], "--model_path", bare)  # as the gallery was made
    line = refusal(capsys, identify.main, gallery, pair[0], "--model_path", bare, "--align", "no")
    assert "template" in line and "as given" in line
    wrong = ("--align", "yes", "--detector", tmp_path / "nothing.onnx")
    assert "nothing.onnx" in refusal(capsys, verify.main, *pair, *flags, *wrong)


def test_crops_of_align_and_photographs_go_together_and_other_crops_do_not(capsys, photographs, bare, people, tmp_path):
    crops, flags = tmp_path / "crops", ("--model_path", bare)
    run(align, photographs, crops)
    run(enrol, tmp_path / "g.npz", crops, *flags)
    assert "crops that align made by mtcnn are taken as they are" in capsys.readouterr().err
    probe = photographs / "p0" / "0.png"
    by_photograph, by_crop = (
        said(capsys, identify, tmp_path / "g.npz", path, *flags).split(": ", 1)[1]
        for path in (probe, crops / "p0/0.png")
    )
    assert by_photograph == by_crop and "photograph of the gallery itself (p0/0.png of p0)" in by_crop
    run(enrol, tmp_path / "other.npz", people, *flags, "--align", "no")
    line = refusal(capsys, identify.main, tmp_path / "other.npz", probe, *flags)
    assert "were made of aligned crops, and these are photographs" in line
    run(identify, tmp_path / "other.npz", people / "p0" / "0.png", *flags)


def test_which_of_several_faces_is_taken_is_said(capsys, photographs, bare, people, tmp_path):
    canvas = background(np.random.default_rng(0), (240, 480)).copy()
    place(faces()[0], canvas, scale=1.6, center=(300, 120))
    place(faces()[1], canvas, center=(90, 120))
    group = write(tmp_path / "group" / "p0" / "0.png", canvas)
    flags, words = ("--model_path", bare), f"{group}: 2 faces; the large one near the center is taken"
    text = said(capsys, verify, group, photographs / "p0" / "0.png", *flags, "--impostors", people, "--align", "yes")
    assert text.endswith(f"\n{words}\n")
    gallery = tmp_path / "g.npz"
    text = said(capsys, enrol, gallery, tmp_path / "group", *flags, "--align", "yes")
    assert f"several faces in 1 photograph; the first: {words}" in text
    assert words in said(capsys, identify, gallery, group, *flags)
