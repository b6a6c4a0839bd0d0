"""A detector from weights: what the network says in pixels of the image, its priors, its name, and files it refuses."""

import hashlib

import numpy as np
import pytest
import torch

import nets
from models.detectors import DetectorChoice, open_detector
from models.detectors.found import fill_up, found_faces
from models.detectors.trained import TrainedDetector
from ops import boxes

SIZES = ((8.0, 20.0), (50.0, 100.0), (200.0, 300.0))
PARAMETERS = {"min_sizes": [list(level) for level in SIZES], "steps": [8, 16, 32]}


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nets.Detector(nets.DetectorForm(16, 1, None, "depthwise"))
        for head in (*model.BboxHead, *model.LandmarkHead):
            head.conv1x1.weight.data *= 0.1
    return model.eval()


@pytest.fixture
def save(network, tmp_path):
    def to_file(name="mine.pth", **others):
        content = network.state_dict()
        torch.save({"state_dict": content, **others} if others else content, tmp_path / name)
        return tmp_path / name

    return to_file


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_hand(network, image, threshold, min_sizes=boxes.MIN_SIZES):
    """Ask the network in numpy's terms: BGR minus the mean, and zeros up to the next multiples of 32."""
    height, width = (-(-side // 32) * 32 for side in image.shape[:2])
    canvas = np.zeros((1, 3, height, width), np.float32)
    canvas[0, :, : image.shape[0], : image.shape[1]] = (image[..., ::-1] - np.array([104.0, 117, 123])).transpose(
        2, 0, 1
    )
    with torch.no_grad():
        said = network(torch.from_numpy(canvas))
    return found_faces(said, boxes.priors(height, width, min_sizes), height, width, threshold)[0]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 70), (1, 1), (7, 130)])
def test_what_the_network_says_is_given_with_centers_of_pixels_on_whole_numbers(save, network, height, width):
    image = image_of(height, width)
    expected = by_hand(network, image, 0.4)
    detector = open_detector(str(save()))
    for given in (image, np.asfortranarray(image), image[::-1].copy()[::-1]):
        found = detector.detect(given, 0.4)
        assert len(found) == len(expected.boxes) > 0
        np.testing.assert_allclose([one.box for one in found], expected.boxes.numpy() - 0.5, atol=1e-3)
        np.testing.assert_allclose([one.points for one in found], expected.points.numpy() - 0.5, atol=1e-3)
        np.testing.assert_allclose([one.score for one in found], expected.scores, atol=1e-5)
    assert found[0].box.dtype == found[0].points.dtype == np.float64 and found[0].points.shape == (5, 2)
    assert len(detector.detect(image)) == len(by_hand(network, image, detector.threshold).boxes)
    assert detector.detect(image, 1.0) == []


def test_more_overlap_leaves_more_boxes(save):
    image, word = image_of(64, 64), str(save())
    numbers = [len(open_detector(word, overlap).detect(image, 0.4)) for overlap in (0.1, None, 0.9)]
    assert numbers == sorted(set(numbers))
    assert len(DetectorChoice(word, 0.1).load().detect(image, 0.4)) == numbers[0]


def test_the_number_of_threads_changes_no_bit_and_stays(save):
    detector, image, before = open_detector(str(save())), image_of(96, 96), torch.get_num_threads()
    try:
        found = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[threads] = detector.detect(image, 0.4)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[1] and [one.score for one in found[1]] == [one.score for one in found[2]]
    assert all(np.array_equal(a.points, b.points) for a, b in zip(found[1], found[2], strict=True))


def test_sides_that_are_multiples_of_32_stay_and_others_are_filled_with_the_mean():
    images = torch.rand(2, 3, 64, 96)
    assert torch.equal(fill_up(images), images)
    filled = fill_up(images[..., :33, :95])
    assert filled.shape == (2, 3, 64, 96) and torch.equal(filled[..., :33, :95], images[..., :33, :95])
    assert not filled[..., 33:, :].any() and not filled[..., 95:].any()


def test_a_checkpoint_states_its_priors(save, network):
    image = image_of(64, 64)
    found = TrainedDetector(save("mine.ckpt", hyper_parameters={"task": "detection", **PARAMETERS})).detect(image, 0.4)
    expected = by_hand(network, image, 0.4, SIZES)
    np.testing.assert_allclose([one.box for one in found], expected.boxes.numpy() - 0.5, atol=1e-3)
    usual = TrainedDetector(save("of_others.ckpt", hyper_parameters={"lr": 1})).detect(image, 0.4)
    np.testing.assert_allclose([one.box for one in usual], by_hand(network, image, 0.4).boxes.numpy() - 0.5, atol=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": [8, 16, 64]}, {"steps": None}, {"min_sizes": [[8, 20], [50, 100]]}, {"min_sizes": [[1, 2]] * 4},
        {"min_sizes": [[8], [50, 100], [200, 300]]}, {"min_sizes": [[8, -20], [50, 100], [200, 300]]},
        {"min_sizes": [[8, float("nan")], [50, 100], [200, 300]]}, {"min_sizes": "16,32/64,128/256,512"},
        {"min_sizes": [[8, True], [50, 100], [200, 300]]},
    ],
)  # fmt: skip
def test_priors_that_the_network_does_not_have_are_refused(save, changed):
    path = save("mine.ckpt", hyper_parameters=PARAMETERS | changed)
    with pytest.raises(ValueError, match=r"mine\.ckpt: its priors are not 2 sides for each of the steps \[8, 16, 32\]"):
        open_detector(str(path))


def test_it_is_named_by_kind_and_checksum(save, tmp_path):
    path = save()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert open_detector(str(path)).name == f"mine.pth, unnamed form (sha256 {digest})"
    torch.save(nets.build_detector("featherface_v2").state_dict(), tmp_path / "a.pt")
    assert open_detector(str(tmp_path / "a.pt")).name.startswith("featherface_v2 (sha256 ")


@pytest.mark.parametrize("name", ["a.pth", "a.PT", "a.ckpt", "a.safetensors"])
def test_files_of_weights_are_known_by_their_suffix_and_others_are_refused(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such weight file"):
        open_detector(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(ValueError, match=f"{name}: damaged or not a weight file"):
        open_detector(str(tmp_path / name))


def test_a_recognizer_is_no_detector(tmp_path):
    torch.save(nets.build_model("ir_tiny", 16).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: holds no detector"):
        open_detector(str(tmp_path / "a.pt"))
