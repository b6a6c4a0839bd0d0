"""Published QAConv v1.3: scores, gradients and running statistics; and the losses over them, composed."""

import numpy as np
import pytest
import torch
from programs import ROOT

from losses import pairwise_accuracy, pairwise_matching_loss, triplet_accuracy, triplet_loss
from qaconv import QAConv

GOLDEN = ROOT / "tests" / "golden" / "qaconv"
SCORE_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-5  # of the largest value


def load(name):
    with np.load(GOLDEN / name) as arrays:
        return {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}


def build(golden, dtype=torch.float32):
    channels, height, width = golden["probe" if "probe" in golden else "features"].shape[1:]
    matcher = QAConv(channels, height, width)
    names = [name for name in matcher.state_dict() if not name.endswith("num_batches_tracked")]
    matcher.load_state_dict({name: golden[name.replace(".", "_")] for name in names}, strict=False)
    return matcher.to(dtype)


def assert_gradient(actual, expected):
    error = (actual.double() - expected.double()).abs().max() / expected.abs().max()
    assert error <= GRADIENT_TOLERANCE


@pytest.fixture(scope="module")
def golden():
    return load("scores_7x7.npz")


def run(golden, train, loss, dtype=torch.float32):
    matcher = build(golden, dtype).train(train)
    probe, gallery = (golden[name].clone().to(dtype).requires_grad_() for name in ("probe", "gallery"))
    scores = matcher(probe, gallery)
    value = loss(scores)
    value.backward()
    grads = {"probe": probe.grad, "gallery": gallery.grad}
    grads |= {name.replace(".", "_"): parameter.grad for name, parameter in matcher.named_parameters()}
    return scores.detach(), value.detach(), grads, matcher


def test_eval_scores_and_gradients(golden):
    scores, _, grads, _ = run(golden, False, lambda scores: scores.square().mean())
    torch.testing.assert_close(scores, golden["eval_scores"], rtol=0, atol=SCORE_TOLERANCE)
    for name in ("probe", "gallery", "fc_weight"):
        assert_gradient(grads[name], golden[f"eval_sq_grad_{name}"])


def test_train_scores_gradients_and_running_statistics(golden):
    scores, loss, grads, matcher = run(golden, True, lambda scores: (golden["coef"] * scores).mean())
    torch.testing.assert_close(scores, golden["train_scores"], rtol=0, atol=SCORE_TOLERANCE)
    assert abs(loss - golden["train_lin_loss"]) <= SCORE_TOLERANCE
    for name in ("probe", "gallery", "fc_weight", "logit_bn_weight", "logit_bn_bias"):
        assert_gradient(grads[name], golden[f"train_lin_grad_{name}"])
    for layer in ("bn", "logit_bn"):
        for statistic in ("running_mean", "running_var"):
            expected = golden[f"after_train_{layer}_{statistic}"]
            torch.testing.assert_close(matcher.get_buffer(f"{layer}.{statistic}"), expected, rtol=1e-5, atol=1e-7)
        assert matcher.get_buffer(f"{layer}.num_batches_tracked") == 1


def test_the_ill_conditioned_square_loss_in_float64(golden):
    _, loss, grads, _ = run(golden, True, lambda scores: scores.square().mean(), torch.float64)
    torch.testing.assert_close(loss, golden["train_sq_loss"])
    for name in ("probe", "gallery", "fc_weight"):
        assert_gradient(grads[name], golden[f"train_sq_grad_{name}"])


@pytest.mark.parametrize(
    ("name", "loss", "accuracy"),
    [
        ("pairwise", pairwise_matching_loss, pairwise_accuracy),
        ("triplet_m16", lambda scores, labels: triplet_loss(scores, labels, 16.0), triplet_accuracy),
        ("triplet_m1", lambda scores, labels: triplet_loss(scores, labels, 1.0), triplet_accuracy),
    ],
)
def test_losses_of_a_batch_against_itself(name, loss, accuracy):
    golden = load("losses_7x7.npz")
    matcher = build(golden).train()
    features, labels = golden["features"].requires_grad_(), golden["labels"]
    scores = matcher(features, features)
    losses = loss(scores, labels)
    losses.mean().backward()

    torch.testing.assert_close(scores.detach(), golden["scores"], rtol=0, atol=SCORE_TOLERANCE)
    torch.testing.assert_close(losses.detach(), golden[f"{name}_loss"], rtol=1e-5, atol=SCORE_TOLERANCE)
    assert torch.equal(accuracy(scores, labels), golden[f"{name}_acc"].float())
    assert_gradient(features.grad, golden[f"{name}_grad"])
    assert_gradient(matcher.fc.weight.grad, golden[f"{name}_grad_fc_weight"])
