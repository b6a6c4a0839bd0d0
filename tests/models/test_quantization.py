"""Eight bits: the arithmetic is that of PT2E, a file comes back bit for bit, and embeddings are never mixed."""

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from portraits import load_model, write_people
from programs import refusal

import main
import models
import nets
from cli.quantize import MODES, QuantizationOptions
from datasets.synthetic.prepare import render_identities
from models import AS_GIVEN, EmbedJob, Gallery, Plan, Quantization
from models.embedding.sources import Photographs, find_photographs
from models.portraits import weights_checksum
from models.quantization import rounding
from models.quantization.rounding import Levels, Rounding
from transforms import to_tensor

STATIC, DYNAMIC = Quantization("static"), Quantization("dynamic")


@pytest.fixture(scope="module")
def crops():
    return render_identities("quantization-test", 6, 2)[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def static(model, crops):
    return models.quantize(model, crops, STATIC)


@pytest.fixture(scope="module")
def dynamic(model):
    return models.quantize(model, form=DYNAMIC)


@pytest.fixture(scope="module")
def file(static, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantized") / "small.pt"
    models.save_quantized(static, path)
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"), num=4)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_layer_computes_what_pt2e_computes(kind):
    golden = {name: torch.from_numpy(np.asarray(v)) for name, v in load_golden("quantization/pt2e.npz").items()}
    weight, bias, x, scale = (golden[f"{kind}_{name}"] for name in ("weight", "bias", "x", "weight_scale"))
    layer = torch.nn.Conv2d(3, 4, 3, 2, 1) if kind == "conv" else torch.nn.Linear(10, 5)
    # torchao's 127.5 steps reach -128, which is left out here.
    assert torch.equal(rounding.integers(weight, scale), golden[f"{kind}_integers"].clamp_min(-127))
    layer.weight.data, layer.bias.data = rounding.floats(golden[f"{kind}_integers"], scale), bias
    levels = Levels(golden[f"{kind}_scale"], golden[f"{kind}_zero_point"].float())
    rounding.attach(layer, Rounding(scale, levels))
    torch.testing.assert_close(layer(x), golden[f"{kind}_y"], rtol=1e-6, atol=1e-6)
    # Its observer saw x alone: a range of all of x is what it found.
    found = Levels.between(*x.aminmax())
    torch.testing.assert_close(found.scale, levels.scale, rtol=0.02, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_levels_hold_zero_and_are_half_a_step_away_at_most(values):
    x = torch.tensor(values)
    levels = Levels.between(*x.aminmax())
    rounded = levels.round(torch.cat([x, torch.zeros(1)]))
    assert rounded[-1] == 0 and len(rounded.unique()) <= 256
    assert (rounded[:-1] - x).abs().max() <= levels.scale * 0.5001 + 1e-6 * x.abs().max() or levels.scale == 1
    assert levels.round(torch.tensor([float("nan")])).isnan()


def test_weights_have_255_levels_a_row():
    weight = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    scale = rounding.weight_scale(weight)
    integers = rounding.integers(weight, scale)
    assert integers.dtype == torch.int8 and integers.abs().amax((1, 2, 3)).tolist() == [127, 0, 127]
    assert ((rounding.floats(integers, scale) - weight).abs() <= scale[:, None, None, None] * 0.5001).all()


def test_a_calibration_leaves_out_what_is_far():
    """A range that has one number of 12 among 200,000 normal ones has fewer levels for the others."""
    layer = torch.nn.Linear(50, 1)
    x = torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 12.0
    found, whole = rounding.find_levels(lambda: layer(x), {"a": layer})["a"], Levels.between(*x.aminmax())
    losses = [float((levels.round(x) - x).square().sum()) for levels in (found, whole)]
    assert losses[0] < losses[1] and found.scale < whole.scale


def test_depthwise_convolutions_and_named_layers_stay():
    with torch.device("meta"):
        net = nets.build_model("edgeface_xxs")
    every, usual = rounding.layers_of(net, depthwise=True), rounding.layers_of(net)
    assert {name for name in every if every[name].weight.shape[1] == 1} == every.keys() - usual.keys()
    assert rounding.layers_of(net, keep=["stages.*", "stem.0"]).keys() == {"head.fc"}
    with pytest.raises(ValueError, match=r"no layer is called 'stage\.\*'"):
        rounding.layers_of(net, keep=["stage.*"])
    with pytest.raises(ValueError, match="no layer is left"):
        rounding.layers_of(net, keep=["*"])


# ---------------------------------------------------------------- models


def test_a_quantized_model_is_near_its_float_net_which_stays(model, static, dynamic, crops):
    images = to_tensor(torch.from_numpy(crops))
    before = weights_checksum(model)
    wanted = model.describe(images).embedding
    for quantized, form in ((static, "int8 static"), (dynamic, "int8 dynamic")):
        assert quantized.form == form and model.form == "float32" and not quantized.training
        cosines = (quantized.describe(images).embedding * wanted).sum(1)
        assert 0.98 < cosines.min() < 1 - 1e-6
    assert weights_checksum(model) == before and not any(hasattr(layer, "rounding") for layer in model.modules())


def test_dynamic_levels_are_those_of_each_image_not_of_the_batch(dynamic, crops):
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.01, 100]).view(
        3, 1, 1, 1
    )
    rounds = Rounding(torch.ones(4), None)
    assert torch.equal(rounds(x), torch.cat([rounds(each[None]) for each in x]))
    images = to_tensor(torch.from_numpy(crops))
    images[1] *= 0.05  # levels of the batch would leave it a dozen
    alone = dynamic.describe(images[1:2]).embedding
    # Sums of another order may fall on the other side of a step, but no more.
    assert (dynamic.describe(images).embedding[1] * alone).sum() > 0.999


@pytest.mark.parametrize("kind", MODES)
def test_a_file_comes_back_bit_for_bit(model, static, dynamic, kind, crops, tmp_path):
    quantized = {"static": static, "dynamic": dynamic}[kind]
    models.save_quantized(quantized, tmp_path / "small.pt")
    found = models.load(tmp_path / "small.pt", arch="ir_tiny", color_space="rgb")
    assert (found.form, found.arch, found.head_name) == (quantized.form, "ir_tiny", model.head_name)
    assert weights_checksum(found) == weights_checksum(quantized)
    images = to_tensor(torch.from_numpy(crops[:2]))
    for one, other in zip(found.describe(images), quantized.describe(images), strict=True):
        assert torch.equal(one, other)
    assert found.fusion_statistics == model.fusion_statistics and found.matcher is not None
    kept = torch.load(tmp_path / "small.pt", weights_only=True)["state_dict"]
    sizes = [
        sum(t.numel() * t.itemsize for n, t in s.items() if n.startswith("model.")) for s in (kept, model.state_dict())
    ]
    assert sizes[0] < 0.3 * sizes[1]
    with pytest.raises(ValueError, match=r"small\.pt: holds a quantized ir_tiny net, but --arch says ir_18"):
        models.load(tmp_path / "small.pt", arch="ir_18")


def test_weights_from_elsewhere_are_quantized_too(tmp_path):
    torch.save(nets.build_model("mobilefacenet", 32).state_dict(), tmp_path / "foreign.pt")
    model = models.load(tmp_path / "foreign.pt", color_space="bgr")
    models.save_quantized(models.quantize(model, form=DYNAMIC), tmp_path / "small.pt")
    found = models.load(tmp_path / "small.pt")
    assert found.matcher is None and found.arch == "mobilefacenet"


def test_what_cannot_be_quantized_is_one_line(model, static, crops, tmp_path):
    for net, faces, form, match in (
        (model, None, STATIC, "static needs crops"), (model, crops[:0], STATIC, "static needs crops"),
        (model, crops, DYNAMIC, "dynamic takes none"), (static, crops, STATIC, "int8 static already"),
        (model, crops, Quantization("half"), "mode must be one of static, dynamic, got 'half'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            models.quantize(net, faces, form)
    with pytest.raises(ValueError, match="not quantized"):
        models.save_quantized(model, tmp_path / "x.pt")


# ---------------------------------------------------------------- files that are not what was written


LAYER = "input_layer.0"
BEYOND = torch.tensor(256.0)
CHANGES = {
    "quantization.format: one of": lambda c: c["quantization"].update(format="2"),
    "quantization.form: one of": lambda c: c["quantization"].update(form="float32"),
    "quantization: dict expected|quantization: a dict expected": lambda c: c.update(quantization=[1]),
    "unexpected": lambda c: c["quantization"]["layers"].update({"body.9": c["quantization"]["layers"][LAYER]}),
    "weight_scale: numbers above 0": lambda c: c["quantization"]["layers"][LAYER]["weight_scale"].neg_(),
    "weight_scale: shape": lambda c: c["quantization"]["layers"][LAYER].update(weight_scale=torch.ones(1)),
    "scale: holds NaN": lambda c: c["quantization"]["layers"][LAYER].update(scale=torch.tensor(float("nan"))),
    "zero_point: numbers from 0 to 255": lambda c: c["quantization"]["layers"][LAYER].update(zero_point=BEYOND),
    "zero_point: missing": lambda c: c["quantization"]["layers"][LAYER].pop("zero_point"),
    "int8 expected, found float32": lambda c: c["state_dict"].update(
        {f"model.{LAYER}.weight": c["state_dict"][f"model.{LAYER}.weight"].float()}
    ),
    "float32 expected, found int8": lambda c: c["quantization"]["layers"].pop(LAYER),
    "unknown options": lambda c: c["options"].update(nonsense=1),
    "color_space": lambda c: c.update(color_space="bgr"),
    "with_parts": lambda c: c.update(with_parts=1),
    "alignment": lambda c: c.update(alignment={"template": 3}),
    "fusion_statistics": lambda c: c.update(fusion_statistics=[]),
}  # fmt: skip


@pytest.mark.parametrize("match", CHANGES)
def test_a_file_that_is_not_what_was_written_is_one_line(match, file, tmp_path):
    content = torch.load(file, weights_only=True)
    CHANGES[match](content)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(ValueError, match=match) as refused:
        models.load(tmp_path / "changed.pt")
    assert "\n" not in str(refused.value) and "changed.pt" in str(refused.value)


def test_a_damaged_file_is_told_by_its_checksum(file, tmp_path):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.pt: damaged"):
        models.load(tmp_path / "damaged.pt")


def test_a_float_net_does_not_take_integers_for_weights(file):
    with pytest.raises(ValueError, match=r"small\.pt: .*float32 expected, found int8"):
        nets.load_weights(nets.build_model("ir_tiny", 16), file)


# ---------------------------------------------------------------- embeddings of two nets


def photographs(people):
    return Photographs(*find_photographs(people), AS_GIVEN, 1)


def test_galleries_calibrations_and_embeddings_of_both_are_never_mixed(model, static, dynamic, people, tmp_path):
    every = {"float": model, "static": static, "dynamic": dynamic}
    for name, each in every.items():
        gallery = Gallery(each)
        gallery.enrol(people)
        gallery.save(tmp_path / f"{name}.npz")
        models.embed(each, photographs(people), EmbedJob(tmp_path / name))
        assert models.read_embeddings(tmp_path / name).facts["form"] == each.form
    calibration = models.calibrate(model, people, plan=Plan((0.5,), num_draws=100))
    for name, each in every.items():
        Gallery.load(tmp_path / f"{name}.npz", each)
        for other in every.values():
            if other is each:
                continue
            with pytest.raises(
                ValueError, match=r"belongs to other weights .*quantized and float weights are two"
            ) as told:
                Gallery.load(tmp_path / f"{name}.npz", other)
            assert "\n" not in str(told.value)
            with pytest.raises(ValueError, match="is of other weights"):
                models.embed(other, photographs(people), EmbedJob(tmp_path / name))
    pair = people / "p0" / "0.png", people / "p0" / "1.png"
    assert model.verify(*pair, calibration)
    with pytest.raises(ValueError, match="other weights"):
        static.verify(*pair, calibration)


# ---------------------------------------------------------------- the program


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    load_model(path)
    return path


def run(*words):
    assert main.main(["quantize", *map(str, words)]) == 0


@pytest.mark.quantize_flag("out", "mode", "calibration", "pairs")
def test_the_program_writes_what_the_function_makes_and_says_what_it_costs(checkpoint, people, faces, tmp_path, capsys):
    assert Quantization().mode == QuantizationOptions(out="x", calibration="y").mode and MODES == rounding.MODES
    out = tmp_path / "small.pt"
    flags = ("--align", "no", "--out", out)
    run(checkpoint, *flags, "--calibration", people, "--pairs", people)
    told = capsys.readouterr().out
    assert "4 genuine and 24 impostor pairs of 8 images" in told and "8 of these images are in the calibration" in told
    assert "AUC, fused" in told and "cosine of the two embeddings" in told
    assert f"int8 static: {out}, 1.39 of 3.61 MiB" in told
    model = models.load(checkpoint)
    crops = models.portraits.read_crops(models.portraits.find_people(people).paths, models.AS_GIVEN)[0]
    assert weights_checksum(models.load(out)) == weights_checksum(models.quantize(model, crops, STATIC))
    run(checkpoint, *flags, "--mode", "dynamic", "--pairs", faces / "lfw")
    assert "lfw: measured on 20 genuine and 20 impostor pairs of 80 images" in capsys.readouterr().out
    assert models.load(out).form == "int8 dynamic"


@pytest.mark.quantize_flag("depthwise", "keep")
def test_layers_are_chosen_by_flags(tmp_path, people):
    net = nets.build_model("edgeface_xxs", 32)
    torch.save(net.state_dict(), tmp_path / "foreign.pt")
    flags = ("--color_space", "rgb", "--mode", "dynamic", "--pairs", people, "--align", "no", "--depthwise")
    run(tmp_path / "foreign.pt", "--out", tmp_path / "small.pt", *flags, "--keep", "stages.0.*,head.fc")
    layers = torch.load(tmp_path / "small.pt", weights_only=True)["quantization"]["layers"]
    every = rounding.layers_of(net, depthwise=True)
    assert layers.keys() == {name for name in every if not name.startswith("stages.0.") and name != "head.fc"}
    assert any(every[name].weight.shape[1] == 1 for name in layers)


def test_the_program_refuses_in_one_line(checkpoint, people, file, tmp_path, capsys):
    out = ("--out", tmp_path / "small.pt")
    for words, match in (
        ([checkpoint], "--out is needed"),
        ([checkpoint, *out], "--mode static needs --calibration"),
        ([checkpoint, *out, "--mode", "dynamic", "--calibration", people], "dynamic takes none"),
        ([checkpoint, *out, "--calibration", tmp_path / "nowhere"], "nowhere"),
        ([tmp_path / "gone.ckpt", *out, "--mode", "dynamic"], "gone.ckpt: no such checkpoint"),
        ([checkpoint, "--out", tmp_path / "no" / "small.pt", "--mode", "dynamic"], "its folder does not exist"),
        ([file, *out, "--mode", "dynamic"], "int8 static already"),
        ([checkpoint, *out, "--mode", "dynamic", "--pairs", people / "p0"], "two of each are needed"),
    ):
        assert match in refusal(capsys, main.main, "quantize", *words)
    assert not (tmp_path / "small.pt").exists()
