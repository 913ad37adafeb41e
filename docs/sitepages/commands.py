"""The page of the command line, made from the commands themselves."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from sitepages.text import escape

PAGE = "reference/command-line.md"
_EXAMPLE = re.compile(r"^(.+:)  (eclip .+)$", re.MULTILINE)
_WORDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH", bool: ""}


def pages() -> dict[str, str]:
    """One page with every command."""
    from typer.main import get_command

    from eclip.cli import app

    root: Any = get_command(app)
    lines = [
        "# Command line\n",
        f"{escape(root.help)} Results go to stdout, progress and errors to stderr. Exit codes: 0 for success; 1 if an "
        "image, a folder or a download failed and everything else is done; 2 for wrong usage. `eclip COMMAND --help` "
        "prints the same as this page, which is made from the commands themselves.\n",
    ]
    for name, command in root.commands.items():
        lines += _section(f"eclip {name}", command, 2)
        for inner, subcommand in getattr(command, "commands", {}).items():
            lines += _section(f"eclip {name} {inner}", subcommand, 3)
    return {PAGE: "\n".join(lines)}


def _section(name: str, command: Any, level: int) -> list[str]:
    heading = f"{'#' * level} {name}\n"
    if getattr(command, "commands", None):
        return [heading, _help(command.help or "")]
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    arguments = [one for one in shown if not one.opts[0].startswith("-")]
    options = [one for one in shown if one.opts[0].startswith("-")]
    usage = [name, *(_argument(one) for one in arguments), "[OPTIONS]" if options else ""]
    lines = [heading, f"```text\n{' '.join(usage).strip()}\n```\n", _help(command.help or "")]
    lines += [_entry(f"`{_argument(one)}`", one) for one in arguments]
    panels: dict[str, list[Any]] = {}
    for one in options:
        panels.setdefault(one.rich_help_panel or "", []).append(one)
    for panel, members in panels.items():
        if panel:
            lines.append(f"**{panel}**\n")
        lines += [_entry(_flags(one), one) for one in members]
    return lines


def _help(text: str) -> str:
    parts = []
    for part in text.replace("\b", "").split("\n\n"):
        example = _EXAMPLE.fullmatch(part.strip())
        parts.append(f"{example[1]}\n\n```sh\n{example[2]}\n```" if example else escape(" ".join(part.split())))
    return "\n\n".join(parts) + "\n"


def _entry(term: str, one: Any) -> str:
    what = escape(" ".join((one.help or "").split()))
    default = one.default
    if default not in (None, False, (), []) and "Default:" not in what and not callable(default):
        what += f" Default: `{_plain(default)}`."
    return f"{term}\n:   {what or '(no description)'}\n"


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper()
    name = f"{name}..." if one.nargs == -1 and not name.endswith("...") else name
    return name if one.required else f"[{name}]"


def _flags(one: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
    value = "" if one.is_flag else one.metavar or _value(one)
    return f"{names} `{value}`" if value else names


def _value(one: Any) -> str:
    """What an option takes; typer keeps the annotation, click its own type."""
    kind = getattr(getattr(one, "type_descriptor", None), "annotation", None)
    if kind is None:
        choices: Iterable[Any] = getattr(one.type, "choices", ())
        return "|".join(map(str, choices)) or str(one.type.name).upper()
    if get_origin(kind) in (Union, types.UnionType, list, tuple):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(member.value) for member in kind)
    return _WORDS.get(kind, "VALUE")


def _plain(default: Any) -> str:
    return str(default.value if isinstance(default, Enum) else default)
