"""MagFace against a plain loop: the margin that grows with the norm, the regularizer, gradients through both."""

import naive_heads as naive
import pytest
import torch
from short_runs import fit, metrics, write_faces

import heads

LABELS = torch.tensor([0, 3, 2, 1, 1, 0, 2])


def build(**options):
    torch.manual_seed(1)
    return heads.build_from_options("magface", 5, 4, heads.HeadOptions(s=16.0, **options)).double()


def loop(head, features, lambda_g):
    """Return logits and loss with the published numbers: bounds 10 and 110, margins from 0.45 to 0.8."""
    logits, extra = [], 0.0
    for embedding, norm, label in zip(features.embedding, features.norm[:, 0].tolist(), LABELS.tolist(), strict=True):
        a = min(max(norm, 10), 110)
        extra += a / 110**2 + 1 / a
        row = [naive.cosine(embedding, head.kernel, c) for c in range(4)]
        row[label] = naive.with_angle(row[label], 0.45 + (0.8 - 0.45) * (a - 10) / (110 - 10))
        logits.append([16 * value for value in row])
    return logits, naive.cross_entropy(logits, LABELS.tolist()) + lambda_g * extra / len(LABELS)


def test_logits_and_loss_are_those_of_a_loop():
    head, features = build(), naive.features(7)
    features.norm[0], features.norm[1] = 3.0, 300.0  # out of the bounds
    logits, loss = loop(head, features, 35)
    torch.testing.assert_close(head(*features[:2], LABELS).tolist(), logits, rtol=1e-12, atol=1e-12)
    found = head.loss(features, LABELS, 0)
    assert found.loss.item() == pytest.approx(loss, rel=1e-12)
    assert found.accuracy.item() == pytest.approx(naive.accuracy(logits, LABELS.tolist()))


def test_the_term_has_the_weight_that_is_asked_for():
    features = naive.features(7)
    for weight in (0.0, 3.0):
        head = build(lambda_g=weight)
        assert head.loss(features, LABELS, 0).loss.item() == pytest.approx(loop(head, features, weight)[1], rel=1e-12)


def test_gradient_reaches_embeddings_kernel_and_norms():
    head, features = build(), naive.features(7, least=12, most=100)

    def run(embeddings, norms, kernel):
        logits = torch.func.functional_call(head, {"kernel": kernel}, (embeddings, norms, LABELS))
        return logits, head.extra_loss(norms)

    inputs = (features.embedding.requires_grad_(), features.norm.requires_grad_(), head.kernel)
    assert torch.autograd.gradcheck(run, inputs)


def test_the_loss_has_the_gradient_of_the_loop_in_the_norms_and_none_out_of_bounds():
    head, features = build(), naive.features(7, least=12, most=100)
    features.norm[0], features.norm[1] = 3.0, 300.0
    norms, step = features.norm.clone().requires_grad_(), 1e-5
    head.loss(features._replace(norm=norms), LABELS, 0).loss.backward()
    for row in range(7):
        shift = torch.zeros(7, 1, dtype=torch.float64)
        shift[row] = step
        above, below = (loop(head, features._replace(norm=features.norm + d), 35)[1] for d in (shift, -shift))
        assert norms.grad[row].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-9)
    assert norms.grad[:2].tolist() == [[0.0], [0.0]] and (norms.grad[2:] != 0).all()


def test_m_is_the_greatest_margin_and_its_scale_acts_on_both_ends():
    head, plain, features = build(m=0.4), build(m=0.8), naive.features(7)
    plain.margin_scale = 0.5
    torch.testing.assert_close(head(*features[:2], LABELS), plain(*features[:2], LABELS), rtol=1e-12, atol=0)


def test_it_cannot_be_split_and_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="MagFace cannot be split over ranks"):
        heads.PartialFC(build(), 4)
    with pytest.raises(ValueError, match="lambda_g must be at least 0, got -1"):
        build(lambda_g=-1.0)
    assert set(build().state_dict()) == {"kernel"}


def test_a_short_run_trains_with_the_term_in_its_loss(tmp_path):
    root = str(write_faces(tmp_path / "faces"))
    model, _, trainer = fit(tmp_path, data_root=root, head="magface")
    assert trainer.global_step > 0 and isinstance(model.head, heads.MagFace)
    # lambda_g * (a / u_a^2 + 1 / a) is at least 2 lambda_g / u_a
    losses = [row["train_head_loss"] for row in metrics(tmp_path) if "train_head_loss" in row]
    assert losses and min(losses) > 70 / 110
