"""MultiBox against golden values and gradients, and a loop over priors that shares nothing with it."""

import math

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from losses import match_priors, multibox_loss
from ops import boxes

GOLDEN = {
    key: torch.from_numpy(np.asarray(values)) for key, values in load_golden("detection/detector/multibox.npz").items()
}
NAMES = ("loc", "conf", "landm")
TARGETS = [GOLDEN[f"target_{image}"] for image in range(4)]


def draw_targets(seed: int, num: int) -> torch.Tensor:
    """Return faces of all sizes, some without landmarks."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(num, 2, generator=generator) * 0.7
    size = torch.rand(num, 2, generator=generator) ** 2 * 0.6 + 0.02
    points = torch.rand(num, 10, generator=generator)
    labels = (torch.rand(num, 1, generator=generator) < 0.7) * 2.0 - 1
    return torch.cat([first, first + size, points, labels], dim=1)


def draw_predictions(seed: int, batch: int, num: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, num, size, generator=generator) * 2 for size in (4, 2, 10))


@pytest.mark.parametrize("image", range(4))
def test_matches_are_those_of_the_public_code(image: int) -> None:
    priors, target = GOLDEN["priors"], TARGETS[image]
    found = match_priors(target, priors, GOLDEN["overlap"].item())
    assert found.labels.tolist() == GOLDEN[f"match_{image}_label"].tolist()
    faces, points = found.labels != 0, found.labels > 0
    sums = boxes.encode(target[found.faces[faces], :4], priors[faces]).double().sum(0)
    torch.testing.assert_close(sums, GOLDEN[f"match_{image}_loc_sum_pos"], atol=1e-4, rtol=1e-5)
    sums = boxes.encode_landmarks(target[found.faces[points], 4:14], priors[points]).double().sum(0)
    torch.testing.assert_close(sums, GOLDEN[f"match_{image}_landm_sum_pos"], atol=1e-4, rtol=1e-5)


def test_losses_and_gradients_are_those_of_the_public_code() -> None:
    predictions = tuple(GOLDEN[name].clone().requires_grad_() for name in NAMES)
    negpos = GOLDEN["negpos"].item()
    found = multibox_loss(predictions, boxes.priors(128, 128), TARGETS, GOLDEN["overlap"].item(), negpos)
    for value, name in zip(found, NAMES, strict=True):
        assert value.item() == pytest.approx(GOLDEN[f"loss_{name}"].item(), rel=1e-5)
    total = 2 * found.loc + found.conf + found.landmarks
    assert total.item() == pytest.approx(GOLDEN["total_2_1_1"].item(), rel=1e-5)
    total.backward()
    for prediction, name in zip(predictions, NAMES, strict=True):
        torch.testing.assert_close(prediction.grad, GOLDEN[f"grad_{name}"], atol=1e-7, rtol=1e-5)


def smooth_l1(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def matched_by_hand(target: list[list[float]], priors: list[list[float]], overlap: float) -> list[tuple[int, int]]:
    """Return (label, face) of each prior, in the words of the rule."""

    def iou(box: list[float], prior: list[float]) -> float:
        x, y, w, h = prior
        across = max(0.0, min(box[2], x + w / 2) - max(box[0], x - w / 2))
        down = max(0.0, min(box[3], y + h / 2) - max(box[1], y - h / 2))
        return across * down / ((box[2] - box[0]) * (box[3] - box[1]) + w * h - across * down)

    table = [[iou(face, prior) for prior in priors] for face in target]
    answers = []
    for p in range(len(priors)):
        column = [row[p] for row in table]
        face = column.index(max(column))
        is_face = max(column) >= overlap
        for number, row in enumerate(table):
            if row.index(max(row)) == p:
                face, is_face = number, is_face or max(row) >= 0.2
        answers.append((int(target[face][14]) if is_face else 0, face))
    return answers


def by_hand(predictions, priors, targets, overlap: float, negpos: int) -> list[float]:
    loc = conf = landmarks = 0.0
    num = num_points = 0
    for image, target in enumerate(targets):
        answers = matched_by_hand(target.tolist(), priors.tolist(), overlap) if len(target) else []
        losses: list[float] = []
        for p, (label, face) in enumerate(answers):
            ours = [float(value) for value in predictions[1][image, p]]
            entropy = math.log(sum(math.exp(value) for value in ours)) - ours[int(label != 0)]
            if label == 0:
                losses.append(entropy)
                continue
            num, conf = num + 1, conf + entropy
            wanted = boxes.encode(target[face, :4], priors[p]).tolist()
            loc += sum(map(smooth_l1, predictions[0][image, p].tolist(), wanted))
            if label > 0:
                num_points += 1
                wanted = boxes.encode_landmarks(target[face, 4:14], priors[p]).tolist()
                landmarks += sum(map(smooth_l1, predictions[2][image, p].tolist(), wanted))
        positives = len(answers) - len(losses)
        conf += sum(sorted(losses, reverse=True)[: min(negpos * positives, len(priors) - 1)])
    return [loc / max(num, 1), conf / max(num, 1), landmarks / max(num_points, 1)]


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**31), st.lists(st.integers(0, 5), min_size=1, max_size=3), st.sampled_from([0.2, 0.35, 0.5]),
    st.sampled_from([1, 3, 200]),
)  # fmt: skip
def test_losses_are_those_of_a_loop_over_priors(seed, faces, overlap, negpos) -> None:
    # A small face lies whole in several priors of one size, which overlap it alike: rounding would choose among them.
    priors = boxes.priors(40, 48)
    priors = priors * (0.9 + 0.2 * torch.rand(priors.shape, generator=torch.Generator().manual_seed(seed)))
    targets = [draw_targets(seed + image, num) for image, num in enumerate(faces)]
    predictions = draw_predictions(seed, len(faces), len(priors))
    found = multibox_loss(predictions, priors, targets, overlap, negpos)
    expected = by_hand(predictions, priors, targets, overlap, negpos)
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-4)


def test_a_batch_in_parts_adds_up_when_every_part_knows_all_positives() -> None:
    priors = GOLDEN["priors"]
    predictions = tuple(GOLDEN[name] for name in NAMES)
    counted: list[torch.Tensor] = []
    whole = multibox_loss(predictions, priors, TARGETS, count_all=lambda counts: counted.append(counts) or counts)
    labels = torch.cat([match_priors(target, priors).labels for target in TARGETS])
    assert counted[0].tolist() == [int((labels != 0).sum()), int((labels > 0).sum())]
    parts = [
        multibox_loss(tuple(each[half] for each in predictions), priors, TARGETS[half], count_all=lambda _: counted[0])
        for half in (slice(0, 1), slice(1, 4))
    ]
    for total, *values in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(values), total)


def test_what_lies_on_an_ignored_face_is_neither_face_nor_background() -> None:
    priors = boxes.priors(96, 96)
    targets = draw_targets(3, 6)
    targets[:3, -1] = 0
    targets[1, :4] = torch.tensor([0.5, 0.5, 0.51, 0.51])  # too small for an overlap of 0.2 with any prior
    found = match_priors(targets, priors)
    alone = match_priors(targets[3:], priors)
    assert torch.equal(found.labels, alone.labels)
    assert torch.equal(found.faces[found.labels != 0], alone.faces[alone.labels != 0] + 3)
    overlaps = boxes.iou(targets[:3, :4], boxes.corners(priors))
    near = (overlaps >= 0.2).any(dim=0)
    near[overlaps.argmax(dim=1)] = True
    assert torch.equal(found.left_out, near & (found.labels == 0)) and found.left_out[overlaps[1].argmax()]
    assert not alone.left_out.any()

    loc, conf, points = (each.requires_grad_() for each in draw_predictions(4, 1, len(priors)))
    multibox_loss((loc, conf, points), priors, [targets], negpos=1000).conf.backward()
    assert torch.equal(conf.grad[0].abs().sum(dim=1) == 0, found.left_out)
    assert multibox_loss((loc, conf, points), priors, [targets[:3]]).conf == 0  # nobody counts


def test_images_without_faces_teach_nothing_and_half_precision_is_summed_in_single() -> None:
    priors = boxes.priors(64, 64)
    predictions = tuple(each.half().requires_grad_() for each in draw_predictions(1, 2, len(priors)))
    found = multibox_loss(predictions, priors, [torch.zeros(0, 15)] * 2)
    assert [value.item() for value in found] == [0, 0, 0]
    assert {value.dtype for value in found} == {torch.float32}
    sum(found).backward()
    assert all(not each.grad.any() for each in predictions)


def test_what_has_diverged_shows() -> None:
    priors = boxes.priors(64, 64)
    for place in range(3):
        predictions = draw_predictions(2, 1, len(priors))
        predictions[place][:] = torch.nan
        assert not math.isfinite(sum(multibox_loss(predictions, priors, [draw_targets(0, 3)])).item())


def test_other_shapes_are_refused() -> None:
    priors, target = boxes.priors(64, 64), draw_targets(0, 2)
    predictions = draw_predictions(0, 1, len(priors))
    with pytest.raises(ValueError, match=r"for 42 priors, got \[1, 168, 4\].* 1 targets; priors are of the"):
        multibox_loss(predictions, boxes.priors(32, 32), [target])
    with pytest.raises(ValueError, match="2 targets"):
        multibox_loss(predictions, priors, [target, target])
    with pytest.raises(ValueError, match=r"targets \[T, 15\] \(box 4, landmarks 10, label\)"):
        multibox_loss(predictions, priors, [target[:, :14]])
