"""The cohort: as many people as there are, deterministic, unreadable images passed over."""

import numpy as np

from datasets import UnreadableImageError
from datasets.cohort import draw_cohort


class Faces:
    def __init__(self, labels, unreadable=()):
        self.labels = np.array(labels)
        self.unreadable = set(unreadable)

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        if index in self.unreadable:
            raise UnreadableImageError(f"image {index}", "a test says so")
        return np.full((112, 112, 3), index, np.uint8)


def test_every_person_comes_once_before_anyone_comes_twice():
    faces = Faces(np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 8]))
    cohort = draw_cohort(faces, ["block"], seed=3, size=12)
    assert sorted(cohort.labels[:8]) == list(range(8))
    assert len({int(image[0, 0, 0]) for image in cohort.clean}) == 12
    assert (cohort.labels == faces.labels[cohort.clean[:, 0, 0, 0]]).all()


def test_the_occluded_image_shows_the_same_face_behind_an_occluder():
    cohort = draw_cohort(Faces(range(6)), ["surgical"], seed=0)
    assert cohort.clean.shape == cohort.occluded.shape == (6, 112, 112, 3)
    changed = (cohort.clean != cohort.occluded).any(-1).reshape(6, -1).mean(1)
    assert ((changed > 0.1) & (changed < 0.9)).all()


def test_the_seed_decides_and_nothing_else():
    faces = Faces(np.arange(40) // 2)
    first, again, other = (draw_cohort(faces, ["block", "cap"], seed, size=9) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.labels != other.labels).any()


def test_unreadable_images_are_passed_over(caplog):
    cohort = draw_cohort(Faces(range(5), unreadable=[0, 3]), ["block"], seed=0)
    assert sorted(cohort.labels) == [1, 2, 4]
    assert draw_cohort(Faces(range(3), unreadable=range(3)), ["block"], seed=0) is None
    assert "none of the training images" in caplog.text
