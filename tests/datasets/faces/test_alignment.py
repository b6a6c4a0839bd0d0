"""Whether a set of faces is aligned: hardly a false alarm, and faces elsewhere are found."""

from unittest.mock import Mock

import cv2
import numpy as np
import pytest

import transforms
from datasets import ImageFolderDataset, RecordDataset, check_alignment, write_faces
from datasets.faces.alignment import MIN_SAMPLE, SAMPLE, measure_alignment
from datasets.synthetic.prepare import render_identities


@pytest.fixture(scope="module")
def images():
    return render_identities("alignment", 50, 4)[0]


def gray(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def move(image, right=0.0, down=0.0, angle=0.0, scale=1.0):
    matrix = cv2.getRotationMatrix2D((55.5, 65.0), angle, scale)
    matrix[:, 2] += right, down
    return cv2.warpAffine(image, matrix, (112, 112), borderMode=cv2.BORDER_REFLECT_101)


def small(image, side):
    return cv2.resize(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), (112, 112))


def alarms(grays, number, draws=40):
    """Return the share of samples of `number` images that are called unaligned."""
    rng = np.random.default_rng(0)
    samples = ([grays[i] for i in rng.choice(len(grays), number, replace=False)] for _ in range(draws))
    return np.mean([measure_alignment(sample).is_suspect for sample in samples])


ALIGNED = {
    "plain": lambda image, rng: image,
    "dark": lambda image, rng: image // 4,
    "mirrored": lambda image, rng: image[:, ::-1].copy(),
    "of low resolution": lambda image, rng: small(image, 14),
    "a little off": lambda image, rng: move(image, *rng.uniform(-3, 3, 2), rng.uniform(-4, 4)),
    "behind anything": lambda image, rng: transforms.occlude(image, rng, tuple(transforms.OCCLUDERS)).image,
    "behind masks": lambda image, rng: transforms.occlude(image, rng, ("surgical",)).image,
    "behind glasses": lambda image, rng: transforms.occlude(image, rng, ("sunglasses",)).image,
    "behind veils": lambda image, rng: transforms.occlude(image, rng, ("niqab",)).image,
}
MOVED = {
    "to the side": lambda image, rng: move(image, 8, 8),
    "up": lambda image, rng: move(image, 0, -10),
    "smaller": lambda image, rng: move(image, scale=0.7),
    "larger": lambda image, rng: move(image, scale=1.4),
    "turned": lambda image, rng: move(image, angle=25),
    "upside down": lambda image, rng: image[::-1].copy(),
    "each another way": lambda image, rng: move(image, *rng.uniform(-15, 15, 2), rng.uniform(-20, 20)),
    "away": lambda image, rng: rng.integers(0, 256, image.shape, dtype=np.uint8),
}


@pytest.mark.parametrize("change", ALIGNED.values(), ids=ALIGNED.keys())
@pytest.mark.parametrize("number", [MIN_SAMPLE, 40, 150])
def test_aligned_faces_raise_no_alarm(images, change, number):
    grays = [gray(change(image, np.random.default_rng(place))) for place, image in enumerate(images)]
    # A third of the glasses are mirrors: of a small folder that shows no eye at all, some are taken for unaligned.
    few = {MIN_SAMPLE: 0.25, 40: 0.1} if change is ALIGNED["behind glasses"] else {MIN_SAMPLE: 0.05}
    assert alarms(grays, number) <= few.get(number, 0)


@pytest.mark.parametrize("change", MOVED.values(), ids=MOVED.keys())
def test_faces_elsewhere_raise_the_alarm(images, change):
    grays = [gray(change(image, np.random.default_rng(place))) for place, image in enumerate(images)]
    assert alarms(grays, 150) == 1 and alarms(grays, 20) >= 0.3


def test_too_few_images_are_not_judged(images):
    few = measure_alignment([gray(image)[::-1].copy() for image in images[: MIN_SAMPLE - 1]])
    assert not few.is_suspect and not few.is_judged and "not judged, 10 readable images" in str(few)
    assert not measure_alignment([]).is_suspect


def write(root, images, suffix=".png"):
    for number, image in enumerate(images):
        path = root / f"p{number // 4}" / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(suffix, image[..., ::-1])[1].tobytes())
    return ImageFolderDataset(root)


def test_folders_and_records_are_looked_at_alike(images, tmp_path):
    folder = check_alignment(write(tmp_path / "faces", images))
    assert folder.num_images == SAMPLE and not folder.is_suspect and str(folder).startswith("looks aligned: of 200")
    dataset = ImageFolderDataset(tmp_path / "faces")
    (tmp_path / "records").mkdir()
    write_faces(tmp_path / "records", (path.read_bytes() for path in dataset.paths), dataset.labels)
    assert check_alignment(RecordDataset(tmp_path / "records")) == folder


def test_images_that_are_not_square_are_no_aligned_crops(images, tmp_path, monkeypatch):
    photographs = [cv2.resize(image, (640, 480)) for image in images[:12]]
    dataset = write(tmp_path / "photographs", photographs, ".jpg")
    monkeypatch.setattr("datasets.faces.alignment.decode_payload", lambda payload: pytest.fail("decoded"))
    check = check_alignment(dataset)
    assert check.is_suspect and str(check) == "not aligned: 12 of 12 images looked at are not square"


def test_unreadable_images_are_passed_over(images, tmp_path):
    dataset = write(tmp_path / "faces", images[:20])
    for number in range(3):
        dataset.paths[number].write_bytes(b"broken")
    dataset.paths[4].unlink()
    assert check_alignment(dataset).num_images == 16


def test_a_large_set_is_looked_at_by_a_sample(images, tmp_path, monkeypatch):
    dataset = write(tmp_path / "faces", np.repeat(images, 3, axis=0))
    decode = Mock(return_value=(None, ""))
    monkeypatch.setattr("datasets.faces.alignment.decode_payload", decode)
    check_alignment(dataset)
    assert decode.call_count == SAMPLE
