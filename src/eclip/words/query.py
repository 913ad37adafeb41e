"""WordQuery: everything that methods for words need except images, checked, tokenized and encoded once."""

from __future__ import annotations

from collections.abc import Iterable

from eclip.backbones.backbone import Backbone
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.load import backbone_of
from eclip.backbones.state import check_text_state, text_state
from eclip.backbones.view import View
from eclip.texts.encode import check_texts, encode_apart
from eclip.words.tokens import read


class WordQuery:
    """Texts as a model reads them, and how it sees images; arguments and errors are those of `explain_words`."""

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
        self.state = text_state(self.backbone)

    def check_state(self) -> None:
        """Raise StaleEncodingError if the model's text side has changed since it encoded the texts."""
        check_text_state(self.backbone, self.state)
