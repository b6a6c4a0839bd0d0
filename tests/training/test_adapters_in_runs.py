"""Adapters in a run: they alone move, a checkpoint keeps them apart, and who loads it gets plain weights."""

import logging

import pytest
import pytorch_lightning as pl
import torch
from observed import config, fixed_batch, recognizer
from short_runs import fit, state

import models
import nets
from cli.checkpoints import load_pretrained_model, read_to_resume, start_from
from models.loading import read_content
from nets.lora import lora_layers
from tasks.recognition.memory import plan_memory
from tasks.recognition.paired_nets import TEACHER, Teacher

RUN = {"optimizer": "adamw", "lr": 0.02, "qaconv_loss_weight": 0.0, "activation_checkpointing": True}
IMAGES = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Begin(pl.Callback):
    """Keep the weights that a run begins with."""

    def on_train_start(self, trainer, module):
        self.state = state(module)


def trained(folder, noise_faces, **options):
    """Return (weights at the start, module, checkpoint file) of a run."""
    begin = Begin()
    model, _, _ = fit(folder, begin, data_root=noise_faces, **RUN, **options)
    return begin.state, model.eval(), folder / "last.ckpt"


@pytest.fixture(scope="module")
def plain_run(noise_faces, tmp_path_factory):
    """A run whose adapters are merged in the end, with a teacher."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(1)
    teacher = nets.build_model("ir_tiny", 16)
    torch.save({"state_dict": teacher.state_dict(), "color_space": "rgb"}, folder / "teacher.pt")
    views = {"degradation": "first_order", "degradation_side": 16, "teacher_weight": 1.0, "ema_decay": 0.5}
    options = {"lora_rank": 2, "lora_alpha": 3.0, **views, "start_from_model_statedict": str(folder / "teacher.pt")}
    return trained(folder, noise_faces, **options)


@pytest.fixture(scope="module")
def mixed_run(noise_faces, tmp_path_factory):
    """A run whose adapters are mixed by quality."""
    return trained(tmp_path_factory.mktemp("mixed"), noise_faces, lora_rank=2, lora_by_quality=True, lora_dropout=0.2)


@pytest.mark.flag("lora_rank", "lora_alpha")
def test_of_the_backbone_adapters_alone_move_and_a_checkpoint_keeps_them_apart(plain_run):
    begin, model, path = plain_run
    saved = read_to_resume(path)["state_dict"]
    of_backbone = [name for name in begin if name.startswith("model.")]
    moved = {name for name in of_backbone if not torch.equal(begin[name], saved[name])}
    adapters = {f"model.{name}.{side}" for name in lora_layers(model.model) for side in ("lora_down", "lora_up")}
    assert moved == adapters == {name for name in of_backbone if nets.is_adapter(name)}
    assert "model.output_layer.3.lora_up" in moved and "model.body.1.shortcut_layer.0.lora_down" in moved
    assert not torch.equal(begin["heads.0.kernel"], saved["heads.0.kernel"])
    layer = model.model.get_submodule("output_layer.3")
    assert layer.scale == 1.5 and layer.lora_down.shape[0] == 2


def test_the_teacher_is_the_net_before_its_adapters(plain_run):
    begin, model, path = plain_run
    teacher = Teacher.from_dict(read_content(path)[TEACHER])
    plain = {name.removeprefix("model."): value for name, value in begin.items() if name.startswith("model.")}
    expected = {name: value for name, value in plain.items() if not nets.is_adapter(name)}
    torch.testing.assert_close(dict(teacher.backbone.state_dict()), expected, rtol=0, atol=0)
    assert model.model.training is False and begin  # `eval` reaches the adapters too


def test_who_loads_a_run_gets_plain_weights_and_the_same_outputs(plain_run):
    _, model, path = plain_run
    with torch.no_grad():
        expected = model.model(IMAGES).embedding
    fresh = nets.build_model("ir_tiny", 16).eval()
    nets.load_weights(fresh, path)
    others = models.load(path).model, load_pretrained_model(path).model, Teacher.from_file(path, None).backbone
    for loaded in (fresh, *others):
        assert loaded.state_dict().keys() == nets.build_model("ir_tiny", 16).state_dict().keys()
        with torch.no_grad():
            torch.testing.assert_close(loaded(IMAGES).embedding, expected, rtol=0, atol=1e-5)


def test_a_run_starts_from_plain_weights_and_from_those_of_another_with_adapters(plain_run, caplog):
    _, model, path = plain_run
    again = recognizer(arch="ir_tiny", embedding_size=16, lora_rank=4, lora_layers=("output_layer.*",)).eval()
    before = {name: value.clone() for name, value in again.model.state_dict().items() if nets.is_adapter(name)}
    assert [*lora_layers(again.model)] == ["output_layer.3"]
    with caplog.at_level(logging.INFO):
        start_from(again, path, None)
    assert "took backbone" in caplog.text
    for name, value in before.items():
        assert torch.equal(again.model.state_dict()[name], value)
    with torch.no_grad():
        torch.testing.assert_close(again.model(IMAGES), model.model(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.flag("lora_by_quality")
def test_adapters_mixed_by_quality_describe_each_image_at_its_own_wherever_it_is(mixed_run):
    _, model, path = mixed_run
    sharp = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(4)) * 2 - 1
    blurred = torch.nn.functional.interpolate(sharp[..., ::14, ::14], 112, mode="bicubic").clamp(-1, 1)
    images = torch.cat([sharp, blurred])
    quality = nets.image_quality(images)
    assert quality[0] > 0.9 and quality[1] < 0.5
    loaded = models.load(path)
    described = [each.describe(images).embedding for each in (model, loaded, load_pretrained_model(path))]
    assert torch.equal(described[0], described[1]) and torch.equal(described[0], described[2])
    for place in (0, 1):
        at_one = models.load(path, quality=float(quality[place]))
        assert not lora_layers(at_one.model)
        found = at_one.describe(images).embedding
        torch.testing.assert_close(found[place], described[0][place], rtol=0, atol=1e-5)
        assert not torch.allclose(found[1 - place], described[0][1 - place], atol=1e-4)
    compiled = torch.compile(loaded.model, backend="eager")
    torch.testing.assert_close(compiled(images).embedding, described[0])


def test_what_adapters_mixed_by_quality_cannot_be_is_said(mixed_run, plain_run, tmp_path):
    path, other = mixed_run[2], recognizer(arch="ir_tiny", embedding_size=16)
    with pytest.raises(ValueError, match=r"last\.ckpt: its adapters are mixed by image quality, and merge at none"):
        start_from(other, path, None)
    with pytest.raises(ValueError, match=r"last\.ckpt: quality=0\.5: the model has no adapters that are mixed"):
        models.load(plain_run[2], quality=0.5)
    with pytest.raises(ValueError, match=r"last\.ckpt: .*a quality in \[0, 1\] expected, got 2"):
        models.load(path, quality=2.0)
    torch.save({"state_dict": mixed_run[1].model.state_dict(), "color_space": "rgb"}, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"bare\.pt: has adapters, and no options that say their rank"):
        nets.load_weights(other.model, tmp_path / "bare.pt")


@pytest.mark.flag("lora_layers", "lora_dropout")
def test_only_parts_with_adapters_are_in_training_mode():
    model = recognizer(lora_rank=2, lora_layers=("body.1.*",), lora_dropout=0.5).model
    assert {name for name, part in model.named_modules() if part.training} == {
        *("", "body", "body.1", "body.1.shortcut_layer", "body.1.shortcut_layer.0")
    }
    assert [*lora_layers(model)] == ["body.1.shortcut_layer.0"]
    torch.nn.init.normal_(model.get_submodule("body.1.shortcut_layer.0").lora_up)
    with torch.no_grad():
        assert not torch.equal(model(IMAGES).embedding, model(IMAGES).embedding)


def test_the_memory_of_a_step_counts_gradients_of_adapters_alone():
    plans = [
        plan_memory(config(lora_rank=rank), recognizer(lora_rank=rank).model, None, 8).partition(";")[0]
        for rank in (0, 2)
    ]
    whole, adapters = (float(plan.split()[-2]) for plan in plans)
    assert adapters < 0.5 * whole
    trained = recognizer(lora_rank=2)
    trained.training_step(fixed_batch(), 0).backward()
    assert all(nets.is_adapter(name) == (p.grad is not None) for name, p in trained.model.named_parameters())


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"lora_alpha": 4.0}, "--lora_alpha belongs to --lora_rank: give that, as 8"),
        ({"lora_by_quality": True}, "--lora_by_quality belongs to --lora_rank"),
        ({"lora_rank": 2, "head_only": True}, "--head_only freezes the backbone, --lora_rank trains it"),
        ({"lora_rank": 2, "lora_layers": ("tail.*",)}, r"^--lora_layers: no linear layer .* is called 'tail\.\*'"),
        ({"lora_rank": 2, "lora_dropout": 0.1, "check_mode": True}, "--check_mode has no dropout"),
    ],
)
def test_adapters_that_cannot_be_are_refused(options, refusal):
    with pytest.raises(ValueError, match=refusal):
        recognizer(**options)
