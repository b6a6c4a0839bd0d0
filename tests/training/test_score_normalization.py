"""Normalization in runs: a validation learns it from training people, and a checkpoint carries it."""

import numpy as np
import pytest
import torch
from short_runs import build, fit, write_faces

from tasks import validation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_faces(tmp_path_factory.mktemp("faces"), identities=12, pairs=20))


OPTIONS = {"qaconv_channels": 8, "occlusion_prob": 0.5, "val_occlusion": ("block",), "occlusion_method": "masking"}
OPTIONS["score_normalization"] = "visibility"


@pytest.mark.flag("score_normalization")
def test_a_validation_learns_from_training_people_unless_told_not_to(data, tmp_path):
    fit(tmp_path / "learned", data_root=data, **OPTIONS)
    saved = torch.load(tmp_path / "learned" / "last.ckpt", weights_only=True)
    learned = saved["score_normalization"]
    assert learned["source"] == "48 images of 12 training people, clean and occluded"
    assert learned["num_impostors"] == 3 * (48 * 47 // 2 - 12 * 6)
    assert saved["fusion_statistics"] is None  # nothing is left for it to say
    fit(tmp_path / "raw", data_root=data, **{**OPTIONS, "score_normalization": "none"})
    raw = torch.load(tmp_path / "raw" / "last.ckpt", weights_only=True)
    assert raw["score_normalization"] is None and raw["fusion_statistics"] is not None


def test_without_occluders_or_matcher_there_is_none(data, tmp_path):
    for name, options in (("clean", {"occluders": ()}), ("alone", {"qaconv_loss_weight": 0.0})):
        fit(tmp_path / name, data_root=data, **{**OPTIONS, **options})
        assert torch.load(tmp_path / name / "last.ckpt", weights_only=True)["score_normalization"] is None


def test_impostors_of_the_cohort_have_mean_0_and_spread_1(data, tmp_path):
    model, datamodule, _ = build(tmp_path, data_root=data, **OPTIONS)
    model.eval()
    cohort, device = datamodule.cohort, torch.device("cpu")
    with torch.inference_mode():
        learned = validation.learn_normalization(model.describe, model.matcher, cohort, model.fusion_weights, device)
        again = validation.learn_normalization(model.describe, model.matcher, cohort, model.fusion_weights, device)
    assert learned == again and set(learned.mean) == {"adaface", "qaconv"}
    assert np.isfinite([*learned.mean["adaface"], *learned.log_std["qaconv"], *learned.correlation]).all()


def test_scores_that_are_not_finite_teach_nothing(data, tmp_path):
    model, datamodule, _ = build(tmp_path, data_root=data, **OPTIONS)
    model.eval()
    torch.nn.init.constant_(model.matcher.fc.bias, torch.nan)
    with torch.inference_mode():
        found = validation.learn_normalization(
            model.describe, model.matcher, datamodule.cohort, model.fusion_weights, torch.device("cpu")
        )
    assert found is None
