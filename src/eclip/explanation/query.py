"""Query: everything but the images, checked and encoded once. `Query.answer` is the main path.

One forward pass makes an Encoding, each method turns it into raw maps, and an `Explanation` shows them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import Backbone, Grid
from eclip.backbones.blocks import cosine
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.encoding import Encoding, encode
from eclip.backbones.load import backbone_of
from eclip.backbones.state import check_text_state, text_state
from eclip.backbones.view import View
from eclip.errors import ModelError, NotApplicableError, TextError
from eclip.explanation.checkup import KEEP, Checkup
from eclip.explanation.explanation import Explanation
from eclip.explanation.folder import explain_command
from eclip.explanation.tensors import OTSU, origin_of
from eclip.images import Place
from eclip.methods import METHODS, check_methods
from eclip.refinements import REFINEMENTS, check_refinement
from eclip.results.provenance import made_by, noted, repeatable
from eclip.texts.encode import check_texts
from eclip.texts.features import check_given
from eclip.texts.like import Like
from eclip.texts.queries import can_be_written, encode_queries, names_of
from eclip.texts.templates import kept

Named = tuple[str, Image.Image]
"""An image and its name: its path, or "image 0"."""
Result = TypeVar("Result")
_log = logging.getLogger("eclip")


class Query:
    """Everything but the images, checked and encoded once.

    Args:
        texts: one or more texts or examples, checked by `texts_or_features`.
        features: of unit length, in place of the texts, which are then their names.
        model: a name for `eclip.load`, or a Backbone.
        methods: options of each method by its name.
        view: how the model sees images.
        settings: templates, versus, device, refine, refine_options and health, as in `eclip.explain`; with
            health="presence", only the presence is computed.

    Errors and warnings are those of `eclip.explain`.
    """

    def __init__(
        self,
        texts: Sequence[str | Like],
        *,
        features: Float[Tensor, "text feature"] | None = None,
        model: str | Backbone = DEFAULT_MODEL,
        methods: dict[str, dict[str, Any]],
        view: View,
        templates: str | Iterable[str] = "none",
        versus: str | None = None,
        device: Device | None = None,
        refine: str | None = None,
        refine_options: dict[str, Any] | None = None,
        health: bool | str = False,
    ) -> None:
        self.texts, self.methods, self.versus = names_of(texts), methods, versus
        check_methods(methods, versus=versus is not None)
        self.refine, self.refine_options = refine, check_refinement(refine, refine_options)
        self.view, self.templates = view, kept(templates)
        if versus is not None and not isinstance(versus, str):
            raise TextError(f"versus must be one text, got {versus!r}.")
        self.backbone = backbone = backbone_of(model, device)
        view.check(backbone)
        self.given, self.examples = features is not None, dict[str, dict[str, Any]]()
        every = list(texts) if self.given or versus is None or versus in self.texts else [*texts, *check_texts(versus)]
        if features is not None:
            features = check_given(features, backbone, self.texts, self.templates, versus)
        else:
            features, self.examples = encode_queries(every, backbone, view, self.templates)
        self.state = None if self.given else text_state(backbone)
        self.text = features[: len(self.texts)]  # contrasted with itself: exact zeros
        self.other = None if versus is None else features[[names_of(every).index(versus)]]
        self.checkup, self.setup = None, 0.0
        if health:
            more: dict[str, Any] = {"versus": versus is not None, "only_presence": health == "presence"}
            more["given"] = [self.given or name in self.examples for name in self.texts]
            make = partial(Checkup, backbone, self.texts, self.text, self.templates, view, **more)
            self.checkup, self.setup = self.timed(make)
        self.keep = blocks_to_keep(methods, refine, KEEP if health is True else 0)
        self.graph = graphs_to_keep(methods)

    def check_state(self) -> None:
        """Raise StaleEncodingError if the model's text side has changed since it encoded the texts."""
        if self.state is not None:
            check_text_state(self.backbone, self.state)

    def grid(self, image: Image.Image) -> Grid:
        """The patch grid of the image."""
        return self.view.grid(self.backbone, image)

    def raw(
        self, name: str, encoding: Encoding, text: Float[Tensor, "text feature"] | None = None
    ) -> Float[Tensor, "image text row col"]:
        """A method's maps before any refinement, for the texts or another one; contrasted with `versus` if given."""
        method = METHODS[name]
        run = method if self.other is None else partial(method.difference, versus=self.other)
        return run(encoding, self.text if text is None else text, **self.methods[name])

    def refined(
        self, maps: Float[Tensor, "image text row col"], encoding: Encoding
    ) -> Float[Tensor, "image text finer_row finer_col"]:
        """The maps after the refinement, if any."""
        return maps if self.refine is None else REFINEMENTS[self.refine](maps, encoding, **self.refine_options)

    def answer(
        self,
        images: Sequence[Named],
        not_applicable: dict[str, str] | None = None,
        on_method: Callable[[str], None] | None = None,
    ) -> dict[str, Explanation]:
        """Run one forward pass over images of one grid, then each method and its refinement.

        Args:
            images: with their names.
            not_applicable: methods that are not applicable to this model are added here with the reason; None: raise.
            on_method: called with each method's name before it runs.
        """
        pixels = self.view.pixels(self.backbone, (image for _, image in images))
        named = [(source, image, image.size) for source, image in images]
        return self.answer_pixels(pixels, named, not_applicable, on_method)

    def answer_pixels(
        self,
        pixels: Float[Tensor, "image 3 height width"],
        named: Sequence[tuple[str, Image.Image | Path | Place, tuple[int, int]]],
        not_applicable: dict[str, str] | None = None,
        on_method: Callable[[str], None] | None = None,
    ) -> dict[str, Explanation]:
        """As `answer`, for preprocessed images: their names, the images or where they can be read again, and sizes."""
        run = partial(encode, self.backbone, pixels, self.keep, self.view.positions, self.graph)
        encoding, forward = self.timed(run)
        return self.answer_encoding(encoding, named, not_applicable, on_method, forward=forward)

    def answer_encoding(
        self,
        encoding: Encoding,
        named: Sequence[tuple[str, Image.Image | Path | Place, tuple[int, int]]],
        not_applicable: dict[str, str] | None = None,
        on_method: Callable[[str], None] | None = None,
        *,
        forward: float = 0.0,
    ) -> dict[str, Explanation]:
        """As `answer_pixels`, for images that this query's model and view encoded before, in `forward` seconds.

        Raises:
            ModelError: the feature of an image is not finite.
        """
        self.check_state()
        sources = tuple(source for source, _, _ in named)
        apart = self.text if self.other is None else self.text - self.other
        scores = _numpy(cosine(encoding.feature, apart).float())
        for source in itertools.compress(sources, ~np.isfinite(scores).all(axis=1)):
            raise ModelError(
                f"the feature of {source} by {self.backbone.name} contains NaN or infinity: float16 may overflow; use "
                "float32 or bfloat16."
            )
        answers = {}
        for name, options in self.methods.items():
            method = METHODS[name]
            if on_method is not None:
                on_method(name)
            try:
                maps, own = self.timed(partial(self.raw, name, encoding))
            except NotApplicableError as error:  # only the method's: a refinement's would be the same for all
                if not_applicable is None:
                    raise
                not_applicable[name] = error.why
                continue
            seconds = {"forward": forward, "method": own}
            flat, health = method.flat(maps, apart), None
            if self.checkup is not None:
                maps_of = partial(self.raw, name, encoding)
                check = partial(self.checkup, method, encoding, maps, maps_of, options, flat)
                health, checked = self.timed(check)
                seconds["health"], self.setup = checked + self.setup, 0.0  # once: encoding words and empty images
            if self.refine is not None:
                maps, seconds["refine"] = self.timed(partial(self.refined, maps, encoding))
            _log.info("%s, %s: %s", name, counted(len(named), "image"), in_words(seconds))
            answers[name] = Explanation(
                maps=_numpy(maps),
                scores=scores.copy(),
                texts=tuple(self.texts),
                sources=sources,
                sizes=tuple(size for _, _, size in named),
                signed=method.signed or self.versus is not None,
                provenance=self.provenance(name, sources, list(encoding.pixels.shape[2:])),
                images=tuple(image for _, image, _ in named),
                seconds=seconds,
                health=health,
                flat=_numpy(flat),
                origin=origin_of(self.backbone.weight.device),
            )
        return answers

    def timed(self, task: Callable[[], Result]) -> tuple[Result, float]:
        """The result of a task and its run time in seconds."""
        start = time.perf_counter()
        result = task()
        return result, since(start, self.backbone)

    def settings(self, method: str) -> dict[str, Any]:
        """The part of the provenance that does not depend on the images."""
        return {
            **made_by(self.backbone),
            "method": method,
            "options": noted(self.methods[method]),
            "refine": self.refine,
            "refine_options": noted(self.refine_options),
            **self.view.settings,
            "templates": None if self.given else _plain(self.templates),
            **({"examples": self.examples} if self.examples else {}),
            "versus": self.versus,
            "level": self.level(method),
            "health": None if self.checkup is None else list(self.checkup.notes(METHODS[method])),
        }

    def level(self, method: str) -> float | str:
        """The threshold of this method's heat maps: as measured for the model, or "otsu" if they are made otherwise.

        So they are if the model was changed after it was loaded, and for features and examples: the thresholds are
        those of texts.
        """
        usual = self.view.image_size in (None, self.backbone.image_size) and self.view.resize == "squash"
        as_measured = usual and self.refine is None and self.versus is None and not self.methods[method]
        level = self.backbone.levels.get(method) if as_measured and not (self.given or self.examples) else None
        return level if level is not None and self.backbone.holds else OTSU

    def provenance(self, method: str, sources: Sequence[str], pixels: list[int]) -> dict[str, Any]:
        """The record that repeats an answer, see `Explanation.provenance`."""
        grid = [side // self.backbone.patch_size for side in pixels]
        provenance = {**self.settings(method), "pixels": pixels, "grid": grid}
        return {
            **provenance,
            "command": explain_command(sources, self.texts, provenance) if self.repeats(method, sources) else None,
        }

    def repeats(self, method: str, sources: Sequence[str]) -> bool:
        """Whether a shell command can repeat a method's answer for these images."""
        known = not self.given and can_be_written(self.examples, self.texts)
        return known and repeatable(self.backbone, sources, self.methods[method], self.refine_options)


def blocks_to_keep(methods: dict[str, dict[str, Any]], refine: str | None, least: int = 0) -> int | None:
    """How many last blocks an Encoding must keep for these methods and this refinement; None = all."""
    keeps = [METHODS[name].keep_for(options) for name, options in methods.items()]
    keeps += [least] if refine is None else [least, REFINEMENTS[refine].keep]
    return None if None in keeps else max(keep for keep in keeps if keep is not None)


def graphs_to_keep(methods: dict[str, dict[str, Any]]) -> int | None:
    """How many of these blocks an Encoding keeps with their autograd graph; None = all."""
    return blocks_to_keep({name: options for name, options in methods.items() if METHODS[name].graph}, None)


def counted(count: int, what: str) -> str:
    """A number of things in words, for the log."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def in_words(seconds: dict[str, float]) -> str:
    """The run time of each stage in words, for the log."""
    return ", ".join(f"{stage} {spent:.3f} s" for stage, spent in seconds.items())


def since(start: float, backbone: Backbone) -> float:
    """Seconds since `start`, after a GPU has finished its work."""
    if backbone.weight.is_cuda:
        torch.cuda.synchronize(backbone.weight.device)
    return time.perf_counter() - start


def _plain(templates: str | tuple[str, ...]) -> str | list[str]:
    return templates if isinstance(templates, str) else list(templates)


def _numpy(values: Tensor) -> np.ndarray:
    """A copy, so that no two results share memory."""
    return values.cpu().numpy().copy()
