"""Word relevance, every method behind one signature: `WORD_METHODS[name](reading, image, **options)`.

To add one, write a file with a function of the file's name and add a line here. The dict itself imports no torch.
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
"""The most texts in one graph, which takes 40 MB per text in a model of the size of ViT-B/32."""


@dataclass(frozen=True)
class WordMethod(Entry["Tensor"]):
    """A method that measures how much each word of a text contributes to its score with an image.

    Attributes:
        signed: words can also lower the score.
    """

    signed: bool

    def __call__(
        self, reading: Reading, image: Float[Tensor, "image feature"], **options: Any
    ) -> Float[Tensor, "image text token"]:
        """Relevance of each token for the score, the cosine of image and text; `reading.by_word` sums it over words.

        Args:
            reading: from `eclip.words.tokens.read`.
            image: unit rows.
            options: see `self.options`.

        Raises:
            OptionError: the method does not have this option, or its value has the wrong type.
            ShapeError: the images are not (image, feature).
            NotApplicableError: the formula does not apply to this text tower.
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
    """The method of that name; a method is returned as it is."""
    if isinstance(name, WordMethod) and WORD_METHODS.get(name.name) == name:
        return name
    if not isinstance(name, str):
        raise OptionError(f"method must be one of {', '.join(WORD_METHODS)}, got {name!r}.")
    return entry_of(name, WORD_METHODS, "method for words", "`eclip words --help`")


DEFAULT_WORD_METHOD = "gradeclip"
# fmt: off
WORD_METHODS: dict[str, WordMethod] = {method.name: method for method in (
    WordMethod("gradeclip", True,
               summary="Values, weighted by gradient and by similarity to the pooled token (Zhao et al. 2024)."),
    WordMethod("chefer", False,
               summary="Attention times the positive gradient of the score (Chefer et al. 2021, bi-modal)."),
    WordMethod("leave_one_out", True,
               summary="Drop in score when the word is removed (Li et al. 2016, erasure)."),
)}
# fmt: on
