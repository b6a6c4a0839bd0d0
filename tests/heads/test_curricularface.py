"""CurricularFace against a plain loop: hard negatives, the running t over all ranks, a short run."""

import naive_heads as naive
import pytest
import pytorch_lightning as pl
import torch
from gloo_ranks import on_ranks
from short_runs import fit, write_faces
from torch import distributed

import heads

LABELS = torch.tensor([0, 3, 2, 1, 1, 0, 2])


def build(t_alpha=0.01, m=None):
    torch.manual_seed(1)
    return heads.build_head("curricularface", 5, 4, s=16.0, t_alpha=t_alpha, m=m).double()


def loop(head, features, t):
    """Return the logits, one at a time, for a given t."""
    logits = []
    for embedding, label in zip(features.embedding, LABELS.tolist(), strict=True):
        cosines = [naive.cosine(embedding, head.kernel, c) for c in range(4)]
        target = naive.with_angle(cosines[label], 0.5)
        row = [c * (t + c) if c > target else c for c in cosines]
        row[label] = target
        logits.append([16 * value for value in row])
    return logits


def mean_cosine(head, features, labels=LABELS):
    pairs = zip(features.embedding, labels.tolist(), strict=True)
    return sum(naive.cosine(embedding, head.kernel, label) for embedding, label in pairs) / len(labels)


def test_logits_loss_and_t_are_those_of_a_loop_over_two_steps():
    head, t = build(t_alpha=0.3), 0.0
    for step in range(2):
        features = naive.features(7, seed=step)
        t = 0.7 * t + 0.3 * mean_cosine(head, features)
        expected = loop(head, features, t)
        found = head.loss(features, LABELS, step)
        assert head.t.item() == pytest.approx(t, rel=1e-12)
        assert found.loss.item() == pytest.approx(naive.cross_entropy(expected, LABELS.tolist()), rel=1e-12)
        assert found.accuracy.item() == pytest.approx(naive.accuracy(expected, LABELS.tolist()))
        head.eval()
        torch.testing.assert_close(head(*features[:2], LABELS).tolist(), expected, rtol=1e-12, atol=1e-12)
        assert head.t.item() == pytest.approx(t, rel=1e-12), "evaluation moves no statistics"
        head.train()


def test_some_negatives_are_hard_and_some_are_easy():
    head, features = build().eval(), naive.features(7)
    plain, curricular = heads.build_head("arcface", 5, 4, s=16.0).double().eval(), head(*features[:2], LABELS)
    plain.load_state_dict({"kernel": head.kernel})
    changed = curricular != plain(*features[:2], LABELS)
    true = torch.zeros_like(changed).scatter(1, LABELS[:, None], True)
    assert not changed[true].any() and changed[~true].any() and not changed[~true].all()


def test_gradient_is_that_of_the_logits_and_t_has_none():
    head, features = build().eval(), naive.features(7)
    head.t.fill_(0.3)

    def run(embeddings, kernel):
        return torch.func.functional_call(head, {"kernel": kernel}, (embeddings, features.norm, LABELS))

    assert torch.autograd.gradcheck(run, (features.embedding.requires_grad_(), head.kernel))
    assert not head.t.requires_grad


def test_t_is_saved_and_loaded():
    head, other = build(t_alpha=1.0), build()
    head.loss(naive.features(7), LABELS, 0)
    other.load_state_dict(head.state_dict())
    assert set(head.state_dict()) == {"kernel", "t"} and other.t.item() == head.t.item() != 0


def test_it_cannot_be_split_and_wrong_rates_are_refused():
    with pytest.raises(ValueError, match="CurricularFace cannot be split over ranks"):
        heads.PartialFC(build(), 4)
    with pytest.raises(ValueError, match=r"t_alpha must be in \[0, 1\], got 1.5"):
        build(t_alpha=1.5)


def _t_of_a_rank() -> float:
    head, features = build(t_alpha=0.3), naive.features(7)
    share = slice(0, 5) if distributed.get_rank() == 0 else slice(5, None)
    head(features.embedding[share], features.norm[share], LABELS[share])
    return head.t.item()


def test_t_follows_the_batch_of_both_ranks() -> None:
    expected = 0.3 * mean_cosine(build(), naive.features(7))
    found = on_ranks(2, _t_of_a_rank)
    assert found == pytest.approx([expected, expected], rel=1e-12)


class SeenT(pl.Callback):
    """Keep t as it is when training starts."""

    def on_train_start(self, trainer, module):
        self.t = module.head.t.clone()


def test_a_short_run_moves_t_and_resumes_with_it(tmp_path):
    root, folder, seen = str(write_faces(tmp_path / "faces")), tmp_path / "run", SeenT()
    model, _, trainer = fit(folder, data_root=root, head="curricularface", t_alpha=0.5)
    assert trainer.global_step > 0 and model.head.t.item() != 0
    options = {"data_root": root, "head": "curricularface", "t_alpha": 0.5, "epochs": 2}
    again, _, _ = fit(folder, seen, ckpt_path=str(folder / "last.ckpt"), **options)
    assert torch.equal(seen.t, model.head.t) and not torch.equal(again.head.t, model.head.t)
