"""What each flag of the optimization changes."""

import pytest
import torch
from observed import fixed_batch, rates, recognizer

from engine.guard import NonFiniteError


@pytest.mark.flag("lr")
def test_lr_is_the_rate_of_the_first_step():
    assert (rates(lr=0.5)[0], rates(lr=0.02)[0]) == (0.5, 0.02)


@pytest.mark.flag("lr_milestones", "lr_gamma")
def test_milestones_and_gamma_step_the_rate():
    found = rates(lr=1.0, lr_milestones=(1, 3), lr_gamma=0.5)
    assert found == pytest.approx([1.0] * 6 + [0.5] * 12 + [0.25] * 6)


@pytest.mark.flag("warmup_steps")
def test_warmup_steps_raise_the_rate():
    assert rates(lr=1.0, warmup_steps=4)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.flag("lr_schedule")
def test_lr_schedule_is_the_shape_of_the_rate():
    multistep, cosine = (rates(lr=1.0, lr_milestones=(), lr_schedule=name) for name in ("multistep", "cosine"))
    assert set(multistep) == {1.0}
    assert cosine == sorted(cosine, reverse=True) and cosine[12] == pytest.approx(0.5)


@pytest.mark.flag("lr_floor")
def test_lr_floor_is_where_the_cosine_ends():
    assert rates(lr=2.0, lr_schedule="cosine", lr_floor=0.25)[-1] == pytest.approx(0.5, rel=0.02)


@pytest.mark.flag("lr_factors")
def test_lr_factors_give_parameters_rates_of_their_own():
    optimizer = recognizer(lr=0.5, lr_factors=("model.body.*=0.1", "heads.*=10")).configure_optimizers()["optimizer"]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.5, 0.05, 0.05, 5.0, 5.0])
    assert all(optimizer.param_groups[place]["params"] for place in (0, 2, 3, 4))


@pytest.mark.flag("stages")
def test_stages_give_each_parameter_its_rates():
    words = ("1:heads.*=0.5", "3:heads.*=0.1,model.*=0.02")
    built = recognizer(epochs=4, stages=words, lr_milestones=()).configure_optimizers()
    found = []
    for _ in range(24):
        found.append(sorted({group["lr"] for group in built["optimizer"].param_groups if group["params"]}))
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    assert found[0] == pytest.approx([0.0, 0.5]) and found[6] == pytest.approx([0.0, 0.02, 0.1]) == found[-1]


@pytest.mark.flag("penalty")
def test_penalty_charges_or_shrinks():
    (plain, charged), weights = (trained(penalty) for penalty in ((), ("heads.*=l2:0.5",))), []
    assert charged - plain == pytest.approx(0.5 * float(recognizer().head.kernel.detach().square().sum()), rel=1e-3)
    for penalty in ((), ("heads.*=l1:0.4:prox",)):
        model = recognizer(penalty=penalty, lr=0.1, weight_decay=0.0)
        optimizer = model.configure_optimizers()["optimizer"]
        model.optimizer_step(0, 0, optimizer, lambda model=model: model.training_step(fixed_batch(), 0).backward())
        weights.append(model.head.kernel.detach())
    torch.testing.assert_close(weights[1], torch.nn.functional.softshrink(weights[0], 0.1 * 0.4))


def trained(penalty):
    model = recognizer(penalty=penalty)
    model.configure_optimizers()
    return float(model.training_step(fixed_batch(), 0))


@pytest.mark.flag("momentum", "weight_decay", "optimizer")
def test_optimizer_options_reach_the_optimizer():
    sgd = recognizer(optimizer="sgd", momentum=0.6, weight_decay=0.03).configure_optimizers()["optimizer"]
    adamw = recognizer(optimizer="adamw").configure_optimizers()["optimizer"]
    assert (type(sgd.whole), type(adamw.whole)) == (torch.optim.SGD, torch.optim.AdamW)
    assert sgd.param_groups[0]["momentum"] == 0.6
    assert [group["weight_decay"] for group in sgd.param_groups] == [0.03, 0.0]


@pytest.mark.flag("gradient_clip_val")
@pytest.mark.parametrize("gradient_clip_val", [0.0, 0.5])
def test_gradient_clip_val_bounds_the_gradient(gradient_clip_val):
    model, before = recognizer(gradient_clip_val=gradient_clip_val), []

    def closure():
        model.training_step(fixed_batch(), 0).backward()
        before.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))

    model.optimizer_step(0, 0, model.configure_optimizers()["optimizer"], closure)
    after = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert before[0] > 0.6
    assert after == pytest.approx(gradient_clip_val or float(before[0]), rel=1e-3)


@pytest.mark.flag("margin_warmup_epochs")
def test_margin_warmup_epochs_shrink_the_margin_at_first():
    # 24 steps in 4 epochs: after 3 steps half of the first epoch is over.
    scales = []
    for epochs in (0.0, 1.0, 2.0):
        model = recognizer(step=3, epochs=4, margin_warmup_epochs=epochs)
        model.training_step(fixed_batch(), 0)
        scales.append(model.head.margin_scale)
    assert scales == [1.0, 0.5, 0.25]


@pytest.mark.flag("on_nonfinite")
def test_on_nonfinite_stops_or_skips():
    for choice in ("stop", "skip"):
        model = recognizer(on_nonfinite=choice)
        model.head.kernel.data.fill_(float("nan"))
        if choice == "stop":
            with pytest.raises(NonFiniteError, match="loss term head"):
                refused_step(model)
            continue
        refused_step(model)
        assert model.guard.skipped == 1


@pytest.mark.flag("max_skipped_steps")
def test_max_skipped_steps_ends_a_run_that_skips_too_many():
    model = recognizer(on_nonfinite="skip", max_skipped_steps=2)
    model.head.kernel.data.fill_(float("nan"))
    refused_step(model)
    refused_step(model)
    with pytest.raises(NonFiniteError, match=r"2 steps were skipped before; .*--max_skipped_steps"):
        refused_step(model)


def refused_step(model):
    """Make a step that NaN takes part in, and learn of it."""
    weight = model.model.input_layer[0].weight
    before = weight.detach().clone()
    optimizer = model.configure_optimizers()["optimizer"]
    model.optimizer_step(0, 0, optimizer, lambda: model.training_step(fixed_batch(), 0).backward())
    model.zero_grad()
    assert torch.equal(weight, before)
    model.guard.settle()
