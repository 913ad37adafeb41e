"""The layers of packages, the public names, and the documents that must agree with the code."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "eclip"

LAYERS = (
    {"errors"},
    {"registry", "files", "pixels", "heatmap"},
    {"images"},
    {"backbones"},
    {"texts", "datasets", "metrics", "render", "results", "guides", "refinements"},
    {"methods"},
    {"explanation", "words", "training"},
    {"discovery", "segmentation"},
    {"evaluation", "stream", "video"},
    {"web"},
    {"cli"},
    {"__main__"},
)
"""Packages, and modules at the root. Each imports only from layers before its own, without exceptions."""

FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def _layer(package: str) -> int:
    for level, packages in enumerate(LAYERS):
        if package in packages:
            return level
    raise AssertionError(f"{package} is in no layer: add it to LAYERS")


def _module(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in FILES}


def _imports(code: str, *, types: bool = True) -> set[str]:
    """Modules of eclip that code imports, also inside functions; `types` counts those that only type checkers see."""
    tree, found, hidden = ast.parse(code), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            hidden |= {id(one) for one in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "eclip":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "eclip"}
    return found - {"eclip"}


def _problems(package: str, imported: set[str]) -> list[str]:
    others = {name.split(".")[1] for name in imported} - {package}
    return [f"{package} may not import {other}" for other in sorted(others) if _layer(other) >= _layer(package)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_lead_downward(path: Path) -> None:
    package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert _problems(package, _imports(path.read_text(encoding="utf-8"))) == []


def test_the_layer_test_sees_an_import_upward() -> None:
    assert _problems("methods", {"eclip.explanation.explain"}) == ["methods may not import explanation"]
    assert _problems("texts", {"eclip.render.overlay", "eclip.backbones.load"}) == ["texts may not import render"]
    assert _problems("explanation", {"eclip.methods", "eclip.backbones.load", "eclip.explanation.health"}) == []
    assert _imports("if TYPE_CHECKING:\n    from eclip.backbones import load\nimport eclip.heatmap", types=False) == {
        "eclip.heatmap"
    }


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = {name: _imports(path.read_text(encoding="utf-8"), types=False) for name, path in MODULES.items()}
    while leaves := {name for name, others in arrows.items() if not others & arrows.keys()}:
        arrows = {name: others for name, others in arrows.items() if name not in leaves}
    assert sorted(arrows) == [], "these import each other, or what does"


def test_the_root_holds_eight_modules_at_most() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= 8
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    there = packages | {path.stem for path in SOURCE.glob("*.py")}
    assert there == {"__init__"}.union(*LAYERS), "LAYERS says where each belongs"


def _after(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_eclip_loads_nothing_heavy() -> None:
    names = ("METHODS", "REFINEMENTS", "TEMPLATES", "GUIDES", "DATASETS", "METRICS", "PROTOCOLS")
    assert not _after("; ".join(["import eclip", "dir(eclip)", *(f"eclip.{name}" for name in names)])) & {
        "torch",
        "open_clip",
        "transformers",
        "numpy",
        "PIL",
        "sklearn",
    }


def test_public_names_exist_and_no_module_hides_them() -> None:
    import eclip

    assert sorted(eclip.__all__) == eclip.__all__
    for name in eclip.__all__:
        assert getattr(eclip, name) is not None
    modules = {path.stem for path in SOURCE.iterdir()}
    assert not modules & set(eclip.__all__), "a module of that name would hide it once it is imported"


def test_what_recipes_and_benchmarks_import_of_us_is_there() -> None:
    """Tests do not run them, so names that moved are found here."""
    root, count = Path(__file__).parents[1], 0
    for path in (*root.glob("recipes/**/*.py"), *root.glob("benchmarks/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "eclip":
                module = importlib.import_module(str(node.module))
                for one in node.names:
                    there = hasattr(module, one.name) or importlib.util.find_spec(f"{node.module}.{one.name}")
                    assert there, f"{path.relative_to(root)}: {node.module} has no {one.name}"
                    count += 1
    assert count > 30


def test_method_files_are_the_methods() -> None:
    from eclip.methods import METHODS

    files = {path.stem for path in (SOURCE / "methods").glob("*.py")} - {"__init__"}
    assert files == set(METHODS)
    for name, method in METHODS.items():
        assert method.name == name
        assert method.function.__name__ == name


def test_refinement_files_are_the_refinements() -> None:
    from eclip.refinements import REFINEMENTS

    for name, refinement in REFINEMENTS.items():
        assert refinement.name == name
        assert refinement.function.__name__ == refinement.file
    table = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w+]+)` \| (.+?) \| .+ \|$", table.partition("## Refinements")[2], flags=re.M))
    assert {name: rows.get(name) for name in REFINEMENTS} == {name: one.summary for name, one in REFINEMENTS.items()}


def test_metrics_are_in_their_files_and_in_the_docs() -> None:
    from eclip.metrics import METRICS

    for name, metric in METRICS.items():
        assert metric.name == name == metric.function.__name__
        assert metric.function.__module__ == f"eclip.metrics.{metric.file}"
    table = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.+?) \| (.+) \|$", table, flags=re.M)
    assert {name: (better, reach, summary) for name, better, reach, summary in rows} == {
        name: (one.better, _reach(one), one.summary) for name, one in METRICS.items()
    }


def _reach(metric: Any) -> str:
    if metric.kind == "steps":
        return "as the score"
    if metric.least == -math.inf:
        return "any"
    return "from 0" if metric.most == math.inf else f"{metric.least:g} to {metric.most:g}"


def test_table_of_methods_is_methods() -> None:
    from eclip.methods import METHODS

    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition("## Requirements")[0]
    table = re.findall(r"^\| `(\w+)` \| (.+?) \|$", page, flags=re.M)
    assert dict(table) == {name: method.summary for name, method in METHODS.items()}


def test_table_of_data_sets_is_datasets() -> None:
    from eclip.datasets import DATASETS

    wanted = {}
    for name, one in DATASETS.items():
        assert one.name == name and one.function.__name__ == name and one.counts.keys() <= set(one.splits)
        counts = {split: " or ".join(f"{count:,}" for count in one.counts.get(split, ())) for split in one.splits}
        splits = ", ".join(f"{split} {count}".strip() for split, count in counts.items())
        wanted[name] = f"{one.kind} | {one.summary} | {splits} | {one.layout}"
    table = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, flags=re.M)) == wanted


def test_no_file_outgrows_its_room() -> None:
    assert {str(p.relative_to(SOURCE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 350} == {}


def test_protocol_table_is_protocols() -> None:
    from eclip.evaluation import TASKS
    from eclip.evaluation.protocols import PROTOCOLS

    table = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").partition("## Protocols")[2]
    rows = {name: (task, what) for name, task, what in re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.+?) \|$", table, re.M)}
    assert rows == {name: (one.task, one.summary) for name, one in PROTOCOLS.items()}
    assert {one.task for one in PROTOCOLS.values()} == set(TASKS), "each task has a protocol"


def _texts_without_encoding(tree: ast.Module) -> list[str]:
    """Calls that read or write text without stating its encoding."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(one.arg == "encoding" for one in node.keywords):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        given = [*node.args, *(one.value for one in node.keywords if one.arg == "mode")]
        modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        owner = function.value if isinstance(function, ast.Attribute) else None
        picture = isinstance(owner, ast.Name) and owner.id in ("Image", "tarfile", "item", "av")
        opens = name == "open" and (owner is None or modes or isinstance(owner, ast.BinOp))
        if name in ("read_text", "write_text") or (opens and not picture and not any("b" in mode for mode in modes)):
            found.append(f"line {node.lineno}: {name}")
    return found


def test_every_text_file_names_its_encoding() -> None:
    paths = [*SOURCE.rglob("*.py"), *ROOT.glob("recipes/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    left = {
        str(path.relative_to(ROOT)): _texts_without_encoding(ast.parse(path.read_text(encoding="utf-8")))
        for path in paths
    }
    assert {path: lines for path, lines in left.items() if lines} == {}
    seen = ast.parse(
        'p.read_text()\nopen("a")\nopen("a", "rb")\np.open("w")\n(f / "a").open()\nopen("a", encoding="ascii")'
    )
    assert len(_texts_without_encoding(seen)) == 4


NEW_TENSORS = {"tensor", "as_tensor", "asarray", "scalar_tensor", "zeros", "ones", "full", "empty", "rand", "randn"} | {
    "randint", "randperm", "normal", "arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices"
}  # fmt: skip
WHOLE = {"randint", "randperm", "tril_indices", "triu_indices"}
"""Whole numbers whatever the default."""


def _careless(code: str) -> list[int]:
    """Lines with a new tensor that leaves its device, or its precision, to torch's defaults."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, said = node.func.attr, {keyword.arg for keyword in node.keywords}
        if ast.unparse(node.func.value) != "torch" or None in said:
            continue
        needed = {"device"} | (set() if name in WHOLE | {"as_tensor"} else {"dtype"})
        if (name in NEW_TENSORS and not needed <= said) or (name == "Generator" and not (node.args or said)):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_new_tensor_says_its_device_and_precision(path: Path) -> None:
    """So that `torch.set_default_dtype` and `torch.set_default_device` change nothing."""
    assert _careless(path.read_text(encoding="utf-8")) == []


def test_the_test_of_new_tensors_sees_a_careless_one() -> None:
    assert _careless("x = torch.zeros(3)\ny = torch.eye(3, dtype=d)\nz = torch.arange(3, device=d)") == [1, 2, 3]
    assert _careless("x = torch.Generator().manual_seed(0)") == [1]
    assert (
        _careless("x = torch.zeros_like(y)\nz = torch.ones(3, dtype=a, device=b)\nw = torch.zeros(3, **as_that)") == []
    )
