"""What is done with each batch of images: maps, labels or words. Everything else of a run is the same for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.encoding import encode
from eclip.backbones.view import View
from eclip.errors import ImageError
from eclip.explanation.explain import query_of
from eclip.explanation.query import Query
from eclip.results.provenance import made_by
from eclip.segmentation.segment import ClassQuery
from eclip.stream import records
from eclip.stream.decoding import Decoded, Decoder
from eclip.stream.records import Record
from eclip.stream.sources import Item
from eclip.words import word_method
from eclip.words.query import WordQuery
from eclip.words.relevance import relevance_of

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation
    from eclip.segmentation.segmentation import Segmentation
    from eclip.stream.job import Job

Result = tuple[Item, Decoded | ImageError]


class Explaining:
    """Texts and a loaded model, which explain images; made from a job and its settings with the loaded model.

    Attributes:
        contents: what can be written of each image.
        default: what is written unless it is asked for.
        entries: the name of the list in a sample's JSON whose entries are rows of the index.
        columns: of the index.
        asked: what `run.json` says about the texts.
        settings: the part of the provenance that is the same for all images.
    """

    contents, default, entries = records.CONTENTS, records.DEFAULT, "texts"
    columns = staticmethod(records.columns_of)

    def __init__(self, job: Job, settings: dict[str, Any]) -> None:
        self.write, self.max_side, self.query = job.write, job.max_side, query_of(job.texts, **settings)
        [self.method] = self.query.methods
        self.backbone, self.asked = self.query.backbone, {"texts": list(self.query.texts)}
        self.settings = self.query.settings(self.method)
        self.decoder = decoder_of(self.query, whole="overlays" in job.write)

    def records(self, batch: Sequence[Result]) -> Iterator[tuple[int, Record]]:
        """Yield the record of each image that could be read, with its place in the batch."""
        for places, explanation in explained(self.query, batch):
            for image, place in enumerate(places):
                yield place, records.record(explanation, image, self.write, self.max_side)


class Segmenting:
    """Classes and a loaded model, which segment images; see `Explaining`."""

    contents, default, entries = records.LABEL_CONTENTS, records.LABEL_DEFAULT, "classes"
    columns = staticmethod(records.label_columns_of)

    def __init__(self, job: Job, settings: dict[str, Any]) -> None:
        self.write, self.query = job.write, ClassQuery(job.texts, batch_size=job.batch_size, **settings)
        self.method, self.backbone = self.query.method, self.query.maps.backbone
        self.asked = {"classes": list(self.query.words.names)}
        self.settings = self.query.settings()
        cut = self.query.windows is not None  # windows are cut from the image itself, a few at a time
        self.decoder = decoder_of(self.query.maps, whole=cut or "overlays" in job.write)

    def records(self, batch: Sequence[Result]) -> Iterator[tuple[int, Record]]:
        """Yield the record of each image that could be read, with its place in the batch."""
        for places, some in alike(batch):
            found: Iterator[Segmentation]
            if self.query.windows is not None:
                found = (one for item, image in some for one in self.query.answer([(item.source, _whole(image))]))
            else:
                named = [(item.source, () if one.image is None else (one.image,), one.size) for item, one in some]
                found = self.query.answer_pixels(pixels_of(self.backbone, some), named)
            for place, segmentation in zip(places, found, strict=True):
                yield place, records.label_record(segmentation, 0, self.write)


class Wording:
    """Texts and a loaded model, which say how much each word matters to images; see `Explaining`."""

    contents, default, entries = records.WORD_CONTENTS, records.WORD_CONTENTS, "texts"
    columns = staticmethod(records.word_columns_of)

    def __init__(self, job: Job, settings: dict[str, Any]) -> None:
        view = View(**{name: settings.pop(name) for name in asdict(View()) if name in settings})
        model, device = settings.pop("model"), settings.pop("device", None)
        method = word_method(settings.pop("method"))
        self.options, self.method = method.check(settings), method.name
        self.query = WordQuery(job.texts, model=model, view=view, device=device)
        self.backbone, self.asked = self.query.backbone, {"texts": list(self.query.texts)}
        self.settings = {**made_by(self.backbone), "method": self.method, "options": self.options, **view.settings}
        self.decoder = decoder_of(self.query, whole=False)

    def records(self, batch: Sequence[Result]) -> Iterator[tuple[int, Record]]:
        """Yield the record of each image that could be read, with its place in the batch."""
        for places, some in alike(batch):
            forward, sources = partial(self._feature, some), [item.source for item, _ in some]
            found = relevance_of(self.query, forward, sources, self.method, self.options)
            for image, place in enumerate(places):
                yield place, records.word_record(found, image, some[image][1].size)

    def _feature(self, some: Sequence[tuple[Item, Decoded]]) -> Tensor:
        return encode(self.backbone, pixels_of(self.backbone, some), 0, self.query.view.positions).feature


Task = Explaining | Segmenting | Wording
TASKS: dict[str, type[Task]] = {"explain": Explaining, "segment": Segmenting, "words": Wording}


def decoder_of(query: Query | WordQuery, *, whole: bool) -> Decoder:
    """What worker processes do for the images of a query; `whole` if they also return the image."""
    view, fitting = query.view, query.backbone.fitting
    size = None if view.image_size is None else int(view.image_size)
    return Decoder(fitting, size, view.resize, whole)


def explained(query: Query, batch: Sequence[Result]) -> Iterator[tuple[list[int], Explanation]]:
    """Yield the explanations of a batch, one for each grid, with the places of its images in the batch."""
    for places, some in alike(batch):
        named: list[Any] = [
            (item.source, item.place if one.image is None else one.image, one.size) for item, one in some
        ]
        [explanation] = query.answer_pixels(pixels_of(query.backbone, some), named).values()
        yield places, explanation


def alike(batch: Sequence[Result]) -> Iterator[tuple[list[int], list[tuple[Item, Decoded]]]]:
    """Yield the images of a batch that could be read, those of one shape together, with their places in the batch."""
    by_shape: dict[tuple[int, ...], tuple[list[int], list[tuple[Item, Decoded]]]] = {}
    for place, (item, result) in enumerate(batch):
        if isinstance(result, Decoded):
            places, some = by_shape.setdefault(result.pixels.shape, ([], []))
            places.append(place)
            some.append((item, result))
    yield from by_shape.values()


def pixels_of(backbone: Backbone, some: Sequence[tuple[Item, Decoded]]) -> Tensor:
    """Preprocessed images of one shape, (image, 3, height, width), on the device of the model."""
    stacked = np.stack([one.pixels for _, one in some])
    return backbone.preprocess.normalized(torch.from_numpy(stacked).to(backbone.weight.device))


def _whole(decoded: Decoded) -> Any:
    assert decoded.image is not None, "the decoder was asked for it"
    return decoded.image
