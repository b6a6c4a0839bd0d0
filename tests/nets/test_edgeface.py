"""EdgeFace against the public networks: keys, values; and what its parts are made of."""

import json
import math
import zlib

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from programs import ROOT
from torch import nn

import nets
from nets.edgeface import SIZES, PositionEncoding

GOLDEN = ROOT / "tests" / "golden" / "edgeface"
# Parameters and, of the variants of low rank, what the rank of the last matrix is.
VARIANTS = {
    "edgeface_xxs": (1_244_744, None),
    "edgeface_xs": (2_242_620, None),
    "edgeface_xs_gamma_06": (1_770_492, 115),
    "edgeface_s_gamma_05": (3_652_520, 152),
    "edgeface_base": (18_225_812, None),
}


def fill(model: nn.Module, salt: int) -> None:
    """Give every tensor the value that the golden recipe derives from its public key and shape."""
    tenth = np.float32(0.1)
    for key, tensor in model.state_dict().items():
        shape, seed = tuple(tensor.shape), zlib.crc32(f"model.{key}".encode()) ^ salt
        x = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
        match key.rpartition(".")[2]:
            case "temperature":
                x = 1 + tenth * x
            case "gamma" | "gamma_xca":
                x = np.float32(0.5) + tenth * x
            case "bias":
                x = tenth * x
            case _:
                x = x / np.float32(math.sqrt(math.prod(shape[1:]))) if len(shape) > 1 else 1 + tenth * x
        tensor.copy_(torch.from_numpy(x))


@pytest.mark.parametrize("arch", VARIANTS)
def test_keys_shapes_and_their_order_are_those_of_the_public_files(arch: str) -> None:
    num_parameters, rank = VARIANTS[arch]
    with torch.device("meta"):
        model = nets.build_model(arch)
    found = [[f"model.{key}", list(tensor.shape)] for key, tensor in model.state_dict().items()]
    assert found == json.loads((GOLDEN / f"keys_{arch}.json").read_text(encoding="utf-8"))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert rank is None or model.get_parameter(model.last_linear).shape == (512, rank)


@pytest.mark.parametrize("arch", VARIANTS)
def test_outputs_maps_and_traces_are_those_of_the_public_networks(arch: str) -> None:
    golden = {
        name: torch.from_numpy(np.asarray(values)) for name, values in load_golden(f"edgeface/{arch}.npz").items()
    }
    model = nets.build_model(arch).eval()
    fill(model, int(golden["salt"]))
    traces: list[torch.Tensor] = []
    # The net runs its stages block by block, so that what a stage gives is what its last block gives.
    for part in (model.stem, *(stage.blocks[-1] for stage in model.stages)):
        part.register_forward_hook(lambda _module, _inputs, output: traces.append(output.double()))
    with torch.no_grad():
        features = model(golden["input"])
        doubled = model.double()(golden["input"].double())
    torch.testing.assert_close(features.embedding * features.norm, golden["output"], atol=2e-5, rtol=0)
    torch.testing.assert_close(features.feature_map[:1], golden["feature_map"], atol=2e-5, rtol=0)
    torch.testing.assert_close(doubled.embedding * doubled.norm, golden["output_f64"], atol=1e-6, rtol=0)
    for trace, mean, std in zip(traces[:5], golden["trace_mean"], golden["trace_std"], strict=True):
        torch.testing.assert_close(trace.mean(), mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(trace.std(), std, atol=1e-5, rtol=0)


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    side = 14
    waves = PositionEncoding(5, side).waves[0]
    for row, column, wave in ((0, 13, 0), (13, 2, 1), (5, 5, 31), (9, 0, 17)):
        rate = 10_000 ** (-2 * (wave // 2) / 32)
        for offset, place in ((0, row), (32, column)):
            angle = 2 * math.pi * (place + 1) / (side + 1e-6) * rate
            expected = math.sin(angle) if wave % 2 == 0 else math.cos(angle)
            assert waves[offset + wave, row, column].item() == pytest.approx(expected, abs=1e-6)


def test_fresh_weights_begin_as_edgenext_does_and_learn_two_patterns() -> None:
    torch.manual_seed(0)
    model = nets.build_model("edgeface_xxs", embedding_size=16)
    gammas = [p for name, p in model.named_parameters() if "gamma" in name]
    assert len(gammas) == sum(SIZES["xx_small"].depths) + 3 and all((p == 1e-6).all() for p in gammas)
    assert model.head.fc.weight.abs().max() < 0.1 and 0.015 < model.head.fc.weight.std() < 0.025
    stripes = torch.sin(torch.arange(112) / 3).expand(112, 112)
    images = torch.stack([stripes, stripes.T]).repeat(4, 1, 1)[:, None].expand(-1, 3, -1, -1) * 0.5
    images = images + torch.rand(8, 3, 112, 112) - 0.5
    labels = torch.tensor([0, 1] * 4)
    classifier = nn.Linear(16, 2)
    optimizer = torch.optim.AdamW([*model.parameters(), *classifier.parameters()], lr=3e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(8 * classifier(model(images).embedding), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
