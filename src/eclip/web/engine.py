"""Engine: the models, and what is asked of them. Everything here runs in the worker's thread."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from eclip.backbones.load import load
from eclip.backbones.view import View
from eclip.errors import EclipError, EqualTextsWarning, OptionError, TextCutWarning, UnknownNameError
from eclip.explanation.explain import query_of
from eclip.explanation.query import since
from eclip.methods import METHODS, check_methods, options_for
from eclip.texts.like import Example, Like
from eclip.web import schemas
from eclip.web.refusals import Refusal
from eclip.web.settings import Settings
from eclip.web.store import Held, Store
from eclip.web.worker import Check, Need

if TYPE_CHECKING:
    from torch import Tensor

    from eclip.backbones.backbone import Backbone
    from eclip.backbones.encoding import Encoding
    from eclip.discovery.concepts import Concepts
    from eclip.explanation.comparison import Comparison
    from eclip.explanation.explanation import Explanation
    from eclip.segmentation.segmentation import Segmentation
    from eclip.words.interactions import Interactions
    from eclip.words.relevance import WordRelevance

AT_ONCE = 8
"""Images that are encoded in one forward pass."""
VIEW = View()
Result = TypeVar("Result")


class Engine:
    """Models by name, and images that they have encoded; `on_batch` gets the number of images of each forward pass."""

    def __init__(self, settings: Settings, store: Store, on_batch: Callable[[int], None] = lambda count: None) -> None:
        self.settings, self.store, self.on_batch = settings, store, on_batch
        self.models: dict[str, Backbone] = {}
        self.with_concepts = set[str]()

    def load(self) -> None:
        """Load all models, and what the checks of maps need, so that the first answer is fast.

        Raises:
            EclipError: a model cannot be loaded.
        """
        from eclip.discovery.discover import concepts

        for name in self.settings.models:
            self.models[name] = backbone = load(name, device=self.settings.device, head=self.settings.head)
            query_of(["a"], model=backbone, health=True)
            with suppress(EclipError):  # concepts need an image mean and scikit-learn
                concepts(Image.new("RGB", (32, 32), "gray"), model=backbone, count=1)  # encodes their words
                self.with_concepts.add(name)

    def model(self, name: str | None) -> tuple[str, Backbone]:
        """A model by its name, or the default.

        Raises:
            UnknownNameError: it was not given at the start.
        """
        name = next(iter(self.models)) if name is None else name
        if name not in self.models:
            raise UnknownNameError("model", name, self.models, "`eclip serve --models NAME,NAME` decides;")
        return name, self.models[name]

    def prepare(self, needs: Sequence[Need], others: Sequence[Need]) -> None:
        """Encode the images that a request needs, together with images that waiting requests need.

        Raises:
            Refusal: an image that this request needs is gone.
            EclipError: it cannot be read, or its model does not exist.
        """
        try:
            self._encode_all(needs, others)
        except Exception:  # of another request perhaps, which finds out when it runs
            if not others:
                raise
            self._encode_all(needs, ())
        self.store.sweep()

    def _encode_all(self, needs: Sequence[Need], others: Sequence[Need]) -> None:
        by_model: dict[str, dict[str, Held]] = {}
        for number, (image, model) in enumerate([*needs, *others]):
            with suppress(*(() if number < len(needs) else (Refusal, EclipError))):
                held, name = self.store.get(image), self.model(model)[0]
                if name not in held.encodings and len(by_model.setdefault(name, {})) < max(AT_ONCE, len(needs)):
                    by_model[name][image] = held
        for name, some in by_model.items():
            every = list(some.values())
            for start in range(0, len(every), AT_ONCE):
                self._encode(name, every[start : start + AT_ONCE])

    def _encode(self, name: str, some: Sequence[Held]) -> None:
        """One forward pass; all blocks are kept, so that every method can follow."""
        backbone, start = self.models[name], time.perf_counter()
        encoding = VIEW.encode(backbone, [held.image for held in some], keep=None)
        each = since(start, backbone) / len(some)
        self.on_batch(len(some))
        for number, held in enumerate(some):
            held.encodings[name] = (encoding if len(some) == 1 else encoding.only(number), each)

    def encoded(self, image: str, model: str | None) -> tuple[Held, Backbone, Encoding, float]:
        """An image, its model, its encoding and the seconds of the forward pass.

        Raises:
            Refusal: it is gone.
        """
        held, (name, backbone) = self.store.get(image), self.model(model)
        while (known := held.encodings.get(name)) is None:  # they go if the file of a gallery changes
            self._encode(name, [held])
        return held, backbone, *known

    def explain(self, asked: schemas.Query, images: Sequence[str], check: Check) -> tuple[list[Explanation], list[str]]:
        """An explanation of each image, and warnings about the texts."""
        _, backbone = self.model(asked.model)
        settings: dict[str, Any] = {"method": asked.method, "versus": asked.versus, "refine": asked.refine}
        settings |= {"templates": asked.templates, "health": asked.health}
        own = _options(asked)
        texts = self._queries(asked.texts, images)
        query, said = noted(lambda: query_of(texts, model=backbone, **settings, **own))
        found = []
        for image in images:
            check()
            held, _, encoding, forward = self.encoded(image, asked.model)
            picture = held.image
            named = [(held.name, picture, picture.size)]
            [one] = query.answer_encoding(encoding, named, forward=forward).values()
            found.append(replace(one, provenance=_with_boxes(one.provenance, texts)))
        return found, said

    def _queries(self, given: Sequence[str | schemas.Example], images: Sequence[str]) -> list[str | Like]:
        """What to look for in images; examples are called like their files, unless they have names.

        Raises:
            Refusal: the image of an example is gone.
        """
        ids = {*images, *(one.like for one in given if not isinstance(one, str))}
        names = [self.store.get(id).name for id in ids]
        return [one if isinstance(one, str) else self._example(one, names) for one in given]

    def _example(self, given: schemas.Example, names: Sequence[str]) -> Like:
        held = self.store.get(given.like)
        file = held.name if given.box is None else f"{held.name}:{','.join(map(str, given.box))}"
        spec = file if names.count(held.name) == 1 else None  # else a command would read one file for two
        return _Kept(((1.0, Example((held.image,), given.box, spec, file)),), given=given.name, held=held)

    def words(self, asked: schemas.Words) -> tuple[WordRelevance, list[str]]:
        """How much each word counts."""
        from eclip.words.relevance import explain_words

        held, backbone = self.store.get(asked.image), self.model(asked.model)[1]
        return noted(lambda: explain_words(held.image, [asked.text], model=backbone, method=asked.method))

    def interactions(self, asked: schemas.Interactions) -> tuple[Interactions, list[str]]:
        """What each pair of a word and a patch adds."""
        from eclip.words.interactions import interactions

        held, backbone = self.store.get(asked.image), self.model(asked.model)[1]
        return noted(lambda: interactions(held.image, asked.text, model=backbone, points=asked.points))

    def similarity(self, asked: schemas.Similarity) -> np.ndarray:
        """Cosine of each patch with each, (row, col, row, col)."""
        from eclip.backbones.patches import similarity

        encoding = self.encoded(asked.image, asked.model)[2]
        return similarity(encoding, None, asked.space)[0].cpu().numpy()

    def attention(self, asked: schemas.OfImage, check: Check) -> np.ndarray:
        """How much the first token looks at each patch, (block, head, row, col), over all blocks of the tower.

        Raises:
            NotApplicableError: the tower has no blocks over all patches.
        """
        from eclip.backbones.attention import attention

        _, backbone, encoding, _ = self.encoded(asked.image, asked.model)
        blocks = []
        for block in range(max(1, len(backbone.blocks))):
            check()
            weights = attention(encoding, block)[0, :, 0, encoding.prefix :]
            blocks.append(weights.unflatten(-1, encoding.grid).cpu().numpy())
        return np.stack(blocks)

    def layers(self, asked: schemas.Layers) -> tuple[np.ndarray, float]:
        """What each head of each layer adds to the score, (layer, head, row, col), and the score.

        Raises:
            NotApplicableError: the feature of this tower is no sum of parts.
        """
        from eclip.methods.decompose import terms
        from eclip.texts.encode import encode_texts

        _, backbone, encoding, _ = self.encoded(asked.image, asked.model)
        text = encode_texts(backbone, [asked.text])[0]
        parts = terms(encoding).attention[0, :, encoding.prefix :]  # layer patch head feature
        shares = (parts.to(text) @ text).transpose(1, 2)
        score = float((encoding.feature[0].to(text) @ text) / encoding.feature[0].to(text).norm())
        return shares.unflatten(-1, encoding.grid).cpu().numpy(), score

    def compare(self, asked: schemas.Compare, check: Check) -> tuple[Comparison, list[str]]:
        """Several methods on one image, and warnings about the texts."""
        from eclip.explanation.compare import ComparisonQuery

        held, backbone = self.store.get(asked.image), self.model(asked.model)[1]
        methods = asked.methods if isinstance(asked.methods, str) else list(asked.methods)
        settings: dict[str, Any] = {"methods": methods, "models": backbone, "versus": asked.versus, "view": VIEW}
        texts = self._queries(asked.texts, [asked.image])
        query, said = noted(lambda: ComparisonQuery(texts, **settings))
        found = query.answer(held.image, held.name, lambda model, method: check())
        return replace(found, provenance=_with_boxes(found.provenance, texts)), said

    def segment(self, asked: schemas.Segment) -> tuple[Segmentation, list[str]]:
        """A class for each pixel of an image, and warnings about their words."""
        from eclip.segmentation.segment import segment

        held, backbone = self.store.get(asked.image), self.model(asked.model)[1]
        settings: dict[str, Any] = {"method": asked.method, "background": asked.background, "refine": asked.refine}
        found, said = noted(lambda: segment(held.image, asked.classes, model=backbone, **settings))
        return replace(found, sources=(held.name,)), said

    def concepts(self, asked: schemas.Concepts) -> Concepts:
        """What the model sees in an image without a text."""
        from eclip.discovery.discover import concepts

        held, backbone = self.store.get(asked.image), self.model(asked.model)[1]
        return noted(lambda: concepts(held.image, model=backbone, count=asked.count))[0]


@dataclass(frozen=True, eq=False, repr=False)
class _Kept(Like):
    """A region of an image, or all of it, that each model encodes only once."""

    held: Held = field(kw_only=True)

    def encoded(self, backbone: Backbone, view: View, templates: str | Sequence[str]) -> tuple[Tensor, dict[str, Any]]:
        known, key = self.held.examples, (backbone.name, self.parts[0][1].box)
        if key not in known:
            known[key] = super().encoded(backbone, view, templates)
        feature, made = known[key]
        return feature, {**made, "like": self.spec}


def _with_boxes(made: dict[str, Any], texts: Sequence[str | Like]) -> dict[str, Any]:
    """Provenance with the region of each example, which its name need not say, for the lines of Python."""
    boxes = {one.name: one.parts[0][1].box for one in texts if isinstance(one, Like)}
    own = {name: {**made["examples"][name], "box": box} for name, box in boxes.items()}
    return {**made, "examples": own} if own else made


def _options(asked: schemas.Query) -> dict[str, Any]:
    """Options that the method has; not those that decide how long it takes."""
    if not asked.options:
        return {}
    if asked.method is None:
        raise OptionError("options belong to a method: give its name too.")
    check_methods([asked.method])
    own = options_for(asked.method, [asked.method], dict(asked.options))
    if METHODS[asked.method].kind == "perturbation":
        raise OptionError(f"options of {asked.method} decide how long it takes: set them on the command line.")
    return own


def noted(task: Callable[[], Result]) -> tuple[Result, list[str]]:
    """The result of a task, and what it warned of about texts."""
    with warnings.catch_warnings(record=True) as caught:
        for kind in (EqualTextsWarning, TextCutWarning):
            warnings.simplefilter("always", kind)
        result = task()
    ours = (EqualTextsWarning, TextCutWarning)
    return result, list(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, ours)))
