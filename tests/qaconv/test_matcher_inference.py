"""QAConv as torch.compile and torch.export see it, in half precision, and the memory of what follows the matches."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from qaconv import OCCLUSION_METHODS, SCORES, QAConv, statistics
from qaconv.correlation import best_matches
from qaconv.scoring import PublishedLayers, published_scores

CELLS = 3 * 3
VARIANTS = [(method, score) for method in OCCLUSION_METHODS for score in SCORES]


def build(method="masking", score="bn_fc", **options):
    torch.manual_seed(0)
    return QAConv(8, 3, 3, method, score=score, **options).eval()


def maps(num, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num, 8, 3, 3, generator=generator), dim=1)


def visibilities(num, seed):
    return torch.rand(num, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def inputs(num_probes, num_galleries, seed=1):
    return (
        maps(num_probes, seed),
        maps(num_galleries, seed + 1),
        visibilities(num_probes, seed + 2),
        visibilities(num_galleries, seed + 3),
    )


@pytest.mark.parametrize(("method", "score"), [("masking", "bn_fc"), ("scaling", "weighted")])
def test_torch_compile_sees_a_whole_training_step(method, score):
    matcher, compiled = build(method, score).train(), build(method, score).train()
    coefficients = torch.randn(3, 4)
    results = []
    for forward in (matcher, torch.compile(compiled, backend="aot_eager", fullgraph=True)):
        leaves = [values.clone().requires_grad_() for values in inputs(3, 4)]
        scores = forward(*leaves)
        results.append((scores.detach(), *torch.autograd.grad((coefficients * scores).sum(), leaves)))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(matcher.named_buffers()))


def test_torch_export_keeps_the_operator_and_takes_any_number_of_maps():
    matcher = build("masking")
    probes, galleries = ({0: torch.export.Dim(name)} for name in ("probes", "galleries"))
    with torch.no_grad():
        program = torch.export.export(matcher, inputs(3, 4), dynamic_shapes=(probes, galleries, probes, galleries))
    targets = {str(node.target) for module in program.graph_module.modules() for node in module.graph.nodes}
    assert "maskwise.best_matches.default" in targets
    others = inputs(5, 2, seed=9)
    torch.testing.assert_close(program.module()(*others), matcher(*others).detach())


class _Sizes(TorchDispatchMode):
    """Counts the tensors of at least so many numbers that are made."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.made = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known:
            self.made += result.numel() >= self.numel
        return result


@pytest.mark.parametrize("method", ["none", "masking"])
@pytest.mark.parametrize("train", [False, True])
def test_the_norms_after_the_matches_copy_no_maxima(train, method):
    matcher = build(method).train(train)
    num_maps = statistics._PART_SIZE // (30 * CELLS)  # so many that moments are taken in parts
    probe, gallery = (
        OCCLUSION_METHODS[method](maps(n, n).flatten(2).transpose(1, 2)[None], visibilities(n, n).flatten(1)[None], 0.5)
        for n in (40, num_maps)
    )
    maxima = best_matches(probe.maps, gallery.maps)
    assert maxima.probe.numel() > statistics._PART_SIZE
    layers = PublishedLayers(matcher.bn, matcher.fc, matcher.logit_bn)
    with torch.no_grad(), _Sizes(maxima.probe.numel()) as large:
        published_scores(maxima, probe, gallery, layers, "batch" if train else "running")
    assert large.made == 0


@pytest.mark.parametrize(("method", "score"), VARIANTS)
def test_half_precision_is_for_eval_mode_without_gradients(method, score):
    exact, half = build(method, score), build(method, score, inference_dtype=torch.bfloat16)
    arguments = inputs(3, 4)
    with torch.no_grad():
        rounded, expected = half(*arguments), exact(*arguments)
        assert torch.equal(half.train()(*arguments), exact.train()(*arguments))
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, expected)
    torch.testing.assert_close(rounded, expected, rtol=0, atol=0.5 if score == "weighted" else 0.02)  # scaled by 32
    assert torch.equal(half.eval()(*arguments), exact.eval()(*arguments))  # gradients are on


@pytest.mark.parametrize("against_itself", [False, True])
def test_half_precision_logits_of_a_new_matcher_stay_within_two_thousandths(against_itself):
    torch.manual_seed(0)
    matcher = QAConv(512, 7, 7, "masking", inference_dtype=torch.bfloat16).eval()
    p = F.normalize(torch.randn(32, 512, 7, 7), dim=1)
    g = p if against_itself else F.normalize(torch.randn(32, 512, 7, 7), dim=1)
    exact = matcher(p, g).detach()
    with torch.inference_mode():
        torch.testing.assert_close(matcher(p, g), exact, rtol=0, atol=2e-3)


def test_an_unknown_inference_dtype_is_refused():
    with pytest.raises(ValueError, match=r"must be None, torch.bfloat16 or torch.float16, got torch.int8"):
        QAConv(4, 2, 2, inference_dtype=torch.int8)
