"""Which methods a run scores, and with which options: methods for maps, or for words under a protocol of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eclip.errors import OptionError
from eclip.evaluation.protocols import Protocol
from eclip.evaluation.rules import OF_WORDS
from eclip.methods import METHODS, AnyMethod, Method, check_methods, method_names, options_for
from eclip.words import WORD_METHODS, WordMethod, word_method

ALL, FAST = "all", "fast"


def known_methods(protocol: Protocol) -> Mapping[str, Method | WordMethod]:
    """The methods that a protocol can score."""
    return WORD_METHODS if isinstance(protocol.rules, OF_WORDS) else METHODS


def scored_methods(methods: AnyMethod | WordMethod | Iterable[AnyMethod | WordMethod], protocol: Protocol) -> list[str]:
    """The names of the methods to score, as in `eclip.evaluate`, checked.

    Under a protocol of words, "fast" and "all" are all word methods.

    Raises:
        UnknownNameError: there is no such method.
        OptionError: none was given, or "fast" or "all" is combined with other names.
    """
    if not isinstance(protocol.rules, OF_WORDS):
        names = method_names(methods)  # type: ignore[arg-type]  # raises for methods for words
        check_methods(names)
        return names
    listed = [methods] if isinstance(methods, str | Method | WordMethod) else list(methods)
    names = [name.strip() for one in listed for name in (one.split(",") if isinstance(one, str) else [one.name])]
    names = list(dict.fromkeys(name for name in names if name))
    if names in ([ALL], [FAST]):
        return list(WORD_METHODS)
    for name in names:
        word_method(name)
    if not names:
        raise OptionError(f"no method was given; {protocol.name!r} scores {', '.join(WORD_METHODS)}.")
    return names


def scored_options(
    names: Iterable[str], options: Mapping[str, dict[str, Any]], protocol: Protocol
) -> dict[str, dict[str, Any]]:
    """The options of each method to score, checked.

    Raises:
        OptionError: a method does not have an option, a value has the wrong type, or options are those of a method that
            is not scored.
    """
    names = list(names)
    if unknown := [name for name in options if name not in names]:
        raise OptionError(f"options has {', '.join(unknown)}, but the selected methods are {', '.join(names)}.")
    if isinstance(protocol.rules, OF_WORDS):
        return {name: word_method(name).check(options.get(name, {})) for name in names}
    return {name: options_for(name, [name], options.get(name, {})) for name in names}
