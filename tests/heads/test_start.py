"""What heads begin with beside a net that was trained before: its norms, the means of its embeddings."""

import pytest
import torch
from torch.nn import functional

import heads

SIZE, CLASSES = 6, 5


def norms(mean=2.0, count=40):
    return mean + 0.3 * torch.randn(count, 1, generator=torch.Generator().manual_seed(0))


def means():
    drawn = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 6)[:, None]
    drawn[3] = 0  # a class without an image
    return drawn


@pytest.mark.parametrize("split", [False, True])
def test_adaface_begins_with_the_statistics_of_the_norms_and_tells_qualities_apart_at_once(split):
    margin = heads.AdaFace(SIZE, 1 if split else CLASSES)
    head = heads.PartialFC(margin, CLASSES) if split else margin
    given = norms()
    given[0], given[1] = 0.0, 500.0  # clamped as in training
    kept = given.double().clamp(1e-3, 100)
    assert head.reads_norms
    assert head.start_from(given).startswith(f"AdaFace's statistics start at mean {kept.mean():.4g}")
    torch.testing.assert_close(margin.batch_mean, kept.mean()[None].float())
    torch.testing.assert_close(margin.batch_std, kept.std()[None].float())
    fresh, cosine, spread = heads.AdaFace(SIZE, CLASSES), torch.full((2, 1), 0.5), torch.tensor([[1.7], [2.3]])
    margin.start_from(norms())
    apart = margin.add_margin(cosine, spread).diff(dim=0).abs()
    assert apart > 50 * fresh.add_margin(cosine, spread).diff(dim=0).abs()


@pytest.mark.parametrize("name", ["arcface", "cosface", "curricularface", "subcenter_arcface"])
def test_norms_change_nothing_in_heads_that_do_not_read_them(name):
    head = heads.build_head(name, SIZE, CLASSES)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    assert not head.reads_norms and head.start_from(norms()) == ""
    torch.testing.assert_close(head.state_dict(), before, rtol=0, atol=0)


def test_magface_says_when_its_bounds_do_not_hold_the_norms():
    head = heads.MagFace(SIZE, CLASSES)
    assert head.start_from(norms(mean=20.0)) == ""
    assert "100% of them are outside of MagFace's bounds [10, 110]" in head.start_from(norms())
    given = norms().requires_grad_()
    head.add_margin(torch.zeros(40, 1), given).sum().backward()
    assert not given.grad.any()  # which is what the words are about


@pytest.mark.parametrize("name", list(heads.HEADS))
def test_class_weights_begin_as_directions_of_the_means(name):
    torch.manual_seed(2)
    head = heads.build_head(name, SIZE, CLASSES)
    drawn = head.kernel.detach().clone()
    head.start_from_means(means())
    torch.testing.assert_close(head.kernel.norm(dim=0), torch.ones(head.kernel.shape[1]))
    count = head.num_centers
    for label, mean in enumerate(means()):
        own = head.kernel[:, label * count : (label + 1) * count].detach()
        if label == 3:
            assert torch.equal(own, drawn[:, label * count : (label + 1) * count])
        elif count == 1:
            torch.testing.assert_close(own[:, 0], mean / mean.norm())
        else:
            assert (functional.cosine_similarity(own, mean[:, None], dim=0) > 0.99).all()
            assert (own[:, :1] - own[:, 1:]).norm(dim=0).min() > 0.01  # else they would stay the same for ever
    # An image that is its class's mean is classified right, and by a wide margin.
    embedding = functional.normalize(means()[1:2], dim=1)
    assert head.eval()(embedding, torch.full((1, 1), 20.0), torch.tensor([0])).argmax() == 1


def test_a_split_head_takes_the_means_as_the_dense_one_does():
    split, dense = heads.PartialFC(heads.ArcFace(SIZE, 1), CLASSES), heads.ArcFace(SIZE, CLASSES)
    drawn = split.weight.detach().clone()
    split.start_from_means(means())
    dense.start_from_means(means())
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(split.weight[kept], dense.kernel.T[kept], rtol=0, atol=0)
    assert torch.equal(split.weight[3], drawn[3])


@pytest.mark.parametrize("head", [heads.AdaFace(SIZE, CLASSES), heads.PartialFC(heads.AdaFace(SIZE, 1), CLASSES)])
def test_what_cannot_be_started_from_is_refused(head):
    for wrong in (torch.ones(4), torch.ones(1, 1), torch.ones(4, 2)):
        with pytest.raises(ValueError, match=r"start_from: norms must be \[N, 1\], N >= 2, got"):
            head.start_from(wrong)
    with pytest.raises(ValueError, match="start_from: norms must be finite"):
        head.start_from(torch.tensor([[1.0], [torch.nan]]))
    with pytest.raises(ValueError, match=r"start_from_means: means must be \[5, 6\], a class a row, got \[6, 5\]"):
        head.start_from_means(means().T)
    with pytest.raises(ValueError, match="start_from_means: means must be finite"):
        head.start_from_means(torch.full((CLASSES, SIZE), torch.inf))
