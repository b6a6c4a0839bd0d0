"""The occlusion head against a plain computation, and what it promises."""

import pytest
import torch
from torch import nn

import nets


def test_head_is_conv_bn_relu_conv_sigmoid() -> None:
    torch.manual_seed(0)
    head = nets.OcclusionHead(6, hidden_channels=4).double().eval()
    first, norm, _, second = head.layers
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    expected = torch.empty(2, 1, 3, 5, dtype=torch.float64)
    for b in range(2):
        for i in range(3):
            for j in range(5):
                hidden = (padded[b, :, i : i + 3, j : j + 3] * first.weight).sum(dim=(1, 2, 3))
                hidden = (hidden - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
                logit = (second.weight[0, :, 0, 0] * hidden.clamp(min=0)).sum() + second.bias[0]
                expected[b, 0, i, j] = 1 / (1 + torch.exp(-logit))
    torch.testing.assert_close(head(x), expected)
    assert first.bias is None and second.bias is not None


@pytest.mark.parametrize("shape", [(128, 7, 7), (512, 7, 7), (168, 3, 3)])
def test_visibility_has_the_size_of_the_map(shape: tuple[int, int, int]) -> None:
    visibility = nets.OcclusionHead(shape[0])(torch.randn(2, *shape))
    assert visibility.shape == (2, 1, *shape[1:])
    assert visibility.min() >= 0 and visibility.max() <= 1


def test_visibility_is_float32_under_autocast_and_for_a_half_precision_map() -> None:
    head = nets.OcclusionHead(8)
    with torch.autocast("cpu", torch.bfloat16):
        visibility = head(torch.randn(2, 8, 7, 7, dtype=torch.bfloat16).to(memory_format=torch.channels_last))
    assert visibility.dtype == torch.float32
    visibility.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_initialization_is_kaiming() -> None:
    torch.manual_seed(0)
    head = nets.OcclusionHead(256)
    assert head.layers[0].weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert head.layers[3].weight.std().item() == pytest.approx((1 / 128) ** 0.5, rel=0.2)
    assert head.layers[3].bias.item() == 0


def test_head_learns_where_a_channel_is_dark() -> None:
    torch.manual_seed(0)
    head = nets.OcclusionHead(4, hidden_channels=16)
    maps = torch.randn(16, 4, 7, 7)
    target = (maps[:, :1] > 0).float()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(60):
        loss = (head(maps) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
