"""Faces at two resolutions: which files pair, what both views share, and what only one of them gets."""

import logging
import pickle
import re
import unicodedata

import cv2
import numpy as np
import pytest
import torch
from programs import ROOT
from torch.utils.data import DataLoader

from datasets import (
    IdentitySubset,
    ImageFolderDataset,
    MixedView,
    PairedFaces,
    PairedTrainingView,
    PKBatchSampler,
    PlannedBatches,
    SampleKey,
    TrainingView,
    collate,
    evaluation_views,
)
from transforms import FirstOrder, TrainingTransform, mirror, shrinking_alone
from transforms.degradation import resized

PLAIN = TrainingTransform(flip_prob=0.0)
EVERYTHING = TrainingTransform(("block", "surgical"), 0.7, crop_prob=0.3, photometric_prob=0.4, grayscale_prob=0.3)


def face(number):
    """Return a smooth image that is neither symmetric nor like another one."""
    rng = np.random.default_rng(number)
    image = cv2.resize(rng.uniform(40, 215, (7, 7, 3)).astype(np.float32), (112, 112), interpolation=cv2.INTER_CUBIC)
    image[:, :20, 0] = 230  # the left side is red
    return np.clip(image, 0, 255).astype(np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture
def root(tmp_path):
    """Folder of three people with three images in hr, and in lr of 16 pixels with another suffix."""
    for number in range(9):
        name = f"p{number // 3}/{number}"
        write(tmp_path / f"both/hr/{name}.png", face(number))
        write(tmp_path / f"both/lr/{name}.bmp", resized(face(number), 16))
    return tmp_path / "both"


def keys(num, position=0, epoch=0):
    return [SampleKey(0, index, epoch, position + index) for index in range(num)]


def test_a_pair_is_two_files_of_one_stem(root):
    dataset = PairedFaces(root)
    assert dataset.class_names == ["p0", "p1", "p2"] and dataset.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    for index in range(9):
        hr, lr = dataset.read_pair(index)
        assert np.array_equal(hr, face(index)) and np.array_equal(dataset.read(index), hr)
        assert np.array_equal(lr, resized(face(index), 16))
    assert np.array_equal(
        PairedFaces(root, swap_color_channel=True).read_pair(4)[1], dataset.read_pair(4)[1][..., ::-1]
    )


def test_both_views_have_one_geometry_one_occluder_and_one_light(root):
    view = PairedTrainingView(PairedFaces(root), EVERYTHING, seed=1)
    plain, num_hidden, num_flipped = PairedFaces(root), 0, 0
    for epoch in range(8):
        batch = view.__getitems__(keys(9, epoch=epoch))
        alone = TrainingView(ImageFolderDataset(root / "hr"), EVERYTHING, seed=1).__getitems__(keys(9, epoch=epoch))
        assert np.array_equal(batch.image, alone.image)  # as without partners
        assert np.array_equal(batch.visibility, batch.second.visibility)
        assert batch.second.side.tolist() == [16] * 9 and batch.second.image.shape == batch.image.shape
        for row in range(9):
            lowered = resized(batch.image[row], 16).astype(float)
            error = np.abs(resized(batch.second.image[row], 16) - lowered).mean()
            turned = np.abs(resized(mirror(batch.second.image[row]), 16) - lowered).mean()
            assert error < 8 and 2 * error < turned, (epoch, row, error, turned)
            num_hidden += int((batch.visibility[row] == 0).any())
            num_flipped += int(np.array_equal(batch.image[row], mirror(plain.read(row))))
    assert num_hidden > 20 and num_flipped >= 3  # of those that nothing else changes


def test_files_without_augmentation_are_enlarged_once_and_occluders_have_their_resolution(root):
    plain = PairedTrainingView(PairedFaces(root), PLAIN, seed=0).__getitems__(keys(9))
    for row in range(9):
        small = resized(face(row), 16)
        assert np.array_equal(plain.second.image[row], cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC))
    hidden = PairedTrainingView(PairedFaces(root), TrainingTransform(("block",), 1.0, flip_prob=0.0), seed=0)
    batch = hidden.__getitems__(keys(9))
    for image, second in zip(batch.image, batch.second.image, strict=True):
        # Nothing in it is finer than its 16 pixels, however sharp the block is in the other view.
        assert np.abs(resized(resized(second, 16), 112).astype(int) - second).mean() < 3
        assert np.abs(resized(resized(image, 16), 112).astype(int) - image).mean() > 3


def test_a_degradation_changes_the_second_view_alone(root):
    faces = ImageFolderDataset(root / "hr")
    view = PairedTrainingView(faces, EVERYTHING, seed=1, degradation=FirstOrder())
    batch = view.__getitems__(keys(9))
    assert np.array_equal(batch.image, TrainingView(faces, EVERYTHING, seed=1).__getitems__(keys(9)).image)
    assert len(set(batch.second.side.tolist())) > 3 and batch.second.side.min() >= 8
    own_numbers = np.random.Generator(np.random.Philox(1, counter=[0, 5, 0, 2]))  # of view 1
    assert np.array_equal(batch.second.image[5], FirstOrder()(batch.image[5], own_numbers).image)
    clean = PairedTrainingView(faces, EVERYTHING, seed=1, degradation=shrinking_alone(16), lr_size=16)
    small = clean.__getitems__(keys(9)).second
    assert small.image.shape == (9, 16, 16, 3) and small.side.tolist() == [16] * 9
    for row in range(9):
        assert np.array_equal(small.image[row], resized(batch.image[row], 16))


def test_a_sample_follows_from_seed_and_key(root):
    view = PairedTrainingView(ImageFolderDataset(root / "hr"), EVERYTHING, seed=1, degradation=FirstOrder())
    whole = view.__getitems__(keys(9))
    view = pickle.loads(pickle.dumps(view))  # as a worker that is spawned gets it
    for row in (8, 2):
        sample = view[keys(9)[row]]
        assert np.array_equal(sample.second.image, whole.second.image[row]) and sample.side is None
        assert sample.second.side == whole.second.side[row] and sample.label == whole.label[row]
    assert not np.array_equal(view.__getitems__(keys(9, epoch=1)).second.image, whole.second.image)


def test_batches_travel_as_tensors_small_ones_too_whatever_the_workers(root):
    found = []
    for workers in (0, 1):
        view = PairedTrainingView(PairedFaces(root), EVERYTHING, seed=2, lr_size=16)
        sampler = PKBatchSampler(view.labels, batch_size=4, instances=2, seed=2)
        batches = PlannedBatches(sampler)
        found.append(list(DataLoader(view, batch_sampler=batches, num_workers=workers, collate_fn=collate)))
    for alone, shared in zip(*found, strict=True):
        assert alone.second.image.shape == (4, 16, 16, 3) and alone.image.shape == (4, 112, 112, 3)
        assert alone.second.side.dtype == torch.int64 and alone.side is None
        assert torch.equal(alone.image, shared.image) and torch.equal(alone.second.image, shared.second.image)
    singles = collate([view[key] for key in keys(3)])
    assert torch.equal(singles.second.image, collate(view.__getitems__(keys(3))).second.image)
    assert singles.second.side.tolist() == [16] * 3


def test_paired_sets_mix_and_say_where_no_side_is_known(root):
    paired = PairedTrainingView(PairedFaces(root), EVERYTHING, seed=2)
    faces = ImageFolderDataset(root / "hr")
    other = TrainingView(faces, EVERYTHING, seed=2, second=EVERYTHING)
    batch = MixedView([paired, other]).__getitems__(
        [SampleKey(0, 1, 0, 0), SampleKey(1, 2, 0, 1), SampleKey(0, 5, 0, 2)]
    )
    assert batch.second.side.tolist() == [16, -1, 16] and batch.side is None
    assert np.array_equal(batch.second.image[2], paired[SampleKey(0, 5, 0, 2)].second.image)
    small = [PairedTrainingView(PairedFaces(root), EVERYTHING, seed=2, lr_size=size) for size in (16, 16, 24)]
    assert MixedView(small[:2]).__getitems__([SampleKey(1, 0, 0, 0), SampleKey(0, 0, 0, 1)]).second.image.shape[1] == 16
    with pytest.raises(ValueError, match=r"one size, got \[16, 24\] pixels"):
        MixedView(small)


def test_a_pair_with_a_damaged_half_is_replaced_and_counted(root):
    (root / "lr/p0/1.bmp").write_bytes(b"damaged")
    (root / "hr/p2/8.png").write_bytes(b"")
    dataset = PairedFaces(root)
    batch = PairedTrainingView(dataset, PLAIN, seed=0).__getitems__(keys(9))
    assert batch.index.tolist() == [0, 2, 2, 3, 4, 5, 6, 7, 6]
    assert batch.unreadable.tolist() == [-1, 1, -1, -1, -1, -1, -1, -1, 8]
    assert np.array_equal(batch.image[1], face(2)) and np.array_equal(batch.second.image[1], batch.second.image[2])
    with pytest.raises(ValueError, match=r"lr.p0.1\.bmp: not an image"):
        dataset.read_pair(1)


def test_a_larger_partner_is_refused_at_the_start_or_counts_as_unreadable(root, tmp_path):
    (root / "hr").rename(root / "old")
    (root / "lr").rename(root / "hr")
    (root / "old").rename(root / "lr")
    with pytest.raises(ValueError, match=r"lr/p0/0\.png is larger than hr/p0/0\.bmp, as 9 of 9 .* exchanged\?"):
        PairedFaces(root)
    dataset_root = tmp_path / "two"
    for name in ("a/1.png", "a/2.png"):
        write(dataset_root / "hr" / name, resized(face(1), 32))
        write(dataset_root / "lr" / name, resized(face(1), 16))
    dataset = PairedFaces(dataset_root)
    write(dataset_root / "lr/a/2.png", resized(face(1), 40))  # after the start
    with pytest.raises(ValueError, match="40 x 40 pixels, more than the 32 x 32 of its partner"):
        dataset.read_pair(1)
    assert PairedTrainingView(dataset, PLAIN, seed=0)[SampleKey(0, 1, 0, 0)].unreadable == 1


def lose_some(root):
    for name in ("hr/p1/3.png", "lr/p0/0.bmp", "lr/p0/1.bmp", "lr/p2/6.bmp", "lr/p2/7.bmp"):
        (root / name).unlink()


def rename_person(root):
    (root / "lr/p1").rename(root / "lr/P1")


def compose_differently(root):
    for folder, form in (("hr", "NFC"), ("lr", "NFD")):
        (root / folder / "p1").rename(root / folder / unicodedata.normalize(form, "Zoë"))


def add_twin(root):
    (root / "lr/p1/4.png").write_bytes((root / "lr/p1/4.bmp").read_bytes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose_some, r"4 images of hr without a partner in lr, the first p0/0, p0/1, p2/6; 1 image of lr without a "
                    r"partner in hr, the first p1/3; add the partners"),
        (rename_person, r"1 identity under different names, the first 'p1' in hr and 'P1' in lr"),
        (compose_differently, r"the first 'Zo\\xeb' in hr and 'Zoe\\u0308' in lr"),
        (add_twin, r"lr: p1/4\.bmp and p1/4\.png have one name but for the suffix"),
        (lambda root: (root / "lr").rename(root / "dsr"), None),
        (lambda root: (root / "lr").rename(root / "other"), "holds hr alone; expected hr/<person>/<image> with lr/"),
        (lambda root: (root / "hr").rename(root / "other"), "holds no folder hr; expected"),
        (lambda root: (root / "dsr").mkdir(), "holds lr and dsr; say which one is the partner of hr"),
    ],
)  # fmt: skip
def test_folders_that_do_not_pair_are_refused_in_a_line(root, change, message):
    change(root)
    if message is None:
        assert PairedFaces(root).partner_paths.root.name == "dsr"
        return
    with pytest.raises(ValueError, match=message) as refused:
        PairedFaces(root)
    assert "\n" not in str(refused.value)


def test_settings_that_contradict_each_other_are_refused(root):
    pairs, faces = PairedFaces(root), ImageFolderDataset(root / "hr")
    for build, message in (
        (lambda: PairedTrainingView(faces, PLAIN, 0), "has no low-resolution images: a degradation is needed"),
        (
            lambda: PairedTrainingView(pairs, PLAIN, 0, FirstOrder()),
            "has low-resolution images: no degradation is needed",
        ),
        (lambda: PairedTrainingView(pairs, TrainingTransform(low_res_prob=0.2), 0), "low_res_prob 0.2 would lower"),
        (lambda: PairedTrainingView(pairs, PLAIN, 0, lr_size=113), r"lr_size must be in \[4, 112\], got 113"),
        (lambda: PairedFaces(root, "dsr"), "holds no folder dsr, the partners of hr"),
        (lambda: evaluation_views(faces), "evaluation_views: the data set has no low-resolution images"),
        (lambda: evaluation_views(pairs, FirstOrder()), "evaluation_views: the data set has low-resolution images"),
        (lambda: evaluation_views(pairs, max_images=3), "3 images of 1 identity leave nothing to compare"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_an_evaluation_degrades_each_image_by_its_position_alone(root):
    faces = ImageFolderDataset(root / "hr")
    everyone = evaluation_views(faces, FirstOrder((16, 16)), seed=3)
    some = evaluation_views(faces, FirstOrder((16, 16)), seed=3, max_images=7)
    assert everyone.labels.tolist() == faces.labels.tolist() and everyone.lr.shape == everyone.hr.shape
    assert len(some.positions) == 6 and np.bincount(some.labels).tolist().count(3) == 2  # whole people
    np.testing.assert_array_equal(some.lr, everyone.lr[some.positions])
    np.testing.assert_array_equal(some.hr, everyone.hr[some.positions])
    expected = FirstOrder((16, 16))(face(4), np.random.default_rng((3, 4))).image
    np.testing.assert_array_equal(everyone.lr[4], expected)
    assert not np.array_equal(everyone.lr, evaluation_views(faces, FirstOrder((16, 16)), seed=4).lr)
    small = evaluation_views(faces, shrinking_alone(16), lr_size=16).lr
    np.testing.assert_array_equal(small, [resized(face(index), 16) for index in range(9)])


def test_an_evaluation_of_held_out_people_reads_their_pairs_and_leaves_out_what_is_damaged(root, caplog):
    held_out = IdentitySubset(PairedFaces(root), [0, 2])
    (root / "lr/p2/7.bmp").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        views = evaluation_views(held_out, lr_size=16)
    assert "1 image of the paired evaluation cannot be read" in caplog.text
    assert views.positions.tolist() == [0, 1, 2, 3, 5] and views.labels.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(views.lr[3], resized(face(6), 16))
    sample = PairedTrainingView(held_out, PLAIN, seed=0, lr_size=16)[SampleKey(0, 5, 0, 0)]
    np.testing.assert_array_equal(sample.second.image, resized(face(8), 16))
    assert np.array_equal(sample.image, face(8)) and sample.label == 1


def test_the_python_of_the_page_runs(root, monkeypatch, capsys):
    (root / "my_split").mkdir()
    for side in ("train", "val"):
        (root / "my_split" / side).symlink_to(root / "hr")
    monkeypatch.chdir(root)
    page = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert "(112, 112, 3) (16, 16, 3)" in capsys.readouterr().out
    assert names["images"].shape == (1, 3, 112, 112) and names["unseen"].lr.shape == (9, 112, 112, 3)
