"""Sets with layouts of their own are read as their publications lay them out."""

import cv2
import numpy as np
import pytest
from benchmark_sets import draw_images, encode
from protocol_layouts import write_images, write_janus, write_mat, write_mlfw, write_tinyface

from datasets import load_benchmark, open_janus, open_rmfrd, open_rof, open_tinyface
from datasets.benchmarks.janus import janus_name
from datasets.benchmarks.searches import DISTRACTOR, opener_of_search
from datasets.benchmarks.sets import are_sets, open_sets

pytestmark = pytest.mark.usefixtures("own_cache")


def test_mlfw_is_a_set_of_aligned_images_with_people_by_name(tmp_path):
    names, images = write_mlfw(tmp_path / "MLFW")
    assert are_sets(tmp_path / "MLFW")
    (benchmark,) = open_sets(tmp_path / "MLFW")
    assert benchmark.name == "MLFW" and benchmark.issame.tolist() == [True, True, False, False]
    order = [names[place] for place in (0, 1, 2, 3, 0, 2, 3, 1)]
    assert np.array_equal(benchmark.images, np.stack([images[name] for name in order]))
    assert benchmark.identities.tolist() == [0, 0, 1, 1, 0, 1, 1, 0]
    assert load_benchmark(tmp_path, "MLFW").checksum() == benchmark.checksum()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png b.png 2", "line 5: expected 'a.jpg b.jpg 0 or 1'"),
        ("../a.png b.png 1", "line 5: expected"),
        ("gone.png Carl_0001_0003.png 0", "1 of 5 images are not in .*aligned, the first is 'gone.png'"),
    ],
)
def test_damaged_lists_of_mlfw_are_one_line(tmp_path, line, message):
    write_mlfw(tmp_path / "MLFW")
    with (tmp_path / "MLFW" / "pairs.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=message) as caught:
        load_benchmark(tmp_path, "MLFW")
    assert "\n" not in str(caught.value)


def test_mfr2_is_a_folder_of_people_with_lfws_list(tmp_path):
    people = ("AdrianDunbar", "KenMiles")
    names = [f"{person}/{person}_{number:04d}.png" for person in people for number in (1, 2, 3)]
    write_images(tmp_path / "mfr2", names)
    (tmp_path / "mfr2" / "labels.txt").write_text("person,number,mask\nAdrianDunbar,1,cloth\n")
    pairs = ["AdrianDunbar 1 2", "KenMiles 1 3", "AdrianDunbar 1 KenMiles 2", "AdrianDunbar 3 KenMiles 3"]
    (tmp_path / "mfr2" / "pairs.txt").write_text("\n".join(pairs) + "\n")
    benchmark = load_benchmark(tmp_path, "mfr2")
    assert benchmark.issame.tolist() == [True, True, False, False]
    assert benchmark.identities.tolist() == [0, 0, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("inner", ["", "Testing_Set"])
def test_tinyface_by_the_numbers_in_its_names(tmp_path, inner):
    write_tinyface(tmp_path / inner)
    images = opener_of_search(tmp_path)(tmp_path)
    assert images.class_names == ["3", "11"]
    assert images.labels[images.probes["probe"]].tolist() == [1, 0, 0]  # 11_1 comes before 3_1
    assert images.labels[images.gallery].tolist() == [1, 0, DISTRACTOR, DISTRACTOR]
    assert images.read(0).shape == (112, 112, 3) and images.facts["distractors"] == "2"
    assert images.checksum() == open_tinyface(tmp_path).checksum()


def test_tinyface_by_its_lists(tmp_path):
    root = tmp_path / "Testing_Set"
    probe, match = write_tinyface(root)
    write_mat(tmp_path / "probe_img_ID_pairs.mat", "probe", probe[:2], [3, 4])
    write_mat(root / "gallery_match_img_ID_pairs.mat", "gallery", match, [3, 4])
    images = open_tinyface(tmp_path)
    assert images.labels[images.probes["probe"]].tolist() == [0, 1]
    assert images.labels[images.gallery].tolist() == [0, 1, DISTRACTOR, DISTRACTOR]
    write_mat(tmp_path / "probe_img_ID_pairs.mat", "probe", [*probe, "5_5.png"], [3, 3, 4, 5])
    with pytest.raises(ValueError, match=r"probe_img_ID_pairs\.mat: 1 of 4 images are not in .*Probe.*'5_5\.png'"):
        open_tinyface(tmp_path)
    (tmp_path / "probe_img_ID_pairs.mat").write_bytes(b"no mat")
    with pytest.raises(ValueError, match=r"probe_img_ID_pairs\.mat: no list of images"):
        open_tinyface(tmp_path)


def test_tinyface_needs_numbers_in_its_names(tmp_path):
    write_tinyface(tmp_path)
    (tmp_path / "Probe" / "ann.png").write_bytes(encode(draw_images(2)[0]))
    with pytest.raises(ValueError, match=r"ann\.png: its name does not begin with the number"):
        open_tinyface(tmp_path)


@pytest.mark.parametrize(
    ("folder", "mask", "glasses"), [("", "", ""), ("images/", "_wearing_mask", "_wearing_sunglasses")]
)
def test_rof_searches_masked_and_sunglasses_among_neutral(tmp_path, folder, mask, glasses):
    names = [
        "neutral/Ann/1.png",
        "neutral/Bob/1.png",
        f"masked/Ann{mask}/1.png",
        f"sunglasses/Ann{glasses}/4.png",
        f"sunglasses/Eve{glasses}/1.png",
    ]
    write_images(tmp_path / folder, names)
    images = opener_of_search(tmp_path)(tmp_path)
    assert images.name == "rof" and images.class_names == ["Ann", "Bob", "Eve"]
    assert images.labels[images.gallery].tolist() == [0, 1]
    assert {kind: images.labels[places].tolist() for kind, places in images.probes.items()} == {
        "masked": [0],
        "sunglasses": [0, 2],
    }
    assert open_rof(tmp_path).paths.relative(int(images.probes["masked"][0])) == f"masked/Ann{mask}/1.png"


def test_rmfrd_searches_masked_among_bare_faces(tmp_path):
    names = ["AFDB_face_dataset/li/0.png", "AFDB_face_dataset/wu/0.png", "AFDB_masked_face_dataset/wu/7.png"]
    write_images(tmp_path, names)
    images = opener_of_search(tmp_path)(tmp_path)
    assert images.labels[images.gallery].tolist() == [0, 1] and images.labels[images.probes["masked"]].tolist() == [1]
    assert open_rmfrd(tmp_path).name == "rmfrd"


def test_other_folders_are_no_sets_to_search(tmp_path):
    write_images(tmp_path, ["ann/1.png", "bob/1.png"])
    assert opener_of_search(tmp_path) is None and janus_name(tmp_path) is None


@pytest.mark.parametrize("name", ["ijbb", "ijbc"])
def test_janus_templates_pairs_and_galleries(tmp_path, name):
    write_janus(tmp_path, name)
    assert janus_name(tmp_path) == name
    images = open_janus(tmp_path)
    assert len(images) == 12 and images.templates.tolist()[:4] == [1, 1, 1, 2] and images.medias[1] == 6
    assert images.points.shape == (12, 5, 2) and images.detector_scores.tolist() == [np.float32(0.9)] * 12
    assert images.issame.tolist() == [True, False, False, False, True, False, False, False, True]
    assert images.identities.reshape(-1, 2)[:2].tolist() == [[100, 100], [100, 200]]
    assert {kind: one.people.tolist() for kind, one in images.galleries.items()} == {"G1": [100, 200], "G2": [300]}
    assert images.probes.templates.tolist() == [11, 12, 13]
    # The points are the template's times 1.5 and 20 to the right and down, and so is the crop.
    whole = cv2.cvtColor(cv2.imread(str(tmp_path / "loose_crop" / "1.jpg")), cv2.COLOR_BGR2RGB)
    matrix = np.array([[1 / 1.5, 0, -20 / 1.5], [0, 1 / 1.5, -20 / 1.5]])
    assert np.abs(images.read(0).astype(int) - cv2.warpAffine(whole, matrix, (112, 112))).max() <= 2


def change(file, old, new):
    file.write_text(file.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m.parent / "loose_crop" / "4.jpg").unlink(), "1 of 12 images are not in .*'4.jpg'"),
        (lambda m: (m / "ijbc_template_pair_label.txt").unlink(), "ijbc_template_pair_label.txt: cannot be read"),
        (lambda m: (m / "ijbc_name_5pts_score.txt").unlink(), "ijbc_name_5pts_score.txt: cannot read the images"),
        (lambda m: change(m / "ijbc_template_pair_label.txt", "1 11 1", "1 99 1"), "line 1: template 99 has no image"),
        (lambda m: change(m / "ijbc_template_pair_label.txt", "1 11 1", "1 11 7"), "must be 0 or 1"),
        (lambda m: change(m / "ijbc_template_pair_label.txt", "1 11 1", "1 eleven 1"), "whole numbers in 3 columns"),
        (lambda m: change(m / "ijbc_face_tid_mid.txt", "1.jpg 1 5", "1.jpg 1"), "line 1: expected 3 fields"),
        (lambda m: change(m / "ijbc_face_tid_mid.txt", "1.jpg", "7.jpg"), "do not name the same images"),
        (lambda m: change(m / "ijbc_name_5pts_score.txt", "0.9", "nan"), "line 1: a number is not finite"),
        (lambda m: change(m / "ijbc_1N_probe_mixed.csv", "11,100", "77,100"), "1 of 4 templates have no image"),
    ],
)  # fmt: skip
def test_damaged_meta_files_are_one_line(tmp_path, damage, message):
    damage(write_janus(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        open_janus(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_lists_of_the_search_nothing_is_known_of_people(tmp_path):
    for file in write_janus(tmp_path).glob("*_1N_*"):
        file.unlink()
    images = open_janus(tmp_path)
    assert images.identities is None and not images.galleries and images.probes is None
