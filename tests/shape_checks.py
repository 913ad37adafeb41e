"""Checks of the shapes that eclip's functions declare, on every call that a test makes; not in `make test`.

jaxtyping's hook puts `jaxtyping.jaxtyped` on every function of the package. That decorator compiles two checkers for
each function object, so also for every closure of every model that a test wraps, and it binds the arguments of every
call: most of the suite's time. `checked` takes its place. It checks the same hints with the same beartype, once per
call, for the functions that name a shape; mypy checks the others. What it compiles, it keeps by the function's code.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import beartype

scope = jaxtyping.jaxtyped  # the original, whose "context" holds the sizes of the axes
_checkers: dict[types.CodeType, tuple[Callable[..., Any], Callable[..., Any]] | None] = {}


def install() -> None:
    """To be called before eclip is imported."""
    assert "eclip" not in sys.modules
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook("eclip", "beartype.beartype")


def checked(fn: Any = None, *, typechecker: Any = None) -> Any:
    """The decorator that the hook finds under the name of `jaxtyping.jaxtyped`."""
    if fn is None:
        return checked
    if isinstance(fn, type):
        if is_dataclass(fn) and "__init__" in vars(fn):
            fn.__init__ = checked(fn.__init__)  # type: ignore[misc]
        return fn
    if isinstance(fn, classmethod | staticmethod):
        return type(fn)(checked(fn.__func__))
    if isinstance(fn, property):
        return property(*(one and checked(one) for one in (fn.fget, fn.fset, fn.fdel)))
    if fn.__code__ not in _checkers:
        _checkers[fn.__code__] = _compile(fn)
    if _checkers[fn.__code__] is None:
        return fn
    arguments, result = _checkers[fn.__code__]

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        with scope("context"):
            arguments(*args, **kwargs)
            value = fn(*args, **kwargs)
            result(value)
        return value

    return call


def _compile(fn: Any) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """A function of the same arguments and one of the result, which check them and do nothing; None without a shape."""
    hints = {name: _read(text, fn.__globals__) for name, text in fn.__annotations__.items()}
    if not any(map(_names_shape, hints.values())):
        return None
    known: dict[str, Any] = {}
    plain = [one.replace(annotation=one.empty) for one in inspect.signature(fn).parameters.values()]
    given = [one if one.default is one.empty else one.replace(default=None) for one in plain]
    exec(f"def arguments{inspect.Signature(given)}: pass\ndef result(value): pass", known)
    arguments, result = known["arguments"], known["result"]
    arguments.__defaults__, arguments.__kwdefaults__ = fn.__defaults__, fn.__kwdefaults__
    result.__annotations__ = {"value": hints.pop("return", Any)}
    arguments.__annotations__ = hints
    for checker, of in ((arguments, ""), (result, "'s result")):
        checker.__module__, checker.__qualname__ = fn.__module__, fn.__qualname__ + of
    return beartype(arguments), beartype(result)


def _read(hint: Any, names: dict[str, Any]) -> Any:
    """The hint of this text; Any, where it names what is imported for mypy alone."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(holder, names, include_extras=True)["hint"]
    except Exception:
        return Any


def _names_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_names_shape(one) for one in get_args(hint))
