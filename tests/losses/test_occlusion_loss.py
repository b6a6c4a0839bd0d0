"""The losses of visibility: squared error, cross entropy, Dice."""

import math

import pytest
import torch

from losses import OCCLUSION_LOSSES, occlusion_cross_entropy, occlusion_dice, occlusion_loss
from options import names

EVERY = pytest.mark.parametrize("loss", OCCLUSION_LOSSES.values(), ids=OCCLUSION_LOSSES)


def random_maps(batch=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(batch, 1, 2, 4, generator=generator, dtype=dtype) for _ in range(2))


def pairs_of(visibility, target):
    return list(zip(visibility.flatten().tolist(), target.flatten().tolist(), strict=True))


def test_the_flag_names_the_losses():
    assert list(OCCLUSION_LOSSES) == list(names.OCCLUSION_LOSSES)
    assert OCCLUSION_LOSSES["mse"] is occlusion_loss


def test_it_is_the_mean_squared_error():
    visibility, target = random_maps()
    expected = sum((a - b) ** 2 for a, b in pairs_of(visibility, target))
    torch.testing.assert_close(occlusion_loss(visibility, target), torch.tensor(expected / 24))


def test_cross_entropy_is_the_mean_over_cells():
    visibility, target = random_maps()
    expected = -sum(b * math.log(a) + (1 - b) * math.log(1 - a) for a, b in pairs_of(visibility, target))
    torch.testing.assert_close(occlusion_cross_entropy(visibility, target), torch.tensor(expected / 24))


def test_dice_is_of_the_hidden_share_and_the_mean_over_images():
    visibility, target = random_maps()
    expected = 0.0
    for image, truth in zip(visibility, target, strict=True):
        pairs = [(1 - a, 1 - b) for a, b in pairs_of(image, truth)]
        both, squares = sum(a * b for a, b in pairs), sum(a * a + b * b for a, b in pairs)
        expected += 1 - (2 * both + 1) / (squares + 1)
    torch.testing.assert_close(occlusion_dice(visibility, target), torch.tensor(expected / 3))


@EVERY
def test_the_truth_is_the_best_prediction_and_a_clean_image_costs_nothing(loss):
    _, target = random_maps(dtype=torch.float64)
    visibility = target.clone().requires_grad_()
    loss(visibility, target).backward()
    torch.testing.assert_close(visibility.grad, torch.zeros_like(target), atol=1e-8, rtol=0)
    ones = torch.ones(2, 1, 2, 2)
    assert loss(ones, ones) < 1e-5


@EVERY
def test_certain_and_wrong_is_finite_and_worse_than_doubtful(loss):
    visibility = torch.tensor([0.0, 0.5]).repeat(2, 1, 2, 1).requires_grad_()
    wrong, doubtful = (loss(part, torch.ones_like(part)) for part in (visibility[..., :1], visibility[..., 1:]))
    assert wrong.isfinite() and wrong > doubtful
    wrong.backward()
    assert visibility.grad.isfinite().all()


@EVERY
def test_it_is_float32_and_only_the_prediction_gets_a_gradient(loss):
    visibility, target = (maps.requires_grad_() for maps in random_maps())
    assert loss(visibility.bfloat16(), target).dtype == torch.float32
    loss(visibility, target).backward()
    assert visibility.grad.abs().sum() > 0 and target.grad is None


@EVERY
def test_a_batch_without_masks_is_zero_and_can_be_differentiated(loss):
    visibility = torch.rand(0, 1, 2, 2, requires_grad=True)
    found = loss(visibility, torch.rand(0, 1, 2, 2))
    found.backward()
    assert found == 0


@EVERY
@pytest.mark.parametrize("shape", [(2, 1, 3, 2), (2, 2, 3), (2, 1, 1, 1), (2, 2, 2, 3)])
def test_another_shape_is_refused_instead_of_broadcast(loss, shape):
    with pytest.raises(ValueError, match=r"must both be \[B, 1, h, w\]"):
        loss(torch.rand(2, 1, 2, 3), torch.rand(shape))


@EVERY
def test_integer_masks_are_refused(loss):
    with pytest.raises(TypeError, match="must be floating"):
        loss(torch.rand(2, 1, 2, 3), torch.ones(2, 1, 2, 3, dtype=torch.uint8))
