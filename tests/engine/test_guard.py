"""Steps that NaN or infinity take part in: judged on the device, learnt of later, explained."""

import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from short_runs import fit
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.composite import CompositeOptimizer
from engine.guard import ForwardPass, KeptBuffers, NonFiniteError, UpdateGuard, first_bad_module
from engine.optim import build_optimizer
from train_val import Recognizer

TERMS = {"head": torch.tensor(1.0), "pairwise": torch.tensor(torch.inf), "occlusion": torch.tensor(torch.nan)}
NORMS = {"first": torch.tensor(1.0), "second": torch.tensor(2.0), "third": torch.tensor(3.0)}


def forward_pass(total=1.0, terms=None, indices=(0,)):
    batch = SimpleNamespace(index=torch.tensor(indices))
    return ForwardPass(batch, 0, torch.tensor(total), terms or {"head": torch.tensor(total)}, {})


def judge(guard, step, *passes, norm=1.0, norms=NORMS, module=None, scaled=False):
    for one in passes or (forward_pass(),):
        guard.add(one)
    accepted, _ = guard.judge(step, norms, torch.tensor(norm), lambda batch, batch_idx: module, scaled)
    return bool(accepted)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("total", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_loss_among_accumulated_batches_refuses_the_step(total, place):
    guard = UpdateGuard("skip", 5)
    passes = [forward_pass(), forward_pass()]
    passes[place] = forward_pass(total)
    assert not judge(guard, 1, *passes)
    assert judge(guard, 2)
    guard.settle()
    assert guard.skipped == 1


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_bad_gradient_refuses_the_step(norm):
    guard = UpdateGuard("skip", 5)
    assert not judge(guard, 1, norm=norm)
    guard.settle()
    assert guard.skipped == 1


def test_a_step_is_read_when_the_next_one_is_judged():
    guard = UpdateGuard("skip", 5)
    judge(guard, 1, forward_pass(math.nan))
    assert guard.skipped == 0
    judge(guard, 2, forward_pass(3.0))
    assert guard.skipped == 1 and math.isnan(guard.loss)
    guard.settle()
    assert guard.loss == 3.0


def test_a_run_that_is_told_to_stop_ends_when_the_step_is_read():
    guard = UpdateGuard("stop", 5)
    assert not judge(guard, 7, forward_pass(math.nan, TERMS), module="body.3")
    message = "step 7: loss term pairwise, occlusion is not finite, first in the output of body.3; lower --lr.*skip"
    with pytest.raises(NonFiniteError, match=message):
        judge(guard, 8)


def test_one_step_more_than_may_be_skipped_ends_the_run():
    guard = UpdateGuard("skip", 2)
    for step in (1, 2, 3):
        judge(guard, step, forward_pass(math.nan))
    with pytest.raises(NonFiniteError, match=r"step 3: .*; 2 steps were skipped before; .*--max_skipped_steps"):
        guard.settle()


def test_an_overflow_under_a_loss_scaler_is_neither_counted_nor_a_reason_to_stop():
    guard = UpdateGuard("stop")
    assert not judge(guard, 1, norm=math.inf, scaled=True)
    guard.settle()
    assert guard.skipped == 0 and guard.incidents == []
    judge(guard, 2, forward_pass(math.nan), norm=math.inf, scaled=True)
    with pytest.raises(NonFiniteError):
        guard.settle()


# ---------------------------------------------------------------- what is said of it


def refusal(*passes, **options):
    guard = UpdateGuard("skip", 5)
    judge(guard, 4, *passes, **options)
    guard.settle()
    (incident,) = guard.incidents
    return incident


def test_a_total_that_overflows_on_its_own_is_named():
    incident = refusal(forward_pass(math.inf, {"head": torch.tensor(1e38)}))
    assert incident.cause == "the sum of the loss terms is not finite, though the output of every module is"


def test_the_bad_gradient_nearest_to_the_loss_is_named():
    norms = NORMS | {"first": torch.tensor(torch.nan), "second": torch.tensor(torch.nan)}
    assert refusal(norm=math.nan, norms=norms).cause == "gradient of second is not finite"


def test_gradients_that_overflow_together_are_named_so():
    assert refusal(norm=math.inf).cause == "gradient of all parameters together is not finite"


def test_a_refused_step_keeps_the_indices_of_its_batches():
    incident = refusal(forward_pass(indices=(4, 2)), forward_pass(math.nan, indices=(7, 1)))
    assert incident.step == 4 and incident.indices == [[4, 2, 7, 1]] and math.isnan(incident.loss)


def test_a_loss_above_ten_times_its_running_median_is_noted_and_goes_on(caplog):
    guard = UpdateGuard("stop")
    losses = [*([2.0] * 20), 20.0, 20.1]
    for step, loss in enumerate(losses, start=1):
        assert judge(guard, step, forward_pass(loss, indices=(step,)))
    guard.settle()
    (incident,) = guard.incidents
    assert (incident.step, incident.loss, incident.indices) == (22, pytest.approx(20.1), [[22]])
    assert incident.cause == "loss 20.1 is 10 times the median of the last 21 steps"
    assert "step 22: loss 20.1" in caplog.text


def test_the_first_losses_are_compared_with_nothing_and_a_median_of_zero_is_no_measure():
    guard = UpdateGuard("stop")
    for step, loss in enumerate([1.0, 100.0, *[0.0] * 40, 1.0], start=1):
        judge(guard, step, forward_pass(loss))
    guard.settle()
    assert guard.incidents == []


# ---------------------------------------------------------------- what is put back


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.block = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))

    def forward(self, x):
        return self.block(self.first(x))


@pytest.mark.parametrize("total", [1.0, math.nan])
def test_the_running_statistics_of_a_refused_step_are_those_before_its_first_batch(total):
    guard, net = UpdateGuard("skip", 5), Net()
    net.register_buffer("wide", torch.full((2, 2), 1e-40, dtype=torch.double))
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for _ in range(2):
        guard.watch(net)
        net(torch.randn(4, 2))
        net.wide += 1
    after = {name: buffer.clone() for name, buffer in net.named_buffers()}
    judge(guard, 1, forward_pass(), forward_pass(total))
    expected = after if total == 1.0 else kept | {"block.0.num_batches_tracked": torch.tensor(2)}
    torch.testing.assert_close(dict(net.named_buffers()), expected, rtol=0, atol=0)


def test_kept_buffers_of_a_module_without_any_are_none():
    kept = KeptBuffers(nn.Linear(2, 2))
    kept.put_back()
    kept.put_back(unless=torch.zeros((), dtype=torch.bool, device="meta"))  # of another device, as on a GPU


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("bad_step", [0, 1])
@pytest.mark.parametrize("kind", ["plain", "fused", "scaled"])
@pytest.mark.parametrize("bad", [[7.0, 7.0], [math.nan, math.inf]])  # an infinite loss may have a finite gradient
def test_a_refused_step_changes_neither_weights_nor_momentum(name, bad_step, kind, bad):
    def train(steps):
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        whole = build_optimizer(name, [{"params": [weight]}], lr=0.1, momentum=0.9, fused=kind != "plain")
        optimizer = CompositeOptimizer(whole)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000) if kind == "scaled" else None
        for gradient, refused in steps:
            weight.grad = torch.tensor(gradient)
            if scaler is not None:
                scaler.scale(torch.ones(()))  # it starts here
                weight.grad *= scaler.get_scale()
                scaler.unscale_(whole)
            optimizer.step(accepted=torch.tensor(not refused), scaler=scaler)
        return weight.detach(), optimizer.state[weight]

    sound = [([0.5, -1.0], False), ([2.0, 1.0], False)]
    disturbed = [*sound[:bad_step], (bad, True), *sound[bad_step:]]
    (weight, state), (expected, expected_state) = train(disturbed), train(sound)
    assert torch.equal(weight, expected)
    torch.testing.assert_close(state, expected_state, rtol=0, atol=0)


# ---------------------------------------------------------------- where it came up


def test_the_first_module_whose_output_is_not_finite_is_named_and_nothing_stays_changed():
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items() if "num_batches" not in name}
    assert first_bad_module(net, lambda: net(torch.randn(4, 2))) is None
    with torch.no_grad():
        net.block[1].weight[0, 0] = torch.inf
    assert first_bad_module(net, lambda: net(torch.randn(4, 2))) == "block.1"
    with torch.no_grad():
        net.first.bias[0] = torch.nan
    assert first_bad_module(net, lambda: net(torch.randn(4, 2))) == "first"
    assert first_bad_module(net, lambda: net(torch.randn(4, 2))) == "first", "the hooks are gone"
    statistics = [name for name in before if "running" in name]
    assert statistics and all(torch.equal(net.state_dict()[name], before[name]) for name in statistics)


# ---------------------------------------------------------------- the host does not wait


class Waiting(TorchDispatchMode):
    """Keep the names of operators whose result the host must know before it goes on."""

    ASKING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in self.ASKING:
            self.found.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_judging_a_step_asks_the_device_for_nothing():
    guard, net = UpdateGuard("skip", 5), Net()
    judge(guard, 1)
    guard.watch(net)
    loss = net(torch.randn(4, 2)).sum()
    guard.add(ForwardPass(SimpleNamespace(index=torch.tensor([0])), 0, loss, {"head": loss}, {}))
    with Waiting() as waiting:
        guard.judge(2, NORMS, torch.tensor(1.0), lambda *_: None, scaled=False)
    assert waiting.found == []
    with Waiting() as waiting:
        assert loss != 0
    assert waiting.found, "the watcher sees what waits"


class Listening(pl.Callback):
    """Watch the steps between the first and the last batch, which logs."""

    def __init__(self):
        self.waiting = Waiting()
        self.steps = 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if not trainer.is_last_batch:
            self.waiting.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not trainer.is_last_batch:
            self.waiting.__exit__(None, None, None)
            self.steps += 1


OPTIONS = [
    {},
    {"class_embeddings": True, "k_nearest": 2, "gradient_clip_val": 1.0},
    {"partial_fc_rate": 0.5, "visibility_gradient": True},
    {"optimizer": "adamw", "precision": "bf16", "accumulate_grad_batches": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_training_asks_the_device_for_nothing_between_two_rows_of_metrics(noise_faces, tmp_path, monkeypatch, options):
    monkeypatch.setattr(Recognizer, "_is_fused", lambda self: True)  # as on a GPU
    listening = Listening()
    fit(tmp_path, listening, data_root=noise_faces, batch_size=8, log_every_n_steps=50, **options)
    assert listening.steps == 3
    assert listening.waiting.found == []
