"""IResNet against AdaFace's networks: keys, values, and the properties every backbone promises."""

import json
import zlib

import numpy as np
import pytest
import torch
from programs import ROOT
from torch import nn

import nets

GOLDEN = ROOT / "tests" / "golden" / "backbones"
IRESNETS = [name for name in nets.MODELS if name.startswith("ir_") and name != "ir_tiny"]
SALT = 20250611


def fill(model: nn.Module) -> None:
    """Give every tensor the value that the golden recipe derives from its key and shape."""
    state = model.state_dict()
    for key, tensor in state.items():
        shape = tuple(tensor.shape)
        x = np.random.RandomState(zlib.crc32(key.encode()) ^ SALT).standard_normal(shape).astype(np.float32)
        x = torch.from_numpy(np.asarray(x))
        if key.endswith("num_batches_tracked"):
            value = torch.zeros((), dtype=torch.int64)
        elif key.endswith("running_mean") or key.endswith("bias"):
            value = 0.1 * x
        elif key.endswith("running_var"):
            value = 1 + 0.1 * x.abs()
        elif len(shape) >= 2:
            value = x / np.float32(np.sqrt(np.prod(shape[1:]))) * (3 if ".se_block." in key else 1)
        elif key.endswith("res_layer.5.weight"):
            value = 0.5 + 0.05 * x
        elif key.removesuffix("weight") + "running_mean" in state:
            value = 1 + 0.1 * x
        else:
            value = 0.25 + 0.05 * x
        tensor.copy_(value)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "ir_18.npz"))


@pytest.fixture(scope="module")
def filled_ir_18() -> nn.Module:
    model = nets.build_model("ir_18").eval()
    fill(model)
    return model


def test_recipe_gives_the_published_check_values() -> None:
    model = nets.build_model("ir_18")
    fill(model)
    first = model.state_dict()["input_layer.0.weight"].flatten()[:3]
    torch.testing.assert_close(first, torch.tensor([0.11151642, 0.097932979, 0.30016786]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("arch", ["ir_18", "ir_50"])
def test_state_dict_has_the_keys_of_adaface_in_order(arch: str) -> None:
    with torch.device("meta"):
        state = nets.build_model(arch).state_dict()
    assert [[key, list(value.shape)] for key, value in state.items()] == json.loads(
        (GOLDEN / f"keys_{arch}.json").read_text()
    )


@pytest.mark.parametrize(
    ("arch", "blocks"), [("ir_se_18", 8), ("ir_se_34", 16), ("ir_se_50", 24), ("ir_101", 49), ("ir_se_101", 49)]
)
def test_variants_have_their_blocks_and_se_keys(arch: str, blocks: int) -> None:
    with torch.device("meta"):
        keys = list(nets.build_model(arch).state_dict())
    last = f"body.{blocks - 1}.res_layer."
    tail = ["se_block.fc1.weight", "se_block.fc2.weight"] if "_se_" in arch else ["5.num_batches_tracked"]
    assert keys[-len(tail) :] == [last + key for key in tail]
    assert f"body.{blocks}.res_layer.0.weight" not in keys


def test_ir_18_reproduces_the_reference_in_float32(filled_ir_18: nn.Module, golden: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        features = filled_ir_18(torch.from_numpy(golden["input"]))
    np.testing.assert_allclose(features.embedding, golden["embedding"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(features.norm, golden["norm"], atol=0, rtol=1e-5)
    scale = np.abs(golden["feature_map"]).max()
    np.testing.assert_allclose(features.feature_map[:1], golden["feature_map"], atol=1e-5 * scale, rtol=0)


def test_ir_18_reproduces_the_reference_and_its_trace_in_float64(golden: dict[str, np.ndarray]) -> None:
    model = nets.build_model("ir_18").eval()
    fill(model)
    model.double()
    outputs: list[torch.Tensor] = []
    for module in [model.input_layer, *model.body]:
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        features = model(torch.from_numpy(golden["input"]).double())
    assert features.embedding.dtype == torch.float64
    np.testing.assert_allclose([o.mean() for o in outputs], golden["trace_mean"], atol=1e-10)
    np.testing.assert_allclose([o.std() for o in outputs], golden["trace_std"], rtol=1e-10)
    np.testing.assert_allclose(features.embedding, golden["embedding_f64"], atol=1e-12, rtol=0)
    np.testing.assert_allclose(features.norm, golden["norm_f64"], rtol=1e-12)


def test_subsample_equals_a_max_pool_with_kernel_one() -> None:
    x = torch.randn(2, 5, 7, 8, requires_grad=True)
    for stride in (1, 2, 3):
        ours = nets.iresnet.Subsample(stride)(x)
        theirs = nn.functional.max_pool2d(x, 1, stride)
        assert torch.equal(ours, theirs)
        weights = torch.randn_like(ours)
        grads = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, theirs)]
        assert torch.equal(*grads)


def test_squeeze_excite_gates_each_channel_by_its_mean() -> None:
    gate = nets.iresnet.SqueezeExcite(32).double()
    x = torch.randn(2, 32, 3, 4, dtype=torch.float64)
    fc1, fc2 = gate.fc1.weight.detach().numpy()[:, :, 0, 0], gate.fc2.weight.detach().numpy()[:, :, 0, 0]
    expected = np.empty(x.shape)
    for b in range(2):
        means = np.array([x[b, c].numpy().sum() / 12 for c in range(32)])
        logits = fc2 @ np.maximum(fc1 @ means, 0)
        for c in range(32):
            expected[b, c] = x[b, c].numpy() / (1 + np.exp(-logits[c]))
    np.testing.assert_allclose(gate(x).detach(), expected, atol=1e-12)


def test_every_variant_strides_in_the_first_block_of_each_stage() -> None:
    for arch in IRESNETS:
        with torch.device("meta"):
            model = nets.build_model(arch)
            sides = []
            x = torch.empty(1, 64, 112, 112)
            for block in model.body:
                x = block(x)
                sides.append((x.shape[1], x.shape[2]))
        assert list(dict.fromkeys(sides)) == [(64, 56), (128, 28), (256, 14), (512, 7)]
