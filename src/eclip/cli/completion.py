"""What a shell offers after Tab: names of models, methods, data sets and so on, with their summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eclip.backbones.catalog import DEFAULT_MODEL, architectures, tags
from eclip.datasets import DATASETS
from eclip.evaluation.protocols import PROTOCOLS
from eclip.methods import GROUPS, METHODS
from eclip.refinements import REFINEMENTS
from eclip.texts.templates import TEMPLATES
from eclip.words import WORD_METHODS

Offers = Callable[[str], Iterable[tuple[str, str]]]
"""What is typed so far -> names and a word about each."""


def method_names(typed: str) -> Iterable[tuple[str, str]]:
    """Methods, also after the commas of a list: those that are not in it yet, behind the part that is complete."""
    start, comma, _ = typed.rpartition(",")
    return [(f"{start}{comma}{name}", one.summary) for name, one in METHODS.items() if name not in start.split(",")]


def several_methods(typed: str) -> Iterable[tuple[str, str]]:
    """As `method_names`, with the groups."""
    return [*((name, "a group of methods") for name in GROUPS), *method_names(typed)]


def model_names(typed: str) -> Iterable[tuple[str, str]]:
    """Models: `mini` and architectures, and once there is a slash, the tags of the architecture."""
    start, comma, last = typed.rpartition(",")
    name, slash, _ = last.partition("/")
    if slash:
        found = {f"{name}/{tag}": "downloaded once" for tag in tags().get(name, [])}
    else:
        found = {DEFAULT_MODEL: "in the package"} | {f"{one}/": "an architecture" for one in architectures()}
    return [(f"{start}{comma}{one}", about) for one, about in found.items()]


def templates(typed: str) -> Iterable[tuple[str, str]]:
    """Named sets of templates."""
    return [(name, f"{len(sentences)} sentences") for name, sentences in TEMPLATES.items()]


def _summaries(entries: Mapping[str, Any]) -> Offers:
    def offers(typed: str) -> Iterable[tuple[str, str]]:
        return [(name, one.summary) for name, one in entries.items()]

    return offers


word_methods, refinements = _summaries(WORD_METHODS), _summaries(REFINEMENTS)
protocols, data_sets = _summaries(PROTOCOLS), _summaries(DATASETS)
