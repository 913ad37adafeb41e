"""Every command with its arguments, options, defaults and help, as flags.txt has them.

A change of the command line shows in the diff of that file. `python tests/test_flags.py` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

FILE = Path(__file__).parent / "flags.txt"


def commands() -> Iterator[tuple[str, Any]]:
    """Each command by its whole name."""
    from eclip import cli

    stack = [("eclip", typer.main.get_command(cli.app))]
    while stack:
        name, command = stack.pop()
        yield name, command
        stack += [(f"{name} {sub}", one) for sub, one in reversed(getattr(command, "commands", {}).items())]


def lines() -> list[str]:
    """A line for each command and for each of its parameters."""
    found = []
    for name, command in commands():
        found += ["", f"{name}: {(command.help or '').splitlines()[0] if command.help else ''}"]
        for param in command.params:
            names = "/".join([*param.opts, *param.secondary_opts]) if param.opts[0].startswith("-") else param.name
            default = "" if param.default in (None, False, ()) or callable(param.default) else f" [{param.default}]"
            found.append(f"    {names}{default}  {' '.join((getattr(param, 'help', '') or '').split())}".rstrip())
    return found[1:]


def test_the_command_line_is_that_of_the_file() -> None:
    now, then = lines(), FILE.read_text(encoding="utf-8").splitlines()
    gone, new = [one for one in then if one not in now], [one for one in now if one not in then]
    assert now == then, f"python tests/test_flags.py writes flags.txt anew; gone: {gone}; new: {new}"


def test_an_option_takes_the_same_everywhere() -> None:
    kinds: dict[str, set[tuple[object, ...]]] = {}
    for _, command in commands():
        for param in command.params:
            kind = (param.multiple, param.is_flag) if param.opts[0].startswith("-") else ()
            for option in param.opts if kind else ():
                kinds.setdefault(option, set()).add((*kind, *(param.opts if len(option) == 2 else ())))
    assert {option: found for option, found in kinds.items() if len(found) > 1} == {}


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", encoding="utf-8")
