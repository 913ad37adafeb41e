"""Templates of pages: no input of a user becomes markup, every name has a value, every file is used."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import Template, UndefinedError, meta
from PIL import Image

import eclip
import tiny
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.report.page import page_of
from eclip.explanation.health import Health
from eclip.render.html import environment, render
from eclip.words.page import Sentence, words_page
from test_explanation import _by_hand as by_hand

SOURCE = Path(__file__).parents[1] / "src"
FILES = [path for end in ("html", "svg", "css", "js") for path in sorted(SOURCE.rglob(f"*.{end}"))]
TEMPLATES = [path for path in FILES if path.parent.name != "static"]
"""Those of web/static/ are served as they are, see test_web.py."""


STRANGE = """<img src=x onerror=alert(1)>"'><script>alert(2)</script></title></style>&amp;<!--{{ 7*7 }}{% x"""


def strange(where: str) -> str:
    """A text that would run, load or break something wherever a page forgets to escape it."""
    return where + STRANGE


class Parsed(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = [""]
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        if tag in ("script", "style"):
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and self.texts[-1] == self.scripts[-1]:
            self.scripts[-1] += data
        self.texts[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def shown(self) -> list[str]:
        """Texts and attributes."""
        return self.texts + [value for _, attrs in self.tags for value in attrs.values() if value]


def check_inert(page: str, scripts: int) -> Parsed:
    parsed = Parsed(page)
    names = [tag for tag, _ in parsed.tags]
    assert names.count("script") == scripts and names.count("title") >= 1 and names.count("style") == 1
    for tag, attrs in parsed.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#run")), (tag, value)
    return parsed


@pytest.fixture()
def evaluation(tmp_path: Path) -> Evaluation:
    """Results that have all that a page can show, with a strange text wherever one can be."""
    picture = tmp_path / "one.jpg"
    Image.new("RGB", (8, 8)).save(picture)
    rows: list[dict[str, Any]] = []
    costs: dict[str, Any] = {}
    for place, name in enumerate(["method", "control", "second"]):
        number = {"value": 0.5 - 0.1 * place, "low": 0.1, "high": 0.6}
        row = {"model": strange("model"), "method": strange(name), "control": name == "control"}
        row |= {"pairs": 3, "images": 2, "groups": 2, "numbers": {"miou": number, strange("number"): number}}
        row["classes"] = {"1": {"name": strange("class"), "pairs": 3, "iou": 0.1 * place, "msc": -0.2}}
        rows.append({**row, "curve": [0.1, 0.2], "threshold": 0.0})
        costs[strange(name)] = {"seconds": 0.1, "cost": 1.5 + place}
    one = {"model": strange("model"), "method": strange("method"), "image": strange("image"), "class": 1}
    one |= {"name": strange("name"), "iou": 0.5, "msc": 0.1, "file": "one.jpg"}
    data = {"name": strange("data"), "split": strange("split"), "every": 2, "limit": 4, "images": 2, "groups": 1}
    protocol = {"name": strange("protocol"), "summary": strange("summary"), "task": "localize", "image_size": None}
    protocol |= {"resize": strange("resize"), "templates": strange("templates")}
    rules = {"headline": "miou", "thresholds": [0.0, 0.5], "nonsense": [strange("nonsense")]}
    model = {"head": strange("head"), "family": strange("family"), "precision": "float32", "device": strange("device")}
    results = {
        "schema": "eclip.eval/1",
        "data": {**data, "digest": strange("digest")},
        "protocol": {**protocol, "rules": {**rules, strange("rule"): strange("value")}},
        "methods": {strange("asked"): {strange("option"): strange("given")}},
        "refine": strange("refine"),
        "refine_options": {strange("refine option"): strange("refine value")},
        "models": {strange("model"): model},
        "versions": {strange("library"): strange("version")},
        "command": strange("command"),
        "rows": rows,
        "not_applicable": [{"model": strange("gap model"), "method": strange("gap method"), "why": strange("why")}],
        "failures": [{"source": strange("source"), "error": strange("error")}],
        "examples": [{**one, "kind": kind} for kind in ("best", "worst")],
        "timing": {strange("model"): {"forward": 0.1, "methods": costs}},
    }
    return Evaluation(results, tmp_path)


def _strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {text for key, one in value.items() for text in (*_strings(key), *_strings(one))}
    if isinstance(value, list):
        return {text for one in value for text in _strings(one)}
    return {value} if isinstance(value, str) and "<img" in value else set()


def test_nothing_of_a_run_is_markup(evaluation: Evaluation) -> None:
    for page, runs in ((page_of([evaluation]), 1), (page_of([evaluation, evaluation]), 2)):
        parsed = check_inert(page, scripts=runs + 1)
        together = "\n".join(parsed.shown)
        wanted = _strings(evaluation.results)
        assert len(wanted) > 30
        for text in wanted - {strange(one) for one in ("class", "command", "number", "templates")}:
            assert text in together, text
        assert repr(strange("templates")) in together
        assert strange("command") in "".join(parsed.texts), "its words are in spans"
        assert strange("number") in parsed.texts, "the key of a number that has no title"
    # of classes the script makes texts
    classes = json.loads(next(one for one in parsed.scripts if one.startswith('{"columns"')))
    assert classes["classes"][0] == [[strange("class"), 3, 0.0, -0.2]] and list(classes["floor"]) == [strange("class")]


def test_nothing_of_a_table_for_notebooks_is_markup(evaluation: Evaluation) -> None:
    parsed = Parsed(evaluation._repr_html_())
    assert {tag for tag, _ in parsed.tags} == {"table", "thead", "tbody", "tr", "th", "td", "i"}
    assert strange("method") in parsed.texts and f"({strange('control')})" in parsed.texts


def sentences(*, pairs: bool) -> list[Sentence]:
    words = [strange("word"), "a", "\N{SNOWMAN}"]
    values = np.array([0.5, -0.2, 0.0], np.float32)
    return [Sentence(0.25, words, values, np.ones((3, 2, 2), np.float32) if pairs else None)]


@pytest.mark.parametrize("pairs", [False, True])
def test_nothing_of_a_text_is_markup(pairs: bool) -> None:
    page = words_page(strange("title"), Image.new("RGB", (30, 20)), sentences(pairs=pairs), strange("note"))
    parsed = check_inert(page, scripts=3 if pairs else 0)
    assert parsed.texts.count(strange("title")) == 2, "title and heading"
    assert [attrs["alt"] for tag, attrs in parsed.tags if tag == "img"] == [strange("title")]
    assert strange("word") in parsed.texts and "\N{SNOWMAN}" in parsed.texts and strange("note") in parsed.texts
    spans = [attrs for _, attrs in parsed.tags if attrs.get("class") == "word"]
    assert [attrs["title"] for attrs in spans] == ["+71.4 %", "-28.6 %", "+0.0 %"]
    assert [attrs.get("tabindex") for attrs in spans] == ["0" if pairs else None] * 3


def test_a_script_holds_any_json_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "strange_pages"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.html").write_text("{{ value }}<script>{{ value|tojson }}</script>", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    value = {"b": [None, 0.1, strange("x"), "é\u2028"], "a": True}
    page = render("strange_pages.module", "one.html", value=value)
    [held] = re.findall("<script>(.*?)</script>", page)
    assert json.loads(held) == value and list(json.loads(held)) == ["b", "a"]
    assert "<" not in page.partition("<script>")[0]
    with pytest.raises(UndefinedError, match="'value' is undefined"):
        render("strange_pages.module", "one.html")


def test_templates_use_what_they_are_given_and_nothing_else(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, set[str]] = {}
    original, parts = Template.render, Template.generate

    def recorded(template: Template, values: dict[str, Any]) -> str:
        assert template.filename is not None
        given[template.filename] = set(values)
        return original(template, values)

    def in_parts(template: Template, values: dict[str, Any]) -> Any:
        assert template.filename is not None
        given[template.filename] = set(values)
        return parts(template, values)

    monkeypatch.setattr(Template, "render", recorded)
    monkeypatch.setattr(Template, "generate", in_parts)
    by_hand([[0, 1], [2, 4]], (32, 32)).save(tmp_path, ["html"])
    page_of([evaluation, evaluation])
    evaluation._repr_html_()
    Health(*[np.zeros((1, 1), np.float32)] * 5, texts=("a",))._repr_html_()
    words_page("title", Image.new("RGB", (30, 20)), sentences(pairs=True), "note")
    own_page()
    for path in TEMPLATES:
        if path.suffix in (".html", ".svg"):
            own = environment(_package(path))
            names = meta.find_undeclared_variables(own.parse(path.read_text(encoding="utf-8"))) - set(own.globals)
            assert names == given.pop(str(path), set()), f"{path}, beside {sorted(given)}"
    assert given == {}


def own_page() -> str:
    """The page that `eclip serve` exports."""
    pytest.importorskip("fastapi", reason="needs the extra [web]")
    from eclip.web import exports, schemas
    from eclip.web.store import Held

    image = Image.new("RGB", (30, 20))
    asked = schemas.Export(image="a", texts=["a dog"], format="html")
    answer = eclip.explain(image, "a dog", model=tiny.kept("vit"), method="itsm")
    return exports.exported(answer, asked, Held("a", "a.png", image), 640)[2].decode()


def _package(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).parent.parts)


def test_every_template_is_used() -> None:
    used = set()
    for path in (*SOURCE.rglob("*.py"), *TEMPLATES):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py" and ("render(" in text or "generate(" in text):
            calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            renders = [
                node for node in calls if isinstance(node.func, ast.Name) and node.func.id in ("render", "generate")
            ]
            used |= {path.parent / str(ast.literal_eval(node.args[1])) for node in renders if len(node.args) > 1}
        elif path.suffix == ".html":
            used |= {path.parent / name for name in re.findall(r'(?:from |inline\()"([\w.]+)"', text)}
    assert used == set(TEMPLATES)


def test_pages_need_nothing_from_outside() -> None:
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|import\s*\(", text), path
        assert "</" not in text or path.suffix not in (".css", ".js"), "it is written into a page as it is"


@pytest.mark.long
def test_the_command_line_loads_no_templates() -> None:
    code = (
        "import sys, eclip, eclip.cli, eclip.render.html; print('jinja2' in sys.modules, 'markupsafe' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_run_that_measured_nothing_says_so(tmp_path: Path) -> None:
    protocol = {
        "name": "own",
        "summary": "s",
        "task": "sanity",
        "image_size": 32,
        "resize": "keep",
        "templates": "none",
    }
    data = {"name": "data", "images": 1}
    rest: dict[str, Any] = {"rows": [], "not_applicable": [], "failures": []}
    parsed = Parsed(page_of([Evaluation({"data": data, "protocol": {**protocol, "rules": {}}, **rest}, tmp_path)]))
    assert "No number was measured." in parsed.texts and "All numbers" in parsed.texts
    assert not {"table", "select", "svg", "img"} & {tag for tag, _ in parsed.tags}


def test_no_script_passes_a_whole_array_as_arguments() -> None:
    """Math.max(...values) overflows the stack with more than about 100,000 values."""
    scripts = [path for path in TEMPLATES if path.suffix == ".js"]
    assert scripts
    assert [path.name for path in scripts if re.search(r"Math\.(max|min)\(\.\.\.", path.read_text("utf-8"))] == []
