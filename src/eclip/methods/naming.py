"""Names of methods from what users give: names, alone or joined by commas, objects of METHODS, groups, or lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eclip.errors import OptionError
from eclip.methods import DEFAULT_METHOD, GROUPS, METHODS, AnyMethod, Method


def method_name(method: AnyMethod) -> str:
    """The name of one method, given by it or as an object of `METHODS`.

    Raises:
        OptionError: it is several, or something else.
    """
    if isinstance(method, str):
        if len(several := _words(method)) > 1:
            raise OptionError(f"one method is asked for here, got {method!r}: several are a list, {several}.")
        return method
    if isinstance(method, Method) and METHODS.get(method.name) == method:
        return method.name
    raise OptionError(
        f"a method must be a name of eclip.METHODS, such as {DEFAULT_METHOD!r}, or one of its values, got {method!r}."
    )


def method_names(methods: AnyMethod | Iterable[AnyMethod], every: bool = True) -> list[str]:
    """The names of several methods, each once: names joined by commas, or names and objects of `METHODS`.

    Args:
        methods: one or several.
        every: whether the words of `GROUPS` stand for their methods here.

    Raises:
        OptionError: there is none, one is something else, or a group does not stand alone.
    """
    listed = list(methods) if isinstance(methods, Iterable) and not isinstance(methods, str) else [methods]
    names = [word for one in listed for word in (_words(one) if isinstance(one, str) else [method_name(one)])]
    for group in GROUPS if every else ():
        if group in names:
            if len(names) > 1:
                raise OptionError(f"{group!r} stands alone, got {', '.join(names)}.")
            return GROUPS[group]()
    return list(dict.fromkeys(names))


def one_or_more(methods: AnyMethod | Sequence[AnyMethod], *, alone: bool = False) -> tuple[list[str], bool]:
    """The names of methods, and whether it was one and no list of one; only that will do if it must be `alone`."""
    if alone or isinstance(methods, str | Method):
        return [method_name(methods)], True  # type: ignore[arg-type]  # of anything else it says what it should be
    return method_names(methods, every=False), False


def _words(joined: str) -> list[str]:
    return [word.strip() for word in joined.split(",") if word.strip()]
