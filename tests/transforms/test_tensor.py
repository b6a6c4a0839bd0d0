"""Images to tensors and back, and masks to maps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import to_image, to_tensor, visibility_map


def test_red_is_channel_0() -> None:
    red = torch.zeros(2, 112, 112, 3, dtype=torch.uint8)
    red[..., 0] = 255
    tensor = to_tensor(red)
    assert tensor.shape == (2, 3, 112, 112) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert (tensor[:, 0] == 1).all() and (tensor[:, 1:] == -1).all()


def test_every_value_is_normalized_and_comes_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1).expand(16, 16, 3)
    tensor = to_tensor(values)
    expected = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_array_equal(tensor[1].flatten().numpy(), expected)
    assert torch.equal(to_image(tensor), values)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 3))
def test_to_image_undoes_to_tensor(seed: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 112, 112, 3), dtype=torch.uint8, generator=generator)
    assert torch.equal(to_image(to_tensor(images)), images)
    assert torch.equal(to_tensor(images[0]), to_tensor(images)[0])
    assert torch.equal(to_image(to_tensor(images[0])), images[0])


def test_to_image_rounds_and_clips() -> None:
    values = torch.tensor([-3.0, -1.0, -0.999, 0.0, 0.999, 1.0, 2.0])
    image = to_image(values.expand(3, 1, 7))
    assert image[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]


@pytest.mark.parametrize("size", [(7, 7), (14, 7), (3, 3), (112, 112), (1, 1)])
def test_visibility_map_is_the_mean_of_each_cell(size: tuple[int, int]) -> None:
    height, width = size
    mask = torch.randint(0, 2, (2, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    result = visibility_map(mask, height, width)
    assert result.shape == (2, 1, height, width) and result.dtype == torch.float32
    for row in range(height):
        rows = slice(math.floor(row * 112 / height), math.ceil((row + 1) * 112 / height))
        for column in range(0, width, max(1, width // 7)):
            columns = slice(math.floor(column * 112 / width), math.ceil((column + 1) * 112 / width))
            expected = mask[1, rows, columns].double().mean().item()
            assert result[1, 0, row, column].item() == pytest.approx(expected, abs=1e-6)


def test_visibility_map_does_not_mix_rows_and_columns() -> None:
    mask = torch.zeros(1, 112, 112, dtype=torch.uint8)
    mask[0, :16, :48] = 1
    expected = torch.zeros(7, 7)
    expected[0, :3] = 1
    assert torch.equal(visibility_map(mask, 7, 7)[0, 0], expected)
    assert torch.equal(visibility_map(mask.bool(), 7, 7)[0, 0], expected)


def test_wrong_types_and_shapes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"to_tensor: images must be uint8, got torch.float32"):
        to_tensor(torch.zeros(112, 112, 3))
    with pytest.raises(ValueError, match=r"to_tensor: .*got \[3, 112, 112\]"):
        to_tensor(torch.zeros(3, 112, 112, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"to_image: images must be floating, got torch.uint8"):
        to_image(torch.zeros(3, 112, 112, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"to_image: .*got \[112, 112, 3\]"):
        to_image(torch.zeros(112, 112, 3))
    with pytest.raises(TypeError, match=r"visibility_map: mask must be uint8 or bool"):
        visibility_map(torch.zeros(1, 112, 112), 7, 7)
    with pytest.raises(ValueError, match=r"visibility_map: mask must be \[B, H, W\], got \[112, 112\]"):
        visibility_map(torch.zeros(112, 112, dtype=torch.uint8), 7, 7)
