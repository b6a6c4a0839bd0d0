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


def fine_maps(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, *shape, generator=generator, dtype=dtype) for shape in ((6, 3, 5), (4, 6, 10)))


def test_fine_head_averages_over_2_x_2_finer_cells() -> None:
    torch.manual_seed(0)
    head = nets.FineOcclusionHead(6, 4, hidden_channels=8).double().eval()
    for module in head.layers:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    feature_map, detail = fine_maps(torch.float64)
    first = nn.functional.conv2d(feature_map, head.coarse.weight, padding=1)
    second = nn.functional.conv2d(detail, head.fine.weight, padding=1)
    both = second.clone()
    for row in range(6):
        for column in range(10):
            both[:, :, row, column] += first[:, :, row // 2, column // 2]
    finer = head.layers(both).sigmoid()
    expected = torch.empty(2, 1, 3, 5, dtype=torch.float64)
    for row in range(3):
        for column in range(5):
            block = finer[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected[:, :, row, column] = block.mean((2, 3))
    torch.testing.assert_close(head(feature_map, detail), expected)


def test_fine_head_begins_in_doubt() -> None:
    torch.manual_seed(0)
    visibility = nets.FineOcclusionHead(64, 32)(torch.randn(8, 64, 7, 7), torch.randn(8, 32, 14, 14))
    assert 0.3 < visibility.mean() < 0.7 and visibility.std() < 0.35


def test_fine_head_is_float32_under_autocast_and_all_of_it_is_trained() -> None:
    head = nets.FineOcclusionHead(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        visibility = head(*(maps.bfloat16() for maps in fine_maps()))
    assert visibility.dtype == torch.float32 and visibility.shape == (2, 1, 3, 5)
    assert visibility.min() >= 0 and visibility.max() <= 1
    visibility.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("arch", ["ir_tiny", "mobilefacenet"])
def test_see_gives_each_head_what_it_reads(arch: str) -> None:
    torch.manual_seed(0)
    model = nets.build_model(arch, 16).eval()
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    channels = model.map_shape[0]
    heads = (None, nets.OcclusionHead(channels).eval(), nets.FineOcclusionHead(channels, model.detail_channels).eval())
    with torch.no_grad():
        features, detail = model(images, detailed=True)
        expected = (None, heads[1](features.feature_map), heads[2](features.feature_map, detail))
        for head, visibility in zip(heads, expected, strict=True):
            seen, found = nets.see(model, head, images)
            torch.testing.assert_close(tuple(seen), tuple(features), rtol=0, atol=0)
            assert found is None if visibility is None else torch.equal(found, visibility)
