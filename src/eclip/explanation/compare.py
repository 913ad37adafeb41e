"""Methods and models side by side on one image: where each sees each text, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, SupportsIndex

from PIL import Image

from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone
from eclip.backbones.catalog import DEFAULT_MODEL, split_name
from eclip.backbones.devices import Device
from eclip.backbones.view import View
from eclip.errors import OptionError
from eclip.explanation.comparison import Comparison, Pair, compare_command
from eclip.explanation.explanation import Explanation
from eclip.explanation.query import Query
from eclip.images import ImageLike, name_of, open_image
from eclip.methods import GROUPS, METHODS, NO_DIFFERENCE, AnyMethod, check_methods, method_names, options_for
from eclip.registry import check_kind
from eclip.results.command import was_named
from eclip.results.provenance import made_by, noted, repeatable
from eclip.texts.like import Like
from eclip.texts.queries import can_be_written, check_queries, names_of
from eclip.texts.templates import kept

EVERY, FAST = "all", "fast"
RUNS, ENOUGH = 3, 5.0
"""How often methods that need one forward pass run before the first image, and after how many seconds no more."""
PASSES = 256
"""About how many forward passes each of the other methods takes."""
BLIND = "ignores the text, so it cannot explain the difference between two texts"


def compare(
    image: ImageLike,
    texts: str | Like | Iterable[str | Like],
    *,
    methods: AnyMethod | Iterable[AnyMethod] = FAST,
    models: str | Backbone | Sequence[str | Backbone] = DEFAULT_MODEL,
    versus: str | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    device: Device | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
) -> Comparison:
    """Compare methods on one image: their maps, and how long they take.

    Methods that need one forward pass run several times after a warm-up, and the best time counts; others run once.

    Arguments that are not listed here, and the errors, are those of `eclip.explain`.

    - image: one; a path, a PIL image, an array or a tensor.
    - methods: "fast" for those that need one forward pass, "all" (some take hundreds), or names or values of
      `eclip.METHODS`, as a list or joined by commas. Those that a model does not support are listed in
      `not_applicable`.
    - models: a name or a Backbone, or several.
    - versus: methods that do not support it raise if given by name; with "all" and "fast" they are listed in
      `not_applicable`.
    - options: options of each method by its name, such as {"legrad": {"depth": 4}}.
    - refine: a step after every method; the costs include its time.
    """
    view = View(image_size, resize, positions)
    more: dict[str, Any] = {"device": device, "refine": refine, "refine_options": refine_options}
    chosen: dict[str, Any] = {"methods": methods, "models": models, "options": options, "versus": versus}
    query = ComparisonQuery(texts, view=view, templates=templates, **chosen, **more)
    return query.answer(open_image(image), name_of(image, 0))


class ComparisonQuery:
    """Everything but the images, checked and encoded once; `eclip compare` answers it for many images.

    Takes the arguments of `compare`, with a view instead of image_size, resize and positions.
    """

    def __init__(
        self,
        texts: str | Like | Iterable[str | Like],
        *,
        methods: AnyMethod | Iterable[AnyMethod] = FAST,
        models: str | Backbone | Sequence[str | Backbone] = DEFAULT_MODEL,
        options: dict[str, dict[str, Any]] | None = None,
        versus: str | None = None,
        **settings: Any,
    ) -> None:
        queries, settings["templates"] = check_queries(texts), kept(settings.get("templates", "none"))
        self.texts = tuple(names_of(queries))
        names = method_names(methods)
        group = methods.strip() if isinstance(methods, str) and methods.strip() in GROUPS else None
        self.names = names if group is None else [name for name in METHODS if name in names]
        self.methods = self.names if group is None else group
        able, self.unable = _able(self.names, group is not None, versus)
        own = _options(able, options or {})
        chosen = [models] if isinstance(models, str | Backbone) else list(dict.fromkeys(models))
        if not chosen:
            raise OptionError("no model was given. Give a name; `eclip models ls` lists them.")
        for model in chosen:
            if isinstance(model, str):
                split_name(model)  # rejects invalid names before any model is loaded
        self.queries: dict[str, Query] = {}
        self._best: dict[Pair, dict[str, float]] = {}
        for model in chosen:
            query = Query(queries, model=model, methods=own, versus=versus, health="presence", **settings)
            if (name := query.backbone.name) in self.queries:
                raise OptionError(f"two models have the name {name!r}. Rename one: eclip.wrap(..., name=...).")
            self.queries[name] = query

    def answer(
        self, image: Image.Image, source: str, on_method: Callable[[str, str], None] | None = None
    ) -> Comparison:
        """Compare on one image; `on_method` is called with model and method before each runs."""
        pairs = tuple((model, name) for model in self.queries for name in self.names)
        explanations: dict[Pair, Explanation] = {}
        not_applicable: dict[Pair, str] = {}
        for model, query in self.queries.items():
            if not any(pair[0] == model for pair in self._best):
                self._measure(model, query, image)
            lacking = dict(self.unable)
            answers = query.answer([(source, image)], lacking, None if on_method is None else partial(on_method, model))
            self._note(model, answers)
            for name, answer in answers.items():
                explanations[model, name] = replace(answer, seconds=dict(self._best[model, name]))
            not_applicable |= {(model, name): lacking[name] for name in self.names if name in lacking}
        return Comparison(image, source, self.texts, pairs, explanations, not_applicable, self._provenance(source))

    def expected(self, model: str, methods: Iterable[str]) -> float:
        """About how many seconds those of these methods that take many passes need for an image; 0 if unknown."""
        forward = next((best["forward"] for (of, _), best in self._best.items() if of == model), 0.0)
        return forward * PASSES * sum(METHODS[name].kind == "perturbation" for name in methods)

    def _measure(self, model: str, query: Query, image: Image.Image) -> None:
        """Run the methods that need one forward pass, first to warm up, then for their times."""
        few, start = copy(query), time.perf_counter()
        few.methods = {name: own for name, own in few.methods.items() if METHODS[name].kind != "perturbation"}
        for _ in range(RUNS):
            self._note(model, few.answer([("", image)], not_applicable={}))
            if time.perf_counter() - start > ENOUGH:
                break

    def _note(self, model: str, answers: dict[str, Explanation]) -> None:
        """Keep the best times so far; a forward pass is the same for all methods of a model."""
        for name, answer in answers.items():
            best = self._best.setdefault((model, name), dict(answer.seconds))
            best |= {part: min(best.get(part, seconds), seconds) for part, seconds in answer.seconds.items()}
        own = [best for (of, _), best in self._best.items() if of == model]
        forward = min((best["forward"] for best in own), default=0.0)
        for best in own:
            best["forward"] = forward

    def _provenance(self, source: str) -> dict[str, Any]:
        first, *_ = queries = list(self.queries.values())
        settings = first.settings(next(iter(first.methods)))
        shared = ("image_size", "resize", "templates", "positions", "versus", "device", "versions")
        made = {name: made_by(query.backbone) for name, query in self.queries.items()}
        models = {name: {key: one[key] for key in ("family", "precision", "head")} for name, one in made.items()}
        options = {name: noted(values) for name, values in first.methods.items() if values}
        provenance = {"models": models, "methods": self.methods, "options": options, "scale": "map"}
        provenance |= {key: settings[key] for key in (*shared, "refine", "refine_options")}
        if first.examples:
            per_model, same = ("gap", "sha256"), ("like", "image_mean")
            for name, query in self.queries.items():
                models[name]["examples"] = {
                    example: {key: own[key] for key in per_model} for example, own in query.examples.items()
                }
            provenance["examples"] = {name: {key: own[key] for key in same} for name, own in first.examples.items()}
        one_head = len(models) == 1 or not any(was_named(one["head"]) for one in models.values())
        asked = [*first.methods.values(), first.refine_options]
        repeats = (
            one_head
            and can_be_written(first.examples, self.texts)
            and all(repeatable(one.backbone, [source], *asked) for one in queries)
        )
        return {**provenance, "command": compare_command([source], self.texts, provenance) if repeats else None}


def _able(names: list[str], group: bool, versus: str | None) -> tuple[list[str], dict[str, str]]:
    """The methods to run, and those of a group that cannot contrast two texts, with the reason."""
    check_methods(names, versus=versus is not None and not group)
    unable = {
        name: BLIND
        if METHODS[name].kind == "attention"
        else f"cannot explain the difference between two texts: {NO_DIFFERENCE}"
        for name in names
        if versus is not None and METHODS[name].versus is None
    }
    return [name for name in names if name not in unable], unable


def _options(methods: list[str], options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    check_kind(options, Mapping, "options", 'in options={"gem": {"depth": 3}}')
    for name in options:
        if name not in methods:
            raise OptionError(f"got options for {name!r}, but the methods are {', '.join(methods)}.")
    return {name: options_for(name, [name], options.get(name, {})) for name in methods}
