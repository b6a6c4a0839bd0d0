"""Sub-center ArcFace against a plain loop: the nearest of three centers counts."""

import naive_heads as naive
import pytest
import torch
from short_runs import fit, write_faces
from torch.nn import functional

import heads

LABELS = torch.tensor([0, 3, 2, 1, 1, 0, 2])


def build(**options):
    torch.manual_seed(1)
    return heads.build_from_options("subcenter_arcface", 5, 4, heads.HeadOptions(s=16.0, **options)).double()


def loop(head, features, centers):
    """Return the logits, one at a time."""
    logits = []
    for embedding, label in zip(features.embedding, LABELS.tolist(), strict=True):
        columns = [range(centers * c, centers * (c + 1)) for c in range(4)]
        row = [max(naive.cosine(embedding, head.kernel, k) for k in own) for own in columns]
        row[label] = naive.with_angle(row[label], 0.5)
        logits.append([16 * value for value in row])
    return logits


@pytest.mark.parametrize("centers", [None, 2])
def test_logits_and_loss_are_those_of_a_loop(centers):
    head, features = build(num_centers=centers), naive.features(7)
    expected = loop(head, features, centers or 3)
    torch.testing.assert_close(head(*features[:2], LABELS).tolist(), expected, rtol=1e-12, atol=1e-12)
    found = head.loss(features, LABELS, 0)
    assert found.loss.item() == pytest.approx(naive.cross_entropy(expected, LABELS.tolist()), rel=1e-12)
    assert found.accuracy.item() == pytest.approx(naive.accuracy(expected, LABELS.tolist()))


def test_one_center_is_arcface():
    head, features = build(num_centers=1), naive.features(7)
    arcface = heads.build_head("arcface", 5, 4, s=16.0).double()
    arcface.load_state_dict(head.state_dict())
    assert torch.equal(head(*features[:2], LABELS), arcface(*features[:2], LABELS))


def test_gradient_is_that_of_the_logits_and_only_the_nearest_centers_move():
    head, features = build(), naive.features(7)

    def run(embeddings, kernel):
        return torch.func.functional_call(head, {"kernel": kernel}, (embeddings, features.norm, LABELS))

    assert torch.autograd.gradcheck(run, (features.embedding.requires_grad_(), head.kernel))
    one = [part[:1] for part in features[:2]]
    head(*one, LABELS[:1]).sum().backward()
    assert head.kernel.grad.ne(0).any(0).unflatten(0, (4, 3)).sum(1).tolist() == [1, 1, 1, 1]


def test_class_weights_are_the_means_of_the_unit_centers():
    head = build()
    weights = head.class_weights()
    assert weights.shape == (5, 4) and not weights.requires_grad
    for c in range(4):
        columns = [functional.normalize(head.kernel.detach()[:, k], dim=0) for k in range(3 * c, 3 * c + 3)]
        torch.testing.assert_close(weights[:, c], sum(columns) / 3)


def test_the_kernel_holds_all_centers_and_cannot_be_split():
    head = build()
    assert {key: value.shape for key, value in head.state_dict().items()} == {"kernel": (5, 12)}
    with pytest.raises(ValueError, match="SubcenterArcFace cannot be split over ranks"):
        heads.PartialFC(head, 4)
    with pytest.raises(ValueError, match="num_centers must be at least 1, got 0"):
        build(num_centers=0)


def test_a_short_run_trains_and_finds_neighbours(tmp_path):
    root = str(write_faces(tmp_path / "faces"))
    model, _, trainer = fit(tmp_path, data_root=root, head="subcenter_arcface", class_embeddings=True, k_nearest=2)
    assert trainer.global_step > 0 and model.head.kernel.shape == (16, 24)
