"""What each flag of model and losses changes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from observed import NUM_PEOPLE, fixed_batch, recognizer, trained_step

import heads
import losses
import nets
from config import HEADS, OCCLUSION_LOSSES, OCCLUSION_METHODS, PAIRWISE_REDUCTIONS, Config
from transforms import visibility_map


@pytest.mark.flag("arch", "embedding_size")
def test_model_options_build_the_model():
    tiny, large = recognizer(), recognizer(arch="mobilefacenet", embedding_size=24)
    assert type(tiny.model) is not type(large.model)
    assert large.model(torch.zeros(2, 3, 112, 112)).embedding.shape == (2, 24)
    assert large.head.kernel.shape == (24, NUM_PEOPLE)


@pytest.mark.flag("head", "m", "h", "s", "t_alpha")
def test_head_options_reach_the_head():
    assert [type(recognizer(head=name).head) for name in HEADS] == [heads.HEADS[name] for name in HEADS]
    head = recognizer(m=0.2, h=0.1, s=16.0, t_alpha=0.5).head
    assert (head.m, head.h, head.s, head.t_alpha) == (0.2, 0.1, 16.0, 0.5)


@pytest.mark.flag("qaconv_channels", "qaconv_score")
def test_matcher_options_build_the_matcher():
    projected = recognizer(qaconv_channels=6).matcher
    assert projected.projection.weight.shape[0] == 6
    weighted = recognizer(qaconv_score="weighted").matcher
    assert weighted.state_dict().keys() != recognizer().matcher.state_dict().keys()


@pytest.mark.flag("activation_checkpointing")
def test_activation_checkpointing_keeps_fewer_activations_of_the_backbone():
    def kept_bytes(**options):
        sizes = {}

        def count(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = recognizer(**options)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            features = model.model(torch.zeros(4, 3, 112, 112))
        return sum(sizes.values()), features

    (everything, _), (less, _) = kept_bytes(), kept_bytes(activation_checkpointing=True)
    assert less < 0.8 * everything


@pytest.mark.flag("channels_last")
def test_channels_last_decides_how_weights_and_maps_lie_and_nothing_else():
    losses_of = {}
    for choice in (True, False):
        model, loss, _ = trained_step(channels_last=choice)
        kernel = next(weight for weight in model.model.parameters() if weight.ndim == 4 and weight.shape[-1] > 1)
        feature_map = model.model(torch.zeros(2, 3, 112, 112)).feature_map
        for tensor in (kernel, feature_map):
            assert tensor.is_contiguous(memory_format=torch.channels_last) is choice
            assert tensor.is_contiguous() is not choice
        losses_of[choice] = loss
    assert losses_of[True] == pytest.approx(losses_of[False], rel=1e-4)


@pytest.mark.flag("class_embeddings", "k_nearest")
@pytest.mark.parametrize("k_nearest", [2, 5])
def test_class_embeddings_are_matched_with_k_nearest_classes(k_nearest):
    assert "train_class_loss" not in trained_step()[2]
    model = recognizer(class_embeddings=True, k_nearest=k_nearest)
    model.on_train_start()
    model.training_step(fixed_batch(), 0)
    assert float(model.guard.passes[0].terms["class"]) > 0
    maps = torch.nn.functional.normalize(torch.randn(3, *model.model.map_shape), dim=1)
    assert model.matcher.class_logits(maps, torch.tensor([0, 1, 2])).shape == (3, 1 + k_nearest)


@pytest.mark.flag("adaface_loss_weight", "qaconv_loss_weight", "occlusion_loss_weight", "triplet_weight")
@pytest.mark.parametrize(
    ("flag", "share"),
    [
        ("adaface_loss_weight", lambda terms: terms["train_head_loss"]),
        ("qaconv_loss_weight", lambda terms: terms["train_pairwise_loss"] + 0.5 * terms["train_triplet_loss"]),
        ("triplet_weight", lambda terms: 0.7 * terms["train_triplet_loss"]),
        ("occlusion_loss_weight", lambda terms: terms["train_occlusion_loss"]),
    ],
)
def test_a_loss_weight_multiplies_its_terms(flag, share):
    _, loss, terms = trained_step()
    _, changed, _ = trained_step(**{flag: getattr(Config(), flag) + 1.0})
    assert share(terms) > 0.01
    assert changed - loss == pytest.approx(share(terms), rel=1e-3)


@pytest.mark.flag("occlusion_head")
def test_occlusion_head_fine_reads_the_detail_map_and_trains_both_maps_of_it():
    assert isinstance(recognizer().occlusion_head, nets.OcclusionHead)
    model = recognizer(occlusion_head="fine", adaface_loss_weight=0.0, qaconv_loss_weight=0.0)
    assert isinstance(model.occlusion_head, nets.FineOcclusionHead)
    model.training_step(fixed_batch(), 0).backward()
    trained = [model.model.input_layer[0], model.occlusion_head.coarse, model.occlusion_head.fine]
    assert all(layer.weight.grad.abs().sum() > 0 for layer in trained)


@pytest.mark.flag("occlusion_head")
def test_occlusion_head_pyramid_trains_itself_and_leaves_the_backbone_to_the_other_losses():
    model = recognizer(occlusion_head="pyramid", adaface_loss_weight=0.0, qaconv_loss_weight=0.0)
    assert isinstance(model.occlusion_head, nets.PyramidOcclusionHead)
    model.training_step(fixed_batch(), 0).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.occlusion_head.parameters())
    gradients = [parameter.grad for parameter in model.model.parameters()]
    assert not any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.flag("occlusion_loss")
@pytest.mark.parametrize(("head", "side"), [("plain", 7), ("pyramid", 28)])
def test_occlusion_loss_is_that_of_its_name_on_the_cells_that_the_head_decides_on(head, side):
    model = recognizer(occlusion_head=head)
    seen = {}
    model.occlusion_head.register_forward_hook(lambda head, maps, output: seen.update(visibility=output.detach()))
    model.training_step(fixed_batch(), 0)
    target = visibility_map(fixed_batch().visibility, side, side)
    for name in OCCLUSION_LOSSES:
        expected = losses.OCCLUSION_LOSSES[name](seen["visibility"], target)
        terms = trained_step(occlusion_loss=name, occlusion_head=head)[2]
        assert terms["train_occlusion_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert trained_step()[2]["train_occlusion_loss"] == trained_step(occlusion_loss="mse")[2]["train_occlusion_loss"]


def test_class_weight_without_class_embeddings_is_refused():
    with pytest.raises(ValueError, match="--class_weight belongs to --class_embeddings"):
        Config(class_weight=0.5)


def class_step(**options):
    """Return loss and class term of one step with class embeddings."""
    model = recognizer(class_embeddings=True, k_nearest=4, **options)
    model.on_train_start()
    return float(model.training_step(fixed_batch(), 0)), float(model.guard.passes[0].terms["class"])


@pytest.mark.flag("class_weight")
def test_class_weight_is_the_class_term_s_own_and_else_that_of_the_ranking_loss():
    loss, term = class_step()
    assert class_step(class_weight=0.5)[0] == loss
    assert class_step(class_weight=1.5)[0] - loss == pytest.approx(0.7 * term, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "term"),
    [
        ({"adaface_loss_weight": 0.0}, "head"),
        ({"triplet_weight": 0.0, "class_weight": 0.5}, "triplet"),
        ({"class_weight": 0.0}, "class"),
    ],
)
def test_a_term_of_weight_0_is_not_computed(options, term):
    model = recognizer(class_embeddings=True, k_nearest=4, **options)
    model.on_train_start()
    model.training_step(fixed_batch(), 0).backward()
    found = model.guard.passes[0].terms
    assert set(found) == {"head", "pairwise", "triplet", "class", "occlusion"} - {term}
    assert (model.matcher.class_embeddings.weight.grad is None) == (term == "class")
    assert torch.equal(model.head.kernel.grad, torch.zeros_like(model.head.kernel)) == (term == "head")


def test_a_head_without_weight_keeps_its_place_in_the_optimizer_as_in_checkpoints_of_earlier_versions():
    runs = [recognizer(adaface_loss_weight=weight) for weight in (0.0, 0.1)]
    without, with_weight = ([name for name, p in run.named_parameters() if p.requires_grad] for run in runs)
    assert without == with_weight


def test_without_its_weight_there_is_no_matcher_and_no_occlusion_head():
    assert recognizer(qaconv_loss_weight=0.0).matcher is None
    assert recognizer(occlusion_loss_weight=0.0, occlusion_method="none").occlusion_head is None


@pytest.mark.flag("triplet_margin")
def test_triplet_margin_raises_the_ranking_loss():
    narrow, wide = (trained_step(triplet_margin=margin)[2]["train_triplet_loss"] for margin in (1.0, 3.0))
    assert narrow < wide <= narrow + 2.001


@pytest.mark.flag("pairwise_reduction")
def test_every_pairwise_reduction_is_another_loss():
    found = {name: trained_step(pairwise_reduction=name)[2]["train_pairwise_loss"] for name in PAIRWISE_REDUCTIONS}
    assert len({round(value, 4) for value in found.values()}) == len(losses.PAIRWISE_REDUCTIONS)


@pytest.mark.flag("occlusion_method")
def test_every_occlusion_method_is_another_score():
    found = [trained_step(occlusion_method=name)[2]["train_pairwise_loss"] for name in OCCLUSION_METHODS]
    assert len({round(value, 6) for value in found}) == len(OCCLUSION_METHODS)


@pytest.mark.flag("visible_from")
def test_visible_from_decides_which_cells_the_matcher_looks_at():
    few, many = (trained_step(occlusion_method="masking", visible_from=least)[2] for least in (0.9, 0.0))
    assert few["train_pairwise_loss"] != many["train_pairwise_loss"]


@pytest.mark.flag("visibility_gradient")
@pytest.mark.parametrize("visibility_gradient", [False, True])
def test_visibility_gradient_lets_the_matching_losses_train_the_occlusion_head(visibility_gradient):
    model = recognizer(visibility_gradient=visibility_gradient, occlusion_method="scaling")
    model.training_step(fixed_batch(with_masks=False), 0).backward()
    gradients = [parameter.grad for parameter in model.occlusion_head.parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients) is visibility_gradient


@pytest.mark.flag("adaface_eval_weight", "qaconv_eval_weight")
@pytest.mark.parametrize(("weights", "decider"), [((1.0, 0.0), "adaface"), ((0.0, 1.0), "qaconv")])
def test_eval_weights_decide_the_combined_score(weights, decider):
    model = recognizer(adaface_eval_weight=weights[0], qaconv_eval_weight=weights[1])
    rng = np.random.default_rng(0)
    issame = np.arange(40) % 2 == 0
    scores = {name: (rng.normal(size=40) + issame).astype(np.float32) for name in ("adaface", "qaconv")}
    model.pair_scores = SimpleNamespace(gather=lambda benchmarks: {"lfw": {"clean": scores}})
    model.log_dict = lambda *args, **kwargs: None
    benchmark = SimpleNamespace(name="lfw", issame=issame, folds=np.arange(40) // 20)
    model.trainer.datamodule = SimpleNamespace(benchmarks=[benchmark])
    model.on_validation_epoch_end()
    results = model.last_results["lfw"]["clean"]
    assert results["combined"].accuracy == results[decider].accuracy
    assert results["adaface"].accuracy != results["qaconv"].accuracy
