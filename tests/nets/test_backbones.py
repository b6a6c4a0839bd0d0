"""What every backbone promises, whatever its architecture."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
from nets.backbone import split_norm

# The deep variants repeat ir_18's modules; these have all the code there is.
SMALL = ["ir_18", "ir_se_18", "ir_tiny", "mobilefacenet", "edgeface_xs_gamma_06"]


@functools.cache
def on_meta(arch: str) -> nets.Backbone:
    with torch.device("meta"):
        return nets.build_model(arch, embedding_size=96).eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {arch: nets.build_model(arch, embedding_size=24) for arch in SMALL}


@pytest.mark.parametrize("arch", list(nets.MODELS))
def test_every_architecture_states_its_sizes_and_keeps_to_them(arch: str) -> None:
    model = on_meta(arch)
    features = model(torch.empty(2, 3, model.input_size, model.input_size, device="meta"))
    assert model.input_size == 112 and model.embedding_size == 96
    assert features.embedding.shape == (2, 96) and features.norm.shape == (2, 1)
    assert features.feature_map.shape == (2, *model.map_shape)


@pytest.mark.parametrize("arch", list(nets.MODELS))
def test_the_detail_map_is_the_last_of_twice_the_sides(arch: str) -> None:
    model, sizes = on_meta(arch), []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape))
        for block in model.parts()[1]
    ]
    _, detail = model(torch.empty(2, 3, 112, 112, device="meta"), detailed=True)
    for hook in hooks:
        hook.remove()
    _, height, width = model.map_shape
    assert detail.shape == sizes[model.detail_blocks - 1] and detail.shape[:2] == (2, model.detail_channels)
    assert (detail.shape[2] // 2, detail.shape[3] // 2) == (height, width)
    # EdgeFace has a layer norm of its own before the convolution that strides.
    assert sizes[model.detail_blocks + arch.startswith("edgeface")][-2:] == (height, width)


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_features_are_the_same_with_the_detail_map(
    models: dict[str, nn.Module], arch: str, checkpointing: bool
) -> None:
    model = models[arch].eval()
    plain = model(images(2))
    model.activation_checkpointing = checkpointing
    features, detail = model(images(2), detailed=True)
    model.activation_checkpointing = False
    assert all(torch.equal(a, b) for a, b in zip(plain, features, strict=True))
    detail.sum().backward()
    model.zero_grad()


def test_default_embedding_size_is_512() -> None:
    with torch.device("meta"):
        assert nets.build_model("mobilefacenet").embedding_size == 512


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_features_are_of_one_kind_in_training_and_evaluation(
    models: dict[str, nn.Module], arch: str, training: bool
) -> None:
    model = models[arch].train(training)
    features = model(images(2))
    assert isinstance(features, nets.Features)
    torch.testing.assert_close(features.embedding.norm(dim=1), torch.ones(2))
    assert features.norm.min() > 0
    (features.embedding[:, 0].sum() + features.norm.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


@pytest.mark.parametrize("arch", ["ir_18", "mobilefacenet", "edgeface_xs_gamma_06"])
def test_feature_map_is_the_raw_output_of_the_last_body_block(models: dict[str, nn.Module], arch: str) -> None:
    model = models[arch].eval()
    seen: list[torch.Tensor] = []
    handle = model.parts()[1][-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        features = model(images(1))
    handle.remove()
    assert torch.equal(features.feature_map, seen[0])


@pytest.mark.parametrize("arch", SMALL)
def test_channels_last_gives_the_same_features(models: dict[str, nn.Module], arch: str) -> None:
    model = models[arch].eval()
    with torch.no_grad():
        expected = model(images(2))
        model.to(memory_format=torch.channels_last)
        found = model(images(2).to(memory_format=torch.channels_last))
        model.to(memory_format=torch.contiguous_format)
    assert found.feature_map.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.embedding, expected.embedding, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "arch",
    [
        *("ir_tiny", "mobilefacenet", "edgeface_xs_gamma_06"),
        *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("ir_se_18", "insightface_r18")),
    ],
)
def test_channels_last_gives_the_same_gradients(arch: str) -> None:
    def gradients(layout: torch.memory_format) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nets.build_model(arch, embedding_size=24).train().double().to(memory_format=layout)
        features = model(images(2).double())
        weights = torch.randn(features.feature_map.shape, generator=torch.Generator().manual_seed(1)).double()
        torch.manual_seed(2)
        (features.embedding[:, :12].sum() + (features.feature_map * weights).mean()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    last, first = gradients(torch.channels_last), gradients(torch.contiguous_format)
    assert len(last) > 20
    torch.testing.assert_close(last, first, rtol=1e-6, atol=1e-9)


# Without instructions for bf16 the large ones take 14 s each: they are slow, and ir_tiny has the blocks of ir_18.
@pytest.mark.parametrize("arch", [pytest.param(a, marks=[pytest.mark.slow] * a.endswith("_18")) for a in SMALL])
def test_bf16_autocast_keeps_norm_and_embedding_in_float32(models: dict[str, nn.Module], arch: str) -> None:
    model = models[arch].train()
    with torch.autocast("cpu", torch.bfloat16):
        features = model(images(2).to(memory_format=torch.channels_last))
    assert features.embedding.dtype == features.norm.dtype == torch.float32
    assert features.feature_map.dtype == torch.bfloat16
    # A unit length to 1e-6 shows that the division ran in float32: bfloat16 rounds at 4e-3.
    torch.testing.assert_close(features.embedding.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)
    features.embedding[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


@pytest.mark.parametrize("arch", list(nets.MODELS))
def test_every_architecture_names_its_first_convolution_and_its_last_matrix(arch: str) -> None:
    model = on_meta(arch)
    with torch.device("meta"):
        wider = nets.build_model(arch, 97)
    matrices = {name: tensor.shape for name, tensor in model.named_parameters() if tensor.ndim > 1}
    assert model.first_convolution == next(iter(matrices))
    grown = [name for name, shape in matrices.items() if wider.get_parameter(name).shape != shape]
    assert model.last_linear == grown[-1] and matrices[model.last_linear][0] == 96


@pytest.mark.parametrize("arch", ["ir_se_18", "ir_tiny", "mobilefacenet", "edgeface_xs_gamma_06"])
def test_exports_with_a_dynamic_batch(models: dict[str, nn.Module], arch: str) -> None:
    model = models[arch].eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (images(2),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 3):
        with torch.no_grad():
            found, expected = program(images(count, seed=count)), model(images(count, seed=count))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(2, 112, 112, 3), (2, 1, 112, 112), (3, 112, 112), (2, 3, 96, 112)])
def test_images_of_another_shape_are_refused(models: dict[str, nn.Module], shape: tuple[int, ...]) -> None:
    for model in models.values():
        with pytest.raises(ValueError, match=r"expected images \[B, 3, 112, 112\]"):
            model(torch.zeros(shape))


def test_build_model_refuses_unknown_names_and_sizes() -> None:
    with pytest.raises(ValueError, match=r"unknown arch 'ir_19', expected one of ir_18"):
        nets.build_model("ir_19")
    with pytest.raises(ValueError, match="embedding_size must be at least 1, got 0"):
        nets.build_model("ir_18", 0)


def test_mobilefacenet_has_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        model = nets.build_model("mobilefacenet", embedding_size=128)
    assert 0.95e6 < sum(p.numel() for p in model.parameters()) < 1.05e6


def test_fresh_weights_let_ir_tiny_learn_two_patterns() -> None:
    torch.manual_seed(0)
    model = nets.build_model("ir_tiny", embedding_size=16)
    stripes = torch.sin(torch.arange(112) / 3).expand(112, 112)
    data = torch.stack([stripes, stripes.T]).repeat(4, 1, 1)[:, None].expand(-1, 3, -1, -1) * 0.5
    data = data + 0.5 * images(8)
    labels = torch.tensor([0, 1] * 4)
    classifier = nn.Linear(16, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *classifier.parameters()], lr=0.05)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(8 * classifier(model(data).embedding), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------- unit length


def test_split_norm_is_finite_at_zero_in_value_and_gradient() -> None:
    outputs = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], requires_grad=True)
    unit, norm = split_norm(outputs)
    assert torch.equal(unit.detach(), torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.0, 0.8]]))
    assert torch.equal(norm.detach(), torch.tensor([[0.0], [5.0]]))
    (unit.sum() + norm.sum()).backward()
    assert outputs.grad is not None and outputs.grad.isfinite().all()


@settings(max_examples=60)
@given(exponent=st.floats(-30, 15), seed=st.integers(0, 1000))
def test_split_norm_is_finite_at_every_scale(exponent: float, seed: int) -> None:
    direction = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
    outputs = (direction * 10**exponent).requires_grad_()
    unit, norm = split_norm(outputs)
    unit[:, 0].sum().backward()
    assert unit.isfinite().all() and norm.isfinite().all()
    assert outputs.grad is not None and outputs.grad.isfinite().all()
    assert (unit.norm(dim=1) < 1 + 1e-5).all()
    if exponent > -9:
        torch.testing.assert_close(unit, nn.functional.normalize(direction, dim=1), atol=1e-5, rtol=1e-5)


def test_split_norm_has_the_exact_gradient() -> None:
    outputs = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(split_norm, (outputs,))


def test_split_norm_lifts_half_precision_to_float32() -> None:
    unit, norm = split_norm(torch.full((1, 4), 3e4, dtype=torch.float16))  # the length, 6e4, squares beyond float16
    assert unit.dtype == norm.dtype == torch.float32
    torch.testing.assert_close(unit, torch.full((1, 4), 0.5))


def test_convolutions_start_with_the_kaiming_deviation_per_group() -> None:
    torch.manual_seed(0)
    model = nets.build_model("mobilefacenet")
    pointwise, depthwise = model.body[6].layers[0], model.output_layer[0]
    assert pointwise.weight.std().item() == pytest.approx((2 / pointwise.out_channels) ** 0.5, rel=0.03)
    assert depthwise.weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.03)
