"""What a run takes from weights that it starts from, and what it leaves untrained."""

import pytest
import torch
from short_runs import SMALL, build, fit, state

from cli import training
from config import Config

OPTIONS = {"occlusion_method": "scaling", "class_embeddings": True, "k_nearest": 3}

# As in experiments/recipes/occlusion_head.args.
ONLY_OCCLUSION = {"freeze": ("model.*", "matcher.*", "heads.*"), "adaface_loss_weight": 0.0, "occlusion_loss": "bce"}
PYRAMID = "occlusion_head.edges.0.weight"


@pytest.fixture(scope="module")
def source(noise_faces, tmp_path_factory):
    """(model, path) of a run that knows its identities by name."""
    folder = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        session = training.prepare(Config(**{**SMALL, **OPTIONS, "data_root": noise_faces}), frozenset(), [])
        session.trainer.callbacks = [c for c in session.trainer.callbacks if "Sheet" not in type(c).__name__]
        session.trainer.fit(session.model, datamodule=session.datamodule)
    return session.model, session.folder.resolve() if session.folder.is_absolute() else folder / session.folder


def start(source, monkeypatch, cwd, noise_faces, **options):
    monkeypatch.chdir(cwd)
    given = {**OPTIONS, "data_root": noise_faces, "start_from_model_statedict": str(source[1] / "last.ckpt"), **options}
    return training.prepare(Config(**{**SMALL, **given}), frozenset(), [])


def log_line(session):
    (line,) = [line for line in (session.folder / "run.log").read_text().splitlines() if "last.ckpt: took" in line]
    return line


def test_a_run_starts_with_all_of_a_checkpoint_of_the_same_identities(source, noise_faces, tmp_path, monkeypatch):
    session = start(source, monkeypatch, tmp_path, noise_faces, seed=7)
    torch.testing.assert_close(session.model.state_dict(), source[0].state_dict(), rtol=0, atol=0)
    words = "took backbone, matcher, occlusion head, class maps, head's statistics, class weights"
    assert log_line(session).endswith(words)


@pytest.mark.flag("load")
def test_load_backbone_takes_no_more(source, noise_faces, tmp_path, monkeypatch):
    session = start(source, monkeypatch, tmp_path, noise_faces, seed=7, load="backbone")
    torch.testing.assert_close(session.model.model.state_dict(), source[0].model.state_dict(), rtol=0, atol=0)
    assert not torch.equal(session.model.head.kernel, source[0].head.kernel)
    assert log_line(session).endswith("took the backbone")


def test_an_occlusion_head_of_another_kind_starts_anew_beside_the_recognition_of_a_run(
    source, noise_faces, tmp_path, monkeypatch
):
    session = start(source, monkeypatch, tmp_path, noise_faces, seed=7, occlusion_head="pyramid", **ONLY_OCCLUSION)
    for part in ("model", "matcher", "head"):
        expected = getattr(source[0], part).state_dict()
        torch.testing.assert_close(getattr(session.model, part).state_dict(), expected, rtol=0, atol=0)
    assert "left occlusion head (of another shape or not in this model)" in log_line(session)
    trained = {name.split(".")[0] for name, value in session.model.named_parameters() if value.requires_grad}
    assert trained == {"occlusion_head"}


def test_class_weights_of_other_people_are_left(source, noise_faces, tmp_path, monkeypatch):
    from tasks.recognition.face_set import FaceSet

    monkeypatch.setattr(FaceSet, "identities", "others")
    session = start(source, monkeypatch, tmp_path, noise_faces, seed=7)
    assert not torch.equal(session.model.head.kernel, source[0].head.kernel)
    assert torch.equal(session.model.head.batch_mean, source[0].head.batch_mean)
    assert "left class maps (of other identities), class weights (of other identities)" in log_line(session)


def test_what_has_another_shape_is_left(source, noise_faces, tmp_path, monkeypatch):
    options = {"qaconv_channels": 8, "head": "arcface", "class_embeddings": False}
    session = start(source, monkeypatch, tmp_path, noise_faces, **options)
    line = log_line(session)
    assert "took backbone, occlusion head, class weights; left matcher (of another shape or not in this model)" in line


def test_a_split_head_starts_with_the_class_weights_too(source, noise_faces, tmp_path, monkeypatch):
    session = start(source, monkeypatch, tmp_path, noise_faces, partial_fc_rate=1.0)
    session.model.configure_model()
    torch.testing.assert_close(session.model.head.weight.data.T, source[0].head.kernel.data, rtol=0, atol=0)
    assert torch.equal(session.model.head.margin.batch_mean, source[0].head.batch_mean)


# ---------------------------------------------------------------- freezing


@pytest.mark.flag("freeze", "head_only")
@pytest.mark.parametrize(
    ("options", "frozen", "moved"),
    [
        ({"head_only": True}, ("model.",), "heads.0.kernel"),
        ({"freeze": ("model.body.0.*", "model.in*")}, ("model.body.0.", "model.input_layer."), "heads.0.kernel"),
        ({"freeze": ("heads.*", "matcher.*")}, ("heads.", "matcher."), "model.input_layer.0.weight"),
        ({"head_only": True, "ema_decay": 0.9, "optimizer": "adamw"}, ("model.",), "heads.0.kernel"),
        ({**ONLY_OCCLUSION, "occlusion_head": "pyramid"}, ("model.", "matcher.", "heads."), PYRAMID),
    ],
)  # fmt: skip
def test_what_is_frozen_stays_bit_for_bit_statistics_included(noise_faces, tmp_path, options, frozen, moved):
    options = {**options, "data_root": noise_faces, "weight_decay": 0.1}
    before = state(build(tmp_path, **options)[0])
    model, _, _ = fit(tmp_path, **options)
    after = state(model)
    assert not torch.equal(after[moved], before[moved])
    for name in before:
        if name.startswith(frozen):
            assert torch.equal(after[name], before[name]), name
    assert any(not torch.equal(after[name], before[name]) for name in after if "running_mean" in name)


def test_a_resumed_run_keeps_what_is_frozen(noise_faces, tmp_path, monkeypatch):
    options = {"data_root": noise_faces, "head_only": True, "batch_size": 8, "checkpoint_every_n_steps": 1}
    model, _, _ = fit(tmp_path, **options)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "last.ckpt.previous").replace(tmp_path / "last.ckpt")
    session = training.prepare(Config(**{**SMALL, "resume_from_checkpoint": "last.ckpt"}), frozenset(), [])
    assert session.config.head_only
    session.trainer.callbacks = [c for c in session.trainer.callbacks if "Sheet" not in type(c).__name__]
    session.trainer.fit(session.model, datamodule=session.datamodule, ckpt_path="last.ckpt", weights_only=True)
    torch.testing.assert_close(session.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert "parameters are trained" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze": ("backbone.*",)}, "no parameter is called 'backbone.*'; names are like model."),
        ({"freeze": ("model.*", "nothing")}, "'nothing'"),
        ({"freeze": ("*",)}, "leaves nothing for the optimizer to train"),
        ({"head_only": True, "freeze": ("heads.*", "matcher.*", "occlusion_head.*")}, "leaves nothing"),
        ({"partial_fc_rate": 1.0, "freeze": ("heads.*",)}, "a head that is split cannot be frozen"),
    ],
)
def test_freezing_that_cannot_be_is_refused(noise_faces, tmp_path, options, words):
    with pytest.raises(ValueError, match=r"--freeze") as caught:
        build(tmp_path, data_root=noise_faces, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
