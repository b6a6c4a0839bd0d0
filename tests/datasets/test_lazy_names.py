"""`from datasets import X` imports what X needs, and no more."""

import ast
import subprocess
import sys

import pytest
from programs import ROOT

import datasets


def test_names_for_the_type_checker_are_those_that_are_imported():
    tree = ast.parse((ROOT / "datasets/__init__.py").read_text())
    typed = {
        name.name: node.module.removeprefix("datasets.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("datasets.")
        for name in node.names
    }
    assert typed == datasets._HOMES
    assert set(datasets.__all__) == typed.keys()
    for name in datasets.__all__:
        assert getattr(datasets, name) is not None
        assert name in dir(datasets)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = datasets.Nothing


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, datasets; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "cv2"} & set(loaded.stdout.split())
