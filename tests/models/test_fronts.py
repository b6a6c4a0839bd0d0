"""Fronts: what is read from files, what is checked before a training, and how they stand before a backbone."""

import sys
import tomllib
import types

import cv2
import numpy as np
import pytest
import torch
from programs import ROOT
from torch import nn

import models
import nets
from models.fronts import _EXTRA
from nets.front import ESPCN, SRCNN, enlarged
from transforms import to_image, to_tensor


def drawn(front, seed=0):
    """Return a front whose every weight is drawn, so that it corrects something."""
    generator = torch.Generator().manual_seed(seed)
    for weight in front.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return front


def images(side=16, num=2):
    return torch.rand((num, 3, side, side), generator=torch.Generator().manual_seed(1))


def saved(tmp_path, front, **extra):
    torch.save({**front.state_dict(), **extra}, tmp_path / "front.pt")
    return str(tmp_path / "front.pt")


def test_bicubic_is_that_of_the_views():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    front = models.open_front("bicubic", 16)
    found = to_image(front(to_tensor(torch.from_numpy(pixels)[None])))[0].numpy()
    expected = cv2.resize(pixels, (112, 112), interpolation=cv2.INTER_CUBIC)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("side", [8, 16, 24, 112])
@pytest.mark.parametrize("build", [SRCNN, ESPCN, lambda: ESPCN((8, 4), scale=4)])
def test_our_fronts_take_any_size_and_begin_as_bicubic(build, side):
    small, front = images(side), build()
    assert torch.equal(front(small), enlarged(small).clamp(0, 1))
    found = drawn(front)(small)
    assert found.shape == (2, 3, 112, 112) and 0 <= found.min() and found.max() <= 1
    assert not torch.allclose(found, enlarged(small).clamp(0, 1), atol=1e-2)


def test_espcn_puts_channels_where_pixels_are():
    front = drawn(ESPCN((8, 4), scale=7))
    small = images(16)
    channels = front.layers(small)
    pixels = torch.zeros(2, 3, 112, 112)
    for color in range(3):
        for row in range(7):
            for column in range(7):
                pixels[:, color, row::7, column::7] = channels[:, color * 49 + row * 7 + column]
    torch.testing.assert_close(front(small), (enlarged(small) + pixels).clamp(0, 1))


@pytest.mark.parametrize("build", [lambda: SRCNN((8, 4)), lambda: ESPCN((8, 4), scale=4)])
def test_a_front_is_known_by_its_shapes_and_loads_to_the_last_bit(build, tmp_path):
    own = drawn(build())
    front = models.open_front(saved(tmp_path, own), 28)
    expected = own(images(28)).detach()
    torch.testing.assert_close(front(images(28) * 2 - 1), expected * 2 - 1, rtol=0, atol=1e-6)
    assert type(front.net) is type(own) and set(nets.FRONTS) == {"bicubic", "espcn", "srcnn"}


def test_a_front_learns_what_bicubic_loses():
    torch.manual_seed(0)
    front = ESPCN((8, 4), scale=7)
    whole = (torch.sin(torch.arange(112) / 3)[None, None, :, None] * torch.ones(1, 3, 112, 112) + 1) / 2
    small = nn.functional.avg_pool2d(whole, 7)
    optimizer = torch.optim.Adam(front.parameters(), 2e-2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        losses.append(nn.functional.mse_loss(front(small), whole))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_a_front_is_frozen_in_eval_mode_and_float32_before_a_backbone_that_is_not():
    class Watched(SRCNN):
        def forward(self, images):
            self.seen = (images.dtype, self.training, float(images.min()), float(images.max()))
            return super().forward(images)

    net = drawn(Watched())
    front, backbone = models.Front(net, "watched"), nets.build_model("ir_tiny", 8)
    nn.ModuleList([front, backbone]).train()
    assert not any(weight.requires_grad for weight in front.parameters()) and not front.training and backbone.training
    with torch.autocast("cpu", torch.bfloat16):
        pixels = front(images() * 2 - 1)
    assert net.seen[:2] == (torch.float32, False) and 0 <= net.seen[2] < 0.01 and 0.99 < net.seen[3] <= 1
    backbone(pixels).embedding.sum().backward()
    assert all(weight.grad is not None for weight in backbone.body.parameters())
    assert front(images().double() * 2 - 1).dtype == torch.float64


class Gives(nn.Module):
    """A front that gives something else than it should."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        return self.change(enlarged(images).clamp(0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :96, :96], r"it gives \[3, 3, 96, 96\], expected \[3, 3, 112, 112\]"),
        (lambda x: x * 255, r"values in \[0, 255\], expected \[0, 1\]"),
        (lambda x: x * 2 - 1, r"values in \[-1, 1\], expected \[0, 1\]"),
        (lambda x: torch.where(x == 1, torch.nan, x), "values that are not finite"),
        (lambda x: x.half(), r"it gives torch\.float16, expected torch\.float32"),
        (lambda x: [x], "it gives a list, expected"),
        (lambda x: x.view(5, -1), r"does not take images of 16 x 16 \(RuntimeError: "),
    ],
)
def test_what_is_no_front_is_refused_in_a_line(change, message):
    with pytest.raises(ValueError, match=f"odd: .*{message}") as refused:
        models.Front(Gives(change), "odd").check(16)
    assert "\n" not in str(refused.value)
    models.Front(Gives(lambda x: x), "odd").check(16)


def test_files_that_hold_no_front_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such weight file"):
        models.open_front(str(tmp_path / "gone.pt"), 16)
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pt: damaged or not a weight file"):
        models.open_front(str(tmp_path / "text.pt"), 16)
    broken = drawn(SRCNN((4, 4)))
    broken.layers[0].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"front\.pt: layers\.0\.bias"):
        models.open_front(saved(tmp_path, broken), 16)
    if "spandrel" not in sys.modules:
        for front in (saved(tmp_path, nn.Linear(2, 2)), saved(tmp_path, SRCNN(), more=torch.ones(1))):
            with pytest.raises(ValueError, match=r"no front of ours .* pip install 'spandrel>=0\.4,<0\.5'"):
                models.open_front(front, 16)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert extras["front"] == [_EXTRA]


class Descriptor:
    """What spandrel gives, as far as it is used: a network that enlarges four times, called in inference mode."""

    purpose, input_channels, output_channels = "SR", 3, 3

    def __init__(self, state):
        self.state, self.model = state, nn.Conv2d(1, 1, 1)

    @torch.inference_mode()
    def __call__(self, images):
        return nn.functional.interpolate(images, scale_factor=4).clamp(0, 1)


@pytest.mark.parametrize("side", [16, 28, 40])
def test_networks_of_spandrel_get_the_average_and_are_resized(side, tmp_path, monkeypatch):
    given = []

    class ModelLoader:
        def load_from_state_dict(self, state):
            given.append(sorted(state))
            if "foreign" not in state:
                raise RuntimeError("unsupported\nmodel")
            return Descriptor(state)

    monkeypatch.setitem(sys.modules, "spandrel", types.SimpleNamespace(ModelLoader=ModelLoader))
    torch.save({"params": {"raw": torch.ones(1)}, "params_ema": {"foreign": torch.ones(1)}}, tmp_path / "sr.pth")
    front = models.open_front(str(tmp_path / "sr.pth"), side)
    assert given == [["foreign"]] and len(list(front.parameters())) == 2
    pixels = front(images(side) * 2 - 1)
    assert pixels.shape == (2, 3, 112, 112) and pixels.min() >= -1 and pixels.max() <= 1
    backbone = nets.build_model("ir_tiny", 8)
    backbone(pixels).embedding.sum().backward()  # a tensor of inference mode would refuse
    with pytest.raises(ValueError, match=r"spandrel knows no such network \(RuntimeError: unsupported\)"):
        models.open_front(saved(tmp_path, nn.Linear(2, 2)), side)
    monkeypatch.setattr(Descriptor, "input_channels", 1)
    with pytest.raises(ValueError, match="a network for SR of 1 to 3 channels"):
        models.open_front(str(tmp_path / "sr.pth"), side)
