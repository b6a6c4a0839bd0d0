"""What a student learns from a teacher: relations between images, its opinion on classes, and what a detector sees.

The distance of each image's embedding to the teacher's is `paired_cosine`. A teacher without a classifier of the
classes at hand gets one of its class centers, the means of its embeddings. (Such centers, fixed, in the student's head
itself, as in Shi et al., "ProxylessKD", arXiv:2011.00265, are no loss: the head is built with those weights and
frozen.) The teacher's side is detached by who calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.multibox import MultiBoxLosses, Predictions
from losses.paired_views import check_temperature
from ops import at_least_float32


def relation_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the cosines between different images, student against teacher.

    The cosine form of relational distillation. It sees only how images lie to each other: any rotation of the
    student's space costs nothing, and both may differ in their number of dimensions.

    Args:
        student: [B, D] floating, embeddings as a net gives them.
        teacher: [B, E] floating, of the same images.
    Returns:
        Scalar in [0, 4], at least float32 under any autocast.
    Raises:
        ValueError: if they do not hold the same number of images, two at least.
    Reference: the similarity matrices of Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
        arXiv:1907.09682, of unit features and without the diagonal, which is 1 in both; Park et al., "Relational
        Knowledge Distillation", CVPR 2019, arXiv:1904.05068, take distances over their mean.
    """
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            "relation_distillation: student [B, D] and teacher [B, E] of the same B >= 2 images are needed, got "
            f"{[*student.shape]} and {[*teacher.shape]}"
        )
    num = len(student)
    return ((_cosines(student) - _cosines(teacher)) ** 2).sum() / (num * (num - 1))  # the diagonal is 1 in both


def classifier_distillation(logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Return T^2 KL(teacher's softmax at temperature T || student's), averaged over images.

    The factor keeps the gradient's size about the same for every temperature.

    Args:
        logits, teacher_logits: [B, C] floating, over the same classes in the same order.
        temperature: T > 0.
    Returns:
        Scalar >= 0, at least float32 under any autocast.
    Raises:
        ValueError: if shapes disagree, there is no image, or the temperature is not above 0.
    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, Sec. 2.
    """
    if logits.ndim != 2 or logits.shape != teacher_logits.shape or not len(logits):
        raise ValueError(
            "classifier_distillation: both logits must be [B, C] with B >= 1, got "
            f"{[*logits.shape]} and {[*teacher_logits.shape]}; a teacher with other classes has no say about these"
        )
    check_temperature("classifier_distillation", temperature)
    ours, theirs = (F.log_softmax(at_least_float32(values) / temperature, dim=1) for values in (logits, teacher_logits))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def detector_distillation(
    student: Predictions,
    teacher: Predictions,
    temperature: float = 1.0,
    count_all: Callable[[Tensor], Tensor] | None = None,
) -> MultiBoxLosses:
    """Return what a student detector says other than its teacher, prior by prior, per face that the teacher sees.

    conf is the sum over all priors of T^2 KL(teacher at temperature T || student); loc and landmarks are sums of smooth
    L1, each prior weighed by the teacher's probability of a face: what it says about background means nothing. All are
    divided by the sum of these probabilities, at least 1, which takes the place of MultiBox's number of positives.

    Args:
        student: (loc [B, P, 4], conf [B, P, 2] logits, landmarks [B, P, 10]), what a detector gives in training mode.
        teacher: the same over the same priors, conf as probabilities: what a detector gives in eval mode.
        temperature: T > 0.
        count_all: given that sum over this batch, [], returns the one over all ranks; see `multibox_loss`.
    Raises:
        ValueError: if shapes disagree or the temperature is not above 0.
    Reference: Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS 2017,
        Eq. 1 to 5; theirs weighs classes by hand and bounds the regression, this one weighs by confidence.
    """
    if [each.shape for each in student] != [each.shape for each in teacher]:
        found = [[*each.shape] for each in (*student, *teacher)]
        raise ValueError(f"detector_distillation: student and teacher need the same shapes, got {found}")
    check_temperature("detector_distillation", temperature)
    loc, conf, landmarks = (at_least_float32(each) for each in student)
    teacher_loc, probabilities, teacher_landmarks = (at_least_float32(each) for each in teacher)
    is_face = probabilities[..., 1]
    total = is_face.sum()
    num = (count_all(total) if count_all else total).clamp(min=1)
    # Logarithms of probabilities are logits; the least that is above 0 stands for what a softmax rounded to 0.
    logits = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    ours, theirs = (F.log_softmax(each / temperature, dim=-1) for each in (conf, logits))

    def weighed(values: Tensor, wanted: Tensor) -> Tensor:
        return (is_face[..., None] * F.smooth_l1_loss(values, wanted, reduction="none")).sum() / num

    divergence = temperature**2 * F.kl_div(ours, theirs, reduction="sum", log_target=True) / num
    return MultiBoxLosses(weighed(loc, teacher_loc), divergence, weighed(landmarks, teacher_landmarks))


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far apart the places lie at which two maps are strong, whatever their channels mean.

    The squares of a map are averaged over channels and normalized to unit length over its places; the squared distance
    of student's and teacher's is averaged over images.

    Args:
        student: [B, C, h, w] floating.
        teacher: [B, D, h, w], of the same images and places.
    Returns:
        Scalar in [0, 2], at least float32 under any autocast.
    Raises:
        ValueError: if images or places disagree.
    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928, Eq. 2, of which
        this is the squared distance.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student[:, 0].shape != teacher[:, 0].shape or not len(student):
        raise ValueError(
            "attention_transfer: maps [B, C, h, w] and [B, D, h, w] of the same B >= 1 images are needed, got "
            f"{[*student.shape]} and {[*teacher.shape]}"
        )
    ours, theirs = (
        F.normalize(at_least_float32(each).square().mean(dim=1).flatten(1), dim=1) for each in (student, teacher)
    )
    return (ours - theirs).square().sum(dim=1).mean()


def _cosines(embeddings: Tensor) -> Tensor:
    unit = F.normalize(at_least_float32(embeddings), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        return unit @ unit.T
