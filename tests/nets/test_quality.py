"""The quality of an image is the detail that it holds: it falls with resolution, and is each image's own."""

import cv2
import numpy as np
import pytest
import torch
from photographs import faces

from nets import image_quality
from transforms import to_tensor


def enlarged(images, side):
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack([cv2.resize(image, (112, 112), interpolation=cv2.INTER_CUBIC) for image in small])


def test_it_is_the_contrast_that_cells_lose_of_a_naive_count():
    images = to_tensor(torch.from_numpy(faces()))
    for image, found in zip(images.double(), image_quality(images), strict=True):
        gray = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        kept = torch.stack([gray[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() for y in range(28) for x in range(28)])
        lost = (1 - kept.var(correction=0) / gray.var(correction=0)).sqrt()
        assert float(found) == pytest.approx(float(((lost - 0.09) / 0.21).clamp(0, 1)), abs=2e-3)


def test_it_falls_with_the_resolution_of_every_face():
    by_side = [image_quality(to_tensor(torch.from_numpy(enlarged(faces(), side)))) for side in (8, 16, 32, 64)]
    by_side.append(image_quality(to_tensor(torch.from_numpy(faces()))))
    assert (torch.stack(by_side).diff(dim=0) > 0.02).all()
    assert by_side[0].max() < 0.2 and by_side[-1].min() > 0.4


def test_it_is_that_of_each_image_by_itself_and_of_its_mirror_image_in_any_precision():
    images = to_tensor(torch.from_numpy(faces())).requires_grad_()
    found = image_quality(images)
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(torch.cat([image_quality(image[None]) for image in images]), found)
    torch.testing.assert_close(image_quality(images.flip(3)), found)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(image_quality(images), found)
    torch.testing.assert_close(image_quality(images.double()), found.double(), rtol=0, atol=1e-4)


def test_an_image_without_contrast_has_none():
    assert image_quality(torch.full((2, 3, 112, 112), 0.3)).tolist() == [0, 0]
    assert image_quality(torch.full((1, 3, 112, 112), torch.nan)).isnan().all()
