"""Pictures of the cookbook: the files that its own commands write, made when the site is built."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sitepages import pictures
from sitepages.links import ROOT

PAGE = "cookbook.md"
_CODE = r"^```(?P<language>sh|python)\n(?P<code>.*?)^```$"
_MARK = r"^<!-- picture: (?P<file>[^,\n]+), (?P<what>[^\n]+) -->$"
_EITHER = re.compile(f"{_CODE}|{_MARK}", re.MULTILINE | re.DOTALL)


class Picture(NamedTuple):
    """A line "<!-- picture: FILE, WHAT IT SHOWS -->", with the last block of code above it."""

    line: str
    file: str
    what: str
    language: str
    code: str

    @property
    def name(self) -> str:
        """Of the file in the cache and on the site: it changes with the code above the picture, and with eclip."""
        digest = hashlib.sha256(f"{self.language} {self.code} {self.file} {_source()}".encode()).hexdigest()[:16]
        path = Path(self.file)
        return f"cookbook-{path.stem.partition('.')[0]}-{digest}{path.suffix}"


def draw() -> dict[str, Path]:
    """The pictures of the page, from the cache or new, by their path on the site."""
    found = list(pictures_of((ROOT / "docs" / PAGE).read_text(encoding="utf-8")))
    pictures.CACHE.mkdir(exist_ok=True)
    for one in found:
        path = pictures.CACHE / one.name
        if not path.exists():
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(made(one))
            unfinished.replace(path)
    for path in pictures.CACHE.glob("cookbook-*"):
        if path.name not in {one.name for one in found}:
            path.unlink()
    return {f"images/{one.name}": pictures.CACHE / one.name for one in found}


def pictures_of(markdown: str) -> Iterator[Picture]:
    """The pictures that a page asks for.

    Raises:
        ValueError: no code is above one of them.
    """
    above = ("", "")
    for match in _EITHER.finditer(markdown):
        if match["file"] is None:
            above = (match["language"], match["code"])
            continue
        if not above[1]:
            raise ValueError(f"no code above {match[0]!r} could make this picture.")
        yield Picture(match[0], match["file"], match["what"], *above)


def made(picture: Picture) -> bytes:
    """The file that the code writes in an empty folder with docs/images.

    Raises:
        RuntimeError: the command fails.
        FileNotFoundError: it does not write this file.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of eclip are part of what the page shows
        shutil.copytree(ROOT / "docs" / "images", Path("docs") / "images")
        if picture.language == "python":
            exec(compile(picture.code, PAGE, "exec"), {})
        else:
            for command in picture.code.replace("\\\n", " ").splitlines():
                _run(shlex.split(command, comments=True)[1:])
        return Path(picture.file).read_bytes()


def _run(words: list[str]) -> None:
    from typer.testing import CliRunner

    from eclip.cli import app

    done = CliRunner().invoke(app, words)
    if done.exit_code:
        raise RuntimeError(f"eclip {shlex.join(words)} failed: {done.output}")


def with_pictures(markdown: str, drawn: dict[str, Path]) -> str:
    """The page with its pictures in place of the lines that ask for them; without those that are not drawn."""
    for one in pictures_of(markdown):
        path = f"images/{one.name}"
        markdown = markdown.replace(one.line, f"![{one.what}]({path})" if path in drawn else "")
    return markdown


@cache
def _source() -> str:
    """Identifies the code and the images."""
    whole = hashlib.sha256()
    for path in [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "docs" / "images").iterdir())]:
        whole.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()
