"""Synthetic scenes: pure functions whose boxes, points and shares are true, and the folder of them."""

from functools import cache

import cv2
import numpy as np
import pytest

from datasets.detection.photos import DetectionViews, LabeledPhotos, read_labels
from datasets.sample import SampleKey
from datasets.synthetic import scenes
from datasets.synthetic.parameters import Nuisance, sample_identity, sample_nuisance
from datasets.synthetic.prepare import PAIR_KINDS, stream_identity
from datasets.synthetic.renderer import HEAD_BORDER, HEAD_SIZE, render_head, render_raw
from datasets.synthetic.scene_set import SPLITS, SceneSpec, prepare_scenes
from datasets.synthetic.scenes import LEAST_FACE, MAX_HIDDEN, render_scene
from transforms import DetectionTransform
from transforms.occluders import OCCLUDERS

SPEC = SceneSpec(num_train=5, num_val=3, size=96, seed=4)


@pytest.fixture(autouse=True)
def few_heads(monkeypatch):
    """Let scenes be made of few heads: to draw them is what takes time."""
    monkeypatch.setattr(scenes, "NUM_HEADS", 6)


@cache
def some(number=40):
    return [render_scene(2, index, "test", 160) for index in range(number)]


# ---------------------------------------------------------------- heads


def test_a_head_is_the_aligned_face_with_what_is_around_it():
    rng = np.random.default_rng(3)
    identity = sample_identity(rng)
    nuisance = Nuisance(noise=0.0, blur=0.0, yaw=0.3)
    head = render_head(identity, nuisance)
    assert head.image.shape == (HEAD_SIZE, HEAD_SIZE, 3)
    middle = slice(HEAD_BORDER, HEAD_BORDER + 112)
    crop, skin = render_raw(identity, nuisance).astype(int), head.skin[middle, middle] == 255
    inner = cv2.erode(skin.astype(np.uint8), np.ones((7, 7))) > 0
    # Edges are drawn with the same sub-pixel positions; what shines through at soft ones is the background.
    assert np.abs(head.image[middle, middle][inner].astype(int) - crop[inner]).mean() < 0.5
    assert (head.cover[head.skin == 255] == 255).all()


def test_no_head_is_cut_at_the_sides_or_the_top():
    rng = np.random.default_rng(0)
    for _ in range(6):
        cover = render_head(sample_identity(rng), sample_nuisance(rng, yaw=(0.9, 1.0))).cover
        assert not cover[0].any() and not cover[:, 0].any() and not cover[:, -1].any()


# ---------------------------------------------------------------- scenes


def test_a_scene_is_a_function_of_seed_stream_and_index():
    first = render_scene(1, 7, size=128)
    scenes._head.cache_clear()
    render_scene(1, 8, size=128)
    again = render_scene(1, 7, size=128)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.faces.boxes, again.faces.boxes)
    others = [render_scene(2, 7, size=128), render_scene(1, 7, "val", 128), render_scene(1, 9, size=128)]
    assert not any(np.array_equal(first.image, other.image) for other in others)


def test_scenes_show_faces_of_all_sizes_and_angles_and_sometimes_none():
    numbers = [len(scene.occluders) for scene in some()]
    assert 0 in numbers and max(numbers) >= 5
    boxes = np.concatenate([scene.faces.boxes for scene in some()])
    whole = boxes[(boxes.min(axis=1) > 0) & (boxes.max(axis=1) < 160)]
    sides = np.sqrt((whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1]))
    # A turned box is larger than the box of the upright face that the size is drawn for.
    assert sides.min() < 1.5 * LEAST_FACE and sides.max() > 60
    eyes = np.concatenate([scene.faces.points for scene in some()])[:, :2]
    slope = np.degrees(np.arctan2(*(eyes[:, 1] - eyes[:, 0]).T[::-1]))
    assert np.nanmedian(np.abs(slope)) < 25 and np.nanmax(np.abs(slope)) > 40
    worn = {name for scene in some() for name in scene.occluders}
    assert "none" in worn and len(worn) > 5 and worn <= {"none", *OCCLUDERS}


def test_boxes_end_at_the_border_and_shares_are_shares():
    for scene in some():
        assert scene.faces.boxes.min(initial=0) >= 0 and scene.faces.boxes.max(initial=0) <= 160
        assert (scene.faces.boxes[:, 2:] > scene.faces.boxes[:, :2]).all()
        assert ((scene.faces.hidden >= 0) & (scene.faces.hidden <= 1)).all()
        assert (scene.faces.ignored == (scene.faces.hidden > MAX_HIDDEN)).all()
        inside = scene.faces.points[~np.isnan(scene.faces.points)]
        assert ((inside >= 0) & (inside <= 160)).all()


@pytest.fixture
def green_heads(monkeypatch):
    """Let every face be green on nothing else that is green, so that its pixels can be counted."""

    @cache
    def head(seed, stream, number):
        drawn, hull = original(seed, stream, number)
        image = np.zeros_like(drawn.image)
        image[drawn.skin > 0] = (0, 255, 0)
        return drawn._replace(image=image), hull

    original = scenes._head.__wrapped__
    monkeypatch.setattr(scenes, "_head", head)
    monkeypatch.setattr(scenes, "background", lambda rng, size: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(scenes, "_photographed", lambda image, rng: np.clip(image, 0, 255).astype(np.uint8))
    monkeypatch.setattr(scenes, "_draw_body", lambda *args: None)
    monkeypatch.setattr(
        scenes, "foreground", lambda rng, size: (np.zeros((size, size, 3)), np.zeros((size, size), np.uint8))
    )


def test_boxes_and_shares_are_those_of_the_pixels(green_heads, monkeypatch):
    monkeypatch.setattr(scenes, "_OCCLUDED", 0.0)
    checked = 0
    for index in range(30):
        scene = render_scene(5, index, "test", 128)
        if len(scene.occluders) != 1:
            continue
        checked += 1
        green = scene.image[..., 1] > 100
        x1, y1, x2, y2 = scene.faces.boxes[0]
        rows, columns = np.nonzero(green)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(seen - [x1, y1, x2, y2]).max() <= 2
        if scene.faces.hidden[0] < 0.01:
            points = scene.faces.points[0]
            assert all(green[min(int(y), 127), min(int(x), 127)] for x, y in points[[2]])
    assert checked >= 3


def test_what_an_occluder_covers_is_counted_as_hidden(green_heads, monkeypatch):
    def shares(probability):
        monkeypatch.setattr(scenes, "_OCCLUDED", probability)
        return np.concatenate([render_scene(6, index, "test", 128).faces.hidden for index in range(12)])

    without, worn = shares(0.0), shares(1.0)
    assert np.median(without) < 0.02 and np.median(worn) > 0.15


def test_another_stream_has_other_people_than_every_synthetic_set():
    people = {stream_identity(0, stream, index) for stream in ("train", *PAIR_KINDS) for index in range(3)}
    mine = {stream_identity(0, f"scenes-{split}", index) for split in SPLITS for index in range(3)}
    assert len(mine) == 6 and not mine & people


@pytest.mark.parametrize("wrong", [(-1, 0, "train", 96), (0, -1, "train", 96), (0, 0, "train", 63)])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="render_scene: seed and index must be >= 0 and size >= 64"):
        render_scene(*wrong)


# ---------------------------------------------------------------- the folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "NUM_HEADS", 6)
        return prepare_scenes(tmp_path_factory.mktemp("cache"), SPEC, jobs=1, progress=False)


def test_both_forms_of_labels_say_what_the_scenes_show(folder):
    for split, number in zip(SPLITS, (5, 3), strict=True):
        text, whole = read_labels(folder / split / "label.txt"), read_labels(folder / split / "faces.json")
        assert len(text.photos) == len(whole.photos) == number and not text.skipped and not whole.skipped
        for index, (first, second) in enumerate(zip(text.photos, whole.photos, strict=True)):
            scene = render_scene(4, index, split, 96)
            assert first.name == second.name == f"images/{index:06d}.jpg" and second.size == (96, 96)
            seen = second.faces.take(~second.faces.ignored)
            assert np.allclose(first.faces.boxes, seen.boxes, atol=2e-3)
            assert np.allclose(second.faces.boxes, scene.faces.boxes, atol=2e-3)
            assert np.allclose(second.faces.points, scene.faces.points, atol=2e-3, equal_nan=True)
            assert np.allclose(second.faces.hidden, scene.faces.hidden, atol=1e-4)
            assert second.occluders == scene.occluders


def test_the_folder_is_what_a_training_reads(folder):
    photos = LabeledPhotos(folder / "train", read_labels(folder / "train/label.txt"))
    decoded = photos.read(1).image.astype(int)
    assert np.abs(decoded - render_scene(4, 1, "train", 96).image).mean() < 12  # JPEG
    view = DetectionViews(photos, DetectionTransform(size=64), seed=0)[SampleKey(0, 1, 0, 0)]
    assert view.image.shape == (64, 64, 3)


def test_a_whole_folder_is_kept_and_a_damaged_one_rendered_again(folder, caplog):
    image = folder / "val/images/000000.jpg"
    before, time = image.read_bytes(), image.stat().st_mtime_ns
    assert prepare_scenes(folder.parent, SPEC, jobs=1, progress=False) == folder
    assert image.stat().st_mtime_ns == time and not caplog.records
    image.write_bytes(before[:-9])
    assert prepare_scenes(folder.parent, SPEC, jobs=1, progress=False) == folder
    assert image.read_bytes() == before and "rendered again" in caplog.text
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_another_spec_is_another_folder_and_bad_ones_are_refused():
    assert SceneSpec(seed=1).digest != SceneSpec().digest == SceneSpec().digest
    for wrong in ({"num_train": 0}, {"size": 32}, {"seed": -1}):
        with pytest.raises(ValueError, match="SceneSpec: "):
            SceneSpec(**wrong)
