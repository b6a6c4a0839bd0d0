"""The modulator begins as the identity, follows each image's covariates, and its head learns to tell them."""

import pytest
import torch
from torch.nn import functional

from nets import Modulator, join_covariates

MAP = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
Z = torch.rand(4, 5, generator=torch.Generator().manual_seed(1))


def learned():
    torch.manual_seed(2)
    modulator = Modulator(5, 6, hidden=8)
    with torch.no_grad():
        for parameter in modulator.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return modulator


def test_it_begins_as_the_identity_and_can_leave_it():
    modulator = Modulator(5, 6)
    torch.testing.assert_close(modulator(MAP, Z), MAP, rtol=0, atol=0)
    modulator(MAP, Z).square().sum().backward()
    assert modulator.layers[2].weight.grad.abs().sum() > 0


def test_each_channel_of_each_image_is_scaled_and_shifted():
    modulator = learned()
    found = modulator(MAP, Z)
    for image in range(4):
        numbers = modulator.layers(Z[image])
        for channel in range(6):
            expected = (1 + numbers[channel]) * MAP[image, channel] + numbers[6 + channel]
            torch.testing.assert_close(found[image, channel], expected)
    assert modulator(MAP.bfloat16(), Z).dtype == torch.bfloat16


def test_the_head_reads_means_and_learns_covariates_that_the_map_shows():
    modulator = learned()
    shown = Z @ torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    maps = shown[:, :, None, None].expand(-1, -1, 3, 3)
    optimizer = torch.optim.Adam(modulator.predictor.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = functional.mse_loss(modulator.predict(maps), Z)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.02 * losses[0]


def test_covariates_are_joined_in_their_order():
    found = join_covariates(
        torch.tensor([0.2, 1.0]), torch.tensor([0.5, 0.25]), torch.tensor([112, 8]), torch.tensor([2, 0]), 3
    )
    expected = torch.tensor([[0.2, 0.5, 1.0, 0, 0, 1], [1.0, 0.25, 3 / torch.tensor(112.0).log2(), 1, 0, 0]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5,)])
def test_covariates_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"covariates must be \[4, 5\] to match the map, got"):
        Modulator(5, 6)(MAP, torch.zeros(shape))
