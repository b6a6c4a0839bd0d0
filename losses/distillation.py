"""What a student learns from a teacher: relations between images, and the teacher's opinion on classes.

The distance of each image's embedding to the teacher's is `paired_cosine`. A teacher without a classifier of the
classes at hand gets one of its class centers, the means of its embeddings. (Such centers, fixed, in the student's head
itself, as in Shi et al., "ProxylessKD", arXiv:2011.00265, are no loss: the head is built with those weights and
frozen.) The teacher's side is detached by who calls.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


def _cosines(embeddings: Tensor) -> Tensor:
    unit = F.normalize(at_least_float32(embeddings), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        return unit @ unit.T
