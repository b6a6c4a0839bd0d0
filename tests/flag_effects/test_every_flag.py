"""Every flag does something: a test of what it changes, beyond the value that is parsed, is marked with its name.

`@pytest.mark.flag("lr")` marks the test of a flag of main.py, `@pytest.mark.evaluation_flag("pairs")` of main_eval.py,
`@pytest.mark.pretraining_flag("temperature")` of one that pretrain alone has, `@pytest.mark.detection_flag("arch")` of
one that detect train alone has, `@pytest.mark.answer_flag("far")` of the programs that answer, `embed_flag`,
`probe_flag`, `cluster_flag`, `convert_flag`, `quantize_flag`, `export_flag` and `fit_flag` of these programs: what a
program shares with others is marked once.
"""

import ast

import pytest
from programs import ROOT

from cli.data.cluster import ClusterOptions
from cli.data.convert import ConvertOptions
from cli.deployment.export import ExportFlags
from cli.machine.fit import FitOptions
from cli.quantize import QuantizationOptions
from config import Config, EvaluationConfig
from options.answers import CalibrateOptions, EnrolOptions, IdentifyOptions, VerifyOptions
from options.embedding import EmbeddingOptions, ProbeOptions
from options.tasks.detection import (
    DetectionDataOptions,
    DetectionViewOptions,
    DetectorDistillationOptions,
    DetectorOptions,
)
from options.tasks.pretraining import ContrastOptions, PseudoIdentityOptions, ViewOptions

PROGRAMS = {
    "flag": (Config,),
    "evaluation_flag": (EvaluationConfig,),
    "pretraining_flag": (ContrastOptions, PseudoIdentityOptions, ViewOptions),
    "detection_flag": (
        DetectorOptions,
        DetectorDistillationOptions,
        DetectionViewOptions,
        DetectionDataOptions,
    ),
    "embed_flag": (EmbeddingOptions,),
    "probe_flag": (ProbeOptions,),
    "cluster_flag": (ClusterOptions,),
    "convert_flag": (ConvertOptions,),
    "quantize_flag": (QuantizationOptions,),
    "export_flag": (ExportFlags,),
    "fit_flag": (FitOptions,),
    "answer_flag": (VerifyOptions, CalibrateOptions, EnrolOptions, IdentifyOptions),
}


def marked(mark):
    """Return the words that the tests of all folders are marked with by one mark."""
    decorators = [
        decorator
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for test in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_")
        for decorator in test.decorator_list
    ]
    calls = [each for each in decorators if isinstance(each, ast.Call)]
    return {
        ast.literal_eval(word)
        for call in calls
        if ast.unparse(call.func) == f"pytest.mark.{mark}"
        for word in call.args
    }


@pytest.mark.parametrize("mark", PROGRAMS)
def test_every_flag_has_a_test_of_its_effect(mark):
    assert marked(mark) == {option.name for program in PROGRAMS[mark] for option in program.options()}
