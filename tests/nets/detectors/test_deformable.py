"""Deformable convolution against a loop over positions, a plain convolution, and ONNX's where it is installed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nets.detectors import DeformableConv2d, deform_conv2d


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pixel(image: np.ndarray, y: int, x: int) -> np.ndarray:
    inside = 0 <= y < image.shape[1] and 0 <= x < image.shape[2]
    return image[:, y, x] if inside else np.zeros(len(image))


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    top, left = math.floor(y), math.floor(x)
    down, right = y - top, x - left
    upper = (1 - right) * pixel(image, top, left) + right * pixel(image, top, left + 1)
    lower = (1 - right) * pixel(image, top + 1, left) + right * pixel(image, top + 1, left + 1)
    return (1 - down) * upper + down * lower


def by_hand(x, offset, mask, weight) -> np.ndarray:
    """Loop over images, places and points, as the paper's equation does."""
    x, offset, mask, weight = (each.numpy() for each in (x, offset, mask, weight))
    batch, _, height, width = x.shape
    kernel = weight.shape[-1]
    found = np.zeros((batch, len(weight), height, width))
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                for n in range(kernel * kernel):
                    row, column = divmod(n, kernel)
                    y = i + row - kernel // 2 + offset[b, 2 * n, i, j]
                    at = j + column - kernel // 2 + offset[b, 2 * n + 1, i, j]
                    found[b, :, i, j] += mask[b, n, i, j] * (weight[:, :, row, column] @ bilinear(x[b], y, at))
    return found


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6),
    st.sampled_from([1, 3]), st.sampled_from([0.3, 3.0]),
)  # fmt: skip
def test_it_is_the_sum_of_the_paper(batch, channels, out, height, width, kernel, reach) -> None:
    points = kernel * kernel
    x, weight = draw(batch, channels, height, width), draw(out, channels, kernel, kernel, seed=1)
    offset, mask = draw(batch, 2 * points, height, width, seed=2) * reach, draw(batch, points, height, width, seed=3)
    found = deform_conv2d(x, offset, mask, weight)
    np.testing.assert_allclose(found.numpy(), by_hand(x, offset, mask, weight), atol=1e-10)


def test_without_offsets_it_is_a_plain_convolution_and_whole_offsets_shift_it() -> None:
    x, weight = draw(2, 4, 8, 11), draw(5, 4, 3, 3, seed=1)
    ones, offset = torch.ones(2, 9, 8, 11, dtype=torch.float64), torch.zeros(2, 18, 8, 11, dtype=torch.float64)
    plain = functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close(deform_conv2d(x, offset, ones, weight), plain, atol=1e-12, rtol=0)
    offset[:, 0::2], offset[:, 1::2] = 1, -2  # down, to the left
    moved = deform_conv2d(x, offset, ones, weight)
    torch.testing.assert_close(moved[..., 1:-2, 3:-1], plain[..., 2:-1, 1:-3], atol=1e-12, rtol=0)
    torch.testing.assert_close(deform_conv2d(x, offset, 2 * ones, weight), 2 * moved, atol=1e-12, rtol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    inputs = (draw(1, 2, 4, 3), draw(1, 18, 4, 3, seed=2), draw(1, 9, 4, 3, seed=3), draw(2, 2, 3, 3, seed=1))
    assert torch.autograd.gradcheck(deform_conv2d, [each.requires_grad_() for each in inputs], atol=1e-6)


def test_an_image_that_is_not_finite_shows() -> None:
    layer = DeformableConv2d(2, 2)
    x = torch.zeros(1, 2, 5, 5)
    x[0, 0, 2, 2] = math.nan
    assert layer(x).isnan().any()


def test_it_is_the_operator_of_onnx() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    shapes = {"x": (2, 3, 5, 6), "weight": (4, 3, 3, 3), "offset": (2, 18, 5, 6), "bias": (4,), "mask": (2, 9, 5, 6)}
    feed = {name: draw(*shape, seed=seed).float() for seed, (name, shape) in enumerate(shapes.items())}
    feed["bias"].zero_()
    node = onnx.helper.make_node("DeformConv", list(shapes), ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (2, 4, 5, 6))
    graph = onnx.helper.make_graph([node], "graph", info, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    expected = ReferenceEvaluator(model).run(None, {name: value.numpy() for name, value in feed.items()})[0]
    found = deform_conv2d(feed["x"], feed["offset"], feed["mask"], feed["weight"])
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-6)
