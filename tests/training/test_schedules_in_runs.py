"""Learning rate, warm-up, margin ramp, accumulation and clipping as a run really applies them."""

import math

import pytest
import pytorch_lightning as pl
from short_runs import fit, metrics

WEIGHT = "model.input_layer.0.weight"
PLAIN_SGD = {"momentum": 0.0, "weight_decay": 0.0}


class Applied(pl.Callback):
    """Keep what each update did: its learning rate (step length over gradient length), margin and total length."""

    def __init__(self):
        self.rates = []
        self.lengths = []
        self.margins = []
        self.losses = []

    def on_fit_start(self, trainer, module):
        module.head.register_forward_pre_hook(lambda head, _: self.margins.append(head.margin_scale))

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.before = {name: value.detach().clone() for name, value in module.named_parameters()}

    def on_after_backward(self, trainer, module):
        self.gradient = dict(module.named_parameters())[WEIGHT].grad.norm().item()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        steps = {name: (value - self.before[name]).norm().item() for name, value in module.named_parameters()}
        if steps[WEIGHT] > 0:
            self.rates.append(steps[WEIGHT] / self.gradient)
        self.lengths.append(math.hypot(*steps.values()))


def test_warm_up_milestones_and_margin_ramp_are_applied_and_logged_as_applied(noise_faces, tmp_path):
    applied = Applied()
    options = {"epochs": 4, "warmup_steps": 3, "lr_milestones": (2, 3), "lr_gamma": 0.5, "margin_warmup_epochs": 1.5}
    fit(tmp_path, applied, data_root=noise_faces, lr=0.02, **PLAIN_SGD, **options)
    # Two steps an epoch: milestones after 4 and 6 steps, margin complete after 3.
    rates = [0.02 * factor for factor in (1 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0.25, 0.25)]
    margins = [0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1]
    assert applied.rates == pytest.approx(rates, rel=1e-3)
    assert applied.margins == pytest.approx(margins)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["lr"] for row in rows] == pytest.approx(rates)
    assert [row["margin_scale"] for row in rows] == pytest.approx(margins)
    assert [row["epoch"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_accumulated_batches_are_one_step_of_the_schedule_and_one_row_of_metrics(noise_faces, tmp_path):
    applied = Applied()
    options = {"epochs": 3, "batch_size": 8, "accumulate_grad_batches": 2, "warmup_steps": 2, "lr_schedule": "cosine"}
    fit(tmp_path, applied, data_root=noise_faces, **PLAIN_SGD, **options)
    # Four batches an epoch, hence two steps; the cosine starts when the warm-up ends.
    rates = [0.01 * factor for factor in (0.5, 1, *(0.5 + 0.5 * math.cos(math.pi * k / 4) for k in range(4)))]
    assert applied.rates == pytest.approx(rates, rel=1e-3)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in rows] == pytest.approx(rates)
    # Lightning has divided each loss by the number of batches already.
    means = [first + second for first, second in zip(applied.losses[::2], applied.losses[1::2], strict=True)]
    assert [row["train_loss"] for row in rows] == pytest.approx(means)


def test_the_whole_gradient_is_clipped_class_embeddings_included(noise_faces, tmp_path):
    applied = Applied()
    options = {"class_embeddings": True, "k_nearest": 3, "gradient_clip_val": 2.0, "epochs": 2}
    fit(tmp_path, applied, data_root=noise_faces, lr=0.01, **PLAIN_SGD, **options)
    assert all(row["grad_norm"] > 4 for row in metrics(tmp_path)), "the logged norm is the one before clipping"
    assert applied.lengths == pytest.approx([0.01 * 2.0] * 4, rel=1e-3)


def test_without_a_clip_value_gradients_keep_their_length(noise_faces, tmp_path):
    applied = Applied()
    fit(tmp_path, applied, data_root=noise_faces, lr=0.01, **PLAIN_SGD)
    norms = [row["grad_norm"] for row in metrics(tmp_path)]
    assert applied.lengths == pytest.approx([0.01 * norm for norm in norms], rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qaconv_loss_weight": 0.0},
        {"occlusion_loss_weight": 0.0},
        {"adaface_loss_weight": 0.0, "triplet_weight": 0.0},
        {"occlusion_method": "none"},
        {"occlusion_prob": 0.0},
        {"qaconv_score": "weighted", "qaconv_channels": 8, "pairwise_reduction": "row_sum"},
        *(
            {"visibility_gradient": True, "occlusion_loss_weight": weight, "occlusion_method": method}
            for method in ("none", "scaling", "masking")
            for weight in (0.0, 0.3)
        ),
    ],
    ids=str,
)
def test_every_trainable_parameter_has_a_gradient_so_that_ranks_wait_for_none(noise_faces, tmp_path, options):
    class Gradients(pl.Callback):
        def on_after_backward(self, trainer, module):
            self.missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]

    gradients = Gradients()
    fit(tmp_path, gradients, data_root=noise_faces, fast_dev_run=True, **options)
    assert gradients.missing == []
