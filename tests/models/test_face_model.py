"""FaceModel describes as the Recognizer does, compares faces, and refuses what is no face."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from short_runs import fit, write_faces
from untrained import write_checkpoint

import models
import nets
from cli.checkpoints import load_pretrained_model
from evaluation import FusionStatistics, Shares, fit_normalization
from transforms import to_tensor

ROOT = Path(__file__).parents[2]
IMAGES = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
STATISTICS = FusionStatistics(
    mean={"adaface": 0.1, "qaconv": -0.2},
    std={"adaface": 0.3, "qaconv": 0.7},
    weights={"adaface": 0.6, "qaconv": 0.4},
    source="test",
    num_impostors=9,
)


@pytest.fixture(scope="module")
def faces():
    """Two faces of noise, uint8 RGB."""
    return np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("untrained") / "last.ckpt", statistics=STATISTICS)


@pytest.fixture(scope="module")
def model(untrained):
    return models.load(untrained)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run's checkpoint with averaged weights, class embeddings and a head that is split over ranks."""
    folder = tmp_path_factory.mktemp("trained")
    data = str(write_faces(folder / "data"))
    options = {"class_embeddings": True, "k_nearest": 3, "ema_decay": 0.9, "partial_fc_rate": 1.0, "qaconv_channels": 8}
    options["score_normalization"] = "visibility"
    fit(folder / "run", data_root=data, **options)
    return folder / "run" / "last.ckpt"


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A checkpoint in float64."""
    return write_checkpoint(tmp_path_factory.mktemp("checked") / "last.ckpt", check_mode=True)


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """A checkpoint whose occlusion head reads the detail map."""
    return write_checkpoint(tmp_path_factory.mktemp("fine") / "last.ckpt", occlusion_head="fine")


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    """A checkpoint whose occlusion head reads the pixels."""
    return write_checkpoint(tmp_path_factory.mktemp("pyramid") / "last.ckpt", occlusion_head="pyramid")


def assert_same_bits(found, expected):
    for name, values in expected._asdict().items():
        other = getattr(found, name)
        assert (values is None) == (other is None), name
        assert values is None or (values.dtype == other.dtype and torch.equal(values, other)), name


@pytest.mark.parametrize("which", ["untrained", "trained", "checked", "fine", "pyramid"])
def test_it_describes_as_the_recognizer_does_bit_for_bit(which, request):
    path = request.getfixturevalue(which)
    recognizer, found = load_pretrained_model(path), models.load(path)
    with torch.inference_mode():
        expected = recognizer.describe(IMAGES)
    assert expected.visibility is not None
    assert_same_bits(found.describe(IMAGES), expected)


@pytest.mark.parametrize("which", ["untrained", "trained"])
def test_its_keys_are_those_of_the_checkpoint_without_classes(which, request):
    path = request.getfixturevalue(which)
    saved = torch.load(path, weights_only=True)["state_dict"]
    of_classes = ("heads.", "matcher.class_embeddings.")
    state = models.load(path).state_dict()
    assert state.keys() == {key for key in saved if not key.startswith(of_classes)}
    assert {key.split(".")[0] for key in state} == {"model", "occlusion_head", "matcher"}
    assert all(torch.equal(value, saved[key]) for key, value in state.items())


def test_what_the_pyramid_sees_is_the_mean_over_the_cells_of_the_map(pyramid):
    model = models.load(pyramid)
    with torch.inference_mode():
        finer = model.occlusion_head(IMAGES)
    expected = finer.reshape(len(IMAGES), 1, 7, 4, 7, 4).mean((3, 5))
    torch.testing.assert_close(model.describe(IMAGES).visibility, expected)


def test_a_checkpoint_from_before_the_fine_head_has_the_plain_one(untrained, model, tmp_path):
    checkpoint = torch.load(untrained, weights_only=True)
    for name in ("occlusion_head", "occlusion_loss", "grayscale_augmentation_prob"):
        del checkpoint["hyper_parameters"]["config"][name]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    assert_same_bits(models.load(tmp_path / "old.ckpt").describe(IMAGES), model.describe(IMAGES))


def test_all_three_scores_of_two_faces(model, faces):
    sides = []
    for face in faces:
        image = to_tensor(torch.from_numpy(face))[None]
        sides.append([model.describe(image), model.describe(image.flip(-1))])
    embeddings = []
    for image, mirror in sides:
        total = (image.embedding.double() * image.norm + mirror.embedding.double() * mirror.norm)[0].tolist()
        length = sum(value * value for value in total) ** 0.5
        embeddings.append([value / length for value in total])
    adaface = sum(a * b for a, b in zip(*embeddings, strict=True))
    views = [
        float(model.matcher.match_pairs(a.local_map, b.local_map, a.visibility, b.visibility).detach())
        for a, b in zip(*sides, strict=True)
    ]
    qaconv = sum(views) / 2
    combined = 0.6 * (adaface - 0.1) / 0.3 + 0.4 * (qaconv + 0.2) / 0.7

    scores = model.compare(*faces)
    assert scores == pytest.approx((adaface, qaconv, combined), abs=1e-5)
    assert all(type(score) is float for score in scores)


@pytest.fixture(scope="module")
def normalized(tmp_path_factory):
    """A checkpoint that knows what scores mean at what can be seen."""
    rng = np.random.default_rng(0)
    shares = Shares(*(rng.random(500) for _ in range(3)))
    scores = {"adaface": rng.normal(size=500), "qaconv": 3 * rng.normal(size=500)}
    learned = fit_normalization(scores, shares, rng.random(500) < 0.1, {"adaface": 0.6, "qaconv": 0.4}, "a test")
    return write_checkpoint(tmp_path_factory.mktemp("normalized") / "last.ckpt", normalization=learned)


def test_the_combined_score_is_normalized_by_what_is_visible(normalized, faces):
    model = models.load(normalized)
    sides = []
    for face in faces:
        image = to_tensor(torch.from_numpy(face))[None]
        views = [model.describe(image).visibility, model.describe(image.flip(-1)).visibility]
        sides.append(torch.cat(views).flatten().numpy().astype(float))
    shares = Shares(*(np.array([values.mean()]) for values in (*sides, sides[0] * sides[1])))
    scores = model.compare(*faces)
    expected = model.normalization.apply({"adaface": [scores.adaface], "qaconv": [scores.qaconv]}, shares)
    assert scores.combined == pytest.approx(float(expected["combined"][0]), abs=1e-5)
    alone = model.normalization_with({"adaface": 1.0, "qaconv": 0.0})
    assert alone.weights == {"adaface": 1.0, "qaconv": 0.0} and alone.mean == model.normalization.mean


def forget_normalization(checkpoint):
    del checkpoint["score_normalization"]


def test_a_checkpoint_from_before_normalization_still_combines_by_its_own_statistics(untrained, faces, tmp_path):
    checkpoint = torch.load(untrained, weights_only=True)
    forget_normalization(checkpoint)
    torch.save(checkpoint, tmp_path / "old.ckpt")
    old = models.load(tmp_path / "old.ckpt")
    assert old.normalization is None and old.compare(*faces) == models.load(untrained).compare(*faces)
    assert load_pretrained_model(tmp_path / "old.ckpt").fusion_statistics == STATISTICS


@pytest.mark.parametrize("load", [models.load, load_pretrained_model])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("center", [0.0] * 5),
        ("scale", [0.0] * 6),
        ("mean", {"adaface": [0.0] * 6}),
        ("log_std", {"adaface": ["a"] * 6, "qaconv": [0.0] * 6}),
        ("correlation", []),
        ("weights", {"adaface": 1.0, "other": 0.0}),
    ],
)
def test_a_damaged_normalization_is_refused(normalized, tmp_path, load, field, value):
    checkpoint = torch.load(normalized, weights_only=True)
    checkpoint["score_normalization"][field] = value
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    with pytest.raises(ValueError, match=r"changed\.ckpt.*score_normalization"):
        load(tmp_path / "changed.ckpt")


def test_a_face_may_be_a_path_an_array_or_a_picture(model, faces, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), faces[0][..., ::-1])
    expected = model.compare(faces[0], faces[1])
    assert model.compare(tmp_path / "a.png", faces[1]) == expected
    assert model.compare(str(tmp_path / "a.png"), faces[1]) == expected
    pil = pytest.importorskip("PIL.Image")
    assert model.compare(pil.fromarray(faces[0]), faces[1]) == expected
    assert_same_bits(model.describe_image(tmp_path / "a.png"), model.describe_image(faces[0]))


def test_files_and_folders_are_described_in_order(model, faces, tmp_path):
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "b" / "c.png"]
    for path, face in zip(paths, faces, strict=True):
        cv2.imwrite(str(path), face[..., ::-1])
    (tmp_path / "notes.txt").write_text("no image")
    expected = model.describe(to_tensor(torch.from_numpy(faces)))
    one_by_one = model.describe_files(paths, batch_size=1)
    found, described = model.describe_folder(tmp_path)
    assert found == paths
    assert_same_bits(described, expected)
    torch.testing.assert_close(tuple(one_by_one), tuple(expected), rtol=1e-4, atol=1e-5)


def test_no_graph_is_kept(model):
    described = model.describe(IMAGES.clone().requires_grad_())
    assert not any(values.requires_grad for values in described)


def test_scores_that_need_what_is_not_there_are_none(faces, tmp_path):
    without_statistics = models.load(write_checkpoint(tmp_path / "a.ckpt")).compare(*faces)
    assert without_statistics.qaconv is not None and without_statistics.combined is None
    options = {"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "occlusion_method": "none"}
    alone = models.load(write_checkpoint(tmp_path / "b.ckpt", **options))
    assert alone.compare(*faces)[1:] == (None, None) and alone.describe(IMAGES).visibility is None


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.zeros(1, 112, 112, 3, dtype=torch.uint8), TypeError, "floating"),
        (np.zeros((1, 3, 112, 112), np.float32), TypeError, "ndarray"),
        (torch.zeros(1, 112, 112, 3), ValueError, r"\[1, 112, 112, 3\]"),
        (torch.zeros(3, 112, 112), ValueError, r"\[3, 112, 112\]"),
        (torch.full((1, 3, 112, 112), 255.0), ValueError, r"\[-1, 1\], got \[255, 255\]"),
        (torch.full((1, 3, 112, 112), torch.nan), ValueError, "nan"),
    ],
)
def test_images_of_another_kind_are_refused_in_one_line(model, images, error, words):
    with pytest.raises(error, match=words) as raised:
        model.describe(images)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("face", "error", "words"),
    [
        (np.zeros((112, 112, 3), np.float32), TypeError, "uint8"),
        (np.zeros((3, 112, 112), np.uint8), ValueError, r"\[3, 112, 112\]"),
        (np.zeros((112, 112), np.uint8), ValueError, r"\[112, 112\]"),
        (7, TypeError, "int"),
        ("nowhere.png", ValueError, r"nowhere\.png"),
    ],
)
def test_what_is_no_face_is_refused_in_one_line(model, face, error, words):
    for call in (model.describe_image, lambda face: model.compare(face, face)):
        with pytest.raises(error, match=words) as raised:
            call(face)
        assert "\n" not in str(raised.value)


def test_empty_lists_and_folders_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        model.describe_files([])
    with pytest.raises(ValueError, match="holds no images"):
        model.describe_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        model.describe_folder(tmp_path / "nowhere")


def test_foreign_weights_bring_the_backbone_alone(tmp_path):
    torch.manual_seed(0)
    backbone = nets.build_model("ir_tiny", 32).eval()
    state = {f"model.{name}": value for name, value in backbone.state_dict().items()} | {
        "head.kernel": torch.ones(32, 5)
    }
    path = tmp_path / "adaface.ckpt"
    torch.save({"state_dict": state}, path)
    found = models.load(path, color_space="bgr")
    assert found.matcher is None and found.occlusion_head is None and not found.training
    with torch.inference_mode():
        expected = backbone(IMAGES.flip(1))
    torch.testing.assert_close(found.describe(IMAGES).embedding, expected.embedding, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="channel order"):
        models.load(path)
    with pytest.raises(ValueError, match=r"adaface\.ckpt"):
        models.load(path, arch="ir_18", color_space="bgr")


def drop_weight(checkpoint):
    del checkpoint["state_dict"]["occlusion_head.layers.0.weight"]


def add_weight(checkpoint):
    checkpoint["state_dict"]["matcher.other"] = torch.ones(1)


def spoil_weight(checkpoint):
    next(iter(checkpoint["state_dict"].values())).fill_(torch.nan)


def spoil_option(checkpoint):
    checkpoint["hyper_parameters"]["config"]["arch"] = "resnet"


def spoil_state(checkpoint):
    checkpoint["state_dict"] = torch.ones(3)


@pytest.mark.parametrize("change", [drop_weight, add_weight, spoil_weight, spoil_option, spoil_state])
def test_a_checkpoint_with_something_wrong_is_refused_in_one_line(untrained, tmp_path, change):
    checkpoint = torch.load(untrained, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    with pytest.raises(ValueError, match=r"changed\.ckpt") as raised:
        models.load(tmp_path / "changed.ckpt")
    assert "\n" not in str(raised.value)


def test_a_cut_off_checkpoint_is_refused(untrained, tmp_path):
    content = untrained.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.ckpt: damaged"):
        models.load(tmp_path / "cut.ckpt")


def test_importing_it_loads_neither_lightning_nor_loggers_nor_plots():
    program = "import json, sys\nfrom models import load\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert "torch" in loaded
    heavy = {"pytorch_lightning", "lightning_fabric", "wandb", "tensorboardX", "matplotlib", "sklearn", "rich"}
    assert loaded & (heavy | {"engine", "train_val", "config"}) == set()
