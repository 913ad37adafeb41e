"""The side of the words, every method behind one signature: `WORD_METHODS[name](reading, image, **options)`.

To add one: a file with a function of the file's name, a line here. The dict itself imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eclip.errors import OptionError, ShapeError
from eclip.registry import Entry, entry_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from eclip.words.tokens import Reading


TEXTS_AT_ONCE = 16
"""Texts that share a graph, of 40 MB each in a model of the size of ViT-B/32; more take turns."""


@dataclass(frozen=True)
class WordMethod(Entry["Tensor"]):
    """A method that says how much each word of a text did for its score with an image.

    Attributes:
        signed: words may speak against the score as well.
    """

    signed: bool

    def __call__(
        self, reading: Reading, image: Float[Tensor, "image feature"], **options: Any
    ) -> Float[Tensor, "image text token"]:
        """Relevance of each token for the score, the cosine of image and text; `reading.by_word` adds up words.

        Args:
            reading: from `eclip.words.tokens.read`.
            image: unit rows.
            options: see `self.options`.

        Raises:
            OptionError: an option this method does not have, or a value of another type.
            ShapeError: the images are not (image, feature).
            NotApplicableError: the formula is not applicable to this text tower.
        """
        if image.ndim != 2 or not len(image):
            raise ShapeError(f"image must be (image, feature), one or more, got {tuple(image.shape)}.")
        options = self.check(options)
        import torch

        from eclip.backbones.backbone import eval_no_grad

        with eval_no_grad(reading.backbone.model):
            image = image.to(reading.ids.device)
            image = image.clone() if image.is_inference() else image
            some = [self.function(part, image, **options) for part in reading.split(TEXTS_AT_ONCE)]
        return torch.cat(some, dim=1).float()


def word_method(name: str | WordMethod) -> WordMethod:
    """The method of that name, or that itself.

    Raises:
        OptionError: it is no word.
        UnknownNameError: there is none of that name.
    """
    if isinstance(name, WordMethod) and WORD_METHODS.get(name.name) == name:
        return name
    if not isinstance(name, str):
        raise OptionError(f"method must be one of {', '.join(WORD_METHODS)}, got {name!r}.")
    return entry_of(name, WORD_METHODS, "method for words", "`eclip words --help`")


DEFAULT_WORD_METHOD = "gradeclip"
# fmt: off
WORD_METHODS: dict[str, WordMethod] = {method.name: method for method in (
    WordMethod("gradeclip", True,
               summary="Values, weighted by gradient and by likeness to the pooled token (Zhao et al. 2024)."),
    WordMethod("chefer", False,
               summary="Attention times the positive gradient of the score (Chefer et al. 2021, bi-modal)."),
    WordMethod("leave_one_out", True,
               summary="What the score loses when the word is taken out (Li et al. 2016, erasure)."),
)}
# fmt: on
