"""Mean squared error of visibility."""

import pytest
import torch

from losses import occlusion_loss


def test_it_is_the_mean_squared_error_in_float32():
    visibility = torch.rand(3, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    target = torch.rand(3, 1, 2, 4, generator=torch.Generator().manual_seed(1))
    expected = sum((a - b) ** 2 for a, b in zip(visibility.flatten().tolist(), target.flatten().tolist(), strict=True))
    torch.testing.assert_close(occlusion_loss(visibility, target), torch.tensor(expected / 24))
    assert occlusion_loss(visibility.bfloat16(), target).dtype == torch.float32


def test_only_the_prediction_gets_a_gradient():
    visibility, target = (torch.rand(2, 1, 2, 2, requires_grad=True) for _ in range(2))
    occlusion_loss(visibility, target).backward()
    torch.testing.assert_close(visibility.grad, (visibility - target).detach() / 4)
    assert target.grad is None


def test_a_batch_without_masks_is_zero_and_can_be_differentiated():
    visibility = torch.rand(0, 1, 2, 2, requires_grad=True)
    loss = occlusion_loss(visibility, torch.rand(0, 1, 2, 2))
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("shape", [(2, 1, 3, 2), (2, 2, 3), (2, 1, 1, 1), (2, 2, 2, 3)])
def test_another_shape_is_refused_instead_of_broadcast(shape):
    with pytest.raises(ValueError, match=r"must both be \[B, 1, h, w\]"):
        occlusion_loss(torch.rand(2, 1, 2, 3), torch.rand(shape))


def test_integer_masks_are_refused():
    with pytest.raises(TypeError, match="must be floating"):
        occlusion_loss(torch.rand(2, 1, 2, 3), torch.ones(2, 1, 2, 3, dtype=torch.uint8))
