"""The walks of docs/extending.md, followed literally in a copy of the tree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
WALKS = re.findall(r"^## (A .+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"in (?:`(\w+)` of )?`([\w/]+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)
LEFT_OUT = shutil.ignore_patterns(".*", "experiments", "shared", "*.egg-info", "__pycache__")


def follow(walk: str, tree: Path) -> list[Path]:
    """Write what a walk says into a tree; return its new files, the line left out."""
    files = []
    for table, name, text in BLOCK.findall(walk):
        path = tree / name
        if table:
            source = path.read_text(encoding="utf-8")
            opening = f"{table} = {{\n"
            assert source.count(opening) == 1 and text.count("\n") == 1
            path.write_text(source.replace(opening, opening + text), encoding="utf-8")
        else:
            assert not path.exists(), f"{name} is there already"
            path.write_text(text, encoding="utf-8")
            files.append(path)
    return files


@pytest.mark.slow
def test_every_walk_is_a_file_a_line_and_a_test_which_passes(tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT, symlinks=True)
    walks = {title: follow(walk, tree) for title, walk in WALKS}
    assert list(walks) == ["A margin head", "A loss over scores", "A source of training images"]
    assert all(len(files) == 2 and files[1].name.startswith("test_") for files in walks.values())
    tests = [str(files[1].relative_to(tree)) for files in walks.values()]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "tests/test_names.py"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    help_text = subprocess.run(
        [sys.executable, "main.py", "--help"], cwd=tree, env=environment, capture_output=True, text=True, timeout=60
    ).stdout
    assert all(name in help_text for name in ("linear_margin", "hinge", "array"))


@pytest.mark.parametrize("title", [title for title, _ in WALKS])
def test_a_walk_says_how_to_train_with_it(title):
    walk = dict(WALKS)[title]
    assert re.search(r"^Train with it: `\.venv/bin/maskwise --", walk, re.MULTILINE)
