"""Every committed recipe parses, and the registries build the run that it describes."""

import shlex
from pathlib import Path

import pytest

from config import (
    DetectionConfig,
    PretrainingConfig,
    explicit_flags,
    get_args,
    get_detection_args,
    get_pretraining_args,
)

ALL = sorted((Path(__file__).parents[1] / "experiments" / "recipes").glob("*.args"))
PRETRAINING = [path for path in ALL if "main.py pretrain " in path.read_text(encoding="utf-8")]
DETECTION = [path for path in ALL if "main.py detect train " in path.read_text(encoding="utf-8")]
RECIPES = [path for path in ALL if path not in (*PRETRAINING, *DETECTION)]
PROGRAMS = dict.fromkeys(PRETRAINING, PretrainingConfig) | dict.fromkeys(DETECTION, DetectionConfig)
NUM_CLASSES = 8
ALSO = dict.fromkeys(("low_resolution", "lora"), ("--start_from_model_statedict", "weights.pt"))  # given beside


def test_the_promised_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {
        "ir50_ms1mv2",
        "ir101_ms1mv2",
        "ir50_casia_webface",
        "own_folder",
        "demo",
        "occlusion_head",
        "low_resolution",
        "lora",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_builds(path):
    import torch

    from train_val import Recognizer

    config = get_args([f"@{path}", *ALSO.get(path.stem, [])])
    # No memory and no time for weights: shapes are all that is asked for.
    with torch.device("meta"):
        recognizer = Recognizer(config.to_dict(), {"0": NUM_CLASSES})
    assert recognizer.heads["0"].kernel.shape == (config.embedding_size, NUM_CLASSES)
    embedding_alone = path.stem in ALSO
    assert (recognizer.matcher is None) == embedding_alone
    assert (recognizer.occlusion_head is None) == embedding_alone


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_pretraining_recipe_parses_and_builds(path):
    import torch

    from tasks.moco.module import Pretrainer

    config = get_pretraining_args([f"@{path}"])
    with torch.device("meta"):
        pretrainer = Pretrainer(config.to_dict(), 10 * config.queue_size)
    assert pretrainer.contrast.queue.keys.shape == (config.queue_size, 128)
    assert {path.stem for path in PRETRAINING} == {"moco", "moco_cpu"}


@pytest.mark.parametrize("path", DETECTION, ids=lambda path: path.stem)
def test_detection_recipe_parses_and_builds(path):
    import torch

    from tasks.detection.module import DetectorTraining

    config = get_detection_args([f"@{path}", *(["--teacher", "weights.pth"] if path.stem == "detector_v2" else [])])
    with torch.device("meta"):
        training = DetectorTraining(config.to_dict())
    assert training.priors(config.image_size).shape[1] == 4
    assert {each.stem for each in DETECTION} == {"detector", "retinaface", "detector_v2", "detector_cpu"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_recipe_is_commented_and_names_itself(path):
    first, *_ = text = path.read_text().splitlines()
    assert first.startswith("# ")
    assert any(f"@experiments/recipes/{path.name}" in line for line in text), "the comment shows the command"
    words = shlex.split(path.read_text(), comments=True)
    assert not any(Path(word).is_absolute() for word in words)
    program = {"program": PROGRAMS[path]} if path in PROGRAMS else {}
    assert "prefix" in explicit_flags([f"@{path}"], **program)


def test_published_settings_of_ms1mv2():
    # AdaFace's public training scripts for R50 and R101.
    config = get_args([f"@{RECIPES[0].parent / 'ir50_ms1mv2.args'}"])
    assert (config.arch, config.batch_size, config.epochs, config.lr) == ("ir_50", 256, 26, 0.1)
    assert (config.head, config.m, config.h, config.lr_milestones) == ("adaface", 0.4, 0.333, (12, 20, 24))
    assert config.use_16bit and config.low_res_augmentation_prob == 0.2
    large = get_args([f"@{RECIPES[0].parent / 'ir101_ms1mv2.args'}"])
    assert (large.arch, large.batch_size, large.prefix) == ("ir_101", 512, "ir101_ms1mv2")
    assert large.lr_milestones == config.lr_milestones
