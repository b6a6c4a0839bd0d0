"""QAConv against naive loops, on its invariances, and on what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qaconv import OCCLUSION_METHODS, SCORES, QAConv, blocks

CHANNELS, HEIGHT, WIDTH = 5, 2, 3
CELLS = HEIGHT * WIDTH
VARIANTS = [(method, score) for method in OCCLUSION_METHODS for score in SCORES]
WITH_VISIBILITY = [variant for variant in VARIANTS if variant[0] != "none"]


def build(method="scaling", score="bn_fc", **options):
    """A float64 matcher whose every parameter and statistic differs from its default."""
    torch.manual_seed(0)
    matcher = QAConv(CHANNELS, HEIGHT, WIDTH, method, score=score, **options).double()
    with torch.no_grad():
        for parameter in matcher.parameters():
            parameter += 0.3 * torch.rand_like(parameter)
        for name, buffer in matcher.named_buffers():
            if "running" in name:
                buffer += 0.5 * torch.rand_like(buffer)
    return matcher.eval()


def maps(num, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num, CHANNELS, HEIGHT, WIDTH, generator=generator, dtype=torch.float64), dim=1)


def visibilities(num, seed):
    """Some cells fully hidden or visible, others between; none near the threshold of masking."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor([0.0, 0.2, 0.6, 0.9, 1.0], dtype=torch.float64)
    return levels[torch.randint(5, (num, 1, HEIGHT, WIDTH), generator=generator)]


def naive_matches(method, p, g, vp, vg):
    """For every cell of p, its match in g as (value, matched cell) or None; p, g [C, K], vp, vg [K]."""
    matches = []
    for s in range(CELLS):
        best = None
        for r in range(CELLS):
            value = float(torch.dot(p[:, s], g[:, r]))
            if method == "scaling":
                value *= float(vp[s] * vg[r])
            if method == "masking" and (vp[s] < 0.5 or vg[r] < 0.5):
                continue
            if best is None or value > best[0]:
                best = (value, r)
        matches.append(best)
    return matches


def naive_weight(method, visibility):
    if method == "none":
        return 1.0
    return 0.0 if method == "masking" and visibility < 0.5 else float(visibility)


def naive_bn_fc_half(matcher, matches, vp, mean, variance):
    method, weight = matcher.occlusion_method, matcher.fc.weight[0]
    total, visible = 0.0, 0.0
    for s, match in enumerate(matches):
        share = naive_weight(method, vp[s]) if method == "masking" else 1.0
        visible += share
        if match is not None:
            normalized = (match[0] - mean) / math.sqrt(variance + matcher.bn.eps)
            total += share * float(weight[s] * (normalized * matcher.bn.weight + matcher.bn.bias))
    return total * (CELLS / visible if visible else 0.0) + matcher.fc.bias.item()


def naive_weighted_half(matcher, matches, vp, vg):
    method, total, norm = matcher.occlusion_method, 0.0, 0.0
    for s, match in enumerate(matches):
        if match is None:
            continue
        weight = float(F.softplus(matcher.cell_weight[s]))
        covisibility = naive_weight(method, vp[s]) * naive_weight(method, vg[match[1]])
        norm += weight * covisibility
        total += weight * match[0] * (1.0 if method == "scaling" else covisibility)
    return total / norm if norm else 0.0


@torch.no_grad()
def naive_scores(matcher, probe, gallery, probe_visibility, gallery_visibility, train=False):
    """Scores by explicit indices: p, s probe map and cell, g, r gallery map and cell."""
    probe, gallery = probe.flatten(2), gallery.flatten(2)
    vps, vgs = probe_visibility.flatten(1), gallery_visibility.flatten(1)
    method = matcher.occlusion_method
    rows, columns = list(zip(probe, vps, strict=True)), list(zip(gallery, vgs, strict=True))
    forth = [[naive_matches(method, p, g, vp, vg) for g, vg in columns] for p, vp in rows]
    back = [[naive_matches(method, g, p, vg, vp) for g, vg in columns] for p, vp in rows]
    scores = torch.zeros(len(probe), len(gallery), dtype=torch.float64)
    if matcher.score == "weighted":
        for i, vp in enumerate(vps):
            for j, vg in enumerate(vgs):
                there = naive_weighted_half(matcher, forth[i][j], vp, vg)
                scores[i, j] = (there + naive_weighted_half(matcher, back[i][j], vg, vp)) / 2
        return matcher.scale * scores + matcher.bias
    values = [match[0] for half in (forth, back) for row in half for cells in row for match in cells if match]
    mean, variance = float(matcher.bn.running_mean), float(matcher.bn.running_var)
    if train:
        values = torch.tensor(values, dtype=torch.float64)
        mean, variance = float(values.mean()), float(values.var(correction=0))
    for i, vp in enumerate(vps):
        for j, vg in enumerate(vgs):
            scores[i, j] = naive_bn_fc_half(matcher, forth[i][j], vp, mean, variance)
            scores[i, j] += naive_bn_fc_half(matcher, back[i][j], vg, mean, variance)
    norm = matcher.logit_bn
    mean, variance = (scores.mean(), scores.var(correction=0)) if train else (norm.running_mean, norm.running_var)
    return (scores - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("method", "score"), VARIANTS)
def test_scores_equal_naive_loops(method, score, train):
    matcher = build(method, score).train(train)
    probe, gallery, vp, vg = maps(3, 1), maps(4, 2), visibilities(3, 3), visibilities(4, 4)
    vp[0] = 0  # one map without a visible cell on either side
    vg[1] = 0
    expected = naive_scores(matcher, probe, gallery, vp, vg, train)
    torch.testing.assert_close(matcher(probe, gallery, vp, vg), expected)


@pytest.mark.parametrize(("method", "score"), VARIANTS)
def test_all_visible_equals_no_visibility_equals_none(method, score):
    matcher, plain = build(method, score), build("none", score)
    probe, gallery = maps(3, 1), maps(4, 2)
    ones = torch.ones(4, 1, HEIGHT, WIDTH, dtype=torch.float64)
    expected = plain(probe, gallery)
    torch.testing.assert_close(matcher(probe, gallery), expected)
    torch.testing.assert_close(matcher(probe, gallery, ones[:3], ones), expected)
    torch.testing.assert_close(matcher(probe, gallery, None, ones), expected)
    torch.testing.assert_close(matcher(probe, gallery, ones[:3], None), expected)


@pytest.mark.parametrize(("method", "score"), WITH_VISIBILITY)
@pytest.mark.parametrize("side", ["probe", "gallery"])
def test_a_score_ignores_features_under_a_hidden_cell(method, score, side):
    matcher = build(method, score)
    probe, gallery, vp, vg = maps(3, 1), maps(3, 2), visibilities(3, 3), visibilities(3, 4)
    changed, visibility = (probe, vp) if side == "probe" else (gallery, vg)
    before = matcher(probe, gallery, vp, vg), matcher.match_pairs(probe, gallery, vp, vg)
    hidden = (visibility == 0).expand_as(changed)
    assert hidden.any() and not hidden.all()
    changed[hidden] = 100 * torch.randn(int(hidden.sum()), dtype=torch.float64)
    after = matcher(probe, gallery, vp, vg), matcher.match_pairs(probe, gallery, vp, vg)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "score"), WITH_VISIBILITY)
def test_visibility_weighs_the_cells_of_its_own_side(method, score):
    """Hiding a column of the probe is not hiding that column of the gallery: swapped axes would pass one of the two."""
    matcher = build(method, score)
    probe, gallery = maps(1, 1), maps(1, 2)
    ones = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.float64)
    hidden = ones.clone()
    hidden[..., 0] = 0
    assert not torch.isclose(matcher(probe, gallery, hidden, ones), matcher(probe, gallery, ones, hidden))
    torch.testing.assert_close(
        matcher(probe, gallery, hidden, ones), naive_scores(matcher, probe, gallery, hidden, ones)
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("method", "score"), WITH_VISIBILITY)
def test_an_all_hidden_map_scores_a_finite_constant_with_finite_gradients(method, score, train):
    matcher = build(method, score).train(train)
    probe, gallery = maps(3, 1).requires_grad_(), maps(4, 2)
    vp, vg = visibilities(3, 3), visibilities(4, 4)
    vp[1] = 0
    vp.requires_grad_()
    scores = matcher(probe, gallery, vp, vg)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores[1], scores[1, :1].expand(4))
    scores.square().sum().backward()
    assert probe.grad.isfinite().all() and vp.grad.isfinite().all()
    assert not probe.grad[1].any()


@pytest.mark.parametrize(("method", "score"), WITH_VISIBILITY)
def test_a_batch_without_a_visible_cell_stays_finite_and_leaves_the_match_statistics(method, score):
    matcher = build(method, score).train()
    before = {name: value.clone() for name, value in matcher.named_buffers() if name.startswith("bn.running")}
    nothing = torch.zeros(3, 1, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    probe = maps(3, 1).requires_grad_()
    scores = matcher(probe, probe, nothing, nothing)
    scores.sum().backward()
    assert scores.isfinite().all() and nothing.grad.isfinite().all()
    if method == "masking":
        for name, value in before.items():
            torch.testing.assert_close(matcher.get_buffer(name), value)


def channels_last(values):
    return values.contiguous(memory_format=torch.channels_last)


def every_other(values):
    """The same numbers, not contiguous in any order of the dimensions."""
    spread = torch.full([2 * size for size in values.shape], torch.nan, dtype=values.dtype)
    view = spread[::2, ::2, 1::2, 1::2]
    view.copy_(values)
    return view


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    variant=st.sampled_from(VARIANTS),
    sizes=st.tuples(st.sampled_from([1, 2, 3, 4, 33]), st.sampled_from([1, 2, 3, 4, 33])),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    arrange=st.sampled_from([torch.Tensor.contiguous, channels_last, every_other]),
    block_bytes=st.sampled_from([1, 500, 2**14, 2**20]),
    seed=st.integers(0, 100),
)
def test_transposed_blocked_pairwise_and_self_matching_agree(variant, sizes, shape, arrange, block_bytes, seed):
    torch.manual_seed(seed)
    method, score = variant
    matcher = QAConv(3, *shape, method, score=score).double().eval()
    p, g = (F.normalize(torch.randn(n, 3, *shape, dtype=torch.float64), dim=1) for n in sizes)
    vp, vg = (torch.rand(n, 1, *shape, dtype=torch.float64).round(decimals=1) for n in sizes)
    expected = matcher(p, g, vp, vg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CPU_BLOCK_BYTES", block_bytes)
        torch.testing.assert_close(matcher(*map(arrange, (p, g, vp, vg))), expected)
        torch.testing.assert_close(matcher(g, p, vg, vp).T, expected)
        torch.testing.assert_close(matcher(p, p, vp, vp), matcher(p, p.clone(), vp, vp.clone()))
        both = min(sizes)
        pairs = matcher.match_pairs(p[:both], g[:both], vp[:both], vg[:both])
        torch.testing.assert_close(pairs, expected.diagonal())


@pytest.mark.parametrize(("method", "score"), VARIANTS)
def test_self_matching_in_training_equals_two_equal_sets_statistics_included(method, score):
    own, general = build(method, score).train(), build(method, score).train()
    p, v = maps(4, 1), visibilities(4, 2)
    torch.testing.assert_close(own(p, p, v, v), general(p, p.clone(), v, v.clone()))
    torch.testing.assert_close(dict(own.named_buffers()), dict(general.named_buffers()))


@pytest.mark.parametrize(("method", "score"), WITH_VISIBILITY)
def test_the_same_maps_seen_differently_are_not_self_matched(method, score):
    matcher = build(method, score)
    p, vp, vg = maps(3, 1), visibilities(3, 2), visibilities(3, 3)
    torch.testing.assert_close(matcher(p, p, vp, vg), naive_scores(matcher, p, p, vp, vg))


@pytest.mark.parametrize("is_self", [False, True])
@pytest.mark.parametrize(("method", "score"), VARIANTS)
def test_gradients_are_exact_for_features_and_visibilities(method, score, is_self):
    matcher = build(method, score, projection_channels=3).train()
    probe, gallery = maps(2, 1).requires_grad_(), maps(3, 2).requires_grad_()
    vp = (visibilities(2, 3) + 0.05).requires_grad_()  # off 0, where scaling ties
    vg = (visibilities(3, 4) + 0.05).requires_grad_()

    if is_self:
        assert torch.autograd.gradcheck(lambda g, v: matcher(g, g, v, v), (gallery, vg))
    else:
        assert torch.autograd.gradcheck(matcher, (probe, gallery, vp, vg))


@pytest.mark.parametrize("score", SCORES)
def test_every_parameter_of_the_chosen_score_gets_a_gradient(score):
    matcher = build("masking", score, projection_channels=3).train()
    vp, vg = visibilities(3, 3), visibilities(4, 4)
    (matcher(maps(3, 1), maps(4, 2), vp, vg) * torch.randn(3, 4)).sum().backward()
    for name, parameter in matcher.named_parameters():
        assert parameter.grad is not None, name
        if name != "fc.bias":  # the last norm removes a constant
            assert parameter.grad.abs().max() > 1e-9, name


@pytest.mark.parametrize("num_probes", [0, 2, 40])
@pytest.mark.parametrize(("method", "score"), VARIANTS)
def test_an_empty_side_gives_an_empty_score_matrix(method, score, num_probes):
    matcher = build(method, score)
    inputs = maps(num_probes, 1), maps(0, 2), visibilities(num_probes, 3), visibilities(0, 4)
    assert matcher(*inputs).shape == (num_probes, 0)
    assert matcher(inputs[1], inputs[0], inputs[3], inputs[2]).shape == (0, num_probes)
    assert matcher.match_pairs(inputs[1], inputs[1]).shape == (0,)


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_float32_under_autocast_and_for_half_precision_maps(score):
    matcher = build("masking", score, projection_channels=4).float().train()
    p, g, v = maps(3, 1).float(), maps(4, 2).float(), visibilities(3, 3).float()
    expected = matcher(p, g, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = matcher(p, g, v)
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)
    assert matcher(p.bfloat16(), g.bfloat16(), v.bfloat16()).dtype == torch.float32


def test_only_pair_scores_in_training_move_the_running_statistics():
    matcher = build(num_classes=6, k_nearest=2)

    def statistics():
        return [buffer.clone() for name, buffer in matcher.named_buffers() if "bn" in name]

    before = statistics()
    matcher(maps(3, 1), maps(3, 2))
    matcher.train()
    matcher.match_pairs(maps(3, 1), maps(3, 2))
    matcher.class_logits(maps(3, 1), torch.tensor([0, 1, 2]))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(), strict=True))
    matcher(maps(3, 1), maps(3, 2))
    assert not any(torch.equal(a, b) for a, b in zip(before, statistics(), strict=True))


def test_match_pairs_in_training_mode_equals_eval_mode():
    matcher = build()
    expected = matcher(maps(3, 1), maps(3, 2)).diagonal()
    torch.testing.assert_close(matcher.train().match_pairs(maps(3, 1), maps(3, 2)), expected)


@pytest.mark.parametrize("method", ["scaling", "masking"])
def test_a_zero_feature_map_scores_finitely_with_finite_gradients(method):
    matcher = build(method, "weighted", projection_channels=3)
    zero = torch.zeros(2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    scores = matcher(zero, maps(2, 1), visibilities(2, 2), visibilities(2, 3))
    scores.sum().backward()
    assert scores.isfinite().all() and zero.grad.isfinite().all()


def test_state_dict_names_are_the_published_ones():
    names = {name: list(value.shape) for name, value in QAConv(8, 2, 3).state_dict().items()}
    norm = {"weight": [1], "bias": [1], "running_mean": [1], "running_var": [1], "num_batches_tracked": []}
    expected = {"fc.weight": [1, 6], "fc.bias": [1]}
    expected |= {f"{layer}.{name}": shape for layer in ("bn", "logit_bn") for name, shape in norm.items()}
    assert names == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(maps(2, 1)[:, :4], maps(2, 1)), r"probe must be floating \[N, 5, 2, 3\]"),
        (lambda m: m(maps(2, 1), maps(2, 1).flatten(2)), r"gallery must be floating"),
        (lambda m: m(maps(2, 1), maps(3, 1), visibilities(3, 1)), r"probe_visibility must be floating \[2, 1, 2, 3\]"),
        (lambda m: m(maps(2, 1), maps(3, 1), None, visibilities(3, 1)[:, 0]), r"gallery_visibility must be"),
        (lambda m: m(maps(2, 1), maps(2, 1), visibilities(2, 1) > 0), r"probe_visibility must be floating"),
        (lambda m: m.match_pairs(maps(2, 1), maps(3, 1)), r"a and b must agree"),
        (lambda m: m.train()(maps(1, 1), maps(1, 1)), r"at least 2 pairs"),
        (lambda m: m.class_logits(maps(1, 1), torch.tensor([0])), r"class embeddings are off"),
        (lambda m: m.set_neighbours(torch.randn(4, 6)), r"class embeddings are off"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(build())


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"none, scaling, masking, got 'soft'"):
        QAConv(4, 2, 2, "soft")
    with pytest.raises(ValueError, match=r"bn_fc, weighted, got 'mean'"):
        QAConv(4, 2, 2, score="mean")


@pytest.mark.parametrize("score", SCORES)
def test_masking_looks_at_cells_from_its_threshold_on(score):
    """Of visibilities 0, 0.2, 0.6 and more a threshold of 0.2 hides the first alone, one of 0.1 too."""
    arguments = maps(3, 0), maps(4, 1), visibilities(3, 2), visibilities(4, 3)
    low, lower, usual = (build("masking", score, visible_from=value)(*arguments) for value in (0.2, 0.1, 0.5))
    torch.testing.assert_close(low, lower, rtol=0, atol=0)
    assert (low != usual).any()
    hidden = [torch.where(v < 0.2, torch.zeros_like(v), v) for v in arguments[2:]]
    other = [torch.where(v < 0.2, -m, m) for m, v in zip(arguments[:2], arguments[2:], strict=True)]
    torch.testing.assert_close(build("masking", score, visible_from=0.2)(*other, *hidden), low)
