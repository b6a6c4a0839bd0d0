"""Weights as people have them: in dicts, under prefixes, in half precision; and files that are no plain weights."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mutations import mutated
from programs import ROOT
from torch import Tensor, nn

import nets

SIZE = 8
PREFIXES = ("", "module.", "_orig_mod.", "model._orig_mod.", "model.module.", "backbone.", "net.", "model.net.")
MORE_PREFIXES = ("features.", "encoder.", "a.b_c.0.", "body.", "input_layer.")
CONTAINERS = (("model",), ("model_state_dict",), ("state_dict",), ("net",), ("backbone",), ("checkpoint", "model"))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return nets.build_model("ir_tiny", SIZE).state_dict()


@pytest.fixture
def target() -> nn.Module:
    torch.manual_seed(2)
    return nets.build_model("ir_tiny", SIZE).eval()


def load(target: nn.Module, path: Path, content: object) -> None:
    torch.save(content, path)
    nets.load_weights(target, path, "rgb")


def refusal(target: nn.Module, path: Path, content: object) -> str:
    with pytest.raises(ValueError) as caught:
        load(target, path, content)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message


def assert_holds(target: nn.Module, state: dict[str, Tensor]) -> None:
    torch.testing.assert_close(target.state_dict(), state, rtol=0, atol=0)


# ---------------------------------------------------------------- prefixes and containers


@pytest.mark.parametrize("container", [(), *CONTAINERS])
@pytest.mark.parametrize("prefix", [*PREFIXES, *MORE_PREFIXES])
def test_one_prefix_is_taken_off_and_dicts_are_opened(tmp_path, state, target, prefix, container):
    content = {prefix + key: value for key, value in state.items()}
    for name in reversed(container):
        content = {name: content, "epoch": 3, "args": {"lr": 0.1}, "best": torch.tensor(0.5)}
    load(target, tmp_path / "w.pt", content)
    assert_holds(target, state)
    assert nets.infer_arch(nets.read_state_dict(tmp_path / "w.pt").state_dict) == "ir_tiny"


@pytest.mark.parametrize("beside", [None, "state_dict"])
@pytest.mark.parametrize("container", ["backbone_state_dict", "model_state_dict", "model", "net", "backbone", "ema"])
@pytest.mark.parametrize("prefix", ["core.", "module._orig_mod.", "features.module.", "encoder.net."])
def test_weights_are_found_in_every_container_also_beside_others(tmp_path, state, target, prefix, container, beside):
    content = {container: {prefix + key: value for key, value in state.items()}, "optimizer": {"lr": 0.1}}
    content |= {beside: {"head.weight": torch.zeros(5, SIZE)}} if beside else {}
    load(target, tmp_path / "w.pt", content)
    assert_holds(target, state)


@pytest.mark.parametrize("container", ["ema", "model"])
def test_a_second_backbone_beside_the_state_dict_is_refused_by_name(tmp_path, state, target, container):
    copied = {f"net.{key}": value + 0 for key, value in state.items()}
    message = refusal(target, tmp_path / "w.pt", {"state_dict": state, container: copied, "callbacks": copied})
    assert f"holds 2 backbones: *, {container}.net.*;" in message


def test_one_state_dict_under_two_names_is_one(tmp_path, state, target):
    load(target, tmp_path / "w.pt", {"state_dict": state, "model": state})
    assert_holds(target, state)


def test_a_teacher_of_another_architecture_is_a_second_backbone(tmp_path, state, target):
    """It has ten times the keys: which one is meant is not a question of their number."""
    with torch.device("meta"):
        teacher = {f"teacher.{key}": torch.zeros(1, device="cpu") for key in nets.build_model("ir_101").state_dict()}
    message = refusal(target, tmp_path / "w.pt", {f"model.{key}": value for key, value in state.items()} | teacher)
    assert "holds 2 backbones: model.*, teacher.*;" in message


EDGEFACES = [arch for arch in nets.MODELS if arch.startswith("edgeface_")]


@pytest.mark.parametrize("arch", EDGEFACES)
@pytest.mark.parametrize("prefix", ["", "model.", "model.model.", "core.model.", "module.model."])
def test_edgeface_is_found_with_and_without_the_model_of_its_public_keys(arch, prefix):
    """Its files say `model.stem`, ours `stem`, and a net called `model` in a module gives `model.stem` again."""
    with torch.device("meta"):
        state = nets.build_model(arch, 48).state_dict()
    keys = {prefix + key: value for key, value in state.items()} | {"heads.0.kernel": torch.zeros(48, 3)}
    assert nets.backbone_state(keys).keys() == state.keys() | ({"heads.0.kernel"} if not prefix else set())
    del keys["heads.0.kernel"]
    assert nets.infer_arch(keys) == arch and nets.infer_embedding_size(keys) == 48


def test_a_training_checkpoint_with_optimizer_and_head_gives_its_backbone(tmp_path, state, target):
    model = {**{f"net.{key}": value for key, value in state.items()}, "head.weight": torch.zeros(5, SIZE)}
    optimizer = torch.optim.AdamW(target.parameters())
    sum(p.sum() for p in target.parameters()).backward()
    optimizer.step()
    load(target, tmp_path / "w.pt", {"model": model, "optimizer": optimizer.state_dict(), "scaler": {"scale": 2.0}})
    assert_holds(target, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path, state, target, dtype):
    load(target, tmp_path / "w.pt", {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()})
    lifted = {k: v.to(dtype).float() if v.is_floating_point() else v for k, v in state.items()}
    assert_holds(target, lifted)


def test_counters_of_batch_norms_may_be_missing(tmp_path, state, target):
    load(target, tmp_path / "w.pt", {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
    assert_holds(target, {k: v if not k.endswith("num_batches_tracked") else 0 * v for k, v in state.items()})


@pytest.mark.parametrize(
    ("first", "second"), [("model.", "model_ema."), ("encoder_k.", "encoder_q."), ("", "ema."), ("student.", "x.y.")]
)
@pytest.mark.parametrize("nested", [False, True])
def test_two_backbones_are_refused_by_name(tmp_path, state, target, first, second, nested):
    content: dict = {}
    for prefix in (first, second):
        part = {key: value + 0 for key, value in state.items()}
        whole = prefix and nested
        content |= {prefix[:-1]: part} if whole else {prefix + key: value for key, value in part.items()}
    message = refusal(target, tmp_path / "w.pt", content)
    assert f"holds 2 backbones: {first}*, {second}*" in message
    with pytest.raises(ValueError, match="2 backbones"):
        nets.infer_arch(nets.read_state_dict(tmp_path / "w.pt").state_dict)


@pytest.mark.parametrize("prefix", ["", "net."])
def test_the_first_missing_extra_and_misshapen_key_are_named(tmp_path, state, target, prefix):
    keys = {prefix + key: value for key, value in state.items()}
    del keys[f"{prefix}body.0.res_layer.3.weight"]
    keys[f"{prefix}body.0.res_layer.9.weight"] = torch.zeros(3)
    keys[f"{prefix}input_layer.0.weight"] = torch.zeros(16, 4, 3, 3)
    message = refusal(target, tmp_path / "w.pt", keys)
    for words in ("1 missing (body.0.res_layer.3.", "1 unexpected (body.0.res_layer.9.", "1 of another shape (input_"):
        assert words in message
    with pytest.raises(ValueError, match=r"nearest is ir_tiny: 1 missing \(body\.0"):
        nets.infer_arch(nets.read_state_dict(tmp_path / "w.pt").state_dict)


# ---------------------------------------------------------------- what is no plain weight


STRANGERS = {
    "a number": 0.5,
    "none": None,
    "text": "float32",
    "a list": [torch.zeros(2)],
    "a type": torch.float32,
    "sparse": torch.zeros(16, 3, 3, 3).to_sparse(),
    "without numbers": torch.zeros(16, 3, 3, 3, device="meta"),
    "expanded": torch.zeros(1).expand(16, 3, 3, 3),
    "a giant": torch.zeros(1).expand(10**6, 10**6),
    "integers": torch.zeros(16, 3, 3, 3, dtype=torch.int8),
    "complex": torch.zeros(16, 3, 3, 3, dtype=torch.complex64),
    "float8": torch.zeros(16, 3, 3, 3).to(torch.float8_e4m3fn),
    "nan": torch.full((16, 3, 3, 3), float("nan")),
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_anything_but_a_whole_tensor_of_numbers_is_refused_by_name(tmp_path, state, target, kind, prefix):
    before = {key: value.clone() for key, value in target.state_dict().items()}
    content = {prefix + key: value for key, value in state.items()} | {f"{prefix}input_layer.0.weight": STRANGERS[kind]}
    assert "input_layer.0.weight" in refusal(target, tmp_path / "w.pt", content)
    assert_holds(target, before)


# ---------------------------------------------------------------- hostile archives


def rewrite(source: Path, path: Path, change, compression=zipfile.ZIP_STORED) -> None:
    """Copy an archive with the content of its members changed by `change(name, data)`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path, state, target):
    torch.save(state, tmp_path / "plain.pt")
    rewrite(tmp_path / "plain.pt", tmp_path / "w.pt", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"w\.pt: damaged .* is compressed"):
        nets.load_weights(target, tmp_path / "w.pt", "rgb")


def test_a_storage_that_claims_more_than_is_there_is_refused(tmp_path, state, target):
    torch.save(state, tmp_path / "plain.pt")
    cut = {"plain/data/0": b"\0" * 8}
    rewrite(tmp_path / "plain.pt", tmp_path / "w.pt", lambda name, data: cut.get(name, data))
    with pytest.raises(ValueError, match=r"w\.pt: "):
        nets.load_weights(target, tmp_path / "w.pt", "rgb")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path, state, target):
    torch.save(state, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr("w/data/0", b"")
    with pytest.raises(ValueError, match=r"w\.pt: damaged .* two members of one name"):
        nets.load_weights(target, tmp_path / "w.pt", "rgb")


def test_dicts_that_hold_themselves_end(tmp_path, target):
    content: dict = {"a": torch.zeros(2)}
    content |= {f"again{i}": content for i in range(200)}
    assert "fit" in refusal_of_any(target, tmp_path / "w.pt", content)


def refusal_of_any(target: nn.Module, path: Path, content: object) -> str:
    torch.save(content, path)
    with pytest.raises(ValueError) as caught:
        nets.infer_arch(nets.read_state_dict(path).state_dict)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing", "sparse"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, target, kind):
    path = tmp_path / "w.pt"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "sparse":
            with path.open("wb") as stream:
                stream.truncate(2**42)
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        nets.load_weights(target, path, "rgb")
    words = {"sparse": "damaged or not", "nothing": "no such weight file"}.get(kind, f"but a {kind}")
    assert words in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("opcodes", [b"\x80\x02]", b"\x80\x02K\x01.", b"\x80\x02}(X\x01\x00\x00\x00a]K\x01K\x02u."])
def test_pickles_of_nonsense_are_one_line(tmp_path, target, opcodes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w/data.pkl", opcodes)
        archive.writestr("w/version", "3")
    for content in (buffer.getvalue(), opcodes, pickle.dumps({"a": 1})):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"w\.pt: "):
            nets.load_weights(target, tmp_path / "w.pt", "rgb")


def test_a_run_folder_given_for_a_checkpoint_is_answered_with_the_checkpoint_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint, but a folder$"):
        nets.check_is_file(tmp_path, "checkpoint")
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"but a folder; give .*last\.ckpt$"):
        nets.check_is_file(tmp_path, "checkpoint")


def tuples_in_tuples(depth: int = 60) -> bytes:
    """The pickle of a tuple that holds another one twice, which does the same, and so on: 2^60 members."""
    return b"K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))


GREEDY = {
    "a key": b"}" + tuples_in_tuples() + b"K\x01s.",
    "a member of a set": b"\x8f(" + tuples_in_tuples() + b"\x90.",
    "a key inside": b"}X\x05\x00\x00\x00model}" + tuples_in_tuples() + b"K\x01ss.",
    "the color space": b"}(X\x0b\x00\x00\x00color_space" + tuples_in_tuples() + b"X\x01\x00\x00\x00a]u.",
    "a remembered number": b"}r\xff\xff\xff\x7f.",
    "a length, called": b"cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.",
    "a length, made": b"cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85\x81.",
    "a length, stated": b"\x96\x00\xe4\x0b\x54\x02\x00\x00\x00.",
}
READ_ALONE = """
import resource, sys, time
import nets
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        nets.read_state_dict(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1, error
    else:
        raise AssertionError(path)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
"""


@pytest.mark.parametrize("form", ["archive", "pickle", "before 1.6"])
def test_a_few_bytes_that_ask_for_hours_or_gigabytes_are_refused(tmp_path, form):
    paths = [tmp_path / f"{name}.pt" for name in GREEDY]
    for path, pickled in zip(paths, GREEDY.values(), strict=True):
        pickled = b"\x80\x05" + pickled
        if form == "archive":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("w/data.pkl", pickled)
                archive.writestr("w/version", "3")
        else:
            machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
            head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, machine)]
            path.write_bytes(pickled if form == "pickle" else b"".join(head) + pickled + pickle.dumps([], 2))
    done = subprocess.run([sys.executable, "-c", READ_ALONE, *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_changed_contents_are_read_or_refused_in_one_line(tmp_path, state, target):
    packed = {"fc._packed_params._packed_params": (torch.zeros(2, 2), None), "fc._packed_params.dtype": torch.qint8}
    content = {
        "ema": {f"net.{key}": value for key, value in state.items()},
        "state_dict": packed,
        "args": {"lr": [0.1]},
    }
    path, refused = tmp_path / "w.pt", 0
    for seed in range(40):
        changed, change = mutated(content, f"foreign {seed}")
        try:
            torch.save(changed, path)
        except (RecursionError, RuntimeError, NotImplementedError):
            continue  # no file can hold it
        try:
            nets.infer_embedding_size(nets.read_state_dict(path).state_dict)
            nets.load_weights(target, path, "bgr")
        except ValueError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1, change
    assert 10 < refused < 40


def test_a_key_of_a_million_dots_takes_no_time(state):
    keys = {f"net.{key}": value for key, value in state.items()} | {"." * 10**6 + name: torch.zeros(1) for name in "ab"}
    assert nets.infer_arch(keys) == "ir_tiny"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("method", ["items", "keys", "__class__"])
def test_a_dict_whose_methods_are_replaced_is_refused_by_every_door(tmp_path, legacy, method):
    """Else `state.items()` would be what the file says it is."""
    content: OrderedDict = OrderedDict(weight=torch.ones(2))
    content.notes = content._metadata = {"": 1}
    torch.save(content, tmp_path / "plain.pt", _use_new_zipfile_serialization=not legacy)
    assert nets.read_state_dict(tmp_path / "plain.pt").state_dict["weight"].tolist() == [1, 1]

    replaced = b"}X" + bytes([len(method), 0, 0, 0]) + method.encode() + b"K\x01sb."
    if legacy:
        data = (tmp_path / "plain.pt").read_bytes()
        (tmp_path / "w.pt").write_bytes(data.replace(b"ub.", b"ub" + replaced))
    else:
        rewrite(tmp_path / "plain.pt", tmp_path / "w.pt", lambda n, d: d[:-1] + replaced if n.endswith(".pkl") else d)
    for read in (nets.read_state_dict, lambda path: nets.read_content(path, "checkpoint")):
        with pytest.raises(ValueError, match=r"w\.pt: .*a dict whose methods are replaced"):
            read(tmp_path / "w.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_flat_tuples_may_be_keys(tmp_path, legacy):
    content = {"w": torch.ones(2), "others": {("a", 1): 2, (): {3, 4}}}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    assert nets.read_state_dict(tmp_path / "w.pt").state_dict["w"].tolist() == [1, 1]
