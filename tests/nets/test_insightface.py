"""InsightFace's IResNet: its keys, its numbers by a composition of plain functions, and every prefix it comes under."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nets

ARCHS = [arch for arch in nets.MODELS if arch.startswith("insightface_")]
# Parameters as published or counted by others: 43.59 M and 65.16 M are arcface_torch's r50 and r100.
PARAMETERS = {"insightface_r18": 24.03, "insightface_r34": 34.14, "insightface_r50": 43.59, "insightface_r100": 65.16}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
DEPTHS = {
    "insightface_r18": (2, 2, 2, 2),
    "insightface_r34": (3, 4, 6, 3),
    "insightface_r50": (3, 4, 14, 3),
    "insightface_r100": (3, 13, 30, 3),
    "insightface_r200": (6, 26, 60, 6),
}


def keys_of(arch: str) -> list[str]:
    """Return the keys in the order of arcface_torch's files."""
    norm = {
        name: [f"{name}.{part}" for part in BATCH_NORM] for name in ("bn1", "bn2", "bn3", "downsample.1", "features")
    }
    keys = ["conv1.weight", *norm["bn1"], "prelu.weight"]
    for stage, depth in enumerate(DEPTHS[arch], start=1):
        for index in range(depth):
            block = [*norm["bn1"], "conv1.weight", *norm["bn2"], "prelu.weight", "conv2.weight", *norm["bn3"]]
            block += ["downsample.0.weight", *norm["downsample.1"]] if index == 0 else []
            keys += [f"layer{stage}.{index}.{key}" for key in block]
    return [*keys, *norm["bn2"], "fc.weight", "fc.bias", *norm["features"]]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_state_dict_has_the_keys_of_arcface_torch_in_order(arch):
    with torch.device("meta"):
        model = nets.build_model(arch)
    assert list(model.state_dict()) == keys_of(arch)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == PARAMETERS.get(arch, 118.83)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes["fc.weight"] == (512, 512 * 7 * 7) and shapes["layer1.0.downsample.0.weight"] == (64, 64, 1, 1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Return the smallest one with numbers that no layer leaves as they are."""
    generator = torch.Generator().manual_seed(0)
    model = nets.build_model("insightface_r18", 8).eval()
    for value in model.state_dict().values():
        if value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model


def naive(state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Return feature map and output, by functions alone, in the order of arcface_torch's forward pass."""

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias, mean, variance, _ = (state[f"{name}.{part}"] for part in BATCH_NORM)
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    def prelu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * state[f"{name}.weight"].view(1, -1, 1, 1))

    x = prelu("prelu", norm("bn1", functional.conv2d(images, state["conv1.weight"], padding=1)))
    for stage in (1, 2, 3, 4):
        for index in (0, 1):
            block, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
            y = functional.conv2d(norm(f"{block}.bn1", x), state[f"{block}.conv1.weight"], padding=1)
            y = prelu(f"{block}.prelu", norm(f"{block}.bn2", y))
            y = norm(f"{block}.bn3", functional.conv2d(y, state[f"{block}.conv2.weight"], padding=1, stride=stride))
            if index == 0:
                x = norm(f"{block}.downsample.1", functional.conv2d(x, state[f"{block}.downsample.0.weight"], stride=2))
            x = x + y
    output = norm("bn2", x).flatten(1) @ state["fc.weight"].T + state["fc.bias"]
    return x, norm("features", output)


def test_features_are_those_of_the_composition_of_plain_functions(model):
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        features = model(images)
        feature_map, output = naive(model.state_dict(), images)
    torch.testing.assert_close(features.feature_map, feature_map, rtol=1e-4, atol=1e-4 * feature_map.abs().max().item())
    torch.testing.assert_close(features.norm, output.norm(dim=1, keepdim=True), rtol=1e-4, atol=0)
    torch.testing.assert_close(features.embedding, functional.normalize(output), rtol=0, atol=1e-4)


def test_all_but_the_lengths_of_outputs_is_trained(model):
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["features.weight"]


# arcface_torch, its data parallel form, MagFace's two, CVLface, a run of ours.
@pytest.mark.parametrize("prefix", ["", "module.", "features.module.", "module.features.", "net.", "model."])
def test_it_loads_under_the_prefixes_that_it_is_published_with(tmp_path, model, prefix):
    state = {prefix + key: value for key, value in model.state_dict().items()}
    classes = {"fc.weight": torch.zeros(3, 8)} if prefix else {}
    torch.save({"state_dict": classes | state, "epoch": 25, "arch": "iresnet18"}, tmp_path / "w.pth")
    found = nets.read_state_dict(tmp_path / "w.pth").state_dict
    assert nets.infer_arch(found) == "insightface_r18" and nets.infer_embedding_size(found) == 8
    target = nets.build_model("insightface_r18", 8).eval()
    nets.load_weights(target, tmp_path / "w.pth", "bgr")
    for key, value in model.state_dict().items():
        assert torch.equal(target.state_dict()[key], value.flip(1) if key == "conv1.weight" else value), key


def test_adafaces_network_in_cvlfaces_wrapper_is_one_of_ours(tmp_path):
    source, target = (nets.build_model("ir_18", 8) for _ in range(2))
    torch.save({f"net.{key}": value for key, value in source.state_dict().items()}, tmp_path / "model.pt")
    assert nets.infer_arch(nets.read_state_dict(tmp_path / "model.pt").state_dict) == "ir_18"
    nets.load_weights(target, tmp_path / "model.pt", "rgb")
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_it_is_not_taken_for_adafaces(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"looks like insightface_r18 with .* size 8, but the model is ir_18 with"):
        nets.load_weights(nets.build_model("ir_18", 8), tmp_path / "w.pth", "rgb")


@pytest.mark.parametrize(("missing", "extra"), [("layer4.1.bn3.weight", ()), ("", ("layer4.2.bn1.weight",))])
def test_other_keys_are_refused_by_name(tmp_path, model, missing, extra):
    state = {key: value for key, value in model.state_dict().items() if key != missing}
    state |= {key: torch.zeros(1) for key in extra}
    words = f"1 missing ({missing}" if missing else f"1 unexpected ({extra[0]}"
    with pytest.raises(ValueError) as caught:
        nets.infer_arch(state)
    assert words in str(caught.value) and "nearest is insightface_r18" in str(caught.value)


def test_first_layers_for_values_from_0_to_1_are_rewritten_for_ours(model):
    """What docs/weights.md says of MagFace's files: the same numbers but where the padding is seen."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["conv1.weight"] = state["conv1.weight"] / 2
    state["bn1.running_mean"] = state["bn1.running_mean"] - state["conv1.weight"].sum((1, 2, 3))
    rewritten = nets.build_model("insightface_r18", 8).eval()
    rewritten.load_state_dict(state)
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected, found = model.parts()[0]((images + 1) / 2), rewritten.parts()[0](images)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert (found[..., 0, :] - expected[..., 0, :]).abs().max() > 1e-2
