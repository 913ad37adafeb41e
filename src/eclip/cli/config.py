"""`--config FILE`: options of a command in a TOML file. Flags override the file, and the file overrides the defaults.

Keys are the names of the flags without the two dashes in front, with dashes or underscores inside. A repeatable flag
takes a list, one with KEY=VALUE also a table, a switch true or false.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any

import typer

from eclip.errors import OptionError


def take_config(context: typer.Context, file: Path | None) -> Path | None:
    """Make what the file says the defaults of the command."""
    if file is not None:
        context.default_map = {**(context.default_map or {}), **read_config(file, context.command.params)}
    return file


def read_config(file: Path, params: list[Any]) -> dict[str, Any]:
    """The file's values by the names of the command's parameters.

    Raises:
        OptionError: it cannot be read, has a key that is no option, or a value of the wrong type.
    """
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"cannot read the configuration {str(file)!r}: {why(error)}.") from error
    options = {flag.removeprefix("--"): param for param in params for flag in param.opts if flag.startswith("--")}
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("_", "-")
        if name not in options or name in ("config", "help"):
            raise OptionError(f"{file}: {_unknown(key, options)}")
        param = options[name]
        if param.name in found:
            raise OptionError(f"{file}: --{name} is given twice: keep one of them.")
        found[param.name] = _value(file, key, value, param)
    return found


def why(error: Exception) -> str:
    """Why a file of text cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8: save it as UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _unknown(key: str, options: dict[str, Any]) -> str:
    if key in ("source", "sources", "images", "data", "dataset"):
        return f"{key!r} is no option: name images, or the data set, on the command line."
    near = difflib.get_close_matches(key.replace("_", "-").removeprefix("no-"), options, 1)
    hint = (
        f"do you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(options.keys() - {'config', 'help'}))}."
    )
    return f"there is no option {key!r}: {hint}"


def _value(file: Path, key: str, value: Any, param: Any) -> Any:
    if getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise OptionError(f"{file}: {key} must be true or false, got {value!r}.")
        return value
    if isinstance(value, bool):
        raise OptionError(f"{file}: {key} takes a value, got {json.dumps(value)}.")
    if isinstance(value, dict) and "=" in str(param.metavar):
        value = list(_pairs(value))
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        return [str(one) for one in value] if param.multiple else ",".join(map(str, value))
    if not isinstance(value, str | int | float):
        raise OptionError(f"{file}: {key} must be a string, a number or a list of them, got {value!r}.")
    return [str(value)] if param.multiple else str(value)


def _pairs(table: dict[str, Any], before: str = "") -> Any:
    """`KEY=VALUE` of each entry; a table inside has its name and a point in front, as METHOD.KEY=VALUE."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _pairs(value, f"{before}{key}.")
        else:
            yield f"{before}{key}={value if isinstance(value, str) else json.dumps(value)}"
