"""The documentation site: its navigation is complete, its pages say what the code says, and it builds strictly."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import eclip

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from sitepages import commands, cookbook, links, methods, pictures, reference  # noqa: E402


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All generated pages, without pictures, and with a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "CACHE", tmp_path_factory.mktemp("cache"))
        return methods.pages({}) | reference.pages() | commands.pages()


def _named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for one in (nav.values() if isinstance(nav, dict) else nav) for page in _named(one)]


@pytest.mark.long
def test_the_navigation_names_every_page_once(settings: dict[str, Any], generated: dict[str, str]) -> None:
    written = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    there = [*written, *generated, *links.COPIES.values()]
    assert sorted(_named(settings["nav"])) == sorted(there), "add the page to `nav` in mkdocs.yml"


def test_the_navigation_names_every_method_below_its_kind(settings: dict[str, Any]) -> None:
    nav = next(one["Methods"] for one in settings["nav"] if "Methods" in one)
    kinds = {kind.lower(): pages for one in nav for kind, pages in one.items() if isinstance(pages, list)}
    assert kinds == {
        kind: [methods.path_of(name) for name, method in eclip.METHODS.items() if method.kind == kind]
        for kind in dict.fromkeys(method.kind for method in eclip.METHODS.values())
    }
    assert kinds.keys() == methods.KINDS.keys()


def test_the_reference_has_every_public_name_once() -> None:
    named = [name for _, _, names in reference.NAMES.values() for name in names]
    assert sorted([*named, *reference.REGISTRIES]) == eclip.__all__, "add the name to sitepages/reference.py"


@pytest.mark.long
def test_the_page_of_a_method_says_what_its_code_says(generated: dict[str, str]) -> None:
    for name, method in eclip.METHODS.items():
        page = generated[methods.path_of(name)]
        for option in method.options:
            assert f"| `{option}` |" in page, f"{name}: {option}"
        assert "https://" in page.partition("## Source")[2] or name in ("attention",), name
    assert "softmax(t z z) z" in generated["methods/gem.md"]
    assert (
        "**Not applicable** to CLIP ResNet; timm trunk with attention pool (`mini`): it has a single attention layer"
        in (generated["methods/rollout.md"])
    )
    assert re.search(
        r"\*\*Applicable\*\* to .*; CoCa; .*\n- \*\*Not applicable\*\* to ConvNeXt", generated["methods/gem.md"]
    )
    rows = json.loads((DOCS.parent / "benchmarks" / "cost-cpu.json").read_text(encoding="utf-8"))["rows"]
    one, twenty = (row["ratio"] for row in rows if row["method"] == "gem" and row["texts"] < 100)
    assert f"{one:.2f} with 1 text, {twenty:.2f} with 20 texts" in generated["methods/gem.md"]


@pytest.mark.long
def test_the_page_of_a_method_has_its_rows_of_the_results(generated: dict[str, str]) -> None:
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    for name in eclip.METHODS:
        rows = re.findall(rf"^\| `{name}`(?: \*)? (\|.+)$", results, flags=re.MULTILINE)
        page = generated[methods.path_of(name)].partition("## Results")[2]
        assert [row for row in rows if row not in page] == [], name
        assert rows or name == "rollout", name
    row = next(line for line in generated["methods/gem.md"].splitlines() if line.startswith("| voc2012seg | 47"))
    header = next(line for line in generated["methods/gem.md"].splitlines() if line.startswith("| | mSC | mIoU"))
    assert row.count("|") == header.count("|")


def test_the_command_line_page_has_every_command_and_option(generated: dict[str, str]) -> None:
    from typer.main import get_command

    from eclip.cli import app

    root: Any = get_command(app)
    page = generated[commands.PAGE]
    for name, command in root.commands.items():
        for path, one in [(name, command), *((f"{name} {inner}", sub) for inner, sub in _inner(command).items())]:
            part = re.split(r"^#+ ", page.partition(f" eclip {path}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
            assert part, path
            missing = [
                flag for param in one.params for flag in param.opts if flag[0] == "-" and f"`{flag}`" not in part
            ]
            assert [flag for flag in missing if flag not in ("--help", "-h")] == [], path
    assert "`--resize` `squash|keep`" in page and "Default: `mini`." in page


def _inner(command: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(command, "commands", {})
    return found


@pytest.mark.parametrize(
    ("link", "on_site"),
    [
        ("[scale](scale.md#cost)", "[scale](scale.md#cost)"),
        ("[costs](../benchmarks/README.md#pairs)", "[costs](repository/benchmarks.md#pairs)"),
        ("[start](../README.md)", "[start](index.md)"),
        ("[arrays](../tests/golden/README.md)", "arrays (`tests/golden/README.md`)"),
        ("[`tests/tiny.py`](../tests/tiny.py)", "`tests/tiny.py`"),
        ("[gone](../tests/gone.py)", "[gone](../tests/gone.py)"),
        ("[gone](gone.md)", "[gone](gone.md)"),
        ("[web](https://example.com/a.md)", "[web](https://example.com/a.md)"),
        ("[here](#cost)", "[here](#cost)"),
        ("`[no link](../tests/tiny.py)`", "`[no link](../tests/tiny.py)`"),
        ("```\n[no link](../tests/tiny.py)\n```", "```\n[no link](../tests/tiny.py)\n```"),
    ],
)
def test_links_of_a_page_hold_on_the_site(link: str, on_site: str) -> None:
    assert links.relink(link, "docs/methods.md", "methods.md") == on_site


def test_links_of_a_copied_page_hold_on_the_site() -> None:
    copied = links.relink(
        "[a](../docs/eclip.md) [b](cost-cpu.json)", "benchmarks/README.md", "repository/benchmarks.md"
    )
    assert copied == "[a](../eclip.md) b (`benchmarks/cost-cpu.json`)"


def test_the_front_page_has_sections_of_the_readme() -> None:
    page = links.with_readme((DOCS / "index.md").read_text(encoding="utf-8"))
    assert "README.md:" not in page and "pip install ." in page and "](elephant.png)" in page
    assert links.section("## A\n```sh\n# a comment\n```\n## B\n", "A") == "```sh\n# a comment\n```"
    with pytest.raises(ValueError, match="no heading 'Instal'"):
        links.with_readme("<!-- README.md: Instal -->")


def test_pictures_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(pictures, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(pictures, "IMAGES", {"dog": ("a dog",)})
    drawn = pictures.draw_method("itsm")
    with Image.open(drawn.paths["dog"]) as picture:
        assert picture.width > 600 and drawn.reason == ""
    assert "single attention layer" in pictures.draw_method("rollout").reason
    monkeypatch.setattr(eclip, "explain", None, raising=False)
    assert pictures.draw_method("itsm") == drawn and not pictures.draw_method("rollout").paths
    assert list(pictures.files({"itsm": drawn})) == ["methods/images/itsm-dog.webp"]


def test_pictures_of_the_cookbook_are_what_its_code_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / cookbook.PAGE
    code = "from pathlib import Path\n\nPath('dog.svg').write_text('of a dog' + Path('docs/images/README.md').name)"
    page.write_text(f"# One\n\n```python\n{code}\n```\n\nText.\n\n<!-- picture: dog.svg, A dog, asleep -->\n")
    shutil.copytree(DOCS / "images", tmp_path / "docs" / "images")
    monkeypatch.setattr(pictures, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cookbook, "ROOT", tmp_path)
    (drawn,) = cookbook.draw().items()
    path, file = drawn
    assert re.fullmatch(r"images/cookbook-dog-\w{16}\.svg", path) and file.read_text() == "of a dogREADME.md"
    assert cookbook.with_pictures(page.read_text(), dict([drawn])).endswith(f"Text.\n\n![A dog, asleep]({path})\n")
    assert "picture" not in cookbook.with_pictures(page.read_text(), {})
    with monkeypatch.context() as patch:
        patch.setattr(cookbook, "made", None)
        assert dict([drawn]) == cookbook.draw()
    page.write_text(page.read_text().replace("of a dog", "of a cat"))
    assert path not in (again := cookbook.draw()) and not file.exists()
    assert [one.read_text() for one in again.values()] == ["of a catREADME.md"]


def test_each_recipe_of_the_cookbook_has_code_limits_and_a_guide() -> None:
    page = (DOCS / cookbook.PAGE).read_text(encoding="utf-8")
    recipes = re.split(r"^## (.+)$", page.partition("## Notebooks")[0], flags=re.MULTILINE)[1:]
    assert len(recipes) == 22 and "Eleven tasks" in page
    for title, recipe in zip(recipes[::2], recipes[1::2], strict=True):
        before, code, after = re.split(r"^```(?:sh|python)\n(.*?)^```$", recipe, maxsplit=1, flags=re.M | re.S)
        statements = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
        assert before.strip() and len(statements) <= 5, title
        assert "Limits: " in after and re.search(r"Guide: \[.+\]\(\w+\.md", after.replace("\n", " ")), title


def test_a_picture_of_the_cookbook_that_cannot_be_made_fails_the_build() -> None:
    mark = "<!-- picture: out/dog.png, A dog -->"
    with pytest.raises(ValueError, match=r"no code above .*out/dog\.png"):
        list(cookbook.pictures_of(f"# One\n\n{mark}\n"))
    (wrong,) = cookbook.pictures_of(f"```sh\neclip explain gone.jpg -t a\n```\n{mark}\n")
    with pytest.raises(RuntimeError, match=r"eclip explain gone\.jpg -t a failed: .*gone\.jpg"):
        cookbook.made(wrong)
    (idle,) = cookbook.pictures_of(f"```sh\neclip methods ls\n```\n{mark}\n")
    with pytest.raises(FileNotFoundError, match="dog"):
        cookbook.made(idle)


# --- with mkdocs ------------------------------------------------------------------------------------------------------


def _build(folder: Path, *, pages: Path = DOCS) -> subprocess.CompletedProcess[str]:
    """Build the site strictly into a folder, without pictures."""
    config = folder / "mkdocs.yml"
    changes = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": str(pages), "site_dir": str(folder / "site")}
    changes |= {"extra": {"pictures": False}, "hooks": [str(pages / "hook.py")]}
    plugins = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["plugins"]
    plugins[-1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT / "src")]
    config.write_text(json.dumps(changes | {"plugins": plugins}))
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)],
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: pip install '.[docs]'")
def test_the_site_builds_strictly_and_loads_nothing_from_the_net(tmp_path: Path) -> None:
    done = _build(tmp_path)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?(?:https?:)?//[^\">]+|<link\b[^>]*//[^>]+>", html)
        assert loaded == [], page
    assert "eclip.explain" in (site / "reference" / "explain.html").read_text(encoding="utf-8")
    assert (site / "search" / "search_index.js").stat().st_size > 1e5


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: pip install '.[docs]'")
def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "repo" / "docs")
    pages = tmp_path / "repo" / "docs"
    for name in ("README.md", "mkdocs.yml", *links.COPIES):
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "repo" / name)
    for name in ("benchmarks", "tests", "src", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / "repo" / name, dirs_exist_ok=True)
    (pages / "words.md").write_text("# Words\n\n[gone](gone.md) [gone](../recipes/gone.py) [gone](health.md#gone)\n")
    done = _build(tmp_path, pages=pages)
    assert done.returncode == 1
    for broken in ("'gone.md'", "'../recipes/gone.py'", "#gone"):
        assert broken in done.stderr, done.stderr
