"""Links between the files of the repository, as the site needs them; and sections of its README."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""

COPIES = {
    "CONTRIBUTING.md": "repository/contributing.md",
    "CHANGELOG.md": "repository/changelog.md",
    "benchmarks/README.md": "repository/benchmarks.md",
    "src/eclip/backbones/assets/mini/MODEL_CARD.md": "repository/mini.md",
    "recipes/mini/README.md": "repository/mini-recipe.md",
    "recipes/eclip-mini/README.md": "repository/ablations.md",
}
"""Pages of the repository outside docs/, and where the site has them."""

_CODE = r"^```.*?^```$|`[^`\n]+`"
_LINK = r"(?P<image>!?)\[(?P<label>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)"
_ANY = re.compile(f"{_CODE}|{_LINK}", re.MULTILINE | re.DOTALL)
_README = re.compile(r"^<!-- README\.md: (.+) -->$", re.MULTILINE)


def relink(markdown: str, source: str, page: str) -> str:
    """Markdown of a file of the repository with links that hold on the site.

    A link to a page or picture of the site leads there. One to another file of the repository becomes plain text with
    that file's path. One to a file that does not exist stays as it is, so that a strict build reports it.

    Args:
        markdown: its text; links in code are left alone.
        source: its path in the repository.
        page: its path on the site.
    """

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or re.match(r"\w+:|#|//", target):  # code, an address, a place on the page
            return match[0]
        path, _, place = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if (there := site_path(path)) is not None:
            there = posixpath.relpath(there, posixpath.dirname(page) or ".")
            return f"{match['image']}[{match['label']}]({there}{'#' if place else ''}{place})"
        if match["image"] or path.startswith("..") or not (ROOT / path).exists():
            return match[0]
        label = match["label"]
        return label if label.strip("`") == path else f"{label} (`{path}`)"

    return _ANY.sub(replaced, markdown)


def site_path(path: str) -> str | None:
    """Where the site has a file of the repository; None if it does not have it, or if there is no such file."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    return COPIES.get(path)


def with_readme(markdown: str) -> str:
    """A page with each line "<!-- README.md: HEADING -->" replaced by that section of the README, without its heading.

    Raises:
        ValueError: the README has no such heading.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return _README.sub(lambda match: relink(section(readme, match[1]), "README.md", "index.md"), markdown)


def section(markdown: str, heading: str) -> str:
    """What is below a heading, up to the next one.

    Raises:
        ValueError: there is no such heading.
    """
    parts = re.split(r"^#+ (.+)$", _hidden(markdown), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if heading not in sections:
        raise ValueError(f"README.md has no heading {heading!r}; it has {', '.join(sections)}.")
    return sections[heading].replace(_HASH, "#").strip()


_HASH = "\0"


def _hidden(markdown: str) -> str:
    """Without the number signs in code, which start comments and no headings."""
    return re.sub(r"^```.*?^```$", lambda code: code[0].replace("#", _HASH), markdown, flags=re.MULTILINE | re.DOTALL)
