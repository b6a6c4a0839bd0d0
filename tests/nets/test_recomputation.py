"""Activations that are computed again give the same bits, and nothing else notices."""

import shutil

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import nets
from nets.recomputation import run_recomputed

# Every kind of block, and under autocast the small ones.
CASES = [("ir_se_18", False), *((arch, bf16) for arch in ("ir_tiny", "mobilefacenet") for bf16 in (False, True))]


def build(arch, recompute, dropout=0.0):
    torch.manual_seed(0)
    model = nets.build_model(arch, embedding_size=16).to(memory_format=torch.channels_last)
    for block in model.body if dropout else ():
        block.register_forward_hook(lambda _module, _inputs, output: nn.functional.dropout(output, dropout))
    model.activation_checkpointing = recompute
    return model


def trained(model, steps=2, bf16=False):
    """Return the losses of some steps without an update, and the state, gradients and random numbers after them."""
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    losses = []
    torch.manual_seed(2)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = model(images)
        loss = features.embedding[:, 0].sum() + features.norm.mean() + features.feature_map.float().square().mean()
        loss.backward()
        losses.append(loss.detach())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return losses, dict(model.state_dict()), gradients, torch.rand(3)


@pytest.mark.parametrize(("arch", "bf16"), CASES)
def test_losses_gradients_and_every_buffer_are_the_same_bits(arch, bf16):
    plain, recomputed = (trained(build(arch, choice), bf16=bf16) for choice in (False, True))
    assert_close(recomputed, plain, rtol=0, atol=0)
    counters = {int(value) for name, value in recomputed[1].items() if name.endswith("num_batches_tracked")}
    assert counters == {2}


def test_random_numbers_inside_blocks_are_drawn_alike_and_do_not_shift_later_ones():
    plain, recomputed = (trained(build("ir_tiny", choice, dropout=0.3)) for choice in (False, True))
    assert_close(recomputed, plain, rtol=0, atol=0)
    assert not torch.equal(recomputed[0][0], trained(build("ir_tiny", True))[0][0]), "no dropout at all"


def test_each_block_runs_twice_in_training_and_once_elsewhere():
    model, calls = build("ir_tiny", True), []
    model.body[2].register_forward_pre_hook(lambda *_: calls.append(len(calls)))
    trained(model, steps=1)
    assert len(calls) == 2
    calls.clear()
    with torch.no_grad():
        model(torch.zeros(2, 3, 112, 112))
    model.eval()(torch.zeros(2, 3, 112, 112))
    assert len(calls) == 2


def test_buffers_are_the_modules_own_again_after_a_backward_pass_that_fails():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            (_,) = ctx.saved_tensors
            raise RuntimeError("out of memory")

    norm = nn.BatchNorm1d(3)
    norm.register_forward_hook(lambda _module, _inputs, output: Failing.apply(output))
    before = dict(norm.named_buffers())
    result = run_recomputed(nn.Sequential(norm), torch.randn(4, 3, requires_grad=True))
    statistics = norm.running_mean.clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        result.sum().backward()
    assert all(buffer is before[name] for name, buffer in norm.named_buffers())
    assert torch.equal(norm.running_mean, statistics)


def test_names_in_the_state_dict_stay():
    assert build("ir_tiny", True).state_dict().keys() == build("ir_tiny", False).state_dict().keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_compiled_it_is_the_compiled_network():
    plain, recomputed = (build("ir_tiny", choice) for choice in (False, True))
    for model in (plain, recomputed):
        model.compile()
    assert_close(trained(recomputed), trained(plain), rtol=1e-4, atol=1e-5)
