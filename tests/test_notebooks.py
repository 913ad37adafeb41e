"""The notebooks run as they are, and hold neither outputs nor marks of the machine on which they were edited."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MISSING = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]

SHOWN = {
    "1-first-map": ["image/png", "text/html", "image/png"],
    "2-compare-methods": ["image/png", "text/plain", "text/plain"],
    "3-words-and-pairs": ["text/html", "image/png"],
    "4-your-own-model": ["text/plain", "text/plain", "image/png", "text/plain"],
    "5-evaluate-on-your-masks": ["text/plain", "text/plain", "text/html"],
}
"""What its cells display, in order: the richest form of each result."""

PRINTED = {
    "1-first-map": ["raw maps (1, 3, 14, 14)", "heat map (244, 384)"],
    "2-compare-methods": ["single attention layer", "itsm       polarity -", "the map may be upside down"],
    "3-words-and-pairs": ["'cat'", "the word 'cat' adds most in row"],
    "4-your-own-model": ["best text [0, 1]", "maps (2, 2, 14, 14)"],
    "5-evaluate-on-your-masks": ["'masks/dog.png'", "MaskSet('mine', 4 images, 5 classes)", "KiB"],
}
"""Parts of what is printed."""


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def leftovers(notebook: dict[str, Any]) -> list[str]:
    """What a run or an editor left in a notebook."""
    found = [f"metadata {name}" for name in notebook["metadata"] if name not in ("kernelspec", "language_info")]
    found += [] if notebook["metadata"].get("language_info") == {"name": "python"} else ["a version of Python"]
    for cell in notebook["cells"]:
        found += [f"metadata of {cell['id']}"] if cell["metadata"] else []
        if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"] is not None):
            found.append(f"outputs of {cell['id']}")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs_and_begins_with_its_title(path: Path) -> None:
    notebook = read(path)
    assert leftovers(notebook) == [], f"strip it: jupyter nbconvert --clear-output --inplace {path.name}"
    first, *others = notebook["cells"]
    assert first["cell_type"] == "markdown" and "".join(first["source"]).startswith("# ")
    assert sum(cell["cell_type"] == "markdown" for cell in others) >= 3
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "/tmp" not in text and "/home" not in text


def test_leftovers_are_seen() -> None:
    notebook = read(NOTEBOOKS[0])
    notebook["metadata"] |= {"widgets": {}, "language_info": {"name": "python", "version": "3.11.7"}}
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code |= {"execution_count": 3, "metadata": {"scrolled": True}}
    found = leftovers(notebook)
    assert found == ["metadata widgets", "a version of Python", f"metadata of {code['id']}", f"outputs of {code['id']}"]


def test_each_notebook_is_linked_from_the_docs() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert [path.name for path in NOTEBOOKS if f"](../notebooks/{path.name})" not in pages] == []
    assert [path.stem for path in NOTEBOOKS] == list(SHOWN)


@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: pip install '.[dev]'")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.long
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "notebooks")}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    richest = [
        next(kind for kind in ("text/html", "image/png", "text/plain") if kind in output.data)
        for output in outputs
        if output.output_type == "execute_result"
    ]
    assert richest == SHOWN[path.stem]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    printed += "".join(output.data["text/plain"] for output in outputs if output.output_type == "execute_result")
    assert [part for part in PRINTED[path.stem] if part not in printed] == [], printed
    others = re.sub(r".*TqdmWarning: IProgress not found.*", "", printed)  # huggingface_hub's, without ipywidgets
    assert "Warning" not in others and "Error" not in others, printed
