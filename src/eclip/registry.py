"""Entries of a registry, such as METHODS; and options, whose names and types a function's signature defines."""

from __future__ import annotations

import importlib
import inspect
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType, NoneType, UnionType
from typing import Any, Generic, NamedTuple, SupportsIndex, TypeVar, Union, get_args, get_origin, get_type_hints

from eclip.errors import EclipError, OptionError, UnknownNameError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry(Generic[Result]):
    """One line of a registry: a function in a file of the registry's package, which is imported when first needed.

    Attributes:
        name: its name in the papers, in lower case; its function has the same name, spelled as Python allows.
        summary: one sentence with its source.
        file: the module of the package that holds the function; by default it has the function's name.
    """

    name: str
    summary: str = field(kw_only=True)
    file: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        """Default the file to the function's name."""
        object.__setattr__(self, "file", self.file or self._spelled)

    @property
    def _spelled(self) -> str:
        return self.name.replace("+", "_plus")

    @property
    def module(self) -> ModuleType:
        """The imported module."""
        return importlib.import_module(f"{type(self).__module__}.{self.file}")

    @property
    def function(self) -> Callable[..., Result]:
        """The function itself, without the checks that calling the entry makes."""
        function: Callable[..., Result] = getattr(self.module, self._spelled)
        return function

    @property
    def options(self) -> dict[str, Any]:
        """Name and default of each option."""
        return options_of(self.function)

    def check(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options, checked against the function's signature, with NumPy numbers converted to Python's.

        Raises:
            OptionError: the function has no such option, or a value has the wrong type.
        """
        if options:  # only then import the function, and torch with it
            check_options(self.name, self.function, options)
        return plain_options(options)


AnyEntry = TypeVar("AnyEntry", bound=Entry[Any])


def entry_of(name: str, entries: Mapping[str, AnyEntry], kind: str, listing: str) -> AnyEntry:
    """The entry of that name.

    Raises:
        UnknownNameError: there is none; `kind` and `listing` are for its message.
    """
    if name not in entries:
        raise UnknownNameError(kind, name, entries, listing)
    return entries[name]


class Description(NamedTuple):
    """What the docstrings of an entry's file and function say.

    Attributes:
        formula: the function's own, without its sections.
        source: paper, code, and differences from it.
        options: what each option means.
    """

    formula: str
    source: str
    options: dict[str, str]


def description(entry: Entry[Any]) -> Description:
    """Formula, source and options of an entry, from its docstrings; imports its file."""
    summary, *sections = _SECTION.split(inspect.getdoc(entry.function) or "")
    said = dict(zip(sections[::2], sections[1::2], strict=True)).get("Args", "")
    found = {}
    for part in re.split(r"\n(?=    \w+: )", said.rstrip()):
        name, _, what = part.strip().partition(": ")
        found[name] = " ".join(what.split())
    source = inspect.getdoc(entry.module) or ""
    return Description(summary.strip(), source.strip(), {name: found.get(name, "") for name in entry.options})


_SECTION = re.compile(r"^(Args|Returns|Raises):$", re.MULTILINE)


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Name and default of each option, that is, of each keyword-only argument."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_kind(value: Any, kind: type, name: str, source: str) -> None:
    """Raise an OptionError that names the source of such values, unless the value is of this kind."""
    if not isinstance(value, kind):
        raise OptionError(f"{name} must be of type {kind.__name__}, as {source}, got {type(value).__name__}.")


def check_options(owner: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    """Check that the function has each option, and that each value has the declared type.

    Raises:
        OptionError: the function has no such option, or a value has the wrong type.
    """
    known, hints = options_of(function), get_type_hints(function) if options else {}
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"{owner!r} has no option {name!r}; it has {listed(known)}.")
        hint = hints[name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_is_a(value, kind) for kind in kinds):
            wanted = " or ".join(_KINDS.get(kind) or _object(kind) for kind in kinds)
            raise OptionError(f"option {name!r} of {owner!r} must be {wanted}, got {_shown(value)}.")


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options with NumPy numbers converted to Python's, and lists to tuples."""
    return {option: _plain(value) for option, value in options.items()}


def whole(value: Any, name: str, wanted: str = "a whole number", least: int | None = None) -> int:
    """The value as a Python int; NumPy integers are accepted.

    Raises:
        OptionError: it is not a whole number (True and False are not), or is below the least one.
    """
    wanted += "" if least is None else f", at least {least}"
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or (least is not None and int(value) < least):
        raise OptionError(f"{name} must be {wanted}, got {_shown(value)}.")
    return int(value)


def whole_or_none(value: Any, name: str, wanted: str = "a whole number") -> int | None:
    """As `whole`, for a setting that may be None."""
    return None if value is None else whole(value, name, wanted)


def real(value: Any, name: str, wanted: str, right: Callable[[float], bool]) -> float:
    """The value as a Python float; NumPy's numbers and fractions are accepted.

    Raises:
        OptionError: it is not a number, or not a right one.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not right(float(value)):
        raise OptionError(f"{name} must be {wanted}, got {_shown(value)}.")
    return float(value)


def one_of(value: Any, name: str, choices: Iterable[str], error: type[EclipError] = OptionError) -> str:
    """The value, checked to be one of the choices.

    Raises:
        OptionError: it is not one of them; or the error class passed instead.
    """
    choices = tuple(choices)
    if value not in choices:
        raise error(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
    return str(value)


def listed(options: dict[str, Any]) -> str:
    """The names of the options, as messages list them."""
    return ", ".join(options) if options else "none"


_WHOLE = tuple[int, ...]
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    SupportsIndex: "a whole number",
    float: "a number",
    str: "a string",
    NoneType: "none",
    _WHOLE: "a list of whole numbers",
}


def _object(kind: Any) -> str:
    """A class in words, such as "a floating-point tensor (image, patch, channel)" or "a Module"."""
    if axes := getattr(kind, "dim_str", "").split():  # jaxtyping's
        return f"a floating-point tensor ({', '.join(axes)})"
    return "a tensor" if kind.__name__ == "Tensor" else f"a {kind.__name__}"


def _shown(value: Any) -> str:
    if getattr(value, "ndim", 0):
        return f"a {type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    written = repr(value)
    return written if len(written) <= 100 else f"{written[:100]} ..."


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(one) for one in value)
    is_numpy = isinstance(value, numbers.Number) and hasattr(value, "item")
    return value.item() if is_numpy else value


def _is_a(value: object, kind: Any) -> bool:
    if kind == _WHOLE:
        return isinstance(value, list | tuple) and all(_is_a(one, int) for one in value)
    kind = int if kind is SupportsIndex else kind  # whose annotation accepts NumPy integers
    if isinstance(value, bool) or kind not in (int, float):
        return type(value) is kind if kind in _KINDS else isinstance(value, kind)
    return isinstance(value, numbers.Integral if kind is int else numbers.Real)  # NumPy's as well
