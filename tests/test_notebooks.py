"""The notebooks: kept without outputs, naming no machine, and their cells run one after the other on drawn faces."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from programs import ROOT

import models
from cli.programs import PROGRAMS
from config import get_args, get_eval_args

FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ("train_on_your_folder", "evaluate_and_look")
CELL = {"cell_type", "id", "metadata", "source"}
OF_MACHINES = re.compile(r"/(?:home|work|root|tmp|Users|mnt|data|opt)/|[A-Z]:\\\\|\.venv/lib")

# What a cell defines is there for the next ones; the second cell of code follows the parameters.
RUNNER = """
import json, pathlib, sys
names = {}
path, overrides = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
    if "parameters" in cell["metadata"].get("tags", ()):
        assert overrides.keys() <= names.keys(), "a parameter that the notebook does not have"
        names.update({k: pathlib.Path(v) if k == "WORK" else v for k, v in overrides.items()})
"""


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_without_outputs_and_names_no_machine(path):
    notebook, text = read(path), path.read_text(encoding="utf-8")
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each) for each in ids)
    for cell in notebook["cells"]:
        is_code = cell["cell_type"] == "code"
        assert is_code or cell["cell_type"] == "markdown"
        assert set(cell) == CELL | ({"execution_count", "outputs"} if is_code else set())
        assert cell["metadata"] in ({}, {"tags": ["parameters"]})
        if is_code:
            assert cell["execution_count"] is None and cell["outputs"] == [], "clear all outputs before saving"
            ast.parse("".join(cell["source"]))  # plain Python, no magics
    assert sum(bool(cell["metadata"]) for cell in notebook["cells"]) == 1, "one cell holds the parameters"
    assert not OF_MACHINES.search(text), OF_MACHINES.search(text)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "saved as Jupyter saves it"


def test_the_readme_links_every_notebook():
    assert {path.stem for path in NOTEBOOKS} == set(NAMES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"(docs/notebooks/{name}.ipynb)" not in readme] == []
    for path in NOTEBOOKS:
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert (FOLDER / link).is_file(), f"{path.name}: {link}"


def code(name):
    """Return the cells of code of a notebook, joined."""
    cells = read(FOLDER / f"{name}.ipynb")["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_the_programs_flags_and_names_of_a_notebook_exist(name, tmp_path):
    parsers = {"train": get_args, "evaluate": get_eval_args}
    calls = []
    known = {"maskwise": lambda *words: calls.append([*map(str, words)]), "PROJECT": ROOT, "WORK": tmp_path}
    known |= {"FACES": tmp_path / "faces", "MODEL": tmp_path / "last.ckpt", "EPOCHS": 2, "ALIGN": "no"}
    for cell in code(name):
        if "maskwise(" in cell and "def maskwise" not in cell:
            exec(compile(cell, name, "exec"), dict(known))
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "models":
                assert node.attr in models.__all__, f"models.{node.attr}"
    assert calls
    for words in calls:
        program = "train" if words[0].startswith("@") else words.pop(0)
        assert program in PROGRAMS
        if program in parsers:
            parsers[program](words)


def test_without_a_run_the_second_notebook_says_where_one_comes_from(tmp_path):
    (cell,) = [cell for cell in code("evaluate_and_look") if "MODEL is None" in cell]
    with pytest.raises(SystemExit, match="train one by the other notebook, or name MODEL"):
        exec(cell, {"MODEL": None, "FACES": None, "WORK": tmp_path})


def run(name, overrides):
    """Run the cells of a notebook and return what they print."""
    command = [sys.executable, "-c", RUNNER, str(FOLDER / f"{name}.ipynb"), json.dumps(overrides)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_cells_of_both_notebooks_run_on_drawn_faces(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "cache"))
    common = {"WORK": str(tmp_path / "work"), "ALIGN": "no"}
    trained = run("train_on_your_folder", {**common, "EPOCHS": 2, "DRAWN_PEOPLE": 20})
    assert "20 people" in trained and "one person:  FaceScores(" in trained and "loss: " in trained
    assert list((tmp_path / "work/experiments").glob("own_folder_*/last.ckpt"))
    evaluated = run("evaluate_and_look", {**common, "DRAWN_PEOPLE": 12})
    assert "occluded: one" in evaluated and "visibility.png" in evaluated
    assert len(re.findall(r"^(?:not )?the same person: score", evaluated, re.MULTILINE)) == 2, "two answers in words"
