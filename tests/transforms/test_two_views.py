"""Views for contrastive training: what each step does, and that nothing else does it."""

import numpy as np
import pytest

from datasets.faces.paired_view import PairedBatches, PairedView
from datasets.faces.paths import PathTable
from datasets.sampling.samplers import ShuffleBatchSampler
from transforms.two_views import BLUR_SIGMAS, TwoViews, resized_crop

NOTHING = {"crop_area": 1.0, "flip_prob": 0.0, "color_prob": 0.0, "grayscale_prob": 0.0, "blur_prob": 0.0}
IMAGE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)


def view(**options):
    before = IMAGE.copy()
    found = TwoViews(**{**NOTHING, **options})(IMAGE, np.random.default_rng(1)).image
    assert np.array_equal(IMAGE, before) and found.dtype == np.uint8 and found.shape == IMAGE.shape
    return found


def test_each_step_does_what_it_is_called():
    assert np.array_equal(view(), IMAGE)
    assert np.array_equal(view(flip_prob=1.0), IMAGE[:, ::-1])
    gray = view(grayscale_prob=1.0)
    assert (gray[..., 0] == gray[..., 1]).all() and (gray[..., 1] == gray[..., 2]).all()
    for changed in ({"crop_area": 0.5}, {"color_prob": 1.0}, {"low_res_prob": 1.0}):
        assert not np.array_equal(view(**changed), IMAGE)
    assert view(blur_prob=1.0).std() < IMAGE.std() and BLUR_SIGMAS[1] == 2.0
    hidden = view(occlusion_prob=1.0, occluders=("block",))
    assert 0.02 < (hidden != IMAGE).any(axis=2).mean() < 0.6


def test_a_crop_keeps_as_much_as_is_said():
    ramp = np.broadcast_to(np.arange(112, dtype=np.uint8)[:, None, None] * 2, (112, 112, 3)).copy()
    heights = [int(np.ptp(resized_crop(ramp, 0.5, np.random.default_rng(seed)))) / 2 for seed in range(60)]
    assert min(heights) >= 112 * (0.5 * 0.75) ** 0.5 - 3 and min(heights) < 90 and max(heights) <= 111


def test_bad_numbers_are_named():
    for options, text in (({"crop_area": 0.0}, "crop_area"), ({"flip_prob": 2.0}, "probability"),
                          ({"occlusion_prob": 0.5}, "occluders is empty")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            TwoViews(**options)


class Numbered:
    """Images that say their number."""

    labels, class_names, decoding = np.zeros(12, np.int64), ["all"], ""

    def __init__(self, root):
        self.paths = PathTable(root, [str(number) for number in range(12)])

    def __len__(self):
        return 12

    def read(self, index):
        return np.full((112, 112, 3), index, np.uint8)


def test_the_second_view_shows_the_partner_and_every_image_is_a_query_once(tmp_path):
    asked = []

    def partners(epoch):
        asked.append(epoch)
        return (np.arange(12) + 3) % 12

    sampler = ShuffleBatchSampler(12, 4, seed=3)
    sampler.set_epoch(2)
    dataset = PairedView(Numbered(tmp_path), TwoViews(**NOTHING), 0)
    batches = [dataset.__getitems__(keys) for keys in PairedBatches(sampler, partners)]
    assert asked == [2] and sorted(np.concatenate([batch.index for batch in batches]).tolist()) == [*range(12)]
    for batch in batches:
        assert batch.second.index.tolist() == [(index + 3) % 12 for index in batch.index]
        assert batch.image[:, 0, 0, 0].tolist() == batch.index.tolist()
        assert batch.second.image[:, 0, 0, 0].tolist() == batch.second.index.tolist()
    (alone, *_) = PairedBatches(sampler, lambda epoch: None)
    assert all(pair.partner == pair.key.index for pair in alone)
    random = PairedView(Numbered(tmp_path), TwoViews(crop_area=0.5), 0)
    twice = [random.__getitems__(alone).second.image.copy() for _ in range(2)]
    assert np.array_equal(*twice)
