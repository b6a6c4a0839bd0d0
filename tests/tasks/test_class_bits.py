"""Bits over the class prior of the images of a step, against the plain definition on the host."""

import math

import pytest
import torch
from torch.nn import functional

import heads
from evaluation import bits_over_prior, fit_temperature
from tasks.recognition.class_bits import class_bits


def make_head(name, classes, seed):
    torch.manual_seed(seed)
    head = heads.build_head(name, embedding_size=8, num_classes=classes, s=7.0)
    counts = torch.randint(1, 9, (classes,), dtype=torch.float64)
    head.class_shares = counts / counts.sum()
    return head


def images(num, head_of, ids, noise=0.6):
    """Labels of each image and embeddings near the class that its head has for it."""
    rng = torch.Generator().manual_seed(1)
    labels = torch.tensor([int(torch.randint(head_of(i).class_shares.numel(), (), generator=rng)) for i in ids])
    directions = [head_of(i).class_weights()[:, label] for i, label in zip(ids.tolist(), labels.tolist(), strict=True)]
    found = functional.normalize(torch.stack(directions), dim=1) + noise * torch.randn(num, 8, generator=rng)
    return functional.normalize(found, dim=1), labels


def expected(head, embedding, labels):
    """The definition, by the functions of evaluation: fitted on even places, judged on odd ones."""
    logits = (7.0 * embedding @ functional.normalize(head.kernel, dim=0)).detach().numpy()
    own, prior = labels.numpy(), head.class_shares.numpy()
    temperature = fit_temperature(logits[::2], own[::2])
    return (
        bits_over_prior(logits, own, prior),
        bits_over_prior(logits[1::2] / temperature, own[1::2], prior),
        temperature,
    )


@pytest.mark.parametrize("noise", [0.3, 0.6, 3.0])
def test_each_set_is_judged_by_its_head_as_the_definition_says(noise):
    by_set = {"web": make_head("arcface", 11, 0), "masked": make_head("cosface", 5, 1)}
    ids = torch.tensor([0, 1, 1, 0, 0] * 9)
    embedding, labels = images(len(ids), lambda number: [*by_set.values()][number], ids, noise)
    state = {name: {k: v.clone() for k, v in head.state_dict().items()} for name, head in by_set.items()}
    values = class_bits(by_set, embedding.requires_grad_(), labels, ids)
    assert [*values] == ["train_bits/web", "train_bits_fitted/web", "train_bits/masked", "train_bits_fitted/masked"]
    for number, (name, head) in enumerate(by_set.items()):
        own, fitted, temperature = expected(head, embedding[ids == number].detach(), labels[ids == number])
        assert values[f"train_bits/{name}"].item() == pytest.approx(own, abs=1e-5)
        assert values[f"train_bits_fitted/{name}"].item() == pytest.approx(fitted, abs=1e-4), temperature
        torch.testing.assert_close(dict(head.state_dict()), state[name], rtol=0, atol=0)
    assert not any(value.requires_grad for value in values.values())


def test_one_set_needs_no_name_and_its_numbers_do_not_matter():
    head = make_head("arcface", 6, 2)
    embedding, labels = images(20, lambda _: head, torch.zeros(20))
    values = class_bits({"0": head}, embedding, labels, torch.full((20,), 3))
    own, fitted, _ = expected(head, embedding, labels)
    assert {name: value.item() for name, value in values.items()} == {
        "train_bits": pytest.approx(own, abs=1e-5), "train_bits_fitted": pytest.approx(fitted, abs=1e-4),
    }  # fmt: skip


def test_sub_centers_and_half_precision_are_judged_as_the_head_does():
    head = make_head("subcenter_arcface", 6, 2)
    embedding, labels = images(20, lambda _: make_head("arcface", 6, 2), torch.zeros(20))
    with torch.autocast("cpu", torch.bfloat16):
        found = class_bits({"0": head}, embedding, labels, torch.zeros(20))["train_bits"].item()
    logits = (7.0 * head.class_cosines(embedding, head.kernel)).detach().numpy()
    assert found == pytest.approx(bits_over_prior(logits, labels.numpy(), head.class_shares.numpy()), abs=1e-5)


def test_without_images_there_is_no_figure_and_without_shares_none_is_made():
    by_set = {"web": make_head("arcface", 11, 0), "masked": make_head("cosface", 5, 1)}
    embedding, labels = images(3, lambda _: by_set["web"], torch.zeros(3))
    values = class_bits(by_set, embedding, labels, torch.zeros(3, dtype=torch.int64))
    assert [*values] == ["train_bits/web", "train_bits_fitted/web"] and math.isfinite(values["train_bits_fitted/web"])
    one = class_bits(by_set, embedding, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 1]))
    assert [*one] == ["train_bits/web", "train_bits_fitted/web", "train_bits/masked"]
    by_set["web"].class_shares = by_set["masked"].class_shares = None
    assert class_bits(by_set, embedding, labels, torch.zeros(3, dtype=torch.int64)) == {}


def test_ranks_together_give_what_one_process_gives(monkeypatch):
    """Both ranks in turn: of what the other would send, each takes what a first pass over both has written down."""
    from tasks.recognition import class_bits as module

    by_set = {"web": make_head("arcface", 11, 0), "masked": make_head("cosface", 5, 1)}
    ids = torch.tensor([0, 1, 1, 0, 0, 1, 0] * 4)
    embedding, labels = images(28, lambda number: [*by_set.values()][number], ids)
    alone = class_bits(by_set, embedding, labels, ids)
    ranks = [slice(0, 14), slice(14, 28)]
    sent = [[], []]
    for known in range(2 + module._HALVINGS):  # messages that both ranks' are known of; each follows from those before
        found = [
            _on_rank(module, monkeypatch, rank, sent, known, (by_set, embedding, labels, ids), ranks) for rank in (0, 1)
        ]
    means = {name: (found[0][name] + found[1][name]) / 2 for name in alone}
    torch.testing.assert_close(means, alone, rtol=1e-5, atol=1e-6, check_dtype=False)


def _on_rank(module, monkeypatch, rank, sent, known, batch, ranks):
    own = []

    def gather(values):
        own.append(values)
        place = len(own) - 1
        if place < known:
            other = sent[1 - rank][place]
            return torch.cat([values, other] if rank == 0 else [other, values])
        return torch.cat([values, values])

    monkeypatch.setattr(module, "gather", gather)
    monkeypatch.setattr(module, "own_rank", lambda: rank)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    by_set, *rows = batch
    found = module.class_bits(by_set, *(part[ranks[rank]] for part in rows))
    sent[rank] = own
    return found
