"""A modulator in a run: what it learns of, what it moves, and that faces are described with it everywhere."""

import pytest
import torch
from observed import fixed_batch, recognizer, trained_step
from short_runs import build, fit, state

import models
import nets
from cli.checkpoints import load_pretrained_model, start_from
from ops import unit_map
from tasks.recognition.modulation import Modulation
from transforms import to_tensor

IMAGES = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
# Everything frozen but the occlusion head, the matcher and the modulator.
ALONE = {"freeze": ("model.*", "heads.*")}


@pytest.fixture(scope="module")
def run(noise_faces, tmp_path_factory):
    """(weights at the start, module, checkpoint) of a run that trains modulator, matcher and occlusion head alone."""
    folder = tmp_path_factory.mktemp("modulated")
    begin, *_ = build(folder, data_root=noise_faces)
    options = {"modulator": ("visible", "quality"), **ALONE, "optimizer": "adamw", "lr": 0.02, "ema_decay": 0.5}
    model, _, _ = fit(folder, data_root=noise_faces, **options)
    return state(begin), model.eval(), folder / "last.ckpt"


@pytest.mark.flag("modulator")
def test_it_can_be_trained_with_matcher_and_occlusion_head_alone(run):
    begin, model, path = run
    saved = torch.load(path, weights_only=True)["state_dict"]
    fixed = [name for name in begin if name.startswith(("model.", "heads."))]
    moved = {name for name in fixed if not torch.equal(begin[name], saved[name])}
    assert moved <= {"heads.0.batch_mean", "heads.0.batch_std"}
    assert saved["modulator.layers.2.weight"].any() and saved["modulator.layers.2.bias"].any()
    assert {*model.modulator.predictor} == {"quality", "visible"}


def test_a_face_is_described_with_the_map_that_the_matcher_was_trained_on(run):
    _, model, path = run
    assert not torch.equal(model.modulator.layers[2].weight, torch.zeros_like(model.modulator.layers[2].weight))
    features = model.model(IMAGES)
    expected = unit_map(model.modulator(features.feature_map))
    assert not torch.allclose(expected, unit_map(features.feature_map), atol=1e-3)
    for described in (each.describe(IMAGES) for each in (model, models.load(path), load_pretrained_model(path))):
        torch.testing.assert_close(described.local_map, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(described.embedding, features.embedding, rtol=0, atol=1e-5)


def test_a_run_starts_with_the_modulator_of_another_if_its_covariates_are_the_same(run, caplog):
    caplog.set_level("INFO")
    same = recognizer(arch="ir_tiny", embedding_size=16, modulator=("quality", "visible"))
    start_from(same, run[2], None)
    torch.testing.assert_close(same.modulator.state_dict(), run[1].modulator.state_dict(), rtol=0, atol=0)
    other = recognizer(arch="ir_tiny", embedding_size=16, modulator=("quality",))
    start_from(other, run[2], None)
    assert "left modulator (of another shape or not in this model)" in caplog.text.splitlines()[-1]


@pytest.mark.flag("modulator_weight")
def test_its_loss_is_the_squared_error_of_what_it_finds_and_leaves_the_others_as_they_are():
    plain, (model, loss, terms) = trained_step(), trained_step(modulator=("quality", "visible"))
    _, more, _ = trained_step(modulator=("quality", "visible"), modulator_weight=1.1)
    features = recognizer().model(to_tensor(fixed_batch().image))
    known = torch.stack([nets.image_quality(to_tensor(fixed_batch().image)), torch.full((8,), 60 / 112)], 1)
    expected = (model.modulator.predict(features.feature_map) - known).square().mean()
    assert terms["train_covariates_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert more - loss == pytest.approx(terms["train_covariates_loss"], rel=1e-3)
    for name in ("train_head_loss", "train_pairwise_loss"):  # it begins as the identity
        assert terms[name] == pytest.approx(plain[2][name], rel=1e-5)
    assert "train_covariates_loss" not in plain[2]


def test_all_covariates_of_two_views_are_known():
    net = nets.Modulator({name: 1 + (name == "dataset") for name in nets.COVARIATES}, 4)
    batch = fixed_batch()
    batch = batch._replace(dataset_id=torch.arange(8) % 2, second=batch._replace(side=torch.full((8,), 8)))
    images = torch.cat([to_tensor(batch.image), torch.zeros(8, 3, 112, 112)])
    found = Modulation(net, batch, images).known()
    log_8 = float(torch.tensor(8.0).log2() / torch.tensor(112.0).log2())
    assert found.shape == (16, 5) and found[8:, 0].eq(0).all() and found[:8, 0].gt(0.9).all()
    torch.testing.assert_close(found[:, 1], torch.full((16,), 60 / 112))
    torch.testing.assert_close(found[:, 2], torch.tensor([1.0] * 8 + [log_8] * 8))
    assert found[:, 3:].tolist() == [[1.0, 0.0], [0.0, 1.0]] * 8


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"modulator": ("quality",), "qaconv_loss_weight": 0.0}, "--modulator changes the map that the matcher reads"),
        ({"modulator": ("resolution",)}, "--modulator resolution is known of views at a low one"),
        ({"modulator": ("dataset",)}, "--modulator dataset tells several data sets apart: give these by --data"),
        ({"modulator": ("mood",)}, "--modulator: 'mood' is not one of quality, visible, resolution, dataset"),
    ],
)
def test_a_modulator_that_cannot_be_is_refused(options, refusal):
    with pytest.raises(ValueError, match=refusal):
        recognizer(**options)
