"""What the wheel and the sdist hold, as their builder lists it; `make release` builds, installs and uses them."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib

import pytest

from release import COMMANDS, ROOT, packaged
from test_doc_blocks import shell_problems

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILDER = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling: .[dev]")


def built(kind: str) -> set[str]:
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    builder = {"wheel": WheelBuilder, "sdist": SdistBuilder}[kind](str(ROOT))
    return {str(one.distribution_path) for one in builder.recurse_included_files()}


@BUILDER
def test_the_wheel_holds_the_package_and_nothing_else() -> None:
    held = built("wheel")
    assert held == packaged()
    assert "eclip/py.typed" in held and not [name for name in held if not name.startswith("eclip/")]
    for template in ("report/page.html", "report/style.css", "report/script.js", "report/chart.svg"):
        assert f"eclip/evaluation/{template}" in held
    for asset in ("open_clip_model.safetensors", "eclip_head.safetensors", "image_mean.npy", "MODEL_CARD.md"):
        assert f"eclip/backbones/assets/mini/{asset}" in held


@BUILDER
def test_the_sdist_holds_what_the_tests_read() -> None:
    held = built("sdist")
    parts = ("src", "tests", "docs", "notebooks", "recipes", "benchmarks", "configs")
    files = [path for part in parts for path in (ROOT / part).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    missing = {name for name in wanted - held if not name.endswith((".pyc", ".DS_Store"))}
    assert missing == set()
    tops = {name for name in held if "/" not in name}
    assert {"README.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "Makefile", "mkdocs.yml"} <= tops
    assert {name.partition("/")[0] for name in held if "/" in name} == set(parts)


def test_what_the_release_runs_exists() -> None:
    for words in COMMANDS:
        if words[0] == "eclip" and "--version" not in words:
            assert list(shell_problems(" ".join(f"'{word}'" for word in words))) == []


def test_the_project_says_who_made_it_and_invents_no_address() -> None:
    assert PROJECT["authors"] == [{"name": "eclip developers"}] and len(PROJECT["keywords"]) > 5
    known = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CITATION.cff"))
    for address in PROJECT["urls"].values():
        assert address in known or re.sub(r"https://arxiv\.org/abs/", "", address) in known


DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open_clip_torch", "sklearn": "scikit_learn"}
"""Packages that are imported by another name than they are installed by."""

FOREIGN = {
    "markupsafe": "jinja2 is made of it",
    "tokenizers": "transformers is made of it",
    "pandas": "only where the user asks for a table of pandas",
    "fiftyone": "only where the user asks for samples of fiftyone",
}
"""Packages that are imported and not named, and why."""


def test_each_package_that_is_imported_is_a_dependency() -> None:
    """What others happen to bring, their next release may not."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    named = {re.split(r"[^\w-]", one)[0].lower().replace("-", "_") for group in groups for one in group}
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    found -= {"eclip", *sys.stdlib_module_names}
    assert FOREIGN.keys() <= found and {"torch", "huggingface_hub"} <= found
    assert {DISTRIBUTIONS.get(name, name) for name in found - FOREIGN.keys()} - named == set()
