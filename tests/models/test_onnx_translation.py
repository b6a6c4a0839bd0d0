"""The matcher's operator in ONNX: the translation says what the operator says, and a wrong one is found out."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from qaconv.blocks import Maps
from qaconv.correlation import best_matches

onnx = pytest.importorskip("onnx", reason="needs onnx: make setup-extras")
pytest.importorskip("onnxscript", reason="needs onnxscript: make setup-extras")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: make setup-extras")

import qaconv  # noqa: E402
from models.onnx import graphs, parity, translation  # noqa: E402


def sides(seed, groups=1, probes=3, galleries=2, cells=6, hidden=True):
    """Return two sides with ties: features are whole numbers; the last probe sees nothing."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in (probes, galleries):
        features = torch.randint(-2, 3, (groups, number, cells, 4), generator=generator).float()
        mask = torch.rand(groups, number, cells, generator=generator) < 0.4
        mask[:, -1] |= number == probes
        found.append(Maps(features, mask if hidden else None))
    return found


def translated(features, hidden, with_cells):
    """Return what the translation says, each operator run by onnxruntime as it is met."""
    import onnxscript

    (function,) = translation.translations(graphs.OPSET).values()
    feed = [[onnxscript.tensor.Tensor(each.numpy()) for each in listed] for listed in (features, hidden)]
    return [np.asarray(each.value) for each in function(*feed, with_cells, None, False)]


def off(case, with_cells):
    """Return which outputs of a case differ from the operator's."""
    probe, gallery = case
    wanted = best_matches(probe, gallery, with_cells=with_cells)
    is_self = gallery is probe
    given = [probe] if is_self else [probe, gallery]
    hidden = [side.hidden for side in given if side.hidden is not None]
    found = translated([side.features for side in given], hidden, with_cells)
    names = ("probe",) if is_self else ("probe", "gallery")
    expected = [getattr(wanted, name) for name in names]
    expected += [getattr(wanted, f"{name}_cell") for name in names] if with_cells else []
    assert [each.shape for each in found] == [tuple(each.shape) for each in expected]
    assert [each.dtype for each in found] == [each.numpy().dtype for each in expected]
    return [place for place, (a, b) in enumerate(zip(found, expected, strict=True)) if (a != b.numpy()).any()]


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("with_cells", [False, True])
def test_the_translation_is_the_operator_ties_and_hidden_cells_included(hidden, with_cells):
    for seed, sizes in enumerate([(1, 3, 2, 6), (4, 1, 1, 3), (2, 2, 5, 4)]):
        case = sides(seed, *sizes, hidden=hidden)
        assert off(case, with_cells) == []
    assert off([case[0], case[0]], with_cells) == []
    large = sides(9, 1, 1, 1, 300, hidden)  # more cells than a byte counts
    assert off(large, with_cells) == []


RIGHT = translation._Matches


class IgnoresHidden(RIGHT):
    def _correlations(self):
        self.hidden, hidden = None, self.hidden
        found = super()._correlations()
        self.hidden = hidden
        return found


class LastOfEqual(RIGHT):
    def _maximum(self, sim, axis, num_cells, arranged, with_cells):
        best, cell = super()._maximum(sim, axis, num_cells, arranged, with_cells)
        last = self.op.ArgMax(sim, axis=axis, keepdims=0, select_last_index=1)
        return best, self.op.CastLike(arranged(last), cell)


class SidesExchanged(RIGHT):
    def outputs(self, with_cells):
        probe, gallery, *cells = super().outputs(with_cells)
        return [gallery, probe, *cells]


@pytest.mark.parametrize("wrong", [IgnoresHidden, LastOfEqual, SidesExchanged])
def test_a_wrong_translation_is_found_out(wrong, monkeypatch):
    monkeypatch.setattr(translation, "_Matches", wrong)
    assert off(sides(1, cells=6, probes=2, galleries=2), with_cells=True) != []


# ---------------------------------------------------------------- whole matchers, by torch's exporter


@pytest.mark.slow
@pytest.mark.parametrize("with_visibility", [False, True])
@pytest.mark.parametrize("method", qaconv.OCCLUSION_METHODS)
@pytest.mark.parametrize("score", qaconv.SCORES)
def test_every_score_and_occlusion_method_is_that_of_torch(score, method, with_visibility):
    torch.manual_seed(0)
    matcher = qaconv.QAConv(8, 3, 4, occlusion_method=method, score=score, projection_channels=6).eval()
    for parameter in matcher.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    graph = graphs.export_matcher(matcher, with_visibility)
    assert [each.name for each in graph.graph.input] == list(
        ("probe_map", "gallery_map", "probe_visibility", "gallery_visibility")[: 4 if with_visibility else 2]
    )
    parity.refuse_wrong(parity.compare_matcher(graph, matcher), {"float32": 2e-6})


@pytest.mark.slow
def test_a_wrong_translation_is_refused_by_the_parity_of_the_matcher(monkeypatch):
    matcher = qaconv.QAConv(8, 3, 4, occlusion_method="masking", score="weighted").eval()
    monkeypatch.setattr(translation, "_Matches", IgnoresHidden)
    graph = graphs.export_matcher(matcher)
    with pytest.raises(ValueError, match="scores of the matcher in float32 differs from torch's by"):
        parity.refuse_wrong(parity.compare_matcher(graph, matcher))


def test_a_matcher_of_unit_maps_is_compared_on_hidden_cells_too():
    given = parity.matcher_example(["probe_map", "gallery_map", "probe_visibility"], (8, 3, 4), 3)
    assert [len(each) for each in given.values()] == [3, 4, 3]
    torch.testing.assert_close(given["probe_map"].norm(dim=1), torch.ones(3, 3, 4))
    assert (given["probe_visibility"][-1] == 0).all() and functional.relu(given["probe_visibility"] - 0.5).any()
