"""Whole models and backbones read back from checkpoints of ours and from foreign ones."""

import re

import numpy as np
import pytest
import torch
from short_runs import SMALL, build, fit, plain_scores

import nets
from cli import training
from cli.checkpoints import head_name, load_pretrained_model, read_checkpoint
from config import Config

IMAGES = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def finished(noise_faces, tmp_path_factory):
    """A finished run: (model, folder)."""
    folder = tmp_path_factory.mktemp("finished")
    options = {"class_embeddings": True, "k_nearest": 3, "qaconv_channels": 8, "occlusion_method": "scaling"}
    options["score_normalization"] = "visibility"
    model, _, _ = fit(folder, data_root=noise_faces, val_occlusion=("block",), **options)
    return model, folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """AdaFace's own layout: `model.*` and `head.kernel`, no color order stated. (backbone, kernel, path)."""
    torch.manual_seed(0)
    backbone = nets.build_model("ir_tiny", 32).eval()
    kernel = torch.randn(32, 5)
    state = {f"model.{name}": value for name, value in backbone.state_dict().items()}
    state |= {"head.kernel": kernel, "head.t": torch.zeros(1), "head.batch_mean": torch.ones(1) * 20}
    path = tmp_path_factory.mktemp("foreign") / "adaface_ir.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, path)
    return backbone, kernel, path


def changed(path, target, change):
    """Write a checkpoint with one thing changed and return its path."""
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, target)
    return target


def refusal(load, *args, **options):
    """Return the one line with which something is refused."""
    with pytest.raises((ValueError, OSError)) as raised:
        load(*args, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- checkpoints of ours


def test_a_checkpoint_of_ours_gives_back_the_whole_model(finished, noise_faces, tmp_path):
    model, folder = finished
    loaded = load_pretrained_model(folder / "last.ckpt")
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert loaded.config == model.config
    assert loaded.normalization == model.normalization is not None
    assert loaded.fusion_statistics is model.fusion_statistics is None

    _, datamodule, trainer = build(tmp_path, data_root=noise_faces, val_occlusion=("block",))
    trainer.test(loaded, datamodule=datamodule, verbose=False)
    assert set(plain_scores(loaded)) == {
        f"lfw/{condition}/{matcher}"
        for condition in ("clean", "occluded")
        for matcher in ("adaface", "qaconv", "combined")
    }
    torch.testing.assert_close(plain_scores(loaded), plain_scores(model), rtol=1e-5, atol=1e-6)


def test_the_head_that_a_report_names_is_the_one_that_trained_the_embedding(foreign, noise_faces, tmp_path):
    fit(tmp_path, data_root=noise_faces, head="cosface")
    assert head_name(load_pretrained_model(tmp_path / "last.ckpt")) == "cosface"
    assert head_name(load_pretrained_model(foreign[2], color_space="bgr")) == "not known"


def test_what_the_caller_says_about_a_checkpoint_of_ours_must_agree_with_it(finished):
    path = finished[1] / "last.ckpt"
    load_pretrained_model(path, arch="ir_tiny", color_space="rgb")
    assert "holds ir_tiny, but --arch says ir_18" in refusal(load_pretrained_model, path, arch="ir_18")
    assert "expects rgb, but --color_space says bgr" in refusal(load_pretrained_model, path, color_space="bgr")


def drop_weight(checkpoint):
    del checkpoint["state_dict"]["matcher.projection.weight"]


def resize_head(checkpoint):
    checkpoint["state_dict"]["heads.0.kernel"] = torch.zeros(16, 3)


def rename_option(checkpoint):
    checkpoint["hyper_parameters"]["config"]["batchsize"] = 3


def forget_config(checkpoint):
    checkpoint["hyper_parameters"] = {"arch": "ir_tiny"}


def forget_statistics(checkpoint):
    del checkpoint["fusion_statistics"]


def spoil_option(checkpoint):
    checkpoint["hyper_parameters"]["config"]["arch"] = "resnet"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_weight, "matcher.projection.weight"),
        (resize_head, "heads.0.kernel"),
        (rename_option, "unknown options batchsize"),
        (spoil_option, "resnet"),
        (forget_config, "hyper_parameters"),
        (forget_statistics, "fusion_statistics"),
    ],
)
def test_a_checkpoint_of_ours_with_something_wrong_is_refused_in_one_line(finished, tmp_path, change, words):
    path = changed(finished[1] / "last.ckpt", tmp_path / "changed.ckpt", change)
    message = refusal(load_pretrained_model, path)
    assert words in message and str(path) in message


@pytest.mark.parametrize("load", [load_pretrained_model, read_checkpoint])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_off_checkpoint_is_refused_in_one_line(finished, tmp_path, load, share):
    content = (finished[1] / "last.ckpt").read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(load, path)
    assert str(path) in message and "damaged" in message


@pytest.mark.parametrize("load", [load_pretrained_model, read_checkpoint])
@pytest.mark.parametrize("content", [b"hello\n" * 50, b"\x00" * 1000, b"\x80\x02cos\nsystem\n(S'true'\ntR."])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, load, content):
    path = tmp_path / "no.ckpt"
    path.write_bytes(content)
    assert str(path) in refusal(load, path)


@pytest.mark.parametrize("load", [load_pretrained_model, read_checkpoint])
def test_a_path_without_a_file_is_refused(tmp_path, load):
    assert "no such checkpoint" in refusal(load, tmp_path / "nowhere.ckpt")
    assert str(tmp_path) in refusal(load, tmp_path)


def test_a_foreign_checkpoint_cannot_be_resumed(foreign):
    assert "not a checkpoint of a maskwise run" in refusal(read_checkpoint, foreign[2])


# ---------------------------------------------------------------- foreign checkpoints


def test_a_foreign_bgr_checkpoint_gives_the_embedding_of_the_channel_swapped_image(foreign):
    backbone, kernel, path = foreign
    loaded = load_pretrained_model(path, color_space="bgr")
    with torch.no_grad():
        expected = backbone(IMAGES.flip(1))
        found = loaded.describe(IMAGES)
        as_given = load_pretrained_model(path, color_space="rgb").describe(IMAGES)
        torch.testing.assert_close(as_given.embedding, backbone(IMAGES).embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm, expected.norm, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found.embedding, as_given.embedding, atol=1e-2)
    assert torch.equal(loaded.head.kernel.data, kernel)
    assert loaded.matcher is None and found.visibility is None
    assert not loaded.training


def test_a_foreign_model_can_be_validated_with_its_embedding_alone(foreign, noise_faces, tmp_path):
    _, datamodule, trainer = build(tmp_path, data_root=noise_faces)
    model = load_pretrained_model(foreign[2], color_space="bgr")
    trainer.test(model, datamodule=datamodule, verbose=False)
    assert set(plain_scores(model)) == {"lfw/clean/adaface"}
    assert np.isfinite(plain_scores(model)["lfw/clean/adaface"]).all()


def test_foreign_checkpoints_must_be_described_rightly(foreign):
    path = foreign[2]
    assert "does not state its channel order; pass color_space" in refusal(load_pretrained_model, path)
    message = refusal(load_pretrained_model, path, arch="ir_18", color_space="bgr")
    assert str(path) in message and "looks like ir_tiny" in message and "the model is ir_18" in message
    assert "grb" in refusal(load_pretrained_model, path, color_space="grb")
    assert "resnet" in refusal(load_pretrained_model, path, arch="resnet", color_space="bgr")


def drop_layer(checkpoint):
    checkpoint["state_dict"].pop("model.input_layer.0.weight")


def drop_last_layer(checkpoint):
    checkpoint["state_dict"].pop("model.output_layer.3.weight")


def shorten_kernel(checkpoint):
    checkpoint["state_dict"]["head.kernel"] = torch.zeros(31, 5)


def flatten_kernel(checkpoint):
    checkpoint["state_dict"]["head.kernel"] = torch.zeros(5)


@pytest.mark.parametrize("change", [drop_layer, drop_last_layer, shorten_kernel, flatten_kernel])
def test_a_foreign_checkpoint_with_something_wrong_is_refused_in_one_line(foreign, tmp_path, change):
    path = changed(foreign[2], tmp_path / "changed.ckpt", change)
    assert str(path) in refusal(load_pretrained_model, path, color_space="bgr")


# ---------------------------------------------------------------- starting from weights


def start(monkeypatch, folder, noise_faces, path, **options):
    """Prepare a run that starts from the weights of a file and return its model."""
    monkeypatch.chdir(folder)
    given = {"data_root": noise_faces, "start_from_model_statedict": str(path), "embedding_size": 32, **options}
    return training.prepare(Config(**{**SMALL, **given}), frozenset(), []).model


def test_a_run_can_start_from_foreign_weights(foreign, noise_faces, tmp_path, monkeypatch):
    backbone, _, path = foreign
    model = start(monkeypatch, tmp_path, noise_faces, path, color_space="bgr").eval()
    with torch.no_grad():
        expected = backbone(IMAGES.flip(1)).embedding
        torch.testing.assert_close(model.describe(IMAGES).embedding, expected, rtol=1e-4, atol=1e-5)
    assert model.head.kernel.shape == (32, 8), "the head is that of the new identities"


def test_a_run_can_start_from_the_backbone_of_a_checkpoint_of_ours(finished, noise_faces, tmp_path, monkeypatch):
    trained, folder = finished
    model = start(monkeypatch, tmp_path, noise_faces, folder / "last.ckpt", embedding_size=16, load="backbone")
    torch.testing.assert_close(model.model.state_dict(), trained.model.state_dict(), rtol=0, atol=0)
    assert not torch.equal(model.head.kernel, trained.head.kernel)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "does not state its channel order"),
        ({"color_space": "bgr", "arch": "ir_18"}, "looks like ir_tiny"),
        ({"color_space": "bgr", "embedding_size": 64}, "embedding size 32"),
    ],
)
def test_weights_that_do_not_fit_the_run_are_refused_before_anything_is_written(
    foreign, noise_faces, tmp_path, monkeypatch, options, words
):
    assert words in refusal(start, monkeypatch, tmp_path, noise_faces, foreign[2], **options)
    assert not (tmp_path / "experiments").exists()


def test_a_checkpoint_of_other_identities_is_not_resumed(finished, noise_faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def more_classes(checkpoint):
        checkpoint["hyper_parameters"]["num_classes"] = {"0": 9}

    path = changed(finished[1] / "last.ckpt", tmp_path / "last.ckpt", more_classes)
    given = Config(**{**SMALL, "resume_from_checkpoint": str(path), "data_root": noise_faces})
    message = refusal(training.prepare, given, frozenset({"data_root"}), [])
    assert re.search(r"last\.ckpt.*9.*8", message)
