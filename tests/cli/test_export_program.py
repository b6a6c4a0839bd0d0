"""The folder that `export` writes: what is in it, what each flag changes, and what is refused with nothing written."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from portraits import load_model, write_people
from programs import refusal

onnx = pytest.importorskip("onnx", reason="needs onnx: make setup-extras")
pytest.importorskip("onnxscript", reason="needs onnxscript: make setup-extras")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: make setup-extras")

from quick_export import quick  # noqa: E402

import main  # noqa: E402
import models  # noqa: E402
import nets  # noqa: E402
from cli.deployment import export  # noqa: E402
from evaluation import ScoreNormalization  # noqa: E402
from models.detectors.trained import TrainedDetector  # noqa: E402
from models.onnx import folder, precision, runtime, wrapped  # noqa: E402
from models.portraits import weights_checksum  # noqa: E402
from transforms import align  # noqa: E402

TERMS = [0.1, 0.02, -0.01, 0.03, 0.05, -0.02]
NORMALIZATION = ScoreNormalization(
    mean={"adaface": TERMS, "qaconv": TERMS[::-1]},
    log_std={"adaface": [-1.0, *TERMS[1:]], "qaconv": [-0.5, *TERMS[1:]]},
    correlation=[0.3, *TERMS[1:]],
    center=[0.0, 0.4, 0.1, 0.2, 0.3, 0.2],
    scale=[1.0, 0.5, 0.2, 0.3, 0.4, 0.3],
    least=[0.05, 0.02],
    weights={"adaface": 0.6, "qaconv": 0.4},
    source="test",
    num_impostors=500,
)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), num=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, people):
    """A model whose scores are normalized by what is visible, and its thresholds beside it."""
    path = tmp_path_factory.mktemp("model") / "last.ckpt"
    model = load_model(path, normalization=NORMALIZATION, occlusion_method="masking")
    models.calibrate(model, people, plan=models.Plan((0.5, 0.1), num_draws=100)).save(models.calibration.beside(path))
    return path


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick(monkeypatch)


def run(*words):
    assert main.main(["export", *map(str, words)]) == 0


def facts(out):
    return json.loads((out / "deploy.json").read_text())


def answers(out, people):
    """Return what the reader says of two pairs, in this process."""
    reader = runtime.Recognizer(out)
    images = [runtime.read_image((people / f"p{p}" / "0.png").read_bytes()) for p in (0, 1)]
    return [reader.verify(images[0], other) for other in (images[1], images[0])], reader


@pytest.fixture(scope="module")
def deployed(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("deployed") / "deploy"
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        run(checkpoint, out, "--license", "MIT <script>", "--training_data", "drawn *faces*\n# nobody")
    return out


def test_the_reader_answers_as_the_program_does(deployed, checkpoint, people):
    model = models.load(checkpoint)
    calibration = models.Calibration.load(models.calibration.beside(checkpoint))
    paths = [people / "p0" / "0.png", people / "p1" / "0.png"]
    found, reader = answers(deployed, people)
    for answer, pair in zip(found, (paths, [paths[0]] * 2), strict=True):
        for score in ("fused", "adaface", "qaconv"):
            wanted = model.verify(*pair, calibration, score=score)
            ours = reader.verify(*(runtime.read_image(path.read_bytes()) for path in pair), score=score)
            assert ours["score"] == pytest.approx(wanted.value, abs=2e-5)
            assert (ours["verified"], ours["threshold"]) == (wanted.same, wanted.threshold)
        assert answer["method"] == "fused" and answer["faces"] == [1, 1] and answer["far"] == 0.1
    crops = np.stack([runtime.read_image(path.read_bytes()) for path in paths])
    norms = models.portraits.describe_portraits(model, crops).norm
    np.testing.assert_allclose(reader.embed(crops).norm[:, 0], norms, rtol=1e-5)
    image = runtime.read_image(paths[0].read_bytes())
    with pytest.raises(runtime.RefusedError, match=r"no threshold of fused for this rate; there are 0\.5, 0\.1"):
        reader.verify(image, image, far=0.01)
    with pytest.raises(runtime.RefusedError, match="no such score; there are adaface, qaconv, fused"):
        reader.verify(image, image, score="x")


READER = """
import sys, json
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "models", "evaluation", "datasets", "qaconv", "nets"}:
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
sys.path[:] = [sys.argv[1], *(p for p in sys.path if "site-packages" in p or "lib/python" in p or p.endswith(".zip"))]
from runtime import Recognizer, read_image
reader = Recognizer(sys.argv[1])
images = [read_image(open(path, "rb").read()) for path in sys.argv[2:]]
print(json.dumps(reader.verify(*images)))
"""


def test_another_program_reads_the_folder_without_torch(deployed, people, tmp_path):
    paths = [str(people / f"p{p}" / "0.png") for p in (0, 1)]
    command = [sys.executable, "-c", READER, str(deployed), *paths]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == answers(deployed, people)[0][0]


def test_the_folder_says_what_it_holds(deployed, checkpoint):
    model = models.load(checkpoint)
    known = facts(deployed)
    assert {
        path.name for path in deployed.iterdir() if path.is_file()
    } == {  # Python keeps what it compiled in a folder
        *("model.onnx", "matcher.onnx", "model.safetensors", "deploy.json", "parity.json", "README.md"),
        *("runtime.py", "finding.py", "image_header.py", "LICENSE-of-the-reader"),
    }
    assert known["weights_sha256"] == weights_checksum(model) and known["arch"] == "ir_tiny"
    assert known["matcher"]["occlusion_method"] == "masking" and len(known["calibration"]["points"]) == 12
    properties = {each.key: each.value for each in onnx.load(deployed / "model.onnx").metadata_props}
    assert json.loads(properties["thresholds"]) == known["calibration"]["points"]
    assert properties["license"] == "MIT <script>" and json.loads(properties["template"]) == known["template"]
    assert json.loads(properties["input"])["mean"] == [127.5] * 3 and "path" not in properties
    card = (deployed / "README.md").read_text()
    assert 'license: "MIT <script>"' in card.split("---")[1]
    assert (
        "&lt;script&gt;" in card and r"drawn \*faces\*\\n\# nobody" in card and "<script>" not in card.split("---")[2]
    )
    rows = json.loads((deployed / "parity.json").read_text())
    assert {row["batch"] for row in rows} == {1, 3, 8} and max(row["relative"] for row in rows) < 1e-4
    again = models.load(deployed / "model.safetensors")  # the backbone, with the order that it expects
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    torch.testing.assert_close(again.describe(images).embedding, model.describe(images).embedding)


def test_a_changed_file_is_refused(deployed, tmp_path):
    import shutil

    copied = shutil.copytree(deployed, tmp_path / "copy")
    (copied / "matcher.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"matcher\.onnx is not the file that was exported"):
        runtime.Recognizer(copied)
    (copied / "deploy.json").write_text('{"format": "2"}')
    with pytest.raises(ValueError, match="not of the format"):
        runtime.Recognizer(copied)


@pytest.mark.export_flag("preprocess", "color_order", "flip", "opset", "thresholds")
def test_what_is_in_the_graph_changes_no_answer(deployed, checkpoint, people, tmp_path):
    wanted = answers(deployed, people)[0]
    run(checkpoint, tmp_path / "out", "--preprocess", "--color_order", "bgr", "--flip", "--opset", "19")
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    assert graph.opset_import[0].version == 19
    (given,) = graph.graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [each.dim_value for each in given.type.tensor_type.shape.dim][1:] == [112, 112, 3]
    assert facts(tmp_path / "out")["flip"] and facts(tmp_path / "out")["input"]["color_order"] == "bgr"
    for one, other in zip(answers(tmp_path / "out", people)[0], wanted, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=2e-5) and one["verified"] == other["verified"]
    run(checkpoint, tmp_path / "bare", "--thresholds", "none")
    assert facts(tmp_path / "bare")["calibration"] is None
    unknown = answers(tmp_path / "bare", people)[0][0]
    assert unknown["verified"] is None and unknown["score"] == pytest.approx(wanted[0]["score"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.export_flag("precision", "calibration", "pairs", "max_loss", "far")
def test_fewer_bits_are_measured_on_the_pairs_and_refused_where_they_cost_too_much(
    checkpoint, people, tmp_path, capsys, monkeypatch
):
    assert export.PRECISIONS == precision.PRECISIONS and export.COLOR_ORDERS == wrapped.ORDERS
    flags = ("--align", "no", "--pairs", people, "--far", "0.5", "--max_loss", "100")
    sizes = {}
    for name, more in (("fp16", ()), ("int8", ("--calibration", people))):
        run(checkpoint, tmp_path / name, "--precision", name, *flags, *more)
        told = capsys.readouterr().out
        for score in ("fused", "adaface", "qaconv"):
            assert f"points of TAR lost at FAR 0.5 ({score}; 8 genuine" in told
        assert ("16 of these images are in the calibration too" in told) == (name == "int8")
        losses = facts(tmp_path / name)["losses"]
        assert [loss["score"] for loss in losses] == ["fused", "adaface", "qaconv"]
        assert all((loss["far"], loss["num_impostors"], loss["data"]) == (0.5, 112, people.name) for loss in losses)
        assert losses[0]["difference"]["lower"] <= losses[0]["difference"]["upper"]
        sizes[name] = (tmp_path / name / "model.onnx").stat().st_size
        assert f"What {name} costs" in (tmp_path / name / "README.md").read_text()
    assert sizes["int8"] < 0.75 * sizes["fp16"]
    whole = (tmp_path / "fp16" / "model.safetensors").stat().st_size
    assert sizes["fp16"] < 0.6 * whole
    # One whose genuine pairs all score less by one score alone loses more than it may.
    measure = precision.loss_of

    def spoilt(scores, score, people, issame, *rest):
        lower = scores[1] | {"qaconv": scores[1]["qaconv"] - 100 * issame}
        return measure((scores[0], lower), score, people, issame, *rest)

    monkeypatch.setattr(precision, "loss_of", spoilt)
    words = (checkpoint, tmp_path / "bad", "--precision", "fp16", *flags[:-1], "0.5")
    said = refusal(capsys, main.main, "export", *words)
    assert f"{people.name}: " in said and "TAR lost at FAR 0.5 (qaconv; 8 genuine" in said
    assert f"more than --max_loss 0.5; nothing is written; {people.name} fused: " in said
    assert not (tmp_path / "bad").exists() and not [path for path in tmp_path.iterdir() if path.name[0] == "."]


@pytest.mark.export_flag("face_detector", "license", "training_data")
def test_a_detector_finds_what_it_finds_in_torch(checkpoint, deployed, people, tmp_path):
    torch.manual_seed(0)
    content = {"state_dict": nets.build_detector("featherface_v2").state_dict(), "color_space": "bgr"}
    content["hyper_parameters"] = {"min_sizes": [[10, 20], [40, 80], [160, 320]], "steps": [8, 16, 32]}
    torch.save(content, tmp_path / "detector.ckpt")
    run(checkpoint, tmp_path / "out", "--face_detector", tmp_path / "detector.ckpt", "--license", "MIT")
    assert facts(tmp_path / "out")["license"] == "MIT" and facts(deployed)["training_data"].startswith("drawn")
    reader = runtime.Recognizer(tmp_path / "out")
    reader.finder.threshold = 0.0
    # Sides that no pyramid halves evenly.
    image = cv2.resize(runtime.read_image((people / "p0" / "0.png").read_bytes()), (150, 101))
    found = reader.finder.look(image, 1.0)
    wanted = TrainedDetector(tmp_path / "detector.ckpt").detect(image, 0.0)[: len(found)]
    np.testing.assert_allclose(found[0].box, wanted[0].box, atol=1e-2)
    np.testing.assert_allclose(found[0].points, wanted[0].points, atol=1e-2)
    first = min(20, len(found))
    assert len(found) > 1 and [one.score for one in found[:first]] == pytest.approx(
        [one.score for one in wanted[:first]], abs=1e-4
    )
    assert facts(deployed)["detector"] is None
    with pytest.raises(runtime.RefusedError, match="there is no detector"):
        runtime.Recognizer(deployed).detect(image)


@pytest.mark.slow
@pytest.mark.export_flag("pt2")
def test_a_program_of_torch_is_written_too(checkpoint, deployed, tmp_path):
    run(checkpoint, tmp_path / "out", "--pt2")
    images = torch.rand(3, 3, 112, 112) * 2 - 1
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(images)[0]
    torch.testing.assert_close(found, models.load(checkpoint).describe(images).embedding)
    assert not (deployed / "model.pt2").exists()


@pytest.mark.export_flag("openvino")
def test_what_is_not_exported_is_one_line(checkpoint, people, deployed, tmp_path, capsys):
    out = tmp_path / "out"
    other = load_model(tmp_path / "other.ckpt")
    calibration = models.Calibration.load(models.calibration.beside(checkpoint))
    calibration.save(tmp_path / "of_another.json")
    assert weights_checksum(other) != calibration.origin.model
    (tmp_path / "no.onnx").write_bytes(b"x")
    for words, match in (
        ([checkpoint, deployed], "is there already; name a new folder"),
        ([checkpoint, tmp_path / "no" / "out"], "does not exist"),
        ([checkpoint, out, "--precision", "fp16"], "--precision fp16 needs --pairs"),
        ([checkpoint, out, "--precision", "int8", "--pairs", people], "need each other"),
        ([checkpoint, out, "--openvino"], "openvino not installed: pip install openvino"),
        ([tmp_path / "gone.ckpt", out], "gone.ckpt: no such checkpoint"),
        ([tmp_path / "other.ckpt", out, "--thresholds", tmp_path / "of_another.json"], "belongs to other weights"),
        ([checkpoint, out, "--face_detector", tmp_path / "no.onnx"], "no.onnx: no YuNet"),
        ([checkpoint, out, "--license", "x" * 501], "--license: at most 500 characters"),
        ([checkpoint, out, "--opset", "11"], "--opset"),
    ):
        assert match in refusal(capsys, main.main, "export", *words)
        assert not out.exists() and not [path for path in tmp_path.iterdir() if path.name[0] == "."]


def test_the_reader_aligns_as_the_library_does(deployed):
    reader, rng = runtime.Recognizer(deployed), np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 260, 3), dtype=np.uint8)
    for angle, size in ((0.0, 1.0), (0.6, 1.4), (-2.5, 0.7)):
        turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (align.template_points() - 56) @ turn + [130, 150] + rng.normal(0, 1, (5, 2))
        wanted = align.warp(image, align.fit_similarity(points))
        found = reader.align(image, points)
        assert (found != wanted).mean() < 1e-3  # the last bit of a matrix may move a pixel by a 32nd
        cut, num_faces = reader.crop(image, points)
        assert np.array_equal(cut, found) and num_faces == 1
    outside, mirrored, one = points + np.array([0, 150]), points * [-1, 1], np.full((5, 2), 9.0)
    for wrong, match in (
        (outside, "cut by the border"), (mirrored, "not those of a face"), (one, "not those of a face"),
        (points[:4], "five points"), (points * np.nan, "five points"),
    ):  # fmt: skip
        with pytest.raises(runtime.RefusedError, match=match):
            reader.align(image, wrong)


def test_text_of_a_user_stays_text():
    assert folder.escaped("<b>*a*</b> [x](y)\n\x1b[0m|") == r"&lt;b&gt;\*a\*&lt;/b&gt; \[x\]\(y\)\\n\\x1b\[0m\|"
