"""The tuples of names in config.py, which cannot import the packages, say what the packages' registries say."""

import pytest

import config as names
from options.names import CLUSTER_METHODS, COVARIATES, DETECTORS, ENCODERS


def test_names_equal_the_registries():
    import datasets.clustering
    import evaluation
    import heads
    import nets
    import transforms
    from engine import optim

    assert set(names.ARCHS) == set(nets.MODELS)
    assert CLUSTER_METHODS == datasets.clustering.METHODS
    assert ENCODERS == nets.ENCODERS
    assert DETECTORS == tuple(nets.DETECTORS)
    assert COVARIATES == nets.COVARIATES
    assert names.MAP_DTYPES == tuple(evaluation.MAP_DTYPES)
    assert set(names.SPLIT_HEADS) == {name for name, head in heads.HEADS.items() if head.can_split}
    assert set(names.OCCLUDERS) == set(transforms.OCCLUDERS)
    assert set(names.LR_SCHEDULES) == set(optim.SCHEDULES)


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_every_optimizer_is_built(name):
    import torch

    from engine import optim

    groups = [{"params": [torch.nn.Parameter(torch.zeros(2, 2))]}]
    assert type(optim.build_optimizer(name, groups, lr=0.1, momentum=0.9)).__name__.lower() == name


@pytest.mark.parametrize("score", names.QACONV_SCORES)
@pytest.mark.parametrize("method", names.OCCLUSION_METHODS)
def test_every_matcher_option_is_built(score, method):
    from qaconv import QAConv

    QAConv(16, 3, 3, occlusion_method=method, score=score)


def test_the_matcher_knows_no_other_names():
    from qaconv import QAConv

    with pytest.raises(ValueError, match="occlusion"):
        QAConv(16, 3, 3, occlusion_method="elsewhere")
    with pytest.raises(ValueError, match="score"):
        QAConv(16, 3, 3, score="elsewhere")
