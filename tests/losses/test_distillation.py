"""Distillation losses against naive references, and what costs nothing in them."""

import math

import pytest
import torch
from torch.nn import functional

from losses import classifier_distillation, relation_distillation


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_relations_are_cosines_between_different_images_whatever_the_dimensions():
    student, teacher = draw(5, 4, seed=1), draw(5, 7, seed=2)
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                ours = functional.cosine_similarity(student[i], student[j], dim=0)
                total += float(ours - functional.cosine_similarity(teacher[i], teacher[j], dim=0)) ** 2
    assert float(relation_distillation(student, teacher)) == pytest.approx(total / 20, rel=1e-12)


def test_a_rotation_and_other_lengths_cost_nothing_but_a_collapsed_student_does():
    teacher = draw(6, 5)
    rotation = torch.linalg.qr(draw(5, 5, seed=3)).Q
    student = (teacher @ rotation * torch.arange(1, 7)[:, None]).requires_grad_()
    loss = relation_distillation(student, teacher)
    loss.backward()
    assert loss.item() < 1e-28 and float(student.grad.abs().max()) < 1e-14
    assert float(relation_distillation(torch.ones(6, 5), teacher)) > 0.5
    assert torch.autograd.gradcheck(relation_distillation, (draw(4, 3, seed=4).requires_grad_(), draw(4, 2, seed=5)))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_classifiers_opinion_is_a_divergence_of_softened_probabilities(temperature):
    ours, theirs = draw(3, 5, seed=6).requires_grad_(), draw(3, 5, seed=7)
    expected = 0.0
    for mine, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        q, p = ([math.exp(value / temperature) for value in row] for row in (mine, other))
        q, p = [value / sum(q) for value in q], [value / sum(p) for value in p]
        expected += sum(y * math.log(y / x) for x, y in zip(q, p, strict=True)) * temperature**2 / 3
    loss = classifier_distillation(ours, theirs, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    gradient = temperature * ((ours / temperature).softmax(1) - (theirs / temperature).softmax(1)) / 3
    torch.testing.assert_close(ours.grad, gradient.detach(), rtol=1e-9, atol=1e-12)


def test_a_teachers_huge_logits_stay_finite_and_half_precision_becomes_float32():
    ours, theirs = torch.tensor([[64.0, -64.0]]).bfloat16(), torch.tensor([[-2000.0, 2000.0]])
    loss = classifier_distillation(ours, theirs, 1.0)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(128)
    with torch.autocast("cpu", torch.bfloat16):
        assert relation_distillation(ours.repeat(2, 1), theirs.repeat(2, 1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relation_distillation(draw(4, 3), draw(3, 3)), r"same B >= 2 images .* \[4, 3\] and \[3, 3\]"),
        (lambda: relation_distillation(draw(1, 3), draw(1, 3)), "B >= 2"),
        (lambda: classifier_distillation(draw(4, 3), draw(4, 2)), "a teacher with other classes"),
        (lambda: classifier_distillation(draw(4, 3), draw(4, 3), 0), "temperature must be above 0, got 0"),
    ],
)
def test_odd_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
