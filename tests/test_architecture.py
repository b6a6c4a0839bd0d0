"""The rules of the house, checked on every module: who imports whom, what is imported from outside, and sizes."""

import ast
import functools
import io
import re
import statistics
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from benchmarks.harness import program as benchmarks
from cli.programs import PROGRAMS

ROOT = Path(__file__).parents[1]

# Six rows, from top to bottom. A module imports what stands below it, never what stands above it or beside it.
ROWS = (
    {"main", "main_eval", "hubconf", "cli", "benchmarks", "tools"},  # parse, build, run
    {"train_val", "data", "tasks"},  # the wiring of one task
    {"engine", "models"},  # Lightning and no face; networks that are ready to use and no Lightning
    {"datasets", "evaluation", "nets", "heads", "qaconv", "losses"},
    {"transforms", "ops"},
    {"config", "options", "system"},
)
# Within a row these may import those.
BESIDE = {
    "main": {"cli"},
    "main_eval": {"cli"},
    "train_val": {"tasks"},
    "data": {"tasks"},
    "config": {"options", "system"},
    "options": {"system"},
    "benchmarks": {"cli"},
    "tools": {"cli", "benchmarks"},
}
LEAVES = ROWS[3] | ROWS[4]
# Below the program even less is allowed: these names of ours, and these from outside. Names of files are everywhere.
OURS = {name: {"ops", "system"} for name in LEAVES}
OURS |= {
    "datasets": {"transforms", "system"},
    "transforms": {"system"},
    "heads": {"ops", "options"},  # options.names, which registers them
    "losses": {"ops", "options"},
    "ops": set(),
    "engine": {"ops", "config", "options", "system"},
    "models": {"nets", "qaconv", "evaluation", "datasets", "transforms", "ops", "options", "system"},
}
OUTSIDE = {name: {"torch"} for name in LEAVES} | {
    "transforms": {"cv2", "numpy", "torch"},
    # rich shows how far the writing of a cache is; faiss and pillow_heif where they are installed
    "datasets": {"cv2", "faiss", "numcodecs", "numpy", "pillow_heif", "rich", "scipy", "torch"},
    "nets": {"safetensors", "torch"},
    # all but cv2, numpy, safetensors and torch where they are installed
    "models": {
        *("PIL", "cv2", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "pyarrow", "safetensors", "spandrel"),
        "torch",
    },
    "evaluation": {"matplotlib", "numpy", "rich", "scipy", "sklearn", "torch"},
    "qaconv": {"torch", "triton"},  # triton where it is installed
    "config": set(),
    "options": set(),
    "system": set(),
}
PLOTS = Path("evaluation/report/plots.py")
PARSERS = {"config", "options", "cli", "benchmarks", "tools"}
PRINTERS = {"main", "main_eval", "benchmarks", "tools"}
ALIASES = {Path("datasets/check.py"), Path("datasets/convert.py")}  # older names of programs; nobody imports them

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_ROOT_FILES = 8
MAX_FOLDER_FILES = 15


class Module(NamedTuple):
    path: Path  # relative to the root
    source: str

    @property
    def name(self) -> str:
        return self.path.parts[0].removesuffix(".py")

    @property
    def tree(self) -> ast.Module:
        return parsed(self.source)


parsed = functools.cache(ast.parse)


def read_modules() -> list[Module]:
    apart = {"tests", "experiments", "docs"}
    paths = (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py")))
    inside = (path for path in paths if path.parts[0] not in apart and not path.parts[0].startswith("."))
    return [Module(path, (ROOT / path).read_text(encoding="utf-8")) for path in inside]


MODULES = read_modules()


def imports(module: Module) -> Iterator[str]:
    """Yield the top-level name of every import, those inside functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not is_namespace(node):
            yield module.name if node.level else str(node.module).split(".")[0]


def is_namespace(node: ast.ImportFrom) -> bool:
    """Return whether only argparse's Namespace is imported: a type that Lightning's loggers receive, no parser."""
    return node.module == "argparse" and [alias.name for alias in node.names] == ["Namespace"]


def row(name: str) -> int | None:
    return next((index for index, names in enumerate(ROWS) if name in names), None)


def import_faults(module: Module) -> list[str]:
    if row(module.name) is None:
        return [f"{module.path}: {module.name} has no place in ROWS"]
    names = set(imports(module)) - {module.name}
    return [f"{module.path} imports {name}" for name in sorted(names) if not is_allowed(module, name)]


def is_allowed(module: Module, name: str) -> bool:
    if name in {"cli", "options"} and module.path in ALIASES:
        return True
    if row(name) is not None:
        may = row(module.name) < row(name) or name in BESIDE.get(module.name, ())
        return may and (module.name not in OURS or name in OURS[module.name] or name in BESIDE.get(module.name, ()))
    if name == "argparse":
        return module.name in PARSERS
    if name in sys.stdlib_module_names:
        return True
    if name == "matplotlib":
        return module.path == PLOTS
    return name in OUTSIDE.get(module.name, declared())


def declared() -> set[str]:
    """Return the import names of the dependencies that pyproject.toml declares for the programs."""
    other_names = {"opencv-python-headless": "cv2", "scikit-learn": "sklearn"}
    names = {other_names.get(name, name.replace("-", "_")) for name in project_requirements("dependencies")}
    return names | {"lightning_fabric", "tensorboardX"}  # a part of pytorch-lightning; an extra


def project_requirements(*tables: str) -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sources = {"dependencies": project["dependencies"], "dev": project["optional-dependencies"]["dev"]}
    parsed = [Requirement(line) for table in tables for line in sources[table]]
    return {requirement.name: requirement for requirement in parsed}


def print_faults(module: Module) -> list[str]:
    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    return [] if module.name in PRINTERS else [f"{module.path}:{line} prints" for line in lines]


def encoding_faults(module: Module) -> list[str]:
    if module.name == "benchmarks":  # what they read and write is their own
        return []
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    return [
        f"{module.path}:{call.lineno} reads or writes text in an encoding of the machine"
        for call in calls
        if guesses_encoding(call)
    ]


def guesses_encoding(call: ast.Call) -> bool:
    """Return whether a call opens text without saying its encoding."""
    is_name = isinstance(call.func, ast.Name)
    name = call.func.id if is_name else getattr(call.func, "attr", "")
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    if name in {"read_text", "write_text"}:
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in {"open", "fdopen"}:
        mode = call.args[int(is_name or name == "fdopen") :][:1]
        if not mode:
            return is_name or not call.args
        return isinstance(mode[0], ast.Constant) and re.fullmatch("[rwaxt+]+", str(mode[0].value)) is not None
    return bool(keywords & {"text", "universal_newlines"})


@functools.cache
def functions(module: Module) -> list[tuple[str, int]]:
    """Return name and number of code lines of each function: no blank line, no comment, no docstring."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(module.source).readline)
    code = {n for token in tokens if token.type not in layout for n in range(token.start[0], token.end[0] + 1)}
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node) is not None else None
            doc_lines = set(range(doc.lineno, doc.end_lineno + 1)) if doc else set()
            span = set(range(node.lineno, node.end_lineno + 1))
            found.append((f"{module.path}:{node.lineno} {node.name}", len(span & code - doc_lines)))
    return found


def size_faults(module: Module) -> list[str]:
    lines = module.source.count("\n")
    faults = [f"{module.path} has {lines} lines"] if lines > MAX_FILE_LINES else []
    return faults + [f"{name} has {size} lines" for name, size in functions(module) if size > MAX_FUNCTION_LINES]


# ---------------------------------------------------------------- the rules


def test_imports_point_downwards():
    faults = [fault for module in MODULES for fault in import_faults(module)]
    assert not faults, "\n".join(faults)


def test_only_programs_print():
    faults = [fault for module in MODULES for fault in print_faults(module)]
    assert not faults, "\n".join(faults)


def test_text_has_an_encoding_of_its_own():
    faults = [fault for module in MODULES for fault in encoding_faults(module)]
    assert not faults, "\n".join(faults)


def test_files_and_functions_are_short():
    faults = [fault for module in MODULES for fault in size_faults(module)]
    assert not faults, "\n".join(faults)
    sizes = [size for module in MODULES for _, size in functions(module)]
    assert statistics.median(sizes) <= 10
    assert statistics.quantiles(sizes, n=10)[-1] <= 30


def test_the_root_and_the_folders_hold_few_files():
    folders = Counter(module.path.parent for module in MODULES if module.path.name != "__init__.py")
    caps = {folder: MAX_ROOT_FILES if folder == Path() else MAX_FOLDER_FILES for folder in folders}
    assert [f"{folder}: {folders[folder]} files" for folder in folders if folders[folder] > caps[folder]] == []


def test_no_module_collects_leftovers():
    leftovers = re.compile(r"utils?|helpers?|misc|common")
    assert [module.path for module in MODULES if leftovers.fullmatch(module.path.stem)] == []


def test_requirements_pin_every_dependency_inside_its_range():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name, requirement in project_requirements("dependencies", "dev").items():
        assert pins[name] in requirement.specifier, name
    assert pins["torch"] == "2.13.0"
    # 2.6.2 and 2.6.3 were malicious uploads.
    lightning = project_requirements("dependencies")["pytorch-lightning"].specifier
    assert pins["pytorch-lightning"] == "2.6.6" and "2.6.2" not in lightning and "2.6.3" not in lightning


# Processes of a benchmark, and what runs where nothing of ours is installed, by make.
WITHOUT_PARSER = {"benchmarks.records", "benchmarks.threads", "benchmarks.gpu"}


def programs() -> list[str]:
    """Return what follows `python` for every program with the parser that all of ours share."""
    paths = [module.path for module in MODULES if 'if __name__ == "__main__":' in module.source]
    names = {".".join(path.with_suffix("").parts).removesuffix(".__main__"): path for path in paths}
    names = {name: path for name, path in names.items() if name not in WITHOUT_PARSER}
    files = [str(path) if len(path.parts) == 1 else f"-m {name}" for name, path in names.items()]
    return files + [f"main.py {name}" for name in PROGRAMS] + [f"-m benchmarks {name}" for name in benchmarks.PROGRAMS]


def test_no_program_is_overlooked():
    known = {
        "main.py",
        "main_eval.py",
        "-m datasets.check",
        "-m datasets.convert",
        "-m benchmarks",
    }
    assert known < set(programs())


@pytest.mark.parametrize("program", programs())
def test_help_loads_nothing_heavy(program):
    command = [sys.executable, "-X", "importtime", *program.split(), "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert "argparse" in loaded
    assert loaded & {"torch", "numpy", "cv2", "pytorch_lightning", "matplotlib", "rich"} == set()
    assert "--help" in run.stdout
    assert "\nexample:\n  python" in run.stdout


# ---------------------------------------------------------------- the rules can fail


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("nets/iresnet.py", "from heads import AdaFace"),  # sideways
        ("losses/pairwise.py", "import qaconv.matcher"),
        ("datasets/folder.py", "from data import FaceDataModule"),  # upwards
        ("train_val.py", "import main"),
        ("train_val.py", "from data import FaceDataModule"),
        ("engine/guard.py", "from datasets import Sample"),
        ("engine/trainer.py", "from tasks import validation"),
        ("tasks/recognition/matching.py", "from train_val import Recognizer"),
        ("cli/train.py", "import main"),
        ("models/face_model.py", "import pytorch_lightning as pl"),
        ("models/face_model.py", "from engine import runs"),
        ("models/loading.py", "from config import Config"),
        ("datasets/folder.py", "from nets import build_model"),
        ("datasets/folder.py", "from config import Config"),
        ("heads/adaface.py", "def f():\n    from config import Config"),  # hidden in a function
        ("transforms/occluders.py", "from datasets import Sample"),
        ("config.py", "import torch"),
        ("options/flags.py", "import numpy as np"),
        ("heads/adaface.py", "import pytorch_lightning as pl"),
        ("losses/pairwise.py", "import numpy"),
        ("evaluation/report/results.py", "import matplotlib.pyplot as plt"),
        ("train_val.py", "from matplotlib import pyplot"),
        ("train_val.py", "import argparse"),
        ("engine/callbacks/logger.py", "from argparse import ArgumentParser"),
        ("train_val.py", "import pandas"),  # not declared
        ("helpers.py", "import os"),  # no place
    ],
)
def test_a_bad_import_is_found(path, line):
    assert len(import_faults(Module(Path(path), line + "\n"))) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("main.py", "from train_val import Recognizer"),
        ("train_val.py", "import pytorch_lightning, nets, heads, config"),
        ("datasets/folder.py", "import cv2\nfrom transforms import View\nfrom datasets.samples import Sample"),
        ("nets/iresnet.py", "from . import features\nfrom .blocks import Block\nimport torch"),
        ("evaluation/report/plots.py", "import matplotlib"),
        ("config.py", "import argparse\nfrom options.flags import flag"),
        ("engine/callbacks/logger.py", "from argparse import Namespace"),
    ],
)
def test_a_good_import_passes(path, line):
    assert import_faults(Module(Path(path), line + "\n")) == []


@pytest.mark.parametrize(
    ("line", "is_fault"),
    [
        ("path.read_text()", True), ("path.write_text('a')", True), ("path.open()", True), ("path.open('a')", True),
        ("open('f')", True), ("open('f', 'w')", True), ("os.fdopen(1, 'w')", True), ("run(['a'], text=True)", True),
        ("path.read_text('utf-8')", False), ("path.open('rb')", False), ("open('f', 'w', encoding='utf-8')", False),
        ("os.open(folder, flags)", False), ("form.open(path)", False), ("run(text=True, encoding='utf-8')", False),
    ],
)  # fmt: skip
def test_text_in_an_encoding_of_the_machine_is_found(line, is_fault):
    assert bool(encoding_faults(Module(Path("nets/a.py"), f"{line}\n"))) == is_fault


def test_long_functions_files_and_prints_are_found():
    body = '    """Doc."""\n\n    # why\n' + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)
    just_right = Module(Path("nets/a.py"), f"def f():\n{body}")
    assert [size for _, size in functions(just_right)] == [MAX_FUNCTION_LINES]
    assert size_faults(just_right) == []
    assert len(size_faults(Module(Path("nets/a.py"), f"def f():\n{body}    y = 2\n"))) == 1
    assert len(size_faults(Module(Path("nets/a.py"), "x = 1\n" * (MAX_FILE_LINES + 1)))) == 1
    assert len(print_faults(Module(Path("nets/a.py"), "print(1)\n"))) == 1
    assert print_faults(Module(Path("main.py"), "print(1)\n")) == []
