"""`explain` and `explain_each`: from images and texts to Explanations.

Start reading here and continue with `eclip.explanation.query`: `load` finds the model, `encode_texts` and `encode` run
its two towers once, a method turns the Encoding into raw maps, and `Explanation` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, overload

from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.load import backbone_of
from eclip.backbones.view import View
from eclip.errors import ImageError, OptionError
from eclip.explanation.explanation import Explanation
from eclip.explanation.preprocessed import check_preprocessed, shown, view_of
from eclip.explanation.query import Query
from eclip.images import ImageLike, at_least_one, name_of, open_image, read_batches
from eclip.methods import (
    DEFAULT_METHOD,
    DEFAULT_OF_CNNS,
    AnyMethod,
    check_methods,
    default_method,
    method_name,
    method_names,
    options_for,
)
from eclip.registry import whole
from eclip.texts.queries import Texts, texts_or_features


@overload
def explain(
    image: ImageLike | Sequence[ImageLike], texts: Texts, *, method: AnyMethod | None = ..., **settings: Any
) -> Explanation: ...
@overload
def explain(
    image: ImageLike | Sequence[ImageLike], texts: Texts, *, method: Sequence[AnyMethod], **settings: Any
) -> dict[str, Explanation]: ...
def explain(
    image: ImageLike | Sequence[ImageLike],
    texts: Texts,
    *,
    model: str | Backbone = DEFAULT_MODEL,
    method: AnyMethod | Sequence[AnyMethod] | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    versus: str | None = None,
    device: Device | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
    health: bool = True,
    names: Iterable[str] | None = None,
    preprocessed: bool = False,
    not_applicable: dict[str, str] | None = None,
    **options: Any,
) -> Explanation | dict[str, Explanation]:
    """Which part of each image made the model match each text?

    Args:
        image: a path, a PIL image, a NumPy array (height, width, channel) or a torch tensor (channel, height, width),
            uint8 or in [0, 1], not normalized; or a list or batch of them. The whole image is explained, not a crop.
            With `preprocessed`, a tensor (3, height, width) or (image, 3, height, width).
        texts: one or more texts, or examples made by `eclip.like`; or features in their place, a floating-point tensor
            (text, feature), normalized here if its rows are not of unit length. Presence and polarity of examples and
            features are NaN, see `Health.notes`.
        model: a name for `eclip.load`, or a Backbone from `load` or `wrap`.
        method: a name or value of `eclip.METHODS`, or several, which share one forward pass; None = "eclip" for a model
            with a trained head, such as "mini", otherwise "surgery", or "gradcam" for a CNN without attention pooling
            or a Swin.
        image_size: side in pixels; None = the model's own.
        resize: "squash" (a square, as in the paper) or "keep" (the image's aspect ratio, about as many patches).
        templates: prompt templates, see `eclip.encode_texts`.
        positions: how position embeddings are resized, see `eclip.encode`.
        versus: a text to contrast each text with, or the name of an example among them: maps and scores explain the
            difference, why A and not B.
        device: where to put a model given by name, see `eclip.load`; None = the CPU. A Backbone stays where it is.
        refine: a name of `eclip.REFINEMENTS`, which aligns maps with the image content, some at the model's resolution.
        refine_options: options of the refinement, see `eclip.REFINEMENTS[name].options`.
        health: check whether each map can be trusted, see `eclip.explanation.health`. The maps do not change.
        names: of the features, if they are given in place of texts; None = "feature 0", "feature 1" and so on.
        preprocessed: the pixels went through `backbone.preprocess`: normalized colors, sides that are multiples of the
            patch. They are used as they are, and pictures show what the model saw; image_size and resize do not apply.
        not_applicable: with several methods, those that are not applicable to this model are added here with the
            reason, and the others run. None: they raise.
        options: options of the method, see `eclip.METHODS[name].options`.

    Returns:
        An Explanation; for several methods, a dict with one for each name.

    Raises:
        EclipError: invalid input; `eclip.errors` lists the classes.
    """
    view = View(image_size, resize, positions)
    alone = method is None or isinstance(method, AnyMethod)
    not_applicable = None if alone else not_applicable
    settings: dict[str, Any] = {"method": method, "names": names, "templates": templates, "versus": versus}
    settings |= {"health": health, "refine": refine, "refine_options": refine_options, **options}
    if preprocessed:
        if view != View(positions=positions):
            raise OptionError("preprocessed images are not resized: leave image_size and resize out.")
        model = backbone_of(model, device)
        pixels = check_preprocessed(image, model)
        query = query_of(texts, several=True, model=model, **view_of(pixels, model, positions).settings, **settings)
        seen = [(f"image {index}", picture, picture.size) for index, picture in enumerate(shown(pixels, model))]
        answers = query.answer_pixels(pixels, seen, not_applicable)
        answers = {name: replace(one, provenance={**one.provenance, "resize": None}) for name, one in answers.items()}
    else:
        images = at_least_one(image)
        query = query_of(texts, several=True, model=model, device=device, **view.settings, **settings)
        named = [(name_of(picture, index), open_image(picture)) for index, picture in enumerate(images)]
        grids = {query.grid(picture) for _, picture in named}
        if len(grids) > 1:
            raise ImageError(
                f"the images have different shapes, so their maps have different grids {sorted(map(tuple, grids))}. "
                'Use eclip.explain_each, or resize="squash".'
            )
        answers = query.answer(named, not_applicable)
    return next(iter(answers.values())) if alone else answers


def explain_each(
    images: ImageLike | Iterable[ImageLike],
    texts: Texts,
    *,
    batch_size: SupportsIndex = 8,
    failures: list[tuple[str, str]] | None = None,
    model: str | Backbone = DEFAULT_MODEL,
    method: AnyMethod | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    versus: str | None = None,
    device: Device | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
    health: bool = True,
    names: Iterable[str] | None = None,
    **options: Any,
) -> Iterator[Explanation]:
    """Yield one Explanation per image, in order, for more images than fit into memory; texts are encoded once.

    Arguments that are not listed here are those of `explain`, without `preprocessed`; `method` is a single one. With
    resize="keep", consecutive images of one grid share a forward pass.

    - images: any iterable; at most two batches are in memory, the second read ahead while the model runs.
    - batch_size: images in one forward pass, at least 1; `seconds` of each are those of all of them together.
    - failures: unreadable images are added here as (source, error), and the others continue. None: they raise.
    """
    batch_size = whole(batch_size, "batch_size", least=1)
    view: dict[str, Any] = {"image_size": image_size, "resize": resize, "positions": positions, "versus": versus}
    more: dict[str, Any] = {"templates": templates, "refine": refine, "refine_options": refine_options, "names": names}
    query = query_of(texts, model=model, method=method, device=device, health=health, **view, **more, **options)
    for batch in read_batches(images, batch_size, failures, query.grid):
        [(name, several)] = query.answer(batch).items()
        for index, (source, _) in enumerate(batch):
            provenance = query.provenance(name, [source], several.provenance["pixels"])
            yield replace(several.only(index), provenance=provenance)


def query_of(
    texts: Texts,
    *,
    several: bool = False,
    model: str | Backbone = DEFAULT_MODEL,
    method: AnyMethod | Sequence[AnyMethod] | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    versus: str | None = None,
    device: Device | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
    health: bool = True,
    names: Iterable[str] | None = None,
    **options: Any,
) -> Query:
    """The Query of a single method, or if `several`, also of a list; arguments and errors are those of `explain`."""
    view = View(image_size, resize, positions)
    queries, features = texts_or_features(texts, names)
    if method is None:
        model, device = backbone_of(model, device), None
        method = default_method(model.head is not None, DEFAULT_METHOD if model.blocks else DEFAULT_OF_CNNS)
    is_list = several and not isinstance(method, AnyMethod)
    methods = method_names(method, every=False) if is_list else [method_name(method)]  # type: ignore[arg-type]
    check_methods(methods)
    own = {name: options_for(name, methods, options) for name in methods}
    more: dict[str, Any] = {"refine": refine, "refine_options": refine_options, "health": health, "versus": versus}
    return Query(
        queries, features=features, model=model, methods=own, view=view, templates=templates, device=device, **more
    )
