"""What a shell offers after Tab: names of models, methods, data sets and so on, with their summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from eclip.backbones.catalog import DEFAULT_MODEL, architectures, tags

Offers = Callable[[str], Iterable[tuple[str, str]]]
"""What is typed so far -> names and a word about each."""


def method_names(typed: str) -> Iterable[tuple[str, str]]:
    """Methods, also after the commas of a list."""
    from eclip.methods import METHODS

    return _after_commas(typed, {name: one.summary for name, one in METHODS.items()})


def several_methods(typed: str) -> Iterable[tuple[str, str]]:
    """As `method_names`, with the groups."""
    from eclip.methods import GROUPS

    return [*((name, "a group of methods") for name in GROUPS), *method_names(typed)]


def word_methods(typed: str) -> Iterable[tuple[str, str]]:
    """Methods of `eclip words`."""
    from eclip.words import WORD_METHODS

    return [(name, one.summary) for name, one in WORD_METHODS.items()]


def model_names(typed: str) -> Iterable[tuple[str, str]]:
    """Models: `mini` and architectures, and once there is a slash, the tags of the architecture."""
    start, comma, last = typed.rpartition(",")
    name, slash, _ = last.partition("/")
    if slash:
        found = {f"{name}/{tag}": "downloaded once" for tag in tags().get(name, [])}
    else:
        found = {DEFAULT_MODEL: "in the package"} | {f"{one}/": "an architecture" for one in architectures()}
    return [(f"{start}{comma}{one}", about) for one, about in found.items()]


def refinements(typed: str) -> Iterable[tuple[str, str]]:
    """Refinements."""
    from eclip.refinements import REFINEMENTS

    return [(name, one.summary) for name, one in REFINEMENTS.items()]


def protocols(typed: str) -> Iterable[tuple[str, str]]:
    """Evaluation protocols."""
    from eclip.evaluation.protocols import PROTOCOLS

    return [(name, one.summary) for name, one in PROTOCOLS.items()]


def data_sets(typed: str) -> Iterable[tuple[str, str]]:
    """Data sets of `eclip eval`."""
    from eclip.datasets import DATASETS

    return [(name, one.summary) for name, one in DATASETS.items()]


def templates(typed: str) -> Iterable[tuple[str, str]]:
    """Named sets of templates."""
    from eclip.texts.templates import TEMPLATES

    return [(name, f"{len(sentences)} sentences") for name, sentences in TEMPLATES.items()]


def _after_commas(typed: str, names: dict[str, str]) -> list[tuple[str, str]]:
    """Each name that is not in the list yet, behind the part of the list that is complete."""
    start, comma, _ = typed.rpartition(",")
    return [(f"{start}{comma}{name}", about) for name, about in names.items() if name not in start.split(",")]
