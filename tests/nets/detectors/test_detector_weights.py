"""Reading detectors: of any form, under prefixes, with a profiler's leftovers; and what is no detector."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import nets

COUNTER = "num_batches_tracked"
# The published ones, and others that differ from them in a width, in cells and in what they have.
FORMS = {
    **nets.DETECTORS,
    "narrow": nets.DetectorForm(16),
    "one cell": nets.DetectorForm(24, 1, "cbam", "deformable", "shuffle", has_second_laterals=True),
    "ours, wider": nets.DetectorForm(40, 2, None, "depthwise"),
}


@pytest.fixture(scope="module")
def source() -> nets.Detector:
    torch.manual_seed(0)
    return nets.build_detector("featherface_v2").eval()


def state_of(model: nets.Detector) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def refusal(path: Path, content: object) -> str:
    torch.save(content, path)
    with pytest.raises(ValueError) as caught:
        nets.load_detector(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", FORMS)
def test_the_form_is_read_off_the_weights(tmp_path, name: str) -> None:
    model = nets.Detector(FORMS[name])
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    loaded = nets.load_detector(tmp_path / "detector.pth")
    assert loaded.form == FORMS[name] and not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["module.", "model.student.", "net.body."])
def test_prefixes_a_profilers_numbers_and_missing_counters_do_not_matter(tmp_path, source, prefix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in state_of(source).items() if not key.endswith(COUNTER)}
    counted = [f"{prefix}{place}total_{what}" for place in ("", "body.stage1.") for what in ("ops", "params")]
    state |= dict.fromkeys(counted, torch.ones(1))
    torch.save({"state_dict": state | {"teacher.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "last.ckpt")
    loaded = nets.load_detector(tmp_path / "last.ckpt")
    for key, value in source.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0)


def test_half_precision_and_safetensors_become_single(tmp_path, source) -> None:
    half = {key: value if key.endswith(COUNTER) else value.half() for key, value in state_of(source).items()}
    save_file(half, tmp_path / "detector.safetensors")
    loaded = nets.load_detector(tmp_path / "detector.safetensors")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    for key, value in source.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=1e-3, atol=1e-3, check_dtype=False)


def test_files_that_are_no_detector_are_refused_in_one_line(tmp_path, source) -> None:
    path, state = tmp_path / "detector.pth", state_of(source)
    recognizer = {"input_layer.0.weight": torch.ones(4, 3, 3, 3)}
    assert refusal(path, recognizer).startswith("holds no detector: none of 1 keys is or ends with body.stage1.0.0.we")
    two = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in state.items()}
    assert refusal(path, two) == "holds 2 detectors: student.*, teacher.*"
    stated = refusal(path, {"state_dict": state, "color_space": "rgb"})
    assert stated.startswith("states color_space 'rgb', but detectors expect BGR")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="damaged or not a weight file"):
        nets.load_detector(path)
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        nets.load_detector(tmp_path / "other.pth")


def test_weights_that_do_not_fit_are_named(tmp_path, source) -> None:
    path, state = tmp_path / "detector.pth", state_of(source)
    cut = {key: value for key, value in state.items() if not key.startswith("LandmarkHead.2")}
    message = refusal(path, cut | {"ssh1.extra": torch.ones(1), "ClassHead.0.conv1x1.bias": torch.ones(6)})
    assert "width=32, cells=3, attention='eca_cbam', convolutions='depthwise'" in message
    assert message.endswith(
        "but of its tensors: 2 missing (LandmarkHead.2.conv1x1.weight); 1 unexpected (ssh1.extra); "
        "1 of another shape (ClassHead.0.conv1x1.bias)"
    )
    assert "1 unexpected (bifpn.8.p4_w1)" in refusal(path, state | {"bifpn.8.p4_w1": torch.ones(2)})
    narrow = state | {"BboxHead.0.conv1x1.weight": torch.ones(8, 30, 1, 1)}
    assert refusal(path, narrow) == "Detector: width must be a multiple of 4, got 30"
    first = "body.stage1.0.0.weight"
    assert refusal(path, state | {first: state[first].int()}) == f"{first}: float32 expected, found int32"
    assert refusal(path, state | {first: state[first] * torch.nan}) == f"{first}: holds NaN or infinity"
