"""TorchScript is read, never run: every tensor under its name, and what is no TorchScript's data refused."""

import io
import pickle
import random
import zipfile

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

import nets
from nets.files.torchscript import load_torchscript

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*deprecated.*", "ignore:Converting a tensor.*"
)


class Network(nn.Module):
    """Two modules that are one, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.head = nn.Linear(4, 5)
        self.register_buffer("steps", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean(dim=(2, 3)) + self.steps
        return self.head(self.again(self.first(x)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch) -> None:
    """Loading a TorchScript would run it."""
    for name in ("import_ir_module", "import_ir_module_from_buffer"):
        monkeypatch.setattr(torch._C, name, lambda *_: pytest.fail("a TorchScript was loaded"))


def export(model: nn.Module, how: str, path) -> None:
    example = torch.zeros(1, 3, 8, 8)
    with torch.no_grad():
        program = torch.jit.script(model) if how == "script" else torch.jit.trace(model, example)
    (torch.jit.freeze(program) if how == "frozen" else program).save(path)


def refusal(path) -> str:
    with pytest.raises(ValueError) as caught:
        nets.read_state_dict(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def rewritten(source, path, changes) -> None:
    """Copy an archive; `changes` has other content by the end of a member's name, None: left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = next((value for end, value in changes.items() if name.endswith(end)), old.read(name))
            if data is not None:
                new.writestr(name, data)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("how", ["script", "trace"])
def test_every_tensor_has_its_name_in_the_state_dict(tmp_path, network, how):
    export(network, how, tmp_path / "w.pt")
    file = nets.read_state_dict(tmp_path / "w.pt")
    assert file.metadata == {"format": "torchscript"} and file.color_space is None
    assert file.state_dict.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert torch.equal(file.state_dict[key], value) and file.state_dict[key].dtype == value.dtype, key


@pytest.mark.parametrize("how", ["script", "trace"])
def test_packed_linear_layers_give_weight_and_bias(tmp_path, network, how):
    quantized = quantize_dynamic(network, {nn.Linear})
    export(quantized, how, tmp_path / "q.pt")
    torch.save(quantized.state_dict(), tmp_path / "state.pt")
    found, expected = (nets.read_state_dict(tmp_path / name).state_dict for name in ("q.pt", "state.pt"))
    assert found.keys() == expected.keys() == network.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_packed_static_convolutions_give_weight_and_bias(tmp_path):
    model = nn.Sequential(torch.ao.quantization.QuantStub(), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1, bias=False)).eval()
    model.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(model)
    prepared(torch.randn(2, 3, 8, 8))
    export(torch.ao.quantization.convert(prepared), "trace", tmp_path / "q.pt")
    found = nets.read_state_dict(tmp_path / "q.pt").state_dict
    expected = dict(model.state_dict())
    assert found.keys() - expected.keys() <= {"2.bias"}  # a bias of zeros is what the layer keeps
    torch.testing.assert_close({key: found[key] for key in expected}, expected, atol=0.01, rtol=0)


# EdgeFace has a buffer that no state dict holds, but every TorchScript.
TRACED = ["ir_tiny", *(arch for arch in nets.MODELS if arch == "edgeface_xxs")]


@pytest.mark.parametrize("arch", TRACED)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_traced_backbone_loads_by_its_shapes(tmp_path, arch, prefix):
    torch.manual_seed(0)
    source, target = nets.build_model(arch, 8).eval(), nets.build_model(arch, 8)
    whole = nn.Sequential()
    whole.add_module("net", source)
    with torch.no_grad():
        program = torch.jit.trace(whole if prefix else source, torch.zeros(1, 3, 112, 112), check_trace=False)
    program.save(tmp_path / "w.pt")
    state = nets.read_state_dict(tmp_path / "w.pt").state_dict
    assert state.keys() >= {prefix + key for key in source.state_dict()}
    assert nets.infer_arch(state) == arch
    nets.load_weights(target, tmp_path / "w.pt", "rgb")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


# ---------------------------------------------------------------- what is refused


def test_a_frozen_one_has_no_names(tmp_path, network):
    export(network, "frozen", tmp_path / "w.pt")
    assert "holds no named tensors: frozen, as torch.jit.freeze leaves a TorchScript" in refusal(tmp_path / "w.pt")


MODULE = b"c__torch__\nM\n)\x81"  # a module without state
HOSTILE = {
    "a command": (b"cos\nsystem\n(X\x05\x00\x00\x00touchtR.", "names 'os.system'"),
    "a class with __reduce__": (b"cpathlib\nPath\n(X\x01\x00\x00\x00atR.", "names 'pathlib.Path'"),
    "an instruction": (b"(X\x05\x00\x00\x00touchios\nsystem\n.", "names 'os.system'"),
    "a class like ours": (b"c__torch__x\nM\n)\x81.", "names '__torch__x.M'"),
    "no name": (MODULE + b"}K\x01" + MODULE + b"sb.", "without a name"),
    "a module in itself": (MODULE + b"q\x00}X\x01\x00\x00\x00ah\x00sb.", "without an end"),
    "a nameless module in itself": (MODULE + b"q\x00}X\x00\x00\x00\x00h\x00sb.", ""),
    "half a pickle": (MODULE + b"}X", ""),
    "a number": (b"K\x01.", "no named tensors"),
    "nothing": (b"", ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_data_that_no_torchscript_has_is_refused_in_one_line(tmp_path, network, kind, monkeypatch):
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("a command was run"))
    export(network, "script", tmp_path / "plain.pt")
    opcodes, words = HOSTILE[kind]
    rewritten(tmp_path / "plain.pt", tmp_path / "w.pt", {"data.pkl": b"\x80\x02" + opcodes})
    assert words in refusal(tmp_path / "w.pt")


def test_modules_that_double_at_every_step_end(tmp_path, network):
    """2^40 paths to one tensor, in a few hundred bytes."""
    export(network, "script", tmp_path / "plain.pt")
    pickled = MODULE + b"q\x00}X\x01\x00\x00\x00wK\x01sb"
    for i in range(40):
        inner = b"h" + bytes([i])
        pickled += (
            MODULE + b"q" + bytes([i + 1]) + b"}(X\x01\x00\x00\x00a" + inner + b"X\x01\x00\x00\x00b" + inner + b"ub"
        )
    rewritten(tmp_path / "plain.pt", tmp_path / "w.pt", {"data.pkl": b"\x80\x02" + pickled + b"."})
    assert "without an end" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data/0": b"\0" * 8}, "storage '0' is cut short"),
        ({"data/0": None}, "KeyError"),
        ({"byteorder": b"big"}, "big-endian"),
        ({"data.pkl": None}, "expected one data.pkl"),
    ],
)
def test_damaged_archives_are_refused(tmp_path, network, changes, words):
    export(network, "script", tmp_path / "plain.pt")
    rewritten(tmp_path / "plain.pt", tmp_path / "w.pt", changes)
    assert words in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("member", ["data/0", "data.pkl", "byteorder"])
def test_what_is_read_is_not_compressed_though_the_code_is(tmp_path, network, member):
    export(network, "script", tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(tmp_path / "w.pt", "w") as new:
        assert any(info.compress_type == zipfile.ZIP_DEFLATED for info in old.infolist())
        for name in old.namelist():
            kind = zipfile.ZIP_DEFLATED if name.endswith(member) else zipfile.ZIP_STORED
            new.writestr(name, old.read(name), kind)
    assert f"{member}' is compressed" in refusal(tmp_path / "w.pt")


def test_a_program_with_code_at_loading_is_read_without_it(tmp_path):
    class Speaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(3.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

        @torch.jit.export
        def __getstate__(self) -> tuple[Tensor, bool]:
            return self.weight, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[Tensor, bool]) -> None:
            raise RuntimeError("code was run")

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Speaking()), buffer)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    assert "is packed in a way that is not read" in refusal(tmp_path / "w.pt")


def test_two_tensors_of_one_name_are_refused(tmp_path, network, monkeypatch):
    tensor = torch.zeros(2)
    monkeypatch.setattr("nets.files.torchscript.load_inert", lambda *_: None)
    monkeypatch.setattr("nets.files.torchscript._named", lambda *_: iter([("a", tensor), ("a", tensor)]))
    with pytest.raises(pickle.UnpicklingError, match="two tensors of one name"):
        load_torchscript(tmp_path)


# ---------------------------------------------------------------- changed bytes


@pytest.mark.parametrize("kind", ["script", "quantized script", "quantized state", "state in a foreign pickle"])
def test_changed_bytes_are_read_or_refused_in_one_line(tmp_path, network, kind):
    source, path = tmp_path / "plain.pt", tmp_path / "w.pt"
    quantized = quantize_dynamic(network, {nn.Linear})
    match kind:
        case "script" | "quantized script":
            export(network if kind == "script" else quantized, "script", source)
        case "quantized state":
            torch.save({"model": quantized.state_dict(), "epoch": 3}, source)
        case _:
            torch.save({"state_dict": network.state_dict(), "args": random.Random(0)}, source)
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if "/code/" not in name}
    (pickled,) = (name for name in members if name.endswith("data.pkl"))
    whole, refused = source.read_bytes(), 0
    for seed in range(200):
        rng = random.Random(f"{kind} {seed}")
        if seed % 4 == 0:  # anywhere in the file: mostly a wrong checksum
            changed = bytearray(whole)
            changed[rng.randrange(len(changed))] = rng.randrange(256)
            path.write_bytes(changed)
        else:
            data = bytearray(members[pickled])
            for _ in range(rng.choice((1, 1, 2, 5))):
                data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), *b"Kqh)t\x85\x86\x81Rb.su"))
            with zipfile.ZipFile(path, "w") as new:
                for name, content in (members | {pickled: bytes(data)}).items():
                    new.writestr(name, content)
        try:
            nets.infer_arch(nets.read_state_dict(path).state_dict)
        except ValueError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1, (seed, error)
    assert refused == 200  # none of them is a backbone
