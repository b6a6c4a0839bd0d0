"""Float32 against the plain formulation on autograd, as the benchmark runs both; and repeatability."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.qaconv import plain_scores
from qaconv import QAConv, blocks


def gradients(scores, matcher, probe, gallery):
    torch.manual_seed(1)
    inputs = (probe, matcher.fc.weight) if gallery is probe else (probe, gallery, matcher.fc.weight)
    result = scores(probe, gallery)
    return result.detach(), torch.autograd.grad((torch.randn(result.shape) * result).mean(), inputs)


@pytest.mark.parametrize("against_itself", [False, True])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (14, 14), (3, 5)])
def test_training_scores_and_gradients_equal_the_plain_formulation(height, width, against_itself, monkeypatch):
    monkeypatch.setattr(blocks, "CPU_BLOCK_BYTES", 4 * (height * width) ** 2 * 9)
    torch.manual_seed(0)
    matcher = QAConv(16, height, width).train()
    probe = F.normalize(torch.randn(8, 16, height, width), dim=1).requires_grad_()
    gallery = probe if against_itself else F.normalize(torch.randn(5, 16, height, width), dim=1).requires_grad_()

    scores, grads = gradients(matcher, matcher, probe, gallery)
    expected, wanted = gradients(lambda p, g: plain_scores(matcher, p, g), matcher, probe, gallery)

    torch.testing.assert_close(scores, expected, rtol=0, atol=5e-5)
    for grad, want in zip(grads, wanted, strict=True):
        assert (grad - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("method", ["scaling", "masking"])
def test_the_same_step_twice_gives_the_same_bits(method):
    matcher = QAConv(16, 7, 7, method).train()
    probe = F.normalize(torch.randn(24, 16, 7, 7), dim=1).requires_grad_()
    visibility = torch.rand(24, 1, 7, 7)
    first, second = (
        gradients(lambda p, g: matcher(p, g, visibility, visibility), matcher, probe, probe) for _ in range(2)
    )
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
