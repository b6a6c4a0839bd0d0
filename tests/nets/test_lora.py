"""Adapters change nothing at first, are all that is trained, and leave plain weights in the end."""

import copy

import pytest
import torch
from torch import nn

import nets
from nets.lora import (
    LoraForm,
    add_lora,
    lora_layers,
    lora_parameters,
    merge_lora,
    merged_state,
    merged_tensors,
    set_quality,
)

FORMS = {
    "one": LoraForm(rank=2, alpha=3.0),
    "by quality": LoraForm(rank=2, alpha=3.0, by_quality=True),
}


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1, stride=2)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(nn.Linear(6, 5, bias=False), nn.GELU(), nn.Linear(5, 4))

    def forward(self, x):
        x = self.norm(self.grouped(self.depthwise(self.conv(x))))
        return self.blocks(x.permute(0, 2, 3, 1)).mean((1, 2))


def adapted(form, model=None, patterns=("*",)):
    """Return (plain model, the same with adapters that do something), both in eval mode."""
    torch.manual_seed(0)
    plain = (Tiny() if model is None else model).eval()
    lora = add_lora(copy.deepcopy(plain), patterns, form)
    with torch.no_grad():
        for _, parameter in lora_parameters(lora):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return plain, lora


IMAGES = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_fresh_adapters_change_nothing_and_everything_else_is_frozen():
    plain = Tiny().eval()
    model = add_lora(copy.deepcopy(plain), ["conv", "blocks.*"], LoraForm(rank=2))
    torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=0, atol=1e-7)
    layers = ("conv", "blocks.0", "blocks.2")
    expected = {f"{layer}.lora_{side}" for layer in layers for side in ("down", "up")}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == expected
    assert model.state_dict().keys() == plain.state_dict().keys() | expected
    model(IMAGES).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == expected
    trained = sum(parameter.numel() for _, parameter in lora_parameters(model))
    assert trained == 2 * (3 + 6 + 6 + 5 + 5 + 4)


def test_the_first_matrix_has_variance_one_over_rank():
    layer = add_lora(nn.Sequential(nn.Linear(4000, 3)), ["0"], LoraForm(rank=16))[0]
    assert float(layer.lora_down.detach().var()) == pytest.approx(1 / 16, rel=0.02)
    assert not layer.lora_up.any()
    again = add_lora(nn.Sequential(nn.Linear(4000, 3)), ["0"], LoraForm(rank=16))[0]
    assert torch.equal(layer.lora_down, again.lora_down)


@pytest.mark.parametrize("folded", [0, 16])
@pytest.mark.parametrize("quality", [None, 0.0, 0.3, 1.0])
def test_a_layer_adds_the_scaled_product_of_its_matrices(quality, folded, monkeypatch):
    monkeypatch.setattr(nets.lora, "FOLDED", folded)
    form = FORMS["one" if quality is None else "by quality"]
    plain, model = adapted(form)
    with torch.no_grad():
        for name, layer in lora_layers(model).items():
            down, up = layer.lora_down.split(2), layer.lora_up.split(2, 1)
            weights = [1.0] if quality is None else [1 - quality, quality]
            product = sum(w * 1.5 * u @ d for w, u, d in zip(weights, up, down, strict=True))
            plain.get_submodule(name).weight.add_(product.view_as(layer.weight))
    if quality is not None:
        set_quality(model, torch.full((3,), quality))
    torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=0, atol=1e-6)


def test_what_is_the_same_for_all_images_differs_by_quality_too():
    _, model = adapted(FORMS["by quality"], nn.Sequential(nn.Linear(4, 3)))
    set_quality(model, torch.tensor([0.0, 0.6]))
    found = model(torch.ones(1, 5, 4))
    for place in range(2):
        set_quality(model, torch.tensor([0.0, 0.6])[place : place + 1])
        torch.testing.assert_close(found[place : place + 1], model(torch.ones(1, 5, 4)))


def test_each_image_has_its_own_quality():
    _, model = adapted(FORMS["by quality"])
    qualities = torch.tensor([0.1, 0.9, 0.4])
    set_quality(model, qualities)
    together = model(IMAGES)
    for place in range(3):
        set_quality(model, qualities[place : place + 1])
        torch.testing.assert_close(model(IMAGES[place : place + 1]), together[place : place + 1])


@pytest.mark.parametrize("arch", ["ir_tiny", "mobilefacenet"])
@pytest.mark.parametrize("form", FORMS)
def test_a_merged_net_has_the_plain_keys_and_the_same_outputs(arch, form):
    quality = 0.7 if form == "by quality" else None
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(2)).double()
    plain, model = adapted(FORMS[form], nets.build_model(arch, 32))
    model.double()
    if quality is not None:
        set_quality(model, torch.full((2,), quality))
    expected, before = model(images), copy.deepcopy(model.state_dict())
    state = merged_state(model, quality)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert list(state) == list(plain.state_dict())
    if quality is None:
        torch.testing.assert_close(merged_tensors(before, FORMS[form]), dict(state), rtol=0, atol=0)
    reader = nets.build_model(arch, 32).double().eval()
    reader.load_state_dict(state)
    torch.testing.assert_close(reader(images).embedding, expected.embedding, rtol=0, atol=1e-6)
    torch.testing.assert_close(reader.float()(images.float()).embedding.double(), expected.embedding, rtol=0, atol=1e-5)
    merged = merge_lora(model, quality)
    assert (
        merged is model
        and not lora_layers(model)
        and [type(p) for p in model.modules()] == [type(p) for p in plain.modules()]
    )
    torch.testing.assert_close(merged(images).embedding, expected.embedding, rtol=0, atol=1e-6)
    assert not torch.allclose(plain.double()(images).embedding, expected.embedding, atol=1e-3)


def test_folded_or_not_the_gradients_are_the_same(monkeypatch):
    _, model = adapted(FORMS["one"])
    gradients = []
    for folded in (0, 16):
        monkeypatch.setattr(nets.lora, "FOLDED", folded)
        model.zero_grad()
        model(IMAGES).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in lora_parameters(model)})
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_state_dict_round_trip_keeps_the_adapters():
    _, model = adapted(FORMS["one"])
    other = add_lora(Tiny().eval(), ["*"], FORMS["one"], seed=5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(IMAGES), model(IMAGES))


def test_dropout_is_of_the_adapters_alone_and_of_training_alone():
    _, model = adapted(LoraForm(rank=2, dropout=0.5))
    assert torch.equal(model(IMAGES), model(IMAGES))
    plain = merge_lora(copy.deepcopy(model))
    model.blocks.train()
    torch.manual_seed(0)
    assert not torch.equal(model(IMAGES), plain(IMAGES))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_up.zero_()
    assert torch.equal(model(IMAGES), model(IMAGES))


def test_a_repeated_forward_pass_has_the_quality_of_the_first(monkeypatch):
    _, model = adapted(FORMS["by quality"], nets.build_model("mobilefacenet", 16), ["body.1.*"])
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(3))
    gradients = []
    model.train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.eval()
    for repeated in (False, True):
        model.activation_checkpointing = repeated
        model.zero_grad()
        losses = []
        for quality in (0.0, 1.0):  # two views of a batch, one backward pass
            set_quality(model, torch.full((2,), quality))
            losses.append(model(images).embedding.square().mul(torch.arange(16)).sum())
        sum(losses).backward()
        gradients.append([parameter.grad.clone() for _, parameter in lora_parameters(model)])
    assert any(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


def test_a_compiled_net_follows_the_quality():
    _, model = adapted(FORMS["by quality"])
    compiled = torch.compile(model, backend="eager")
    for quality in (torch.tensor([0.1, 0.9, 0.4]), torch.tensor([1.0, 0.0, 0.2])):
        set_quality(model, quality)
        torch.testing.assert_close(compiled(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda: add_lora(Tiny(), ["depth*"]), r"no linear layer or 1x1 convolution is called 'depth\*'; .*like conv"),
        (lambda: add_lora(Tiny(), ["grouped"]), "no linear layer or 1x1 convolution is called 'grouped'"),
        (lambda: add_lora(add_lora(Tiny(), ["conv"]), ["conv"]), "conv has adapters already"),
        (lambda: add_lora(Tiny(), ["conv"], LoraForm(rank=0)), "rank >= 1 and dropout in"),
        (lambda: add_lora(Tiny(), ["conv"], LoraForm(dropout=1.0)), "rank >= 1 and dropout in"),
        (lambda: merge_lora(add_lora(Tiny(), ["conv"], FORMS["by quality"])), "say at which, as quality=0.5"),
        (lambda: merge_lora(Tiny(), 1.5), r"a quality in \[0, 1\] expected, got 1.5"),
        (
            lambda: merged_tensors(add_lora(Tiny(), ["conv"]).state_dict(), LoraForm(4)),
            "conv: adapters of rank 4 for a",
        ),
        (lambda: merged_tensors({"a.lora_up": torch.ones(3, 2)}, LoraForm(2)), "a: lora_down, lora_up and the weight"),
        (lambda: set_quality(add_lora(Tiny(), ["conv"]), torch.ones(3)), "no layer has adapters that are mixed"),
        (lambda: add_lora(Tiny(), ["conv"], FORMS["by quality"])(IMAGES), r"expected the quality \[3\] .* is None"),
    ],
)
def test_what_cannot_be_is_refused(change, refusal):
    with pytest.raises(ValueError, match=refusal):
        change()
