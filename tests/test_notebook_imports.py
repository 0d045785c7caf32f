"""What the notebooks import exists, also in the cells that only run with an AWS account."""

import ast
import importlib
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_imports_exist(notebook):
    imports = [
        (node.module, alias.name)
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]
        if cell["cell_type"] == "code"
        for node in ast.walk(ast.parse("".join(line for line in cell["source"] if not line.startswith(("%", "!")))))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "ssd_train"
        for alias in node.names
    ]

    missing = [(module, name) for module, name in imports if not hasattr(importlib.import_module(module), name)]
    assert missing == []
