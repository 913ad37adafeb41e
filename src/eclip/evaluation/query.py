"""EvaluationQuery: data, model, methods and protocol of an evaluation, and the maps that they give."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt16
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import Backbone, Grid
from eclip.backbones.blocks import unit
from eclip.backbones.encoding import Encoding, encode
from eclip.backbones.view import View
from eclip.datasets.masks import Masked, MaskSet
from eclip.datasets.pair import Pair
from eclip.datasets.phrases import Phrase, Phrased
from eclip.datasets.sets import AnySet
from eclip.errors import DataError, ImageError, NotApplicableError, OptionError
from eclip.evaluation.checks import nothing_shown
from eclip.evaluation.protocols import Protocol
from eclip.evaluation.store import BatchResult
from eclip.explanation.query import blocks_to_keep, graphs_to_keep, since
from eclip.heatmap import flat
from eclip.methods import METHODS
from eclip.refinements import REFINEMENTS
from eclip.texts.encode import encode_apart

PLACES = {"images", "numbers", "filled"}
"""Arrays of a batch with one value per pair; all others have one per pair and name."""


class Opened(NamedTuple):
    """An image, upright and RGB, in memory: its place in the data set, from 0, and the class numbers of its mask."""

    place: int
    image: Image.Image
    mask: UInt16[np.ndarray, "height width"]


class OpenedPhrases(NamedTuple):
    """The same of an image with phrases."""

    place: int
    image: Image.Image
    phrases: tuple[Phrase, ...]


AnyOpened = TypeVar("AnyOpened", Opened, OpenedPhrases)
AnyItem = TypeVar("AnyItem", Pair, Phrased)
Result = TypeVar("Result")


@dataclass(frozen=True)
class EvaluationQuery:
    """What to evaluate for one model.

    Attributes:
        protocol: the rules.
        data: images with masks, captions or phrases.
        backbone: the model.
        methods: options of each method by its name.
        refine: a refinement of all maps, or None.
        refine_options: options of the refinement.
    """

    protocol: Protocol
    data: AnySet
    backbone: Backbone
    methods: dict[str, dict[str, Any]]
    refine: str | None = None
    refine_options: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> dict[int, str]:
        """Class names of a data set with masks, by number."""
        assert isinstance(self.data, MaskSet)
        return self.data.classes

    @property
    def keep(self) -> int | None:
        """How many last blocks the methods and the refinement rerun; None = all."""
        return blocks_to_keep(self.methods, self.refine)

    @property
    def view(self) -> View:
        """How the model sees images under the protocol."""
        return View(self.protocol.image_size, self.protocol.resize, self.protocol.positions)

    def texts(self) -> Float[Tensor, "text feature"]:
        """Features of all class names, in the order of their numbers in the data set."""
        return encode_apart(self.backbone, list(self.classes.values()), self.protocol.templates)

    def encoded(self, opened: Sequence[AnyOpened]) -> Iterator[tuple[list[AnyOpened], Encoding, float]]:
        """Groups of images of one grid, their encoding, and its run time in seconds; squashed images form one group."""
        view = self.view
        groups: dict[Grid, list[AnyOpened]] = {}
        for one in opened:
            groups.setdefault(view.grid(self.backbone, one.image), []).append(one)
        for group in groups.values():
            pixels = view.pixels(self.backbone, [one.image for one in group])
            start = time.perf_counter()
            encoding = encode(self.backbone, pixels, self.keep, view.positions, graphs_to_keep(self.methods))
            yield group, encoding, since(start, self.backbone)

    def by_method(
        self, run: Callable[[str], Result], not_applicable: dict[str, str], seconds: dict[str, float]
    ) -> dict[str, Result]:
        """The result of `run` for each method; those that are not applicable are recorded, and run times are summed."""
        found = {}
        for name in self.methods:
            start = time.perf_counter()
            try:
                found[name] = run(name)
            except NotApplicableError as error:
                not_applicable[name] = error.why
            else:
                seconds[name] = seconds.get(name, 0.0) + since(start, self.backbone)
        return found

    def maps(
        self, name: str, encoding: Encoding, text: Float[Tensor, "text feature"], shown: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """A method's raw maps for the classes present in each image.

        Whether a text's map depends on the other names is up to the method: similarity methods get all names together;
        gradients and perturbations, whose maps do not depend on other texts, get only the names present, which gives
        the same maps and costs less.

        Args:
            name: of the method.
            encoding: of the images.
            text: features of all names.
            shown: places of the names present, for each image, whose maps (shown, row, col) are returned.

        Raises:
            NotApplicableError: the method's formula does not apply to this model.
        """
        method = METHODS[name]

        def run(seen: Encoding, rows: Sequence[int]) -> Float[Tensor, "image text row col"]:
            maps = method(seen, text[list(rows)], **self.methods[name])
            return maps if self.refine is None else REFINEMENTS[self.refine](maps, seen, **self.refine_options)

        if method.kind == "perturbation":
            none = encoding.pixels.new_zeros(0, 1, 1)
            found = [run(encoding.only(image), own)[0] if own else none for image, own in enumerate(shown)]
        else:
            rows = sorted(set().union(*shown)) if method.kind == "gradient" else list(range(len(text)))
            whole = run(encoding, rows) if rows else encoding.pixels.new_zeros(len(shown), 0, 1, 1)
            found = [whole[image, [rows.index(row) for row in own]] for image, own in enumerate(shown)]
        return [maps.cpu() for maps in found]

    def leveled(self, name: str, maps: Float[Tensor, "*batch row col"]) -> Float[Tensor, "*batch row col"]:
        """Raw maps of a method, float32; those that vary only by rounding are zeros, as `explain` draws them."""
        maps = maps.float()
        return maps.where(~flat(maps, METHODS[name].scale)[..., None, None], 0)

    def maps_apart(
        self, name: str, encoding: Encoding, text: Float[Tensor, "text feature"]
    ) -> Float[Tensor, "text row col"]:
        """A method's raw maps of one image for texts that are asked one by one.

        Methods that subtract what all texts have in common run once per text; all others give the same maps together.

        Raises:
            NotApplicableError: the method's formula does not apply to this model.
        """
        method = METHODS[name]
        parts = text.split(1 if method.compares_texts else len(text))
        maps = torch.cat([method(encoding, part, **self.methods[name]) for part in parts], dim=1)
        if self.refine is not None:
            maps = REFINEMENTS[self.refine](maps, encoding, **self.refine_options)
        return maps[0].cpu()

    def features(self, images: Sequence[Image.Image]) -> tuple[Float[Tensor, "image feature"], float]:
        """Unit features of images, in one forward pass for each grid, and the run time in seconds."""
        found: dict[int, Tensor] = {}
        groups: dict[Grid, list[int]] = {}
        for place, image in enumerate(images):
            groups.setdefault(self.view.grid(self.backbone, image), []).append(place)
        start = time.perf_counter()
        for places in groups.values():
            encoding = self.view.encode(self.backbone, [images[place] for place in places], 0)
            found |= dict(zip(places, unit(encoding.feature), strict=True))
        stacked = [found[place] for place in range(len(images))]
        spent = since(start, self.backbone)
        return torch.stack(stacked) if stacked else self.backbone.weight.new_zeros(0, 1), spent


def joined(parts: Iterable[BatchResult], data: AnySet) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays of all batches, concatenated, and the names of what was scored.

    A batch's "images" are places in the data set; they are called "items" here, and "images" numbers the images, since
    one image can have several items, such as rows of a table. Scores of one image are not independent, nor are those
    of one group, which "groups" numbers.

    Raises:
        DataError: nothing was scored.
    """
    columns: dict[str, list[NDArray[Any]]] = {}
    names: list[list[str]] = []
    for part in parts:
        if "images" in part.arrays:
            names.append([str(one) for one in part.arrays.pop("names")])
            for key, rows in part.arrays.items():
                columns.setdefault(key, []).append(rows)
    if not columns:
        if not isinstance(data, MaskSet):
            raise DataError(f"no image of {data.name} could be read.")
        raise DataError(f"no image of {data.name} shows a class on enough of its area.{nothing_shown(data)}")
    common = [one for one in names[0] if all(one in own for own in names)]
    if any(own != common for own in names):  # drops methods that are not applicable to some images
        for key in columns.keys() - PLACES:
            columns[key] = [
                rows[:, [own.index(one) for one in common]] for rows, own in zip(columns[key], names, strict=True)
            ]
    whole = {key: np.concatenate(columns.pop(key)) for key in list(columns)}  # only one key is in memory twice
    whole["items"] = whole["images"]
    whole["images"] = np.array(data.image_numbers())[whole["items"]]
    whole["groups"] = np.array(data.group_numbers())[whole["items"]]
    return whole, common


def check_own_images(asked: EvaluationQuery) -> None:
    """Check that no two items share an image, so that each mask shows all classes of its image.

    Raises:
        OptionError: some do, as in a `table` with several texts for an image.
    """
    numbers = asked.data.image_numbers()
    if len(set(numbers)) < len(numbers):
        raise OptionError(
            f"{asked.protocol.name} needs to know what an image does not show, but {asked.data.name} has a mask for "
            "each of several texts of an image: use the data set's default protocol, or a folder with one mask for all "
            "classes of an image."
        )


def readable(
    items: Sequence[AnyItem], start: int, failures: list[tuple[str, str]]
) -> Iterator[tuple[int, AnyItem, Image.Image]]:
    """Yield place, item and image of those of a batch that can be read; the others are added to failures."""
    for place, item in enumerate(items, start):
        try:
            image = item.open()
        except ImageError as error:
            failures.append((item.name, str(error)))
        else:
            yield place, item, image


def opened(items: Sequence[Masked], start: int, classes: Collection[int]) -> tuple[list[Opened], list[tuple[str, str]]]:
    """Images and masks of a batch whose first item has the place `start`, and (name, error) of the unreadable.

    A mask that shows a number without a name among the `classes` of the set is unreadable.
    """

    def read(place: int, item: Masked) -> Opened | tuple[str, str]:
        try:
            return Opened(place, item.open(), replace(item, numbers=item.numbers.intersection(classes)).read())
        except (ImageError, DataError) as error:
            return item.name, str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, range(start, start + len(items)), items))
    return [one for one in found if isinstance(one, Opened)], [one for one in found if not isinstance(one, Opened)]
