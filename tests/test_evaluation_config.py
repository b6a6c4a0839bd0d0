"""The flags of main_eval.py: spellings, defaults, refusals."""

import pytest
from programs import refusal

from config import EvaluationConfig, get_eval_args


def test_evaluation_flags_in_both_spellings():
    words = {
        "model-path": "m.ckpt", "data-path": "faces", "output-dir": "out", "batch-size": "8", "adaface-weight": "0.8",
        "qaconv-weight": "0.2", "pairs": "pairs.txt", "arch": "ir_18", "color-space": "bgr", "occlude": "one",
        "occluders": "hand", "seed": "1", "num-workers": "0", "precision": "bf16", "gpus": "0", "map-dtype": "int8",
        "map-dir": "maps",
    }  # fmt: skip
    for separator in "-_":
        argv = [part for name, word in words.items() for part in (f"--{name.replace('-', separator)}", word)]
        assert get_eval_args(argv) == EvaluationConfig(
            model_path="m.ckpt", data_path="faces", output_dir="out", batch_size=8, adaface_weight=0.8,
            qaconv_weight=0.2, pairs="pairs.txt", arch="ir_18", color_space="bgr", occlude="one", occluders=("hand",),
            seed=1, num_workers=0, precision="bf16", gpus=0, map_dtype="int8", map_dir="maps",
        )  # fmt: skip


def test_evaluation_defaults():
    config = get_eval_args(["--model-path", "m", "--data-path", "d"])
    assert (config.batch_size, config.adaface_weight, config.qaconv_weight, config.occlude) == (64, 0.7, 0.3, "none")
    assert (config.arch, config.color_space, config.pairs) == (None, None, None)
    assert (config.shortlist, config.map_dtype, config.map_dir) == (0, "float16", None)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--data-path d", "--model-path is missing"),
        ("--model-path m", "--data-path is missing"),
        ("--model-path m --data-path d --occlude both --occluders none", "--occluders"),
        ("--model-path m --data-path d --occlude two", "none, one, both"),
        ("--model-path m --data-path d --qaconv-weight 0 --adaface-weight 0", "--qaconv-weight"),
        ("--model-path m --data-path d --batch-size 0", "--batch_size"),
        ("--model-path m --data-path d --gpus 2", "--gpus must be 0 or 1"),
        ("--model-path m --data-path d --lr 1", "--lr"),
        ("--model-path m --data-path d --shortlist -1", "--shortlist"),
        ("--model-path m --data-path d --occlude one --occlusion-draws 0", "--occlusion_draws"),
        ("--model-path m --data-path d --occlusion-draws 3", "--occlusion-draws 3 hides nothing: give --occlude"),
        ("--model-path m --data-path d --shortlist 5 --pairs p.csv", "--shortlist chooses among all pairs"),
        ("--model-path m --data-path d --map-dtype float64", "float32, float16, int8"),
    ],
)
def test_bad_evaluation_flags_are_refused_in_one_line(argv, expected, capsys):
    line = refusal(capsys, get_eval_args, *argv.split())
    assert line.startswith("main_eval.py: error: ") and expected in line
