"""What mkdocs calls when it builds the site: generated pages, copies of pages outside docs/, links that hold there."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from sitepages import commands, cookbook, links, methods, pictures, reference

_recipes: dict[str, Path] = {}
"""Pictures of the cookbook, by their path on the site; empty if none are drawn."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, those of the repository outside docs/, and the pictures of methods and recipes."""
    drawn = pictures.draw() if config.extra["pictures"] else {}
    pages = methods.pages(drawn) | reference.pages() | commands.pages()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for source, path in links.COPIES.items():
        files.append(File.generated(config, path, abs_src_path=str(links.ROOT / source)))
    _recipes.update(cookbook.draw() if config.extra["pictures"] else {})
    for path, picture in (pictures.files(drawn) | _recipes).items():
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put in sections of the README, and change links to files that the site does not have."""
    path = page.file.src_uri
    sources = {copy: source for source, copy in links.COPIES.items()}
    source = sources.get(path, posixpath.join("docs", path))
    markdown = links.with_readme(links.relink(markdown, source, path))
    return cookbook.with_pictures(markdown, _recipes) if path == cookbook.PAGE else markdown
