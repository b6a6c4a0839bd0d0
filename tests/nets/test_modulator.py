"""The modulator begins as the identity, follows what it finds in each image, and its head learns to find that."""

import pytest
import torch
from torch.nn import functional

from nets import Modulator, join_covariates

MAP = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
WIDTHS = {"quality": 1, "visible": 1, "dataset": 3}


def learned():
    torch.manual_seed(2)
    modulator = Modulator(WIDTHS, 6, hidden=8)
    with torch.no_grad():
        for parameter in modulator.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return modulator


def test_it_begins_as_the_identity_and_can_leave_it():
    modulator = Modulator(WIDTHS, 6)
    torch.testing.assert_close(modulator(MAP), MAP, rtol=0, atol=0)
    modulator(MAP).square().sum().backward()
    assert modulator.layers[2].weight.grad.abs().sum() > 0


def test_each_channel_of_each_image_is_scaled_and_shifted_by_what_is_found_in_it():
    modulator = learned()
    found = modulator(MAP)
    for image in range(4):
        means = torch.stack([MAP[image, channel].mean() for channel in range(6)])
        z = torch.cat([head.weight @ means + head.bias for head in modulator.predictor.values()])
        torch.testing.assert_close(modulator.predict(MAP)[image], z)
        numbers = modulator.layers(z.clamp(0, 1))
        for channel in range(6):
            expected = (1 + numbers[channel]) * MAP[image, channel] + numbers[6 + channel]
            torch.testing.assert_close(found[image, channel], expected)
    assert z.max() > 1 or z.min() < 0, "what lies outside is cut off"
    assert modulator(MAP.bfloat16().float()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert modulator(MAP.bfloat16()).dtype == torch.bfloat16 and modulator.predict(MAP).dtype == torch.float32


def test_no_loss_but_its_own_moves_the_head():
    modulator = learned()
    modulator(MAP).square().sum().backward()
    assert all(parameter.grad is None for parameter in modulator.predictor.parameters())
    assert all(parameter.grad is not None for parameter in modulator.layers.parameters())


def test_the_head_reads_means_and_learns_covariates_that_the_map_shows():
    modulator, z = learned(), torch.rand(4, 5, generator=torch.Generator().manual_seed(1))
    shown = z @ torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    maps = shown[:, :, None, None].expand(-1, -1, 3, 3)
    optimizer = torch.optim.Adam(modulator.predictor.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = functional.mse_loss(modulator.predict(maps), z)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.02 * losses[0]


def test_covariates_are_joined_in_one_order_whatever_theirs():
    known = {
        **{"dataset": torch.tensor([2, 0]), "resolution": torch.tensor([112, 8])},
        **{"quality": torch.tensor([0.2, 1.0]), "visible": torch.tensor([0.5, 0.25])},
    }
    found = join_covariates(known, 3)
    expected = torch.tensor([[0.2, 0.5, 1.0, 0, 0, 1], [1.0, 0.25, 3 / torch.tensor(112.0).log2(), 1, 0, 0]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(join_covariates({"visible": known["visible"]}), expected[:, 1:2])


def test_weights_for_other_covariates_do_not_fit():
    with pytest.raises(RuntimeError, match="visible"):
        Modulator({"visible": 1}, 6).load_state_dict(Modulator({"quality": 1}, 6).state_dict())
