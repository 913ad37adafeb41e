"""Methods, and models, side by side on one image: where each sees each text, and what it costs to ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

from PIL import Image

from eclip import render
from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone
from eclip.backbones.catalog import DEFAULT_MODEL, split_name
from eclip.backbones.devices import Device
from eclip.backbones.load import is_loaded
from eclip.errors import OptionError
from eclip.explanation.explain import Question
from eclip.explanation.explanation import Explanation
from eclip.explanation.writer import ComparisonWriter
from eclip.images import ImageLike, name_of, open_image
from eclip.methods import GROUPS, METHODS, NO_DIFFERENCE, AnyMethod, check_methods, method_names, options_for
from eclip.results.command import compare_command, was_named
from eclip.results.folder import FORMATS
from eclip.results.marks import png
from eclip.results.provenance import made_by
from eclip.texts.encode import check_texts
from eclip.texts.templates import kept

Pair = tuple[str, str]
"""A model and a method, by their names."""
EVERY = "all"
BLIND = "shows where the model looks, whatever the text, so it cannot explain the difference of two"
WARMING_TEXTS = 2  # one alone is a special case of surgery, which costs it 85 prompts


def compare(
    image: ImageLike,
    texts: str | Iterable[str],
    *,
    methods: AnyMethod | Iterable[AnyMethod] = EVERY,
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
    """Many methods on one image, each model encoding it once, apart from one pass beforehand to warm up.

    Args:
        image: a path, a PIL picture, an array or a tensor, see `eclip.explain`.
        texts: one or more.
        methods: "all", "fast" for those of one forward pass, or names or values of `eclip.METHODS`, a list or joined by
            commas. Those without meaning for a model's tower become gaps.
        models: a name or a Backbone, as in `eclip.explain`, or several.
        versus: a text to explain each text against, as in `eclip.explain`. Of "all" and "fast", methods that cannot
            become gaps; named, they raise.
        image_size: see `eclip.explain`.
        resize: see `eclip.explain`.
        templates: see `eclip.explain`.
        positions: see `eclip.explain`.
        device: see `eclip.explain`.
        options: of methods by their names, such as {"legrad": {"depth": 4}}.
        refine: a step after every method, see `eclip.explain`; its time is part of the costs.
        refine_options: see `eclip.explain`.

    Raises:
        EclipError: bad input, of a class that says which: `eclip.errors` lists them.
    """
    settings = (versus, image_size, resize, templates, positions, device, options or {}, refine, refine_options)
    contest = Contest(texts, methods, models, *settings)
    return contest.answer(open_image(image), name_of(image, 0))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What several methods say of one image.

    Attributes:
        image: RGB, upright.
        source: its path, or "image 0" for one that came from memory.
        texts: as given.
        pairs: all (model, method) that were asked, in order.
        explanations: by (model, method), of this one image.
        not_applicable: by (model, method), why there is no explanation.
        provenance: models, methods, settings, versions, the command that repeats it. With provenance["versus"], maps
            and scores are those of the difference between each text and that one.
    """

    image: Image.Image
    source: str
    texts: tuple[str, ...]
    pairs: tuple[Pair, ...]
    explanations: dict[Pair, Explanation]
    not_applicable: dict[Pair, str]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        """One line: what was compared."""
        models = ", ".join(dict.fromkeys(model for model, _ in self.pairs))
        maps, without = len(self.explanations), len(self.not_applicable)
        return f"Comparison({self.source}, {len(self.texts)} texts, {maps} maps, {without} not applicable, on {models})"

    def _repr_png_(self) -> bytes:
        """The picture, as notebooks show it."""
        return png(self.picture())

    @property
    def costs(self) -> dict[Pair, float]:
        """What one waits for a method, and a refinement of its maps, in times of the model's forward pass alone.

        1.0 is a method for nothing.
        """
        spent = {pair: explanation.seconds for pair, explanation in self.explanations.items()}
        return {pair: sum(seconds.values()) / seconds["forward"] for pair, seconds in spent.items()}

    def picture(self, scale: str = "map") -> Image.Image:
        """All maps in one picture: a row a method, a column a text.

        Args:
            scale: "map": colors run from the least to the most of each map. "row": of each method over all texts, so
                that its texts can be compared, and a thing that is absent does not look present.

        Raises:
            OptionError: another scale.
        """
        models = dict.fromkeys(model for model, _ in self.pairs)
        sections = [self._section(model) for model in models]
        return render.grid(self.image, sections, texts=self.texts, versus=self.provenance["versus"], scale=scale)

    def _section(self, model: str) -> render.Section:
        rows = tuple(self._row(pair) for pair in self.pairs if pair[0] == model)
        answer = next((one for pair, one in self.explanations.items() if pair[0] == model), None)
        if answer is None:
            return render.Section(model, "none of these methods has a meaning here", None, rows)
        row, col = answer.provenance["grid"]
        note = f"forward pass {_time(answer.seconds['forward'])} · {row} x {col} patches"
        note += f", maps refined by {answer.provenance['refine']}" if answer.provenance["refine"] else ""
        return render.Section(model, note, answer.scores[0], rows)

    def _row(self, pair: Pair) -> render.Row:
        name, kind = pair[1], METHODS[pair[1]].kind
        kind = f"{kind}, whatever the text" if kind == "attention" else kind
        if pair in self.not_applicable:
            return render.Row(name, kind, gap=self.not_applicable[pair])
        answer = self.explanations[pair]
        cost = f"{_time(sum(answer.seconds.values()))} · {_times(self.costs[pair])}"
        return render.Row(name, kind, cost, answer.drawn(0), signed=METHODS[name].signed)

    def save(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, *, scale: str = "map", overwrite: bool = False
    ) -> Path:
        """Write the picture, one file of arrays and manifest.json into a folder, made if it is missing.

        Args:
            folder: where. An earlier comparison on the same image is replaced; files of others stay as they are.
            formats: any of "png", "npz" (arrays model/method and model/scores), "json" (the manifest).
            scale: as in `picture`.
            overwrite: replace results of another kind, or of another image, as well.

        Returns:
            The folder.

        Raises:
            ResultError: the folder holds results of another kind or of another image, another process is writing there,
                it cannot be written, or the disk is full.
            OptionError: an unknown format or scale.
        """
        render.check_scale(scale)
        with ComparisonWriter(folder, formats, scale, overwrite=overwrite).over([self.source]) as writer:
            writer.add(self)
        return writer.folder


class Contest:
    """All that is asked of an image, checked and encoded once; `eclip compare` asks it of many."""

    def __init__(
        self,
        texts: str | Iterable[str],
        methods: AnyMethod | Iterable[AnyMethod],
        models: str | Backbone | Sequence[str | Backbone],
        versus: str | None,
        image_size: SupportsIndex | None,
        resize: str,
        templates: str | Iterable[str],
        positions: str,
        device: Device | None,
        options: dict[str, dict[str, Any]],
        refine: str | None = None,
        refine_options: dict[str, Any] | None = None,
    ) -> None:
        self.texts, templates = tuple(check_texts(texts)), kept(templates)
        names = method_names(methods if isinstance(methods, AnyMethod) else (methods := list(methods)))
        group = methods if isinstance(methods, str) and methods.strip() in GROUPS else None
        names = names if group is None else [name for name in METHODS if name in names]
        self.methods = names if group is None else group.strip()
        able, self.unable = _able(names, group is not None, versus)
        own = _options(able, options)
        asked = [models] if isinstance(models, str | Backbone) else list(dict.fromkeys(models))
        if not asked:
            raise OptionError("no model was given; `eclip models ls` shows them.")
        for model in asked:
            if isinstance(model, str):
                split_name(model)  # refuses what names nothing, before another is loaded
        self.questions: dict[str, Question] = {}
        self._warm: set[str] = set()
        for model in asked:
            settings = (image_size, resize, templates, positions, versus, device, refine, refine_options)
            question = Question(self.texts, model, own, *settings)
            name = question.backbone.name
            if name in self.questions:
                raise OptionError(f"two models are called {name!r}: give one another, eclip.wrap(..., name=...).")
            self.questions[name] = question

    def answer(
        self, image: Image.Image, source: str, on_method: Callable[[str, str], None] | None = None
    ) -> Comparison:
        """Compare on one image; `begun` hears the model and the method before each is run."""
        pairs: list[Pair] = []
        explanations: dict[Pair, Explanation] = {}
        not_applicable: dict[Pair, str] = {}
        for model, question in self.questions.items():
            hears = None if on_method is None else partial(on_method, model)
            if model not in self._warm:
                _warm_up(question, image)
                self._warm.add(model)
            lacking = dict(self.unable)
            answers = question.answer([image], [source], lacking, hears)
            names = [name for name in METHODS if name in question.options or name in self.unable]
            names = list(question.options) if not isinstance(self.methods, str) else names
            pairs += [(model, name) for name in names]
            explanations |= {(model, name): answer for name, answer in answers.items()}
            not_applicable |= {(model, name): lacking[name] for name in names if name in lacking}
        provenance = self._provenance(source)
        return Comparison(image, source, self.texts, tuple(pairs), explanations, not_applicable, provenance)

    def _provenance(self, source: str) -> dict[str, Any]:
        questions = list(self.questions.values())
        settings = questions[0].provenance(next(iter(questions[0].options)), [source], [])
        shared = ["image_size", "resize", "templates", "positions", "versus", "device", "versions"]
        shared += ["refine", "refine_options"]
        models = {}
        for name, question in self.questions.items():
            made = made_by(question.backbone)
            models[name] = {key: made[key] for key in ("family", "precision", "head")}
        options = {name: values for name, values in questions[0].options.items() if values}
        provenance = {"models": models, "methods": self.methods, "options": options, "scale": "map"}
        provenance |= {key: settings[key] for key in shared}
        repeatable = not options and not any(hasattr(one, "shape") for one in questions[0].refine_options.values())
        repeatable = repeatable and (len(models) == 1 or not any(was_named(one["head"]) for one in models.values()))
        by_name = repeatable and Path(source).is_file() and all(is_loaded(one.backbone) for one in questions)
        return {**provenance, "command": compare_command([source], self.texts, provenance) if by_name else None}


def _able(names: list[str], group: bool, versus: str | None) -> tuple[list[str], dict[str, str]]:
    """The methods to run, and those of a group that cannot explain a difference, with the reason."""
    check_methods(names, versus=versus is not None and not group)
    unable = {
        name: BLIND
        if METHODS[name].kind == "attention"
        else f"cannot explain the difference of two texts: {NO_DIFFERENCE}"
        for name in names
        if versus is not None and METHODS[name].versus is None
    }
    return [name for name in names if name not in unable], unable


def _options(methods: list[str], options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for name in options:
        if name not in methods:
            raise OptionError(f"options of {name!r} were given, but the methods are {', '.join(methods)}.")
    return {name: options_for(name, [name], options.get(name, {})) for name in methods}


def _warm_up(question: Question, image: Image.Image) -> None:
    """Run once what is fast, so that the costs shown are not those of a first call."""
    few = copy(question)
    few.texts, few.text = few.texts[:WARMING_TEXTS], few.text[:WARMING_TEXTS]
    few.options = {name: own for name, own in few.options.items() if METHODS[name].kind != "perturbation"}
    few.answer([image], [""], not_applicable={})


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms" if seconds < 0.00995 else f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 99.5 else f"{seconds:,.0f} s"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:,.0f}x"
