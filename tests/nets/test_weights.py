"""Reading weights: every kind of file, strictly, in the right color order, and executing nothing."""

import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import nets
from nets.files.inert_pickle import load_inert

SIZE = 8  # of the embedding: keeps the files small


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(1)
    return nets.build_model("ir_tiny", SIZE).eval()


@pytest.fixture
def target() -> nn.Module:
    torch.manual_seed(2)
    return nets.build_model("ir_tiny", SIZE).eval()


class Touch:
    """Pickles to a call that creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def prefixed(model: nn.Module) -> dict[str, Tensor]:
    return {f"model.{key}": value for key, value in model.state_dict().items()}


def save_foreign(path: Path, content: dict[str, object]) -> None:
    """Write `content` beside what Lightning 1.x stores, in classes that exist only while the file is written."""
    name = "vanished_training_code"
    module = types.ModuleType(name)
    bases = {"Namespace": object, "AttributeDict": dict, "Callback": object, "Steps": list}
    kinds = {kind: type(kind, (base,), {"__module__": name}) for kind, base in bases.items()}
    vars(module).update(kinds)
    namespace = kinds["Namespace"]()
    vars(namespace)["arch"] = "ir_50"
    objects = {
        "hyper_parameters": kinds["AttributeDict"](arch="ir_50", args=namespace),
        "callbacks": {kinds["Callback"]: {"best": torch.tensor(0.5), "path": Path("best.ckpt")}},
        "steps": kinds["Steps"]([1, 2]),
        "seen": {1, 2},
        "epoch": 25,
    }
    sys.modules[name] = module
    try:
        torch.save({**content, **objects}, path)
    finally:
        del sys.modules[name]


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    for (key, a), b in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


# ---------------------------------------------------------------- kinds of files


@pytest.mark.parametrize("kind", ["pt", "legacy", "ckpt", "safetensors", "foreign"])
def test_every_kind_of_file_loads_every_tensor(tmp_path: Path, source: nn.Module, target: nn.Module, kind: str) -> None:
    path = tmp_path / {"safetensors": "w.safetensors"}.get(kind, "w.ckpt")
    head = {"head.kernel": torch.randn(SIZE, 5), "occlusion_head.layers.0.weight": torch.randn(3)}
    match kind:
        case "pt":
            torch.save(source.state_dict(), path)
        case "legacy":
            torch.save(source.state_dict(), path, _use_new_zipfile_serialization=False)
        case "ckpt":
            torch.save({"state_dict": prefixed(source) | head, "color_space": "rgb", "hyper_parameters": {}}, path)
        case "safetensors":
            save_file(source.state_dict(), path, metadata={"color_space": "rgb"})
        case "foreign":
            save_foreign(path, {"state_dict": OrderedDict(prefixed(source) | head)})
    nets.load_weights(target, path, color_space="rgb")
    assert_same_weights(target, source)


def test_reading_reports_what_the_file_states(tmp_path: Path, source: nn.Module) -> None:
    path = tmp_path / "own.ckpt"
    torch.save({"state_dict": prefixed(source), "color_space": "rgb", "hyper_parameters": {}, "epoch": 3}, path)
    file = nets.read_state_dict(path)
    assert file.color_space == "rgb" and file.is_own and file.metadata["epoch"] == 3
    assert list(file.state_dict) == list(prefixed(source))

    path = tmp_path / "bare.pt"
    torch.save(source.state_dict(), path)
    file = nets.read_state_dict(path)
    assert file.color_space is None and not file.is_own and file.metadata == {}


def test_half_precision_weights_are_lifted_to_the_models_dtype(
    tmp_path: Path, source: nn.Module, target: nn.Module
) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    nets.load_weights(target, tmp_path / "w.pt", "rgb")
    weight = target.state_dict()["input_layer.0.weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, source.state_dict()["input_layer.0.weight"], atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------- foreign pickles


def test_foreign_objects_become_inert_and_tensors_survive(tmp_path: Path) -> None:
    weight = torch.arange(24.0).reshape(4, 6)
    state = {"a": weight, "view": weight[1:, ::2], "t": weight.T, "empty": torch.empty(0, 3), "n": torch.tensor(7)}
    state |= {"half": weight.half(), "bf16": weight.bfloat16(), "flag": weight > 3, "param": nn.Parameter(weight)}
    save_foreign(tmp_path / "f.ckpt", {"state_dict": state})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "f.ckpt", weights_only=True)
    file = nets.read_state_dict(tmp_path / "f.ckpt")
    assert file.metadata["epoch"] == 25 and not file.is_own
    assert type(file.metadata["hyper_parameters"]).__name__ == "Inert"
    assert file.state_dict.keys() == state.keys()
    for key, value in state.items():
        assert file.state_dict[key].dtype == value.dtype and torch.equal(file.state_dict[key], value), key
    assert "vanished_training_code" not in sys.modules


def test_reading_a_malicious_file_executes_nothing(tmp_path: Path, source: nn.Module, target: nn.Module) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": prefixed(source), "hyper_parameters": Touch(marker)}, path)
    nets.load_weights(target, path, "bgr")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the same file does act when it is trusted
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_place_of_a_tensor_is_not_executed(tmp_path: Path, source: nn.Module, zipped: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    state = {**source.state_dict(), "input_layer.0.weight": Touch(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil\.pt: ('input_layer.0.weight' is of type Inert, not|damaged or not)"):
        nets.load_weights(nets.build_model("ir_tiny", SIZE), path, "rgb")
    assert not marker.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\nexec\n(S'open(MARKER, \"w\")'\ntR.",
        b"cos\nsystem\n(S'touch MARKER'\ntR.",
        b"(S'touch MARKER'\nios\nsystem\n.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'__code__'\nI1\nsb.",
        b"ccollections\nOrderedDict\n(N}S'update'\ncos\nsystem\nstb.",
    ],
)
def test_handwritten_pickles_reach_nothing(tmp_path: Path, opcodes: bytes) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", opcodes.replace(b"MARKER", str(marker).encode()))
        archive.writestr("w/version", "3")
    update = OrderedDict.update
    with pytest.raises(ValueError, match=r"w\.ckpt: "):
        nets.read_state_dict(path)
    assert not marker.exists()
    assert OrderedDict.update is update
    assert not vars(torch._utils._rebuild_tensor_v2)


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    save_foreign(tmp_path / "w.ckpt", {"state_dict": {"a": torch.arange(4.0)}})
    with zipfile.ZipFile(tmp_path / "w.ckpt") as old, zipfile.ZipFile(tmp_path / "short.ckpt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(ValueError, match=r"short\.ckpt: damaged or not a weight file"):
        nets.read_state_dict(tmp_path / "short.ckpt")


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    save_foreign(tmp_path / "w.ckpt", {"state_dict": {"a": torch.arange(4.0)}})
    with zipfile.ZipFile(tmp_path / "w.ckpt") as old, zipfile.ZipFile(tmp_path / "big.ckpt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(pickle.UnpicklingError, match="big-endian"):
        load_inert(tmp_path / "big.ckpt")


# ---------------------------------------------------------------- color order


def test_bgr_weights_see_a_red_image_as_the_rgb_network_sees_the_swapped_one(
    tmp_path: Path, source: nn.Module, target: nn.Module
) -> None:
    torch.save(source.state_dict(), tmp_path / "adaface.pt")
    nets.load_weights(target, tmp_path / "adaface.pt", color_space="bgr")
    red = torch.full((1, 3, 112, 112), -1.0)
    red[:, 0, 20:90] = 1
    with torch.no_grad():
        found = target(red).embedding
        torch.testing.assert_close(found, source(red.flip(1)).embedding, atol=1e-5, rtol=0)
        assert (found - source(red).embedding).abs().max() > 1e-3
    # Once: loading leaves the file's tensors alone, so a second model gets the same order.
    again = nets.build_model("ir_tiny", SIZE)
    nets.load_weights(again, tmp_path / "adaface.pt", color_space="bgr")
    assert_same_weights(again, target)


@pytest.mark.parametrize("arch", ["ir_18", "mobilefacenet", "insightface_r18"])
def test_the_first_convolution_is_the_one_that_is_reversed(tmp_path: Path, arch: str) -> None:
    model = nets.build_model(arch, SIZE)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(model.state_dict(), tmp_path / "w.pt")
    nets.load_weights(model, tmp_path / "w.pt", "bgr")
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    assert changed == [f"{first}.weight"]


def test_an_unstated_order_must_be_given(tmp_path: Path, source: nn.Module, target: nn.Module) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt: does not state its channel order; pass color_space='bgr'"):
        nets.load_weights(target, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="color_space must be 'rgb' or 'bgr', got 'RGB'"):
        nets.load_weights(target, tmp_path / "w.pt", "RGB")


def test_a_contradicted_order_is_refused(tmp_path: Path, source: nn.Module, target: nn.Module) -> None:
    path = tmp_path / "own.ckpt"
    torch.save({"state_dict": prefixed(source), "color_space": "rgb"}, path)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"own\.ckpt: states color_space 'rgb', but 'bgr' was given"):
        nets.load_weights(target, path, "bgr")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    nets.load_weights(target, path)
    assert_same_weights(target, source)


def test_an_unknown_stated_order_is_refused(tmp_path: Path, source: nn.Module) -> None:
    torch.save({"state_dict": source.state_dict(), "color_space": "yuv"}, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match="states color_space 'yuv', expected 'rgb' or 'bgr'"):
        nets.read_state_dict(tmp_path / "w.ckpt")


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("arch", list(nets.MODELS))
def test_infer_arch_names_every_architecture_and_its_embedding_size(arch: str) -> None:
    with torch.device("meta"):
        state = nets.build_model(arch, 40).state_dict()
    assert nets.infer_arch(state) == arch
    assert nets.infer_arch({f"model.{key}": value for key, value in state.items()} | {"head.t": torch.zeros(1)}) == arch
    assert nets.infer_embedding_size(state) == 40


def test_infer_arch_refuses_what_fits_nothing() -> None:
    with pytest.raises(ValueError, match=r"fit none of ir_18.*2 tensors, first: a, b"):
        nets.infer_arch({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"no matrix output_layer\.3\.weight"):
        nets.infer_embedding_size({"a": torch.zeros(1)})


def test_another_architecture_is_refused_in_one_line_that_names_both(tmp_path: Path, target: nn.Module) -> None:
    torch.save(nets.build_model("mobilefacenet", SIZE).state_dict(), tmp_path / "w.pt")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"w\.pt: looks like mobilefacenet .*, but the model is ir_tiny") as caught:
        nets.load_weights(target, tmp_path / "w.pt", "rgb")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_another_embedding_size_is_refused(tmp_path: Path, source: nn.Module) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"embedding size 8, but the model is ir_tiny with embedding size 9: 4 of ano"):
        nets.load_weights(nets.build_model("ir_tiny", 9), tmp_path / "w.pt", "rgb")


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_keys_must_agree(tmp_path: Path, source: nn.Module, target: nn.Module, change: str) -> None:
    state = dict(source.state_dict())
    if change == "missing":
        del state["body.0.res_layer.3.weight"]
    else:
        state["body.0.res_layer.9.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=rf"w\.pt: looks like no architecture of ours.*: 1 {change} \(body\.0\.res"):
        nets.load_weights(target, tmp_path / "w.pt", "rgb")


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "foreign.ckpt"])
@pytest.mark.parametrize("damage", ["half", "tail", "head", "empty", "noise", "folder"])
def test_damaged_files_give_one_line(tmp_path: Path, source: nn.Module, name: str, damage: str) -> None:
    path = tmp_path / name
    match name:
        case "w.pt":
            torch.save(source.state_dict(), path)
        case "w.safetensors":
            save_file(source.state_dict(), path)
        case _:
            save_foreign(path, {"state_dict": source.state_dict()})
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
        with pytest.raises(FileNotFoundError, match="no such weight file"):
            nets.read_state_dict(path)
        return
    noise = bytes(torch.randint(256, (4096,), generator=torch.Generator().manual_seed(0)).tolist())
    path.write_bytes(
        {"half": data[: len(data) // 2], "tail": data[:-40], "head": data[64:], "empty": b"", "noise": noise}[damage]
    )
    with pytest.raises(ValueError, match=f"{name}: ") as caught:
        nets.read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_inside_a_foreign_file_is_noticed(tmp_path: Path, source: nn.Module) -> None:
    path = tmp_path / "foreign.ckpt"
    save_foreign(path, {"state_dict": source.state_dict()})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"foreign\.ckpt: damaged"):
        nets.read_state_dict(path)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], {"epoch": 3}, {"state_dict": 5}])
def test_files_without_tensors_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt: holds no named tensors"):
        nets.read_state_dict(tmp_path / "w.pt")


def test_a_missing_file_is_named(tmp_path: Path, target: nn.Module) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such weight file"):
        nets.load_weights(target, tmp_path / "none.pt", "rgb")
