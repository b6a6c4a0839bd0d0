"""Quantized weights become float ones: by golden vectors, torch's own numbers, and published files."""

import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from programs import ROOT
from torch import nn
from torch.ao.quantization import quantize_dynamic

import models
import nets
from nets.files.quantized import dequantized

GOLDEN = ROOT / "tests" / "golden" / "quantized"
SHARED = ROOT.parent / "shared" / "data" / "weights"
PUBLISHED = {"edgeface_xxs": 160, "edgeface_xs": 214}  # tensors of the float network

quantizing = pytest.mark.filterwarnings("ignore:.*deprecated.*", "ignore:.*quantize_per.*")


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return nets.read_state_dict(path)


def refusal(path, content):
    torch.save(content, path)
    with pytest.raises(ValueError) as caught:
        nets.read_state_dict(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_dynamically_quantized_state_dict_gives_the_golden_float_network():
    golden = load_golden("quantized/expected.npz")
    file = read(GOLDEN / "dynamic_int8_state.pt")
    assert file.state_dict.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"} and file.metadata == {}
    for key, value in file.state_dict.items():
        np.testing.assert_array_equal(value, golden[key])
    network = nn.Sequential(nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 8, bias=False))
    network.load_state_dict(file.state_dict)
    with torch.no_grad():
        found = network(torch.from_numpy(golden["input"]))
    np.testing.assert_allclose(found, golden["output_dequantised"], atol=1e-6)


def test_a_weight_quantized_by_channel_gives_the_golden_one():
    file = read(GOLDEN / "per_channel_state.pt")
    assert file.state_dict.keys() == {"fc.weight", "fc.bias"}
    np.testing.assert_array_equal(
        file.state_dict["fc.weight"], load_golden("quantized/expected.npz")["per_channel_weight"]
    )


@quantizing
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_every_scheme_gives_the_numbers_of_torch(tmp_path, dtype, axis):
    weight = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    if axis is None:
        quantized = torch.quantize_per_tensor(weight, 0.02, 7, dtype)
    else:
        size = weight.shape[axis]
        scales, zeros = torch.linspace(0.01, 0.05, size, dtype=torch.float64), torch.arange(size)
        quantized = torch.quantize_per_channel(weight, scales, zeros, axis, dtype)
    # A view and its transpose: strides are those of the integers.
    torch.save(
        {"net": {"a": quantized, "b": quantized[1:].transpose(1, 2) if axis is None else quantized}}, tmp_path / "q"
    )
    found = read(tmp_path / "q").state_dict
    assert torch.equal(found["net.a"], quantized.dequantize())
    assert found["net.b"].shape == ((4, 3, 4) if axis is None else weight.shape)
    assert axis is not None or torch.equal(found["net.b"], quantized.dequantize()[1:].transpose(1, 2))


@quantizing
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_quantized_backbone_loads_like_the_float_one(tmp_path, container, prefix):
    torch.manual_seed(0)
    source, target = nets.build_model("ir_tiny", 8).eval(), nets.build_model("ir_tiny", 8).eval()
    quantized = quantize_dynamic(source, {nn.Linear})
    state = {prefix + key: value for key, value in quantized.state_dict().items()}
    torch.save(state if container is None else {container: state, "epoch": 3}, tmp_path / "q.pt")
    assert nets.infer_arch(read(tmp_path / "q.pt").state_dict) == "ir_tiny"
    nets.load_weights(target, tmp_path / "q.pt", "rgb")
    for key, value in source.state_dict().items():
        error = (target.state_dict()[key] - value).abs().max()
        assert 0 < error < value.abs().max() / 127 if key == "output_layer.3.weight" else error == 0, key


@quantizing
def test_a_statically_quantized_state_dict_keeps_weights_and_biases_alone(tmp_path):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.quant, self.conv, self.fc = torch.ao.quantization.QuantStub(), nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(self.conv(self.quant(x)).mean((2, 3)))

    network = Network().eval()
    network.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(network)
    prepared(torch.randn(2, 3, 8, 8))
    torch.save(torch.ao.quantization.convert(prepared).state_dict(), tmp_path / "q.pt")
    state = read(tmp_path / "q.pt").state_dict
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in network.state_dict().items()}
    torch.testing.assert_close(state, dict(network.state_dict()), atol=0.01, rtol=0)


@pytest.mark.parametrize("arch", PUBLISHED)
def test_the_published_quantized_edgeface_has_every_tensor_of_the_float_one(arch):
    path = SHARED / f"{arch}_q.pt"
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine")
    file = read(path)
    assert len(file.state_dict) == PUBLISHED[arch] and file.metadata == {}
    assert all(value.dtype == torch.float32 for value in file.state_dict.values())
    assert not any(word in key for key in file.state_dict for word in ("packed", "zero_point", ".scale"))


@pytest.mark.parametrize("arch", [arch for arch in PUBLISHED if arch in nets.MODELS])
def test_the_published_quantized_edgeface_loads_without_being_named(arch):
    path = SHARED / f"{arch}_q.pt"
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine")
    model = models.load(path, color_space="rgb")
    assert model.arch == arch
    faces = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert 0.1 < model.model(faces).norm.min() < 10


# ---------------------------------------------------------------- what is refused


@quantizing
@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("0._packed_params._packed_params", (torch.zeros(2, 2), None, 3)),
        ("0._packed_params._packed_params", (torch.zeros(2, 2), "bias")),
        ("0._packed_params._packed_params", [torch.zeros(2, 2), None]),
        ("0._packed_params.other", (torch.zeros(2, 2), None)),
        ("0.packed", (torch.zeros(2, 2), None)),
    ],
)
def test_what_is_no_weight_and_bias_is_refused_by_name(tmp_path, entry, value):
    assert f"{entry!r} is of type" in refusal(tmp_path / "w.pt", {"1.weight": torch.zeros(2), entry: value})


@quantizing
def test_a_weight_that_is_there_twice_is_refused(tmp_path):
    packed = {"0._packed_params._packed_params": (torch.zeros(2, 2), None), "0.weight": torch.zeros(2, 2)}
    assert "'0._packed_params._packed_params' is of type" in refusal(tmp_path / "w.pt", packed)


@quantizing
def test_the_format_before_torch_1_6_is_refused_if_it_is_quantized(tmp_path):
    quantized = torch.quantize_per_tensor(torch.zeros(3, 3), 0.1, 0, torch.qint8)
    torch.save({"a.weight": quantized}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"w\.pt: .*quantized, in the format before torch 1.6: save it again"):
        nets.read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "quantizer",
    [
        (),
        None,
        ("per_tensor_affine", 0.1),
        ("per_tensor_affine", "0.1", 0),
        ("per_channel_affine_float_qparams", torch.ones(3), torch.zeros(3), 0),
        ("per_channel_affine", torch.ones(2), torch.zeros(2), 0),
        ("per_channel_affine", torch.ones(3), torch.zeros(2), 0),
        ("per_channel_affine", torch.ones(3), torch.zeros(3), 2),
        ("per_channel_affine", torch.ones(3), torch.zeros(3), -1),
        ("per_channel_affine", torch.ones(3, 1), torch.zeros(3, 1), 0),
    ],
)
def test_scales_that_do_not_fit_are_refused(quantizer):
    with pytest.raises(pickle.UnpicklingError, match="quantized"):
        dequantized(torch.zeros(3, 4, dtype=torch.int8), quantizer)


@pytest.mark.parametrize("times", [1, 50])
def test_integers_are_not_made_floats_more_often_than_the_file_is_long(tmp_path, times):
    """A few bytes name the same storage once more, and each time four bytes come of one."""
    storage, size = torch.zeros(4096, dtype=torch.int8), b"M\x00\x10"
    torch.save({"a": storage}, tmp_path / "plain.pt")
    tensor = b"ctorch._utils\n_rebuild_qtensor\n((X\x07\x00\x00\x00storagectorch\nQInt8Storage\nX\x01\x00\x00\x000"
    tensor += b"X\x03\x00\x00\x00cpu" + size + b"tQK\x00" + size + b"\x85K\x01\x85ctorch\nper_tensor_affine\n"
    tensor += b"G\x3f\xf0\x00\x00\x00\x00\x00\x00K\x00\x87\x89NtR"
    entries = b"".join(b"X\x02\x00\x00\x00%02d" % i + tensor for i in range(times))
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(tmp_path / "w.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"\x80\x02}(" + entries + b"u." if name.endswith("data.pkl") else old.read(name))
    if times == 1:
        assert torch.equal(read(tmp_path / "w.pt").state_dict["00"], torch.zeros(4096))
    else:
        with pytest.raises(ValueError, match=r"w\.pt: .*quantized tensors of more numbers than are stored"):
            nets.read_state_dict(tmp_path / "w.pt")
