"""What the flags of `main.py detect train` change that no other program has."""

import numpy as np
import pytest
import torch
from detection_runs import SIDE, write_photos

import nets
from cli.detection.run import Detection
from config import DetectionConfig
from datasets import DetectionBatch, read_labels
from datasets.detection.coco_json import write_coco
from datasets.synthetic import scene_set
from engine.module import Step
from tasks.detection import data as detection_data
from tasks.detection.data import DetectionData
from tasks.detection.module import DetectorTraining, targets_of
from transforms import face_boxes

SMALL = {"arch": "retinaface_mnet025", "image_size": 64, "val_size": 64, "batch_size": 2, "gpus": 0}
RNG = np.random.default_rng(0)
FACES = torch.tensor([[4.0, 6, 30, 34], [36, 30, 60, 62]])
BATCH = DetectionBatch(
    torch.from_numpy(RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)),
    [FACES, FACES[1:]],
    [torch.from_numpy(RNG.uniform(4, 60, (number, 5, 2)).astype(np.float32)) for number in (2, 1)],
    [torch.zeros(number, dtype=torch.bool) for number in (2, 1)],
    torch.arange(2),
    torch.full((2,), -1),
)


def build(**options):
    torch.manual_seed(0)
    return DetectorTraining(DetectionConfig(**{**SMALL, **options}).to_dict())


def terms(**options):
    return build(**options).forward_terms(BATCH, Step(0))


@pytest.mark.detection_flag("box_weight", "score_weight", "landmark_weight")
def test_losses_have_their_weights():
    found = terms(box_weight=3.0, score_weight=5.0, landmark_weight=7.0)
    assert [weight for weight, _ in found.losses.values()] == [3, 5, 7]
    values = {name: float(loss) for name, (_, loss) in found.losses.items()}
    assert float(found.total()) == pytest.approx(3 * values["loc"] + 5 * values["conf"] + 7 * values["landmarks"])
    assert [weight for weight, _ in terms().losses.values()] == [2, 1, 1]


@pytest.mark.detection_flag("match_overlap", "negatives", "min_sizes")
@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"match_overlap": 0.9}, {"loc", "conf", "landmarks"}),
        ({"negatives": 1.0}, {"conf"}),
        ({"min_sizes": "10,20/32,64/128,256"}, {"loc", "conf", "landmarks"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_loss_of_a_step_follows_the_priors_and_their_rules(options, changed):
    plain, other = terms().losses, terms(**options).losses
    assert {name for name in plain if abs(float(plain[name][1] - other[name][1])) > 1e-4} == changed


@pytest.mark.detection_flag("arch")
@pytest.mark.parametrize("arch", nets.DETECTORS)
def test_the_detector_is_the_one_that_is_named(arch):
    with torch.device("meta"):
        assert build(arch=arch).detector.form == nets.DETECTORS[arch]


@pytest.mark.detection_flag("teacher", "teacher_weight", "attention_weight", "start_from_teacher_body")
def test_a_teacher_gives_a_backbone_and_lessons(tmp_path):
    torch.manual_seed(1)
    teacher = nets.build_detector("featherface_v2")
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    write_photos(tmp_path)
    options = {"data_root": str(tmp_path), "labels": str(tmp_path / "label.txt"), "monitor": "none"}
    options |= {**SMALL, "teacher": str(tmp_path / "teacher.pth")}

    def made(**more):
        config = DetectionConfig(**{**options, **more})
        data = DetectionData(config)
        data.setup()
        return Detection().build(config, data)

    started = made(start_from_teacher_body=True)
    assert all(map(torch.equal, started.detector.body.parameters(), teacher.body.parameters()))
    assert set(started.forward_terms(BATCH, Step(0)).losses) == {"loc", "conf", "landmarks"}
    learned = made(teacher_weight=0.5).forward_terms(BATCH, Step(0)).losses
    assert [weight for weight, _ in learned.values()][3:] == [1.0, 0.5, 0.5] and len(learned) == 6
    attended = made(attention_weight=4.0).forward_terms(BATCH, Step(0)).losses
    assert attended["attention"][0] == 4 and 0 < float(attended["attention"][1]) < 2 and len(attended) == 4


PHOTO = RNG.integers(0, 256, (80, 80, 3), dtype=np.uint8)
ONE = face_boxes([[8.0, 10, 40, 50]], np.full((1, 5, 2), 20.0))
NONE = {"crop_prob": 0.0, "color_prob": 0.0, "flip_prob": 0.0, "image_size": 96}


def view(**options):
    data = DetectionData(DetectionConfig(**{**SMALL, **NONE, **options}))
    return data.training_transform()(PHOTO, ONE, np.random.default_rng(3))


@pytest.mark.detection_flag("image_size", "crop_prob", "color_prob", "flip_prob", "least_side")
def test_each_step_of_a_view_runs_when_it_is_asked_for():
    plain = view()
    assert plain.image.shape == (96, 96, 3) and view(image_size=128).image.shape == (128, 128, 3)
    np.testing.assert_allclose(plain.faces.boxes, [[9.6, 12, 48, 60]], rtol=1e-6)
    np.testing.assert_allclose(view(flip_prob=1.0).faces.boxes, [[48, 12, 86.4, 60]], rtol=1e-6)
    assert (view(crop_prob=1.0).faces.boxes != plain.faces.boxes).any()
    recolored = view(color_prob=1.0)
    assert (recolored.image != plain.image).any() and (recolored.faces.boxes == plain.faces.boxes).all()
    assert not plain.faces.ignored[0] and view(least_side=39.0).faces.ignored[0]


def test_targets_are_relative_and_say_who_has_points_and_who_is_ignored():
    points = [BATCH.points[0].clone(), BATCH.points[1]]
    points[0][0, 2] = torch.nan
    ignored = [torch.tensor([False, True]), BATCH.ignored[1]]
    first, second = targets_of(BATCH._replace(points=points, ignored=ignored), torch.float64)
    assert first.shape == (2, 15) and first.dtype == torch.float64
    assert first[:, 14].tolist() == [-1, 0] and second[:, 14].tolist() == [1] and first.isfinite().all()
    torch.testing.assert_close(second[0, :4], FACES[1].double() / 64)
    torch.testing.assert_close(second[0, 4:14], points[1].double().flatten() / 64)
    empty = BATCH._replace(boxes=[FACES[:0]] * 2, points=[points[0][:0]] * 2, ignored=[ignored[0][:0]] * 2)
    assert [each.shape for each in targets_of(empty, torch.float32)] == [(0, 15)] * 2


@pytest.mark.detection_flag("data_root", "labels", "val_data_path", "val_labels", "val_size", "max_bad_fraction")
def test_photographs_are_those_that_are_named(tmp_path):
    train, val = tmp_path / "train", tmp_path / "val"
    write_photos(train, 6)
    write_photos(val, 5)
    options = {"data_root": str(train), "labels": str(train / "label.txt"), "val_labels": str(val / "label.txt")}
    data = DetectionData(DetectionConfig(**SMALL, **options, val_data_path=str(val)))
    data.setup()
    assert len(data.train_dataset) == 6 and data.train_dataset.root == train
    assert data.num_validated == 5 and data.val_dataset.root == val
    batch = next(iter(data.val_dataloader()))
    assert batch.images.shape == (2, 64, 64, 3)
    data.options = DetectionConfig(**{**SMALL, "val_size": 96}, **options, val_data_path=str(val))
    assert next(iter(data.val_dataloader())).images.shape == (2, 96, 96, 3)
    same = DetectionData(DetectionConfig(**SMALL, **options))
    same.setup()
    assert same.val_dataset.root == train  # it has photographs of these names
    callbacks = Detection().callbacks(DetectionConfig(**SMALL, max_bad_fraction=0.25), data, None, None)
    assert callbacks[1]._max_bad_fraction == 0.25


@pytest.mark.detection_flag("synthetic_scenes", "synthetic_val_scenes")
def test_as_many_scenes_are_drawn_as_are_asked_for(tmp_path, monkeypatch):
    asked = []

    def drawn(spec):
        asked.append((spec.num_train, spec.num_val))
        for split, number in zip(scene_set.SPLITS, asked[-1], strict=True):
            labels = read_labels(write_photos(tmp_path / split, number))
            write_coco(tmp_path / split / "faces.json", [each._replace(size=(SIDE, SIDE)) for each in labels.photos])
        return tmp_path

    monkeypatch.setattr(detection_data, "prepare_scenes", drawn)
    data = DetectionData(DetectionConfig(**SMALL, synthetic_scenes=7, synthetic_val_scenes=3))
    data.setup()
    assert asked == [(7, 3)] and (len(data.train_dataset), data.num_validated) == (7, 3)
