"""WordQuery: everything that methods for words need except images, checked, tokenized and encoded once."""

from __future__ import annotations

from collections.abc import Iterable

from eclip.backbones.backbone import Backbone
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.load import backbone_of
from eclip.backbones.view import View
from eclip.texts.encode import check_texts, encode_apart
from eclip.words.tokens import read


class WordQuery:
    """Texts as a model reads them, and how it sees images.

    Args:
        texts: one or more, used without a template.
        model: a name for `eclip.load`, or a Backbone.
        view: how the model sees images.
        device: see `eclip.explain`.

    Raises:
        EclipError: invalid input; `eclip.errors` lists the classes.

    Warns:
        EqualTextsWarning: the model cannot distinguish some texts.
        TextCutWarning: a text is longer than the model reads.
    """

    def __init__(
        self,
        texts: str | Iterable[str],
        *,
        model: str | Backbone = DEFAULT_MODEL,
        view: View,
        device: Device | None = None,
    ) -> None:
        self.texts, self.view = check_texts(texts), view
        self.backbone = backbone_of(model, device)
        view.check(self.backbone)
        self.text = encode_apart(self.backbone, self.texts)
        self.reading = read(self.backbone, self.texts)
