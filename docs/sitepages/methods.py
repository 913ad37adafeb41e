"""A page for each explanation method: what its code says of itself, what was measured, and what its maps look like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sitepages import pictures
from sitepages.links import ROOT
from sitepages.text import cell, escape, table

FOLDER = "methods"
INDEX = f"{FOLDER}/all.md"

KINDS = {
    "similarity": "How similar each patch is to the text.",
    "attention": "Where the model looks, whatever the text.",
    "gradient": "What the score is sensitive to.",
    "perturbation": "How the score changes when parts of the image are hidden.",
    "decomposition": "What each patch adds to the image feature.",
}
"""What the maps of each kind of method show."""


def path_of(name: str) -> str:
    """The page of a method on the site."""
    return f"{FOLDER}/{name}.md"


def pages(drawn: Mapping[str, pictures.Drawn]) -> dict[str, str]:
    """The pages of all methods, with pictures of those that are drawn, and one that shows all methods."""
    from eclip.methods import METHODS

    applies = pictures.applicability()
    made = {path_of(name): _page(name, drawn.get(name), applies[name]) for name in METHODS}
    return {INDEX: _index(drawn), **made}


def _index(drawn: Mapping[str, pictures.Drawn]) -> str:
    from eclip.methods import METHODS

    lines = [
        "# All methods\n",
        f"The {len(METHODS)} explanation methods by kind, with the map of each for the same image and texts. Options, "
        "requirements and comparisons are in [Explain and compare](../methods.md).\n",
    ]
    for kind, what in KINDS.items():
        lines.append(f"## {kind.capitalize()}\n\n{what}\n")
        for name, method in METHODS.items():
            if method.kind == kind:
                lines.append(f"### [`{name}`]({name}.md)\n\n{escape(method.summary)}\n")
                if (one := drawn.get(name)) is not None:
                    lines.append(_picture(name, "elephant") if one.paths else _not_drawn(one))
    return "\n".join(lines)


def _page(name: str, drawn: pictures.Drawn | None, applies: Mapping[str, str]) -> str:
    said = _shown(name)
    lines = [f"# {name}\n", f"{escape(said['summary'])}\n"]
    if drawn is not None:
        lines += [_picture(name, image) for image in drawn.paths] or [_not_drawn(drawn)]
        if drawn.paths:
            lines.append("Maps of `mini`, with the method's default options.\n")
    model = "ViT-B-16/openai" if drawn is not None and not drawn.paths else ""
    facts = {"Kind": said["kind"], "Cost": said["cost"], "Measured cost": _measured(name), "Maps": said["maps"]}
    lines += [*(f"- **{fact}**: {escape(what)}" for fact, what in facts.items() if what), ""]
    lines += ["## Formula\n", _prose(said["formula"])]
    lines += ["## Use\n", _example(name, model), "## Options\n", _options(said["options"])]
    lines += ["## Models\n", _towers(applies), "## Results\n", _results(name)]
    lines += ["## Source\n", _prose(said["source"]), f"The code is in `src/eclip/methods/{name}.py`.\n"]
    return "\n".join(lines)


def _shown(name: str) -> dict[str, Any]:
    """What `eclip methods show NAME --json` prints."""
    from typer.testing import CliRunner

    from eclip.cli import app

    done = CliRunner().invoke(app, ["methods", "show", name, "--json"], catch_exceptions=False)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _picture(name: str, image: str) -> str:
    texts = " and ".join(f'"{text}"' for text in pictures.IMAGES[image])
    path = pictures.site_path(name, image).removeprefix(f"{FOLDER}/")
    return f"![The image {image}.jpg, and the maps of {name} for {texts}]({path}){{ loading=lazy }}\n"


def _not_drawn(drawn: pictures.Drawn) -> str:
    return f"Not applicable to `mini`: {escape(drawn.reason)}\n"


def _prose(text: str) -> str:
    return "\n\n".join(escape(" ".join(part.split())) for part in text.split("\n\n")) + "\n"


def _example(name: str, model: str) -> str:
    first, second = pictures.IMAGES["dog"]
    named = f', model="{model}"' if model else ""
    flag = f" --model {model}" if model else ""
    return (
        f'```python\nresult = eclip.explain("docs/images/dog.jpg", ["{first}", "{second}"], method="{name}"{named})\n'
        f'result.overlay("{first}")\n```\n\n'
        f'```sh\neclip explain docs/images/dog.jpg -t "{first}" -t "{second}" --method {name}{flag}\n```\n'
    )


def _options(options: list[dict[str, Any]]) -> str:
    if not options:
        return "None.\n"
    rows = [(f"`{one['option']}`", f"`{_written(one['default'])}`", cell(one["what"])) for one in options]
    return table(("option", "default", "meaning"), rows) + (
        f"\nIn Python: `eclip.explain(..., {options[0]['option']}=VALUE)`; "
        f"in the shell: `--set {options[0]['option']}=VALUE`.\n"
    )


def _written(default: Any) -> str:
    return json.dumps(default) if isinstance(default, str) else str(default)


def _towers(applies: Mapping[str, str]) -> str:
    """The towers to which the method applies, and those to which it does not, by reason."""
    groups: dict[str, list[str]] = {}
    for tower, reason in applies.items():
        groups.setdefault(reason, []).append(tower)
    lines = [f"- **Applicable** to {'; '.join(groups.pop(''))}."]
    lines += [f"- **Not applicable** to {'; '.join(towers)}: {escape(reason)}" for reason, towers in groups.items()]
    return (
        "Found when this page was built, by calling the method on a tiny model of each kind; see also "
        "[Applicability](../methods.md#applicability).\n\n" + "\n".join(lines) + "\n"
    )


def _measured(name: str) -> str:
    """Multiples of a bare `encode_image`, from the benchmarks; empty if the method was not part of them."""
    bench = json.loads((ROOT / "benchmarks" / "cost-cpu.json").read_text(encoding="utf-8"))
    found = [f"{one['ratio']:.3g} with {_texts(one['texts'])}" for one in bench["rows"] if one["method"] == name]
    model = f"({bench['model']}, {bench['device']}, {bench['threads']} threads)"
    return f"in multiples of encode_image: {', '.join(found)} {model}" if found else ""


def _texts(count: int) -> str:
    return "1 text" if count == 1 else f"{count} texts"


def _results(name: str) -> str:
    """Rows of this method in all tables of docs/results.md; tables with the same columns become one."""
    tables: dict[str, list[str]] = {}
    for heading, header, row in _rows((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), name):
        tables.setdefault(header.partition("|")[2], []).append(f"| {heading} |{row}")
    parts = []
    for header, rows in tables.items():
        columns = header.strip().strip("|").count("|") + 1
        parts.append(f"| |{header}\n{'| --- ' * (columns + 1)}|\n" + "\n".join(rows) + "\n")
    text = "\n".join(parts) or "None of the measurements includes it.\n"
    return f"With `mini`, in percent. [Results](../results.md) explains the columns and shows all methods.\n\n{text}"


def _rows(markdown: str, name: str) -> Iterable[tuple[str, str, str]]:
    """Heading of the section, header of the table, and the rest of each row that begins with the method's name."""
    heading, header, before = "", "", ""
    for line in markdown.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").partition(":")[0]
        elif re.fullmatch(r"\|[-| :]+\|", line):
            header = before.removeprefix("|")
        elif line.startswith(f"| `{name}`"):
            star = " *" if line.startswith(f"| `{name}` *") else ""
            yield heading + star, header, line.removeprefix("|").partition("|")[2]
        before = line
