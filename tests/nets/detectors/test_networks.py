"""Detectors against the public networks: keys, sizes, values; sizes of images, training, export."""

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
from nets.detectors import DeformableConv2d
from nets.detectors.attention import CBAM, ECACBAM
from ops import boxes

GOLDEN = ROOT / "tests" / "golden" / "detection" / "detector"
PARAMETERS = {
    "retinaface_mnet025": 426_608,
    "featherface": 592_371,
    "featherface_v1": 489_015,
    "featherface_eca_cbam": 476_345,
    "featherface_v2": 254_472,
}
PUBLIC = {
    "retinaface_mnet025": "retinaface_mnet025",
    "featherface": "featherface_out64",
    "featherface_eca_cbam": "featherface_eca_cbam_out52",
}


def fill(model: nn.Module, salt: int) -> None:
    """Give every tensor the value that the golden recipe derives from its key and shape."""
    state, tenth = model.state_dict(), np.float32(0.1)
    for key, tensor in state.items():
        shape, last = tuple(tensor.shape), key.rpartition(".")[2]
        x = np.random.RandomState(zlib.crc32(key.encode()) ^ salt).standard_normal(shape)
        x = np.asarray(x, np.float32)
        if last == "num_batches_tracked":
            x = np.zeros_like(x)
        elif last in ("running_mean", "bias"):
            x = tenth * x
        elif last == "running_var":
            x = 1 + tenth * np.abs(x)
        elif len(shape) > 1:
            x = x / np.float32(math.sqrt(math.prod(shape[1:])))
        elif last == "weight":  # of a batch norm
            x = 1 + tenth * x
        else:
            assert last.endswith(("_w1", "_w2"))
            x = np.abs(1 + tenth * x)
        tensor.copy_(torch.from_numpy(x))


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 60


@pytest.fixture(scope="module")
def models() -> dict[str, nets.Detector]:
    built = {}
    for number, name in enumerate(nets.DETECTORS):
        built[name] = nets.build_detector(name).eval()
        fill(built[name], number)
    return built


def test_numbers_of_parameters_are_those_published_and_ours_stays_below_256_k() -> None:
    with torch.device("meta"):
        counted = {name: sum(p.numel() for p in nets.build_detector(name).parameters()) for name in nets.DETECTORS}
    assert counted == PARAMETERS and counted["featherface_v2"] <= 256_000


@pytest.mark.parametrize("name", PUBLIC)
def test_keys_and_outputs_are_those_of_the_public_networks(name: str) -> None:
    model = nets.build_detector(name).eval()
    keys = json.loads((GOLDEN / f"keys_{PUBLIC[name]}.json").read_text(encoding="utf-8"))
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == keys
    vectors = load_golden(f"detection/detector/{PUBLIC[name]}.npz")
    golden = {key: torch.from_numpy(np.asarray(values)) for key, values in vectors.items()}
    fill(model, int(golden["salt"]))
    with torch.no_grad():
        found = model(golden["input"])
        doubled = model.double()(golden["input"].double())
    for each, exact, key in zip(found, doubled, ("loc", "conf", "landm"), strict=True):
        torch.testing.assert_close(each, golden[key], atol=2e-6, rtol=0)
        torch.testing.assert_close(exact, golden[f"{key}_f64"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 97, 131), (1, 3, 1, 9)])
def test_there_is_an_answer_for_each_prior_whatever_the_size(models, name: str, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        found = models[name](images(*shape))
    num = len(boxes.priors(*shape[2:]))
    assert [each.shape for each in found] == [(shape[0], num, size) for size in (4, 2, 10)]
    assert torch.allclose(found.conf.sum(-1), torch.ones(()), atol=1e-6)


def test_a_face_moves_with_its_priors(models) -> None:
    """Priors and outputs are in one order: what moves by 32 pixels moves by whole cells of every level."""
    model = models["retinaface_mnet025"]
    image = images(1, 3, 256, 320)
    with torch.no_grad():
        before, after = model(image).loc[0], model(image.roll(32, dims=3)).loc[0]
    where = (boxes.priors(256, 320) * torch.tensor([320, 256, 320, 256])).round(decimals=3)
    rows = {tuple(row): index for index, row in enumerate(where.tolist())}
    inner = [i for i, (x, y, *_) in enumerate(where.tolist()) if 130 < x < 160 and 110 < y < 150]
    moved = [rows[where[i, 0].item() + 32, *where[i, 1:].tolist()] for i in inner]
    # The receptive field reaches the edges, so not to the last digit.
    close = (before[inner] - after[moved]).abs().mean()
    assert len(inner) > 50 and close < 0.1 * (before[inner] - after[inner]).abs().mean()


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_learns_and_training_gives_logits(name: str) -> None:
    torch.manual_seed(0)
    model = nets.build_detector(name).train()
    for module in model.modules():  # away from the zeros that they start with, where positions get no gradient
        if isinstance(module, DeformableConv2d):
            nn.init.normal_(module.offset_conv.weight, std=0.01)
    found = model(images(2, 3, 64, 64))
    assert (found.conf.sum(-1) - 1).abs().max() > 1e-3
    sum((each * torch.randn_like(each)).sum() for each in found).backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A bias before a batch norm is subtracted again; the third share of p5_w2 is of no map but in the sum.
    assert [key for key in silent if "bias" not in key] == []
    with torch.no_grad():
        fresh = nets.build_detector(name).train()(images(2, 3, 64, 64))
    assert fresh.conf.std() < 0.3 and fresh.loc.std() < 0.3  # no opinion yet


def test_rgb_images_become_what_the_public_networks_expect() -> None:
    rgb = torch.tensor([255, 0, 10], dtype=torch.float32)  # red above all
    ours = (rgb / 255 - 0.5) / 0.5
    found = nets.detector_input(ours[None, :, None, None].expand(2, 3, 4, 5))
    expected = torch.tensor([10 - 104.0, 0 - 117.0, 255 - 123.0])
    torch.testing.assert_close(found, expected[None, :, None, None].expand(2, 3, 4, 5))


def assert_exports(model: nn.Module, channels: int, scale: int = 1) -> None:
    """Compare a program of dynamic batch, height and width with the model itself at other sizes.

    A side of 1 would be taken for a constant: where the coarsest map has a 32nd of the pixels, all are `scale` times.
    """
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    program = torch.export.export(
        model.eval(), (images(2, channels, 12 * scale, 16 * scale),), dynamic_shapes=shapes
    ).module()
    for shape in ((1, channels, 33 * scale, 17 * scale), (3, channels, 8 * scale, 25 * scale)):
        with torch.no_grad():
            torch.testing.assert_close(program(images(*shape)), model(images(*shape)))


@pytest.mark.parametrize("part", [DeformableConv2d(4, 2), CBAM(16), ECACBAM(16)], ids=lambda part: type(part).__name__)
def test_parts_export_with_dynamic_batch_height_and_width(part: nn.Module) -> None:
    assert_exports(part, 4 if isinstance(part, DeformableConv2d) else 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["featherface", "featherface_v2"])
def test_networks_export_with_dynamic_batch_height_and_width(models, name: str) -> None:
    assert_exports(models[name], 3, scale=8)


def test_half_precision_keeps_positions_in_single() -> None:
    """Half precision alone would put a sample at column 300 of a map up to two pixels aside."""
    layer = DeformableConv2d(2, 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    layer.regular_conv.weight.data[:, :, 1, 1] = 0.5
    ramp = torch.arange(400.0).expand(1, 2, 3, 400).contiguous()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = layer(ramp)
    assert (found - ramp[:, :1]).abs().max() <= 1  # what bfloat16 makes of 400, no more


def test_other_shapes_and_names_are_refused(models) -> None:
    for shape in ((3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)):
        with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\], BGR in 0..255 .*nets.detector_inp"):
            models["featherface_v2"](torch.zeros(shape))
    with pytest.raises(ValueError, match=r"unknown detector 'yolo', expected one of retinaface_mnet025, featherface"):
        nets.build_detector("yolo")
    for width in (0, 30):
        with pytest.raises(ValueError, match=f"width must be a multiple of 4, got {width}"):
            nets.Detector(nets.DetectorForm(width))
