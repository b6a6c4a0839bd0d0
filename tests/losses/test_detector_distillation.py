"""What a small detector learns from a large one: formulas by hand, and what costs nothing."""

import math

import pytest
import torch
from torch.nn import functional

from losses import attention_transfer, detector_distillation


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_pair() -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    student = tuple(draw(2, 5, size, seed=size) for size in (4, 2, 10))
    loc, conf, landmarks = (draw(2, 5, size, seed=100 + size) for size in (4, 2, 10))
    return student, (loc, (3 * conf).softmax(-1), landmarks)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_a_divergence_and_distances_weighed_by_the_teachers_confidence(temperature: float) -> None:
    student, teacher = draw_pair()
    sums = [0.0, 0.0, 0.0]
    for image in range(2):
        for prior in range(5):
            background, face = (float(p) for p in teacher[1][image, prior])
            softened = face ** (1 / temperature) / (face ** (1 / temperature) + background ** (1 / temperature))
            difference = float(student[1][image, prior, 1] - student[1][image, prior, 0])
            ours = 1 / (1 + math.exp(-difference / temperature))
            both = ((softened, ours), (1 - softened, 1 - ours))
            sums[1] += temperature**2 * sum(t * math.log(t / s) for t, s in both)
            for place in (0, 2):
                differences = (student[place][image, prior] - teacher[place][image, prior]).tolist()
                sums[place] += face * sum(0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in differences)
    num = max(float(teacher[1][..., 1].sum()), 1)
    found = detector_distillation(student, teacher, temperature)
    assert [value.item() for value in found] == pytest.approx([value / num for value in sums], rel=1e-9)


def test_who_says_the_same_pays_nothing_even_where_the_teacher_is_certain() -> None:
    _, (loc, _, landmarks) = draw_pair()
    logits = torch.tensor([[200.0, -200.0]] * 4 + [[-3.0, 4.0]]).expand(2, 5, 2).clone().requires_grad_()
    teacher = (loc.float(), logits.detach().softmax(-1), landmarks.float())
    assert (teacher[1] == 0).any()  # rounded
    found = detector_distillation((loc.float(), logits, landmarks.float()), teacher)
    assert found.loc == 0 and found.landmarks == 0 and abs(found.conf.item()) < 1e-6
    found.conf.backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().max() < 1e-6


def test_attention_is_a_distance_between_unit_maps_of_mean_squares() -> None:
    ours, theirs = draw(3, 2, 4, 5, seed=1), draw(3, 6, 4, 5, seed=2)
    total = 0.0
    for image in range(3):
        a, b = ((each[image] ** 2).mean(0).flatten() for each in (ours, theirs))
        total += 2 - 2 * float(functional.cosine_similarity(a, b, dim=0))
    assert attention_transfer(ours, theirs).item() == pytest.approx(total / 3, rel=1e-9)
    # Neither signs, nor scale, nor the order or number of channels matter.
    same = torch.cat([-5 * ours[:, 1:], 5 * ours[:, :1]] * 2, dim=1)
    assert abs(attention_transfer(ours, same).item()) < 1e-12
    assert torch.autograd.gradcheck(attention_transfer, (draw(2, 2, 2, 3, seed=3).requires_grad_(), draw(2, 1, 2, 3)))


def test_other_shapes_and_temperatures_are_refused() -> None:
    student, teacher = draw_pair()
    with pytest.raises(ValueError, match="student and teacher need the same shapes"):
        detector_distillation(student, tuple(each[:, :4] for each in teacher))
    with pytest.raises(ValueError, match="detector_distillation: temperature"):
        detector_distillation(student, teacher, 0)
    with pytest.raises(ValueError, match=r"same B >= 1 images are needed, got \[2, 3, 4, 4\] and \[2, 3, 4, 5\]"):
        attention_transfer(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))


def test_a_batch_in_parts_adds_up_when_every_part_knows_what_the_teacher_sees_in_all() -> None:
    student, teacher = draw_pair()
    seen = 3 * teacher[1][..., 1].sum()
    whole = detector_distillation(student, teacher, count_all=lambda total: 3 * total)
    parts = []
    for image in (slice(0, 1), slice(1, 2)):
        ours, theirs = (tuple(each[image] for each in side) for side in (student, teacher))
        parts.append(detector_distillation(ours, theirs, count_all=lambda _: seen))
    for total, *values in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(values), total)
