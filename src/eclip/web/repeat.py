"""The shell command and the lines of Python that repeat what the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eclip.explanation.comparison import Comparison, compare_command
from eclip.explanation.explanation import Explanation
from eclip.explanation.folder import explain_command
from eclip.results.command import head, was_named
from eclip.segmentation.segmentation import Segmentation, segment_command
from eclip.texts.queries import can_be_written

Repeat = dict[str, str | None]
"""{"command", "python"}: each as it can be pasted, with the name of the image's file; None if there is none."""


def explanation(found: Explanation, name: str) -> Repeat:
    """How to repeat an explanation of the image in the file of this name."""
    made = found.provenance
    model = _model(made["model"], made["head"], made["method"])
    given: dict[str, Any] = {"model": model, "method": made["method"], **made["options"]}
    given |= {"versus": made["versus"], "refine": made["refine"]}
    given |= {} if made["templates"] == "none" else {"templates": made["templates"]}
    given |= {} if made["health"] is not None else {"health": False}
    python = f"import eclip\n\nr = eclip.explain({_arguments(name, _queries(found.texts, made), given)})"
    command = explain_command([name], found.texts, made) if _is_written(found.texts, made) else None
    return {"command": command, "python": python}


def comparison(found: Comparison, name: str) -> Repeat:
    """How to repeat a comparison."""
    made = found.provenance
    methods = made["methods"] if isinstance(made["methods"], str) else list(made["methods"])
    [(model, own)] = made["models"].items()
    given = {"models": _model(model, own["head"], methods), "methods": methods, "versus": made["versus"]}
    python = f"import eclip\n\nc = eclip.compare({_arguments(name, _queries(found.texts, made), given)})\n"
    python += 'c.picture().save("compare.png")'
    command = compare_command([name], found.texts, made) if _is_written(found.texts, made) else None
    return {"command": command, "python": python}


def segmentation(found: Segmentation, name: str) -> Repeat:
    """How to repeat a segmentation."""
    made = found.provenance
    classes = [", ".join(words) for words in made["words"].values()]
    given: dict[str, Any] = {"model": _model(made["model"], made["head"], made["method"])}
    given |= {"method": made["method"], "refine": made["refine"]}
    given |= {"background": list(made["background"])} if made["background"] else {}
    python = f"import eclip\n\ns = eclip.segment({_arguments(name, classes, given)})\n"
    python += 's.picture().save("segment.png")'
    return {"command": segment_command([name], made), "python": python}


def _is_written(names: Sequence[str], made: dict[str, Any]) -> bool:
    """Whether a command can ask for these texts and examples."""
    return can_be_written(made.get("examples", {}), names)


def _queries(names: Sequence[str], made: dict[str, Any]) -> list[str]:
    """Texts, and for examples the calls that make them; those with names do not say which file they are."""
    calls = {}
    for name, one in made.get("examples", {}).items():
        box = "" if one["box"] is None else f"box={one['box']}, "
        calls[name] = repr(one["like"]) if one["like"] else f"'FILE', {box}name={name!r}"
    return [_Code(f"eclip.like({calls[name]})") if name in calls else name for name in names]


def _arguments(name: str, texts: list[str], given: dict[str, Any]) -> str:
    listed = [repr(name), repr(texts)]
    return ", ".join([*listed, *(f"{key}={value!r}" for key, value in given.items() if value is not None)])


class _Code(str):
    """An argument that is an expression."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _model(name: str, place: str | None, methods: str | list[str]) -> str:
    """The model by its name, or loaded with the head that was given, if a method reads it."""
    named = was_named(place) and head(place, methods)
    return _Code(f"eclip.load({name!r}, head={place!r})") if named else name
