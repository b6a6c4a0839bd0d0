"""Whole networks as ONNX graphs: wrapped in torch they say what evaluation does, and as graphs what torch does."""

import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs onnx: make setup-extras")
pytest.importorskip("onnxscript", reason="needs onnxscript: make setup-extras")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: make setup-extras")

from onnx import TensorProto, helper  # noqa: E402
from portraits import load_model  # noqa: E402

import models  # noqa: E402
import nets  # noqa: E402
from datasets.synthetic.prepare import render_identities  # noqa: E402
from models.onnx import graphs, parity, precision, sessions, wrapped  # noqa: E402
from models.onnx.wrapped import Form, WrappedModel  # noqa: E402
from models.portraits import describe_portraits  # noqa: E402
from transforms import to_tensor  # noqa: E402

FORMS = [Form(), Form(True, "bgr", True), Form(False, "bgr"), Form(True, half=True)]


@pytest.fixture(scope="module")
def crops():
    return render_identities("quantization-test", 6, 2)[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tmp_path_factory.mktemp("model") / "last.ckpt", modulator=("quality",))


def given_to(form, crops):
    """Return crops uint8 RGB as a form takes them."""
    pixels = torch.from_numpy(crops[..., ::-1].copy() if form.color_order == "bgr" else crops)
    return pixels if form.preprocess else to_tensor(pixels)


@pytest.mark.parametrize("form", FORMS)
def test_a_wrapped_model_says_what_evaluation_does(model, crops, form):
    module = WrappedModel(model, form).eval()
    with torch.inference_mode():
        found = module(given_to(form, crops[:3]))
    wanted = wrapped.reference(model, to_tensor(torch.from_numpy(crops[:3])), form.flip)
    assert len(found) == len(module.names) == 4
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=(2e-3 if form.half else 2e-6) * float(other.abs().max()))
    assert model.model.output_layer[3].weight.dtype == torch.float32  # a copy was halved


def test_a_wrong_channel_order_is_no_rounding(model, crops):
    images = to_tensor(torch.from_numpy(crops[:3]))
    with torch.inference_mode():
        found = WrappedModel(model, Form(color_order="bgr")).eval()(images)[0]
    assert (found * model.describe(images).embedding).sum(1).max() < 0.9999
    with pytest.raises(ValueError, match="color_order must be one of rgb, bgr, got 'grb'"):
        WrappedModel(model, Form(color_order="grb"))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_whole_describe_keeps_its_numbers_at_every_batch(model, crops, form, tmp_path):
    graph = graphs.export_describe(model, form)
    name = "fp16" if form.half else "float32"
    differences = parity.compare_model(graph, model, WrappedModel(model, form).eval(), name)
    parity.refuse_wrong(differences, {"float32": 1e-5, "fp16": 5e-3})
    assert {each.batch for each in differences} == {1, 3, 8} and "| describe |" in parity.table(differences)
    assert [each.name for each in graph.graph.output] == ["embedding", "norm", "feature_map", "visibility"]
    assert "pkg.torch" not in str(graph.graph.node) and not graph.metadata_props
    # As one of the models that portraits are described by.
    runs = sessions.SessionModel(model, graph, form, name)
    ours, theirs = (describe_portraits(each, crops) for each in (model, runs))
    assert (ours.faces.embedding * theirs.faces.embedding).sum(1).min() > 0.9999
    torch.testing.assert_close(ours.norm, theirs.norm, rtol=2e-3, atol=0)
    torch.testing.assert_close(ours.visible, theirs.visible, rtol=0, atol=2e-3)
    # Weights beside the file, where it would be too large.
    files = graphs.save(graph, tmp_path / "large.onnx", max_embedded=1000)
    assert [file.name for file in files] == ["large.onnx", "large.onnx.data"]
    assert files[0].stat().st_size < files[1].stat().st_size
    again = parity.compare_model(files[0], model, WrappedModel(model, form).eval(), "float32", batches=(3,))
    assert [each.largest for each in again] == [each.largest for each in differences if each.batch == 3]
    if not form.half:
        small, num_layers = precision.quantized(onnx.load(files[0]), crops, form)
        assert num_layers > 10 and small.ByteSize() < 0.45 * files[1].stat().st_size
        rounded = parity.compare_model(small, model, WrappedModel(model, form).eval(), "int8")
        assert 0.97 < min(each.cosine for each in rounded if each.cosine is not None) < 0.99999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinaface_mnet025", "featherface_v2", "featherface"])
def test_detectors_take_any_batch_height_and_width(name):
    torch.manual_seed(0)
    module = wrapped.WrappedDetector(nets.build_detector(name).eval(), Form(preprocess=True))
    graph = graphs.export_detector(module.detector, module.form)
    differences = parity.compare_module(graph, name, module, parity.SIZES)
    assert len({each.size for each in differences}) == 3
    parity.refuse_wrong(differences, {"float32": 1e-4})


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilefacenet", "edgeface_xxs"])
def test_backbones_of_other_kinds_are_exported(arch):
    torch.manual_seed(0)
    backbone = nets.build_model(arch, 32).eval()
    differences = parity.compare_module(graphs.export_backbone(backbone), arch, wrapped.WrappedBackbone(backbone))
    parity.refuse_wrong(differences, {"float32": 1e-4})


@pytest.mark.slow
@pytest.mark.parametrize("head", [nets.OcclusionHead(8), nets.FineOcclusionHead(8, 4), nets.PyramidOcclusionHead(8)])
def test_occlusion_heads_are_exported_alone(head):
    shapes = {nets.FineOcclusionHead: [(8, 7, 7), (4, 14, 14)], nets.PyramidOcclusionHead: [(3, 112, 112)]}
    shapes = shapes.get(type(head), [(8, 7, 7)])
    session = sessions.open_session(graphs.export_occlusion_head(head.eval(), shapes))
    for batch in (1, 3):
        read = [torch.rand(batch, *shape) for shape in shapes]
        feed = {each.name: x.numpy() for each, x in zip(session.get_inputs(), read, strict=True)}
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(session.run(["visibility"], feed)[0]), head(*read))


def test_first_and_last_layers_are_found():
    """Two convolutions see the images, and the embedding comes from `last` over a normalization."""
    nodes = [
        helper.make_node("Relu", ["images"], ["x"], "before"), helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["images", "w"], ["b"], "other"), helper.make_node("Conv", ["a", "w"], ["c"], "inner"),
        helper.make_node("Gemm", ["c", "w"], ["d"], "last"), helper.make_node("Relu", ["d"], ["embedding"], "norm"),
    ]  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("images", "embedding")]
    graph = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    assert precision.ends_of(graph) == ["first", "last", "other"]


def test_a_loss_is_the_worse_of_two_ways_to_count():
    import numpy as np

    rng = np.random.default_rng(0)
    issame = np.arange(2000) < 1000
    before = {"adaface": rng.normal(0, 1, 2000) + 3 * issame}
    people = np.stack([np.arange(2000) % 50, np.where(issame, np.arange(2000) % 50, np.arange(2000) % 50 + 50)], 1)
    same = precision.loss_of((before, before), "adaface", people, issame, 0.01)
    assert same.points == 0 and same.difference[:3] == (0, 0, 0) and same.num_genuine == 1000
    # Scores that all are lower cost nothing at a threshold of their own, and much at the one that is shipped.
    lower = {"adaface": before["adaface"] - 1}
    shifted = precision.loss_of((before, lower), "adaface", people, issame, 0.01)
    assert shifted.difference.estimate == 0 and shifted.points == 100 * (shifted.tar - shifted.tar_same) > 20
    # Impostors that all are higher show at their own threshold alone.
    higher = {"adaface": before["adaface"] + ~issame}
    raised = precision.loss_of((before, higher), "adaface", people, issame, 0.01)
    assert raised.tar == raised.tar_same and raised.points == 100 * raised.difference.estimate > 20
    assert raised.difference.lower < raised.difference.estimate < raised.difference.upper and raised.far_same > 0.02
    few = raised._replace(difference=raised.difference._replace(lower=np.nan, upper=np.nan)).to_dict()["difference"]
    assert few == {**raised.to_dict()["difference"], "lower": None, "upper": None}
    named = [same._replace(data="a"), raised._replace(data="b"), same._replace(data="c")]
    with pytest.raises(
        ValueError, match=r"^b: .*FAR 0\.01 .*than --max_loss 0.5; nothing is written; a adaface: 0.00; c"
    ):
        precision.refuse_loss(named, 0.5)
    precision.refuse_loss([same, same], 0.0)
    precision.refuse_loss([], 0.0)
    with pytest.raises(ValueError, match="1000 impostor pairs cannot show a FAR of 1e-06"):
        precision.loss_of((before, before), "adaface", people, issame, 1e-6, threshold=0.5)


def test_what_cannot_be_exported_is_one_line(model):
    small = models.quantize(model, form=models.Quantization("dynamic"))
    with pytest.raises(ValueError, match="export: the model is int8 dynamic; export the float32 one"):
        graphs.export_describe(small)
    with pytest.raises(ValueError, match="opset must be from 18 to 22, got 11"):
        graphs.check_opset(11)
    with pytest.raises(ValueError, match="flip and half are for a whole FaceModel"):
        wrapped.WrappedBackbone(model.model, Form(half=True))
    with pytest.raises(ValueError, match="int8 needs crops"):
        precision.quantized(None, [], Form())
    wrong = parity.Difference("describe", "float32", 3, "112 x 112", "norm", 1.0, float("nan"), None)
    with pytest.raises(ValueError, match="norm of the describe in float32 differs from torch's by nan"):
        parity.refuse_wrong([wrong])
