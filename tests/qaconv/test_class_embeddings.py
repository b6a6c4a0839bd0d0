"""Class logits: own class first, neighbours from the head's kernel, a sparse gradient on the rows touched."""

import pytest
import torch
import torch.nn.functional as F

from qaconv import QAConv, class_embeddings
from qaconv.class_embeddings import nearest_classes

NUM_CLASSES, NEIGHBOURS = 7, 3


def build(method="masking", score="bn_fc", projection_channels=None):
    torch.manual_seed(0)
    matcher = QAConv(5, 2, 3, method, score, projection_channels, num_classes=NUM_CLASSES, k_nearest=NEIGHBOURS)
    if score == "bn_fc":
        matcher.bn.running_mean += 0.4
        matcher.bn.running_var.fill_(0.01)
    matcher.set_neighbours(torch.randn(4, NUM_CLASSES))
    return matcher


def maps(num):
    return F.normalize(torch.randn(num, 5, 2, 3, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.mark.parametrize("num_classes", [2, 5, 40])
@pytest.mark.parametrize("cosine_bytes", [1, 4 * 40 * 7, 2**20])
def test_nearest_classes_equal_a_full_sort_for_every_block_size(num_classes, cosine_bytes, monkeypatch):
    monkeypatch.setattr(class_embeddings, "_COSINE_BYTES", cosine_bytes)
    kernel = torch.randn(6, num_classes, generator=torch.Generator().manual_seed(0)) * torch.arange(1, num_classes + 1)
    k = min(4, num_classes - 1)
    found = nearest_classes(kernel, k)
    for own in range(num_classes):
        cosine = {
            other: F.cosine_similarity(kernel[:, own], kernel[:, other], dim=0).item()
            for other in range(num_classes)
            if other != own
        }
        assert found[own].tolist() == sorted(cosine, key=cosine.get, reverse=True)[:k]


@pytest.mark.parametrize("score", ["bn_fc", "weighted"])
@pytest.mark.parametrize("with_visibility", [False, True])
def test_class_logits_are_pair_scores_with_own_class_then_neighbours(score, with_visibility):
    matcher = build(score=score).eval()
    images, labels = maps(4), torch.tensor([2, 0, 2, 6])
    visibility = torch.rand(4, 1, 2, 3) if with_visibility else None
    logits = matcher.class_logits(images, labels, visibility)
    assert logits.shape == (4, 1 + NEIGHBOURS)
    rows = matcher.class_embeddings.weight.detach().float().view(NUM_CLASSES, 2, 3, 5).permute(0, 3, 1, 2)
    scores = matcher(images, F.normalize(rows, dim=1), visibility)
    for i, label in enumerate(labels.tolist()):
        classes = [label, *matcher.class_embeddings.neighbours[label].tolist()]
        torch.testing.assert_close(logits[i], scores[i, classes])


def test_the_gradient_is_sparse_on_the_rows_touched_and_reaches_the_maps():
    matcher = build(projection_channels=4)
    images, labels = maps(2).requires_grad_(), torch.tensor([5, 1])
    F.cross_entropy(matcher.class_logits(images, labels), torch.zeros(2, dtype=torch.int64)).backward()
    gradient = matcher.class_embeddings.weight.grad
    touched = {5, 1, *matcher.class_embeddings.neighbours[labels].flatten().tolist()}
    assert gradient.is_sparse and gradient.dtype == torch.float32
    assert matcher.class_embeddings.weight.dtype == torch.float16
    assert set(gradient.coalesce().indices()[0].tolist()) == touched
    assert images.grad.abs().sum() > 0 and matcher.projection.weight.grad.abs().sum() > 0


def test_training_class_maps_separates_the_classes():
    matcher = build(score="weighted")
    images, labels = maps(NUM_CLASSES), torch.arange(NUM_CLASSES)
    weight = matcher.class_embeddings.weight
    for _ in range(20):
        weight.grad = None
        loss = F.cross_entropy(matcher.class_logits(images, labels), torch.zeros_like(labels))
        loss.backward()
        with torch.no_grad():
            weight -= 0.02 * weight.grad.to_dense()
    assert (matcher.class_logits(images, labels).argmax(dim=1) == 0).all()


def test_neighbours_are_saved_and_capped_by_the_number_of_classes():
    matcher = build()
    twin = QAConv(5, 2, 3, num_classes=NUM_CLASSES, k_nearest=NEIGHBOURS)
    own = torch.arange(NUM_CLASSES)[:, None]
    assert (twin.class_embeddings.neighbours != own).all()
    twin.load_state_dict(matcher.state_dict())
    assert torch.equal(twin.class_embeddings.neighbours, matcher.class_embeddings.neighbours)
    assert QAConv(5, 2, 3, num_classes=4, k_nearest=32).class_embeddings.neighbours.shape == (4, 3)


def test_class_embedding_bytes_are_those_of_the_parameter():
    for channels in (None, 4):
        matcher = build(projection_channels=channels)
        weight = matcher.class_embeddings.weight
        assert matcher.class_embedding_bytes(NUM_CLASSES) == weight.numel() * weight.element_size()
    assert QAConv(512, 7, 7).class_embedding_bytes(85_742) == 85_742 * 512 * 49 * 2


def test_bad_input_is_refused_by_name():
    matcher = build()
    with pytest.raises(TypeError, match="labels must be int64"):
        matcher.class_logits(maps(2), torch.tensor([0, 1], dtype=torch.int32))
    with pytest.raises(ValueError, match=r"labels must be \[2\]"):
        matcher.class_logits(maps(2), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"kernel must be \[D, 7\]"):
        matcher.set_neighbours(torch.randn(7, 4))
