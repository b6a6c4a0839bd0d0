"""Planted faults, one by one: each is found by the check whose job it is, and a sound model passes them all."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from programs import refusal
from torch import nn
from torch.nn import functional

import heads
import main
import nets
from config import Config
from models.checking import CHECKS, FAILED, PASSED, SKIPPED, behavior, checks, export, faces, open_subject, run_checks
from models.checking.checks import OF_DETECTORS, OF_FACES
from models.checking.counts import CENTERS, PARAMETERS
from options.names import ONLY_DATASET
from qaconv import QAConv
from train_val import Recognizer

PEOPLE = 12
OPTIONS = {"arch": "ir_tiny", "embedding_size": 16, "qaconv_score": "weighted", "occlusion_method": "scaling"}
WITHOUT_EXPORT = set(CHECKS) - {"export"}  # which takes longer than all others together
QUICK = ("eval mode", "shapes", "rows", "determinism", "save and load", "unit length", "matcher", "occlusion head")


@pytest.fixture(scope="module")
def people():
    """Twelve drawn people in place of 32, rendered once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "MANY", PEOPLE)
        patch.setattr(faces, "_RESAMPLES", 200)
        drawn = faces.Faces()
        drawn.images  # noqa: B018  (rendered while there are twelve)
        yield drawn


@torch.no_grad()
def fit(model, images, masks):
    """Train without gradients: statistics of batch norms from the images, then the linear maps that know them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # a plain mean
    model.train()
    for _ in range(2):
        seen = nets.see(model.model, model.occlusion_head, images)
        maps = functional.normalize(seen[0].feature_map, dim=1)
        model.matcher(maps, maps, seen[1], seen[1])
    model.eval()
    codes = functional.normalize(torch.randn(PEOPLE, OPTIONS["embedding_size"]), dim=1)
    *before, linear, last = model.model.output_layer
    both = torch.cat([images, images.flip(-1)])
    features = nn.Sequential(*before)(nets.see(model.model, model.occlusion_head, both)[0].feature_map)
    linear.weight.copy_(solved(features, codes.repeat_interleave(faces.IMAGES, dim=0).repeat(2, 1)).T)
    linear.bias.zero_()
    fit_occlusion_head(model, images, *masks)
    last.running_mean.zero_().add_(1e-3)
    last.running_var.fill_(0.9)
    next(iter(model.heads.values())).kernel.copy_(codes.T)


def fit_occlusion_head(model, images, masked, visible):
    """Have the last layer say what drawn masks cover."""
    *before, last = model.occlusion_head.layers
    maps = nn.Sequential(*before)(model.model(torch.cat([images[:: faces.IMAGES], masked])).feature_map)
    cells = functional.adaptive_avg_pool2d(visible, maps.shape[-2:])
    wanted = 8 * torch.cat([torch.ones_like(cells), cells]).flatten() - 4
    rows = maps.movedim(1, -1).flatten(0, -2)
    found = solved(torch.cat([rows, torch.ones(len(rows), 1)], dim=1), wanted[:, None], 1e-6)[:, 0]
    last.weight.copy_(found[:-1].view_as(last.weight))
    last.bias.copy_(found[-1:])


def solved(features, wanted, ridge=1e-3):
    """Return the matrix that makes of features [N, F] what is wanted [N, D], by ridge regression."""
    features = features.double()
    kernel = features @ features.T
    kernel += ridge * kernel.trace() / len(kernel) * torch.eye(len(kernel))
    return (features.T @ torch.linalg.solve(kernel, wanted.double())).float()


@pytest.fixture(scope="module")
def checkpoint(people):
    torch.manual_seed(0)
    model = Recognizer(Config(**OPTIONS).to_dict(), {ONLY_DATASET: PEOPLE})
    fit(model, people.images, people.masked)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    return content


@pytest.fixture
def opened(checkpoint, people, tmp_path):
    """Return a function that opens the checkpoint as a subject, after `change` was made to a copy of its content."""

    def open_changed(change=lambda content: None, **words):
        content = copy.deepcopy(checkpoint)
        change(content)
        torch.save(content, tmp_path / "last.ckpt")
        return replace(open_subject(tmp_path / "last.ckpt", **words), faces=people)

    return open_changed


@pytest.fixture
def sound(opened):
    return opened()


@pytest.fixture(scope="module")
def detector(people, tmp_path_factory):
    """A detector whose statistics have moved, as a subject."""
    torch.manual_seed(0)
    model = nets.build_detector("retinaface_mnet025").train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean
    model(nets.detector_input(people.images[:12]))
    path = tmp_path_factory.mktemp("detector") / "detector.pth"
    torch.save(model.state_dict(), path)
    return replace(open_subject(path), faces=people)


def failures(subject, *names):
    """Return the failed checks among some, with their lines; none named: all."""
    results = run_checks(subject, names or CHECKS)
    return {result.check: result.line for result in results if result.status == FAILED}


# ---------------------------------------------------------------- sound models


def test_a_sound_model_passes_every_check(sound):
    results = list(run_checks(sound, WITHOUT_EXPORT))
    assert [(result.check, result.line) for result in results if result.status == FAILED] == []
    assert {result.check for result in results if result.status == SKIPPED} <= {"gpu"}
    assert {result.check for result in results} == WITHOUT_EXPORT - set(OF_DETECTORS)


def test_a_sound_detector_passes_every_check(detector):
    assert failures(detector, *WITHOUT_EXPORT) == {}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_counts_are_those_of_the_registry(name):
    with torch.device("meta"):
        model = nets.build_model(name) if name in nets.MODELS else nets.build_detector(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_every_architecture_is_counted():
    assert set(PARAMETERS) == {*nets.MODELS, *nets.DETECTORS}


# ---------------------------------------------------------------- faults in a file

BLOCK = "model.body.0"


def _tensors(content, end, begin="model."):
    return [key for key in content["state_dict"] if key.startswith(begin) and key.endswith(end)]


def _nan(content):
    content["state_dict"]["model.input_layer.0.weight"][3, 1, 0, 0] = torch.nan


def _zeroed(content):
    content["state_dict"][_convolution(content)].zero_()


def _dead_row(content):
    content["state_dict"][_convolution(content)][5] = 0.25


def _convolution(content):
    return next(key for key in _tensors(content, "weight", BLOCK) if content["state_dict"][key].ndim == 4)


def _missing_statistics(content):
    del content["state_dict"][_tensors(content, "running_mean")[3]]


def _initial_statistics(content):
    for end, value in (("running_mean", 0), ("running_var", 1)):
        content["state_dict"][_tensors(content, end)[3]].fill_(value)


def _negative_variance(content):
    content["state_dict"][_tensors(content, "running_var")[2]][1] = -0.5


def _truncated(content):
    key = _convolution(content)
    content["state_dict"][key] = content["state_dict"][key][:-1].clone()


def _other_dtype(content):
    key = _convolution(content)
    content["state_dict"][key] = content["state_dict"][key].half()


def _unknown_part(content):
    content["state_dict"]["decoder.weight"] = torch.ones(3)


def _classes_short(content):
    key = f"heads.{ONLY_DATASET}.kernel"
    content["state_dict"][key] = content["state_dict"][key][:, :-1].clone()


def _classes_double(content):
    key = f"heads.{ONLY_DATASET}.kernel"
    kernel = content["state_dict"][key]
    content["state_dict"][key] = torch.cat([kernel, torch.randn_like(kernel)], dim=1)


def _classes_equal(content):
    kernel = content["state_dict"][f"heads.{ONLY_DATASET}.kernel"]
    kernel[:, 4] = 2 * kernel[:, 1]


def _class_zero(content):
    content["state_dict"][f"heads.{ONLY_DATASET}.kernel"][:, 7] = 0


FILE_FAULTS = (
    (_nan, "finite", "input_layer.0.weight: 1 of"),
    (_zeroed, "dead layers", "all zero"),
    (_dead_row, "dead layers", "1 of 32 rows"),
    (_missing_statistics, "keys", "1 missing"),
    (_initial_statistics, "batch norms", "1 of "),
    (_negative_variance, "batch norms", "-0.5 is no variance"),
    (_truncated, "tensors", "found [31, "),
    (_other_dtype, "tensors", "float32 expected, found float16"),
    (_unknown_part, "keys", "decoder.weight"),
    (_classes_short, "head", "12 identities are stored, but the class weights are [16, 11]"),
    (_classes_double, "head", "12 identities are stored, but the class weights are [16, 24]"),
    (_classes_equal, "head", "classes 1 and 4"),
    (_class_zero, "head", "class 7"),
)


@pytest.mark.parametrize(("plant", "check", "words"), FILE_FAULTS)
def test_a_fault_in_a_file_is_found_by_its_check(opened, plant, check, words):
    subject = opened(plant)
    found = failures(replace(subject, model=None))
    # A tensor that is too small is a wrong count too.
    found.pop("parameters") if plant is _truncated else None
    # Without a model `loading` tells what it was refused for, and here it may not have been.
    found.pop("loading", None)
    assert list(found) == [check]
    assert words in found[check]


def test_another_network_than_the_one_of_that_name_is_found_by_its_count(sound):
    found = failures(replace(sound, arch="mobilefacenet"), *checks.OF_FILE)
    assert found == {"parameters": "mobilefacenet has 945,568, the file 782,704"}


def test_sub_centers_are_no_classes(opened):
    def change(content, head):
        content["hyper_parameters"]["config"]["head"] = head
        _classes_double(content)
        _classes_double(content) if head == "arcface" else None

    assert all(getattr(head, "num_centers", 1) == CENTERS.get(name, 1) for name, head in heads.HEADS.items())
    said = failures(opened(lambda content: change(content, "subcenter_arcface")), "head")["head"]
    assert said == "12 identities of 3 centers each are stored, but the class weights are [16, 24]"
    assert list(failures(opened(lambda content: change(content, "arcface")), "head")) == ["head"]


def test_swapped_channels_are_found_by_the_color_order(opened):
    def swap(content):
        content["state_dict"]["model.input_layer.0.weight"] = content["state_dict"]["model.input_layer.0.weight"].flip(
            1
        )

    found = failures(opened(swap), *QUICK, "color order", "mirror image")
    assert set(found) - {"occlusion head"} == {"color order"}  # what covers a face may look otherwise too
    assert "better in the other order" in found["color order"]
    assert list(failures(opened(color_space="bgr"), "color order")) == ["color order"]  # the file states rgb


def test_a_net_without_training_is_said_so(people, tmp_path):
    torch.manual_seed(1)
    torch.save(nets.build_model("ir_tiny", 16).state_dict(), tmp_path / "raw.pt")
    subject = replace(open_subject(tmp_path / "raw.pt", color_space="rgb"), faces=people)
    found = failures(subject, "batch norms", "people", "mirror image", "keys", "parameters")
    assert set(found) - {"people"} == {"batch norms", "mirror image"}
    assert OF_FACES["people"](subject).status != PASSED  # FAILED or SKIPPED: twelve people tell little
    _same_for_all(subject.model)
    assert list(failures(subject, "people")) == ["people"]
    assert OF_FACES["color order"](subject).status == SKIPPED  # nobody could tell


# ---------------------------------------------------------------- faults in a network


class Wrapped(nn.Module):
    """A layer and what is wrong with it."""

    def __init__(self, layer, fault):
        super().__init__()
        self.layer, self.fault = layer, fault

    def forward(self, x):
        return self.fault(self.layer(x))


def _wrap(model, fault):
    model.model.body[0] = Wrapped(model.model.body[0], fault).eval()


def _mix_rows(model):
    _wrap(model, lambda x: x + 0.1 * x.mean(0, keepdim=True))


def _dropout(model):
    _wrap(model, lambda x: functional.dropout(x, 0.1, training=True))


def _train_norm(model):
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).train()


def _unused(model):
    model.model.spare = nn.Linear(3, 3).eval()


def _detached(model):
    _wrap(model, lambda x: x.detach())


def _change(model, change):
    forward = model.model.forward
    model.model.forward = lambda images, *args, **words: change(forward(images, *args, **words), images)


def _long_embedding(model):
    _change(model, lambda said, images: said._replace(embedding=2 * said.embedding))


def _other_maps(model):
    model.matcher = QAConv(model.model.map_shape[0], 5, 5, score="weighted").eval()


def _lopsided(model):
    forward = model.matcher.forward
    model.matcher.forward = lambda a, b, *seen: forward(a, b, *seen) + torch.arange(len(a))[:, None]


def _same_for_all(model):
    _change(model, lambda said, images: said._replace(embedding=torch.full_like(said.embedding, 0.25)))


def _short_embedding(model):
    _change(model, lambda said, images: said._replace(embedding=functional.normalize(said.embedding[:, 1:])))


def _mirrored_away(model):
    def apart(said, images):
        left, right = images.chunk(2, dim=-1)
        is_left = left.mean((1, 2, 3)) > right.mean((1, 2, 3))
        return said._replace(embedding=torch.where(is_left[:, None], said.embedding.roll(1, 1), said.embedding))

    _change(model, apart)


def _beyond_half(model):
    _wrap(model, lambda x: 1e-5 * (1e5 * x))


def _cancelling(model):
    _wrap(model, lambda x: (x + 1000) - 1000)


def _occlusion_for_visibility(model):
    model.occlusion_head.register_forward_hook(lambda module, args, seen: 1 - seen)


def _nothing_hidden(model):
    model.occlusion_head.register_forward_hook(lambda module, args, seen: torch.ones_like(seen))


def _no_self_match(model):
    model.matcher.scale.data.neg_()


def _occlusion_logits(model):
    model.occlusion_head.register_forward_hook(lambda module, args, seen: 3 * seen - 1)


def _hidden_numbers(model):
    bias = torch.randn(32)
    _wrap(model, lambda x: x + bias[None, :, None, None])


NETWORK_FAULTS = (
    (_mix_rows, "rows", {"save and load"}, "alone differs"),
    (_dropout, "determinism", {"rows", "save and load", "precision"}, "other numbers"),
    (_train_norm, "eval mode", {"rows", "save and load", "determinism"}, "1 modules"),
    (_long_embedding, "unit length", {"save and load", "matcher"}, "length 2, not 1"),
    (_other_maps, "matcher", {"save and load"}, "maps of [128, 5, 5]"),
    (_lopsided, "matcher", set(), "order of two images"),
    (_no_self_match, "matcher", set(), "a stranger scores higher"),
    (_occlusion_logits, "occlusion head", {"save and load"}, "visibility from"),
    (_occlusion_for_visibility, "occlusion head", {"save and load"}, "at least 0.6 expected"),
    (_nothing_hidden, "occlusion head", {"save and load"}, "AUC 0.500: at least 0.6 expected"),
    (_hidden_numbers, "save and load", {"occlusion head", "mirror image"}, ""),
    (_short_embedding, "shapes", {"save and load"}, "embedding of 1 images: [1, 16] expected, got [1, 15]"),
    (_mirrored_away, "mirror image", {"save and load"}, "at least 0.75 expected"),
    (_beyond_half, "precision", {"save and load"}, "float16: embedding is not finite"),
    (_cancelling, "precision", {"save and load"}, "bfloat16 against float32: least cosine"),
)


@pytest.mark.parametrize(("plant", "check", "others", "words"), NETWORK_FAULTS)
def test_a_fault_in_a_network_is_found_by_its_check(sound, plant, check, others, words):
    plant(sound.model)
    found = failures(sound, *QUICK, "mirror image", "precision")
    assert check in found
    assert set(found) <= {check} | others
    assert words in found[check]


@pytest.mark.parametrize("relative", [1e-6, 0.3])
def test_an_exported_graph_is_judged_by_the_room_that_exports(sound, relative, monkeypatch):
    class Room:
        """Stands for the three modules of models.onnx."""

        def __init__(self, name):
            self.WrappedModel = self.export_describe = lambda model: model

        def compare_model(self, graph, model, module, precision, batches):
            assert graph is model is module is sound.model
            return [SimpleNamespace(output="embedding", relative=relative)]

        def refuse_wrong(self, differences):
            if differences[0].relative > 1e-4:
                raise ValueError("embedding is off")

    monkeypatch.setattr(export, "find_spec", Room)
    monkeypatch.setattr(export, "import_module", Room)
    (result,) = run_checks(sound, ["export"])
    expected = ("passed", "embedding within 1.0e-06") if relative < 0.1 else ("failed", "embedding is off")
    assert (result.status, result.line[: len(expected[1])]) == expected


@pytest.mark.parametrize(
    ("plant", "words"),
    [(_unused, "no output uses model.spare.weight"), (_detached, "no output uses model.input_layer")],
)
def test_a_parameter_without_gradient_is_named(sound, plant, words):
    assert failures(sound, "gradients") == {}
    plant(sound.model)
    assert words in failures(sound, "gradients")["gradients"]


def test_a_gpu_that_computes_something_else_is_found(sound, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(behavior, "GPU", "cpu")
    assert failures(sound, "gpu") == {}
    other = copy.deepcopy(sound.model)
    _dropout(other)
    sound.model.__deepcopy__ = lambda memo: other  # what moves there
    assert "against the CPU: least cosine" in failures(sound, "gpu")["gpu"]


@pytest.mark.slow
def test_a_graph_of_another_network_is_found(sound):
    pytest.importorskip("onnxruntime")
    assert failures(sound, "export") == {}
    _wrap(sound.model, lambda x: x + 0.1 * torch.compiler.is_exporting())
    assert "differs from torch's" in failures(sound, "export")["export"]


def test_every_check_finds_a_planted_fault():
    alone = {"color order", "people", "parameters", "loading", "gradients", "gpu", "export", "priors"}  # in other tests
    found = {check for _, check, *_ in FILE_FAULTS + NETWORK_FAULTS}
    assert found | alone == set(CHECKS) and not found & alone


# ---------------------------------------------------------------- detectors


class HalfAsMany(nets.Detector):
    """A detector of one prior a cell."""

    def heads(self, maps):
        return nets.Detections(*(each[:, ::2] for each in super().heads(maps)))


def test_a_detector_with_other_priors_is_found(detector):
    broken = copy.deepcopy(detector.model)
    broken.__class__ = HalfAsMany
    assert list(failures(replace(detector, model=broken), *QUICK, "priors")) == ["save and load", "priors"]


@pytest.mark.parametrize(
    ("output", "step", "words"),
    [
        ("conf", 0.25, "largest difference of a score"),
        ("loc", 1.0, "overlap of a box"),
        ("landmarks", 1.0, "a point moved"),
    ],
)
def test_a_detector_that_keeps_few_digits_in_half_precision_is_found(detector, output, step, words):
    class Rounded(nets.Detector):
        def heads(self, maps):
            said = super().heads(maps)
            if not torch.is_autocast_enabled("cpu"):
                return said
            return said._replace(**{output: step * (getattr(said, output) / step).round()})

    broken = copy.deepcopy(detector.model)
    broken.__class__ = Rounded
    found = failures(replace(detector, model=broken), *QUICK, "precision", "priors")
    assert list(found) == ["precision"] and words in found["precision"]


def test_a_detector_that_no_program_takes_is_said_so(detector, tmp_path):
    content = {"state_dict": dict(detector.state), "hyper_parameters": {"min_sizes": [[1.0]], "steps": [8]}}
    torch.save(content, tmp_path / "odd.pth")
    found = failures(open_subject(tmp_path / "odd.pth"))
    assert list(found) == ["loading"] and "its priors are not 2 sides" in found["loading"]


def test_a_detector_file_with_more_priors_a_cell_is_found(detector, tmp_path):
    state = dict(detector.state)
    for key in [key for key in state if "Head" in key]:
        state[key] = torch.cat([state[key], state[key]])
    torch.save(state, tmp_path / "more.pth")
    found = {result.check for result in run_checks(open_subject(tmp_path / "more.pth")) if result.status == FAILED}
    assert found == {"tensors", "parameters"}


# ---------------------------------------------------------------- the program


def test_the_program_prints_failures_and_a_table(checkpoint, people, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checks, "OF_NETWORK", {"rows": checks.OF_NETWORK["rows"]})
    monkeypatch.setattr(checks, "OF_FACES", {})
    file, record = tmp_path / "last.ckpt", tmp_path / "checks.json"
    torch.save(checkpoint, file)
    assert main.main(["check-model", str(file), "--verbose", "--json", str(record)]) == 0
    out = capsys.readouterr().out
    assert "passed: parameters: 782,704, as ir_tiny has\n" in out
    assert out.splitlines()[-1].startswith(f"{file}: recognizer, ir_tiny: 9 passed; ")
    found = json.loads(record.read_text())
    assert (found["kind"], found["arch"]) == ("recognizer", "ir_tiny")
    assert [each["status"] for each in found["checks"]] == ["passed"] * 9

    content = copy.deepcopy(checkpoint)
    _nan(content)
    torch.save(content, file)
    assert main.main(["check-model", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("failed: finite: model.input_layer.0.weight: 1 of")
    assert lines[1].split() == ["check", "result", "seconds"]
    assert "skipped" in next(line for line in lines if line.startswith("rows"))


def test_the_program_refuses_what_is_no_model(tmp_path, capsys):
    (tmp_path / "notes.pt").write_text("no weights")
    assert "damaged" in refusal(capsys, main.main, "check-model", tmp_path / "notes.pt")
    assert "no such model" in refusal(capsys, main.main, "check-model", tmp_path / "none.pt")
    words = ("check-model", tmp_path / "notes.pt", "--json", tmp_path / "nowhere" / "x.json")
    assert "its folder does not exist" in refusal(capsys, main.main, *words)


# ---------------------------------------------------------------- files that are no models


def test_what_is_no_model_is_refused(opened, tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="fit none of"):
        open_subject(tmp_path / "odd.pt", color_space="rgb")
    torch.save(nets.build_model("ir_tiny", 16).state_dict(), tmp_path / "raw.pt")
    with pytest.raises(ValueError, match="does not state its channel order"):
        open_subject(tmp_path / "raw.pt")
    with pytest.raises(ValueError, match="holds ir_tiny, but --arch says ir_18"):
        opened(arch="ir_18")
