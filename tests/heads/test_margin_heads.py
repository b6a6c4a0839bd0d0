"""The margin heads against the authors' numbers, a scalar reference, and what they promise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ROOT
from torch import Tensor
from torch.nn import functional

import heads

GOLDEN = ROOT / "tests" / "golden" / "heads"
FILES = ["adaface_talpha_0.01", "adaface_talpha_1.0", "adaface_extreme_norms", "arcface", "cosface"]
EPS = {"adaface": 1e-3, "arcface": 1e-4, "cosface": 1e-4}
PUBLISHED_M = {"adaface": 0.4, "arcface": 0.5, "cosface": 0.4}
PUBLISHED_M |= {"curricularface": 0.5, "magface": 0.8, "subcenter_arcface": 0.5}
ALL = list(heads.HEADS)
NAMES = [name for name, head in heads.HEADS.items() if head.can_split]  # a margin on one cosine, and nothing else


def batch(size: int = 6, dim: int = 5, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = functional.normalize(torch.randn(size, dim, generator=generator), dim=1)
    norms = 5 + 30 * torch.rand(size, 1, generator=generator)
    return embeddings, norms, torch.randint(classes, (size,), generator=generator)


def reference(head: heads.MarginHead, name: str, embeddings: Tensor, norms: Tensor, labels: Tensor) -> np.ndarray:
    """Compute the logits one at a time in plain Python floats, from the head's present statistics."""
    eps, m = EPS[name], head.m * head.margin_scale
    logits = np.empty((len(labels), head.kernel.shape[1]))
    for b in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            column = head.kernel[:, c].tolist()
            dot = sum(x * w for x, w in zip(embeddings[b].tolist(), column, strict=True))
            cosine = dot / math.sqrt(sum(w * w for w in column))
            cosine = min(max(cosine, -1 + eps), 1 - eps)
            if c == labels[b]:
                if name == "cosface":
                    cosine -= m
                elif name == "arcface":
                    cosine = math.cos(min(max(math.acos(cosine) + m, eps), math.pi - eps))
                else:
                    n = min(max(norms[b].item(), 1e-3), 100.0)
                    z = head.h * (n - head.batch_mean.item()) / (head.batch_std.item() + eps)
                    z = min(max(z, -1), 1)
                    cosine = math.cos(min(max(math.acos(cosine) - m * z, eps), math.pi - eps)) - m * (1 + z)
            logits[b, c] = head.s * cosine
    return logits


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize("file", FILES)
def test_head_reproduces_the_reference_step_by_step(file: str) -> None:
    golden = {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(GOLDEN / f"{file}.npz").items()}
    name = file.split("_")[0]
    options = {key: golden[f"hp_{key}"].item() for key in ("m", "h", "s", "t_alpha") if f"hp_{key}" in golden}
    head = heads.build_head(name, 512, 37, **options)
    assert head.eps == golden["hp_eps"].item()
    if name == "adaface":
        assert head.batch_mean.tolist() == [golden["init_batch_mean"].item()]
        assert head.batch_std.tolist() == [golden["init_batch_std"].item()]
    head.kernel.data.copy_(golden["kernel"])
    for step in range(len(golden["loss"])):
        head.zero_grad()
        embeddings = golden["embeddings"][step].clone().requires_grad_()
        norms = golden["norms"][step].clone().requires_grad_()
        logits = head(embeddings, norms, golden["labels"][step])
        loss = functional.cross_entropy(logits, golden["labels"][step])
        loss.backward()
        torch.testing.assert_close(logits.detach(), golden["logits"][step], atol=4e-5, rtol=0)
        torch.testing.assert_close(loss.item(), golden["loss"][step].item(), atol=1e-4, rtol=0)
        assert norms.grad is None
        if name == "adaface":
            torch.testing.assert_close(head.batch_mean, golden["batch_mean"][step], atol=0, rtol=1e-6)
            torch.testing.assert_close(head.batch_std, golden["batch_std"][step], atol=0, rtol=1e-6)
    torch.testing.assert_close(embeddings.grad, golden["grad_embeddings"], atol=2e-6, rtol=0)
    torch.testing.assert_close(head.kernel.grad, golden["grad_kernel"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("margin_scale", [1.0, 0.3, 0.0])
def test_head_equals_the_scalar_reference(name: str, margin_scale: float) -> None:
    torch.manual_seed(0)
    head = heads.build_head(name, 5, 4).eval()
    head.margin_scale = margin_scale
    if name == "adaface":
        head.batch_mean.fill_(18.0)
        head.batch_std.fill_(3.0)  # narrow, so that some z are clipped at either end and some are not
    embeddings, norms, labels = batch(size=12)
    column = functional.normalize(head.kernel.detach(), dim=0)
    embeddings[0], embeddings[1] = column[:, labels[0]], -column[:, labels[1]]  # on the clamps
    logits = head(embeddings, norms, labels).detach()
    np.testing.assert_allclose(logits, reference(head, name, embeddings, norms, labels), atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_exact_away_from_the_clamps(name: str) -> None:
    torch.manual_seed(0)
    head = heads.build_head(name, 5, 4, s=4.0).double().eval()
    embeddings, norms, labels = batch()
    embeddings = embeddings.double().requires_grad_()

    def run(embeddings: Tensor, kernel: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"kernel": kernel}, (embeddings, norms.double(), labels))

    assert torch.autograd.gradcheck(run, (embeddings, head.kernel))


# ---------------------------------------------------------------- what every head promises


@pytest.mark.parametrize("name", ALL)
def test_none_is_the_published_margin(name: str) -> None:
    head = heads.build_head(name, 5, 4)
    assert head.m == PUBLISHED_M[name] and head.s == 64.0 and head.margin_scale == 1.0
    assert not hasattr(head, "h") or head.h == 0.333
    given_values = heads.build_head(name, 5, 4, m=0.2, h=0.5, s=32.0, t_alpha=0.5)
    assert (given_values.m, given_values.s) == (0.2, 32.0)
    if name == "adaface":
        assert (given_values.h, given_values.t_alpha) == (0.5, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_kernel_starts_as_unit_columns_in_every_direction(name: str) -> None:
    torch.manual_seed(0)
    kernel = heads.build_head(name, 64, 200).kernel
    assert kernel.shape == (64, 200) and kernel.requires_grad
    torch.testing.assert_close(kernel.norm(dim=0), torch.ones(200))
    assert abs(kernel.mean().item()) < 0.01 and kernel.min() < -0.15 < 0.15 < kernel.max()


@pytest.mark.parametrize("name", ALL)
def test_logits_are_float32_and_exact_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    head = heads.build_head(name, 64, 10).eval()
    embeddings, norms, labels = batch(dim=64, classes=10)
    expected = head(embeddings, norms, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(embeddings, norms, labels)
        half = head(embeddings.bfloat16(), norms, labels)
    assert found.dtype == half.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_margin_scale_changes_no_bit_and_none_removes_the_margin(name: str) -> None:
    torch.manual_seed(0)
    head = heads.build_head(name, 5, 4).eval()
    plain = heads.build_head(name, 5, 4, m=0.0).eval()
    plain.load_state_dict(head.state_dict())
    inputs = batch()
    published = head(*inputs)
    head.margin_scale = 0.5
    assert not torch.equal(head(*inputs), published)
    head.margin_scale = 0.0
    assert torch.equal(head(*inputs), plain(*inputs))
    cosine = 64 * inputs[0] @ functional.normalize(head.kernel, dim=0)
    torch.testing.assert_close(head(*inputs), cosine, atol=1e-3, rtol=0)
    head.margin_scale = 1.0
    assert torch.equal(head(*inputs), published)
    assert "margin_scale" not in head.state_dict()


@settings(max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 10_000),
    length=st.sampled_from([0.0, 1e-3, 1.0, 20.0, 99.0, 250.0]),
    place=st.sampled_from(["free", "on the class", "opposite"]),
    m=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_logits_and_gradients_are_finite_and_in_range(
    name: str, seed: int, length: float, place: str, m: float
) -> None:
    torch.manual_seed(seed)
    head = heads.build_head(name, 5, 4, m=m).train()
    embeddings, norms, labels = batch(seed=seed)
    norms[::2] = length
    if place != "free":
        column = functional.normalize(head.kernel.detach(), dim=0).T[labels]
        embeddings = column if place == "on the class" else -column
    embeddings.requires_grad_()
    logits = head(embeddings, norms, labels)
    functional.cross_entropy(logits, labels).backward()
    assert logits.isfinite().all() and embeddings.grad.isfinite().all() and head.kernel.grad.isfinite().all()
    true = torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], True)
    assert (logits[~true].abs() <= 64).all()
    assert (logits[true] <= 64).all() and (logits[true] >= -64 * (1 + 2 * m)).all()


@settings(max_examples=30)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 10_000))
def test_only_the_true_class_feels_the_margin(name: str, seed: int) -> None:
    head = heads.build_head(name, 5, 4).eval()
    embeddings, norms, labels = batch(seed=seed)
    other = (labels + 1) % 4
    a, b = head(embeddings, norms, labels), head(embeddings, norms, other)
    untouched = torch.ones_like(a, dtype=torch.bool)
    untouched.scatter_(1, labels[:, None], False).scatter_(1, other[:, None], False)
    assert torch.equal(a[untouched], b[untouched])


@pytest.mark.parametrize("name", ALL)
def test_a_margin_lowers_the_true_logit_of_an_average_image(name: str) -> None:
    torch.manual_seed(0)
    head = heads.build_head(name, 5, 4).eval()
    embeddings, norms, labels = batch()
    norms.fill_(20.0)
    with_margin = head(embeddings, norms, labels).gather(1, labels[:, None])
    head.margin_scale = 0.0
    assert (with_margin < head(embeddings, norms, labels).gather(1, labels[:, None])).all()


def test_logits_do_not_depend_on_the_length_of_a_kernel_column() -> None:
    head = heads.build_head("adaface", 5, 4).eval()
    inputs = batch()
    expected = head(*inputs)
    head.kernel.data.mul_(torch.tensor([0.01, 1, 7, 300]))
    torch.testing.assert_close(head(*inputs), expected, atol=1e-4, rtol=0)


def test_a_kernel_column_of_zeros_gives_no_nan() -> None:
    head = heads.build_head("arcface", 5, 4)
    head.kernel.data[:, 1] = 0
    embeddings, norms, labels = batch()
    logits = head(embeddings, norms, labels)
    functional.cross_entropy(logits, labels).backward()
    assert logits.isfinite().all() and head.kernel.grad.isfinite().all()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ALL)
def test_wrong_shapes_and_dtypes_are_refused(name: str) -> None:
    head = heads.build_head(name, 5, 6)
    embeddings, norms, labels = batch(size=6)
    with pytest.raises(ValueError, match=r"forward: norms must be \[B, 1\] to match embeddings \[6, 5\], got \[6\]"):
        head(embeddings, norms[:, 0], labels)
    with pytest.raises(ValueError, match=r"norms must be \[B, 1\]"):
        head(embeddings, norms[:1], labels)
    with pytest.raises(ValueError, match=r"embeddings must be \[B, 5\], got \[6, 4\]"):
        head(embeddings[:, :4], norms, labels)
    with pytest.raises(ValueError, match=r"labels must be \[B\] .* got \[6, 1\]"):
        head(embeddings, norms, labels[:, None])
    with pytest.raises(TypeError, match=r"labels must be int64, got torch\.int32"):
        head(embeddings, norms, labels.int())
    with pytest.raises(TypeError, match=r"embeddings must be floating, got torch\.int64"):
        head(embeddings.long(), norms, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "sphereface"},
            "unknown head 'sphereface', expected one of adaface, arcface, cosface, curricularface",
        ),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"embedding_size": 0}, "embedding_size must be at least 1, got 0"),
        ({"m": -0.1}, "m must be at least 0, got -0.1"),
        ({"m": math.nan}, "m must be at least 0, got nan"),
        ({"s": 0.0}, "s must be positive, got 0.0"),
        ({"h": -1.0}, "h must be at least 0, got -1.0"),
        ({"t_alpha": 1.5}, r"t_alpha must be in \[0, 1\], got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heads.build_head(**({"name": "adaface", "embedding_size": 5, "num_classes": 4} | arguments))
