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


def images(count: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def test_pyramid_head_goes_down_to_7_cells_a_side_and_adds_each_level_on_the_way_up() -> None:
    torch.manual_seed(0)
    head = nets.PyramidOcclusionHead(channels=4).double().eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)

    def layer(part: nn.Sequential, place: int, x: torch.Tensor, stride: int) -> torch.Tensor:
        norm = part[place + 1]
        x = nn.functional.conv2d(x, part[place].weight, None, stride, 1)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var + norm.eps).sqrt()[:, None, None]
        return (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)

    def level(part: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        x = torch.einsum("oc,bchw->bohw", part.weight[:, :, 0, 0], x) + part.bias[:, None, None]
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with torch.no_grad():
        fine = layer(head.fine, 0, layer(head.edges, 3, layer(head.edges, 0, images(dtype=torch.float64), 2), 2), 1)
        middle = layer(head.middle, 0, fine, 2)
        coarse = layer(head.coarse, 0, middle, 2)
        assert (fine.shape[-1], middle.shape[-1], coarse.shape[-1]) == (28, 14, 7)
        middle = layer(head.at_middle, 0, middle + level(head.to_middle, coarse), 1)
        fine = layer(head.at_fine, 0, fine + level(head.to_fine, middle), 1)
        logits = (head.output.weight[0] * fine).sum(1, keepdim=True) + head.output.bias
        torch.testing.assert_close(head(images(dtype=torch.float64)), 1 / (1 + torch.exp(-logits)))


def test_pyramid_head_begins_in_doubt_and_is_float32_under_autocast_and_all_of_it_is_trained() -> None:
    torch.manual_seed(0)
    head = nets.PyramidOcclusionHead()
    with torch.autocast("cpu", torch.bfloat16):
        visibility = head(images(8))
    assert visibility.dtype == torch.float32 and visibility.shape == (8, 1, 28, 28)
    assert 0.3 < visibility.mean() < 0.7 and visibility.std() < 0.35
    visibility.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in head.parameters())


def test_pyramid_head_learns_squares_that_a_map_of_7_cells_cannot_hold() -> None:
    torch.manual_seed(0)
    target = torch.ones(12, 1, 28, 28)
    for place in range(12):
        row, column = 2 * place + 1, (5 * place + 3) % 24
        target[place, :, row : row + 3, column : column + 3] = 0
    # Nothing but a texture of single pixels tells a square: its mean is that of what is around it.
    even = torch.arange(112)[:, None].add(torch.arange(112)) % 2
    hidden = nn.functional.interpolate(1 - target, scale_factor=4.0)
    seen = (hidden * (even * 2 - 1) * 0.5).repeat(1, 3, 1, 1)
    head = nets.PyramidOcclusionHead(channels=8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy(head(seen), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    called = head(seen) < 0.5
    assert called[target == 0].float().mean() > 0.95 and called[target == 1].float().mean() < 0.01
    # Each covers 9 of the 16 finer cells of a cell at most, and mostly a part of up to four cells.
    coarse = nets.pooled(target, torch.empty(12, 1, 7, 7))
    assert (coarse < 0.5).sum() < 12


def test_pooled_visibility_is_the_mean_of_each_cell() -> None:
    finer = torch.rand(2, 1, 28, 28)
    expected = finer.reshape(2, 1, 7, 4, 7, 4).mean((3, 5))
    torch.testing.assert_close(nets.pooled(finer, torch.empty(2, 5, 7, 7)), expected)
    assert nets.pooled(expected, torch.empty(2, 5, 7, 7)) is expected


PARAMETERS = {  # of what older checkpoints hold
    "plain": {
        "layers.0.weight": [128, 6, 3, 3], "layers.1.weight": [128], "layers.1.bias": [128],
        "layers.3.weight": [1, 128, 1, 1], "layers.3.bias": [1],
    },
    "fine": {
        "coarse.weight": [48, 6, 3, 3], "fine.weight": [48, 4, 3, 3], "layers.0.weight": [48], "layers.0.bias": [48],
        "layers.2.weight": [48, 48, 3, 3], "layers.3.weight": [48], "layers.3.bias": [48],
        "layers.5.weight": [1, 48, 1, 1], "layers.5.bias": [1],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "head"), [("plain", nets.OcclusionHead(6)), ("fine", nets.FineOcclusionHead(6, 4))]
)  # fmt: skip
def test_the_heads_of_older_checkpoints_keep_their_parameters(name: str, head: nn.Module) -> None:
    assert {key: list(value.shape) for key, value in head.named_parameters()} == PARAMETERS[name]


@pytest.mark.parametrize("arch", ["ir_tiny", "mobilefacenet"])
def test_see_gives_each_head_what_it_reads(arch: str) -> None:
    torch.manual_seed(0)
    model = nets.build_model(arch, 16).eval()
    channels = model.map_shape[0]
    heads = (
        None,
        nets.OcclusionHead(channels).eval(),
        nets.FineOcclusionHead(channels, model.detail_channels).eval(),
        nets.PyramidOcclusionHead().eval(),
    )
    with torch.no_grad():
        features, detail = model(images(), detailed=True)
        feature_map = features.feature_map
        expected = (None, heads[1](feature_map), heads[2](feature_map, detail), heads[3](images()))
        for head, visibility in zip(heads, expected, strict=True):
            seen, found = nets.see(model, head, images())
            torch.testing.assert_close(tuple(seen), tuple(features), rtol=0, atol=0)
            assert found is None if visibility is None else torch.equal(found, visibility)
