"""transformers models as Backbones: model objects (`wrap`), folders, or repositories on the Hub (`load("hf:...")`).

transformers is imported only to read a folder; a model object comes with its own code. Features are the host's own:
image features from its own layers in sequence, text features from its `get_text_features`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eclip.backbones.backbone import Backbone
from eclip.backbones.catalog import HF_CLASSES
from eclip.backbones.hf_image import VISUAL, clip_tower, feature_of, naflex_tower, siglip_tower
from eclip.backbones.hf_text import alt_text, chinese_text, clip_text, end_token, siglip_text
from eclip.backbones.preprocess import colors_of, settled
from eclip.backbones.text_tower import TextTower
from eclip.backbones.tokenizing import NoTokenizer, Reader, of_transformers
from eclip.errors import ModelError, OptionError, unsupported

HF_COLORS = ("preprocessor_config.json", "processor_config.json")
"""Files that can hold the configuration of an image processor."""


@dataclass(frozen=True)
class Kind:
    """What differs between the model classes.

    Attributes:
        tower: model -> fields of a Backbone.
        text: model -> its text tower.
        padding: how the text side treats padding: "unseen" after the end token, "seen" by all tokens, or "masked".
    """

    tower: Callable[[nn.Module], dict[str, Any]]
    text: Callable[[nn.Module], TextTower]
    padding: str


KINDS = {
    "CLIPModel": Kind(clip_tower, lambda model: clip_text(model, legacy=True), "unseen"),
    "MetaClip2Model": Kind(clip_tower, lambda model: clip_text(model, legacy=False), "unseen"),
    "ChineseCLIPModel": Kind(clip_tower, chinese_text, "masked"),
    "AltCLIPModel": Kind(clip_tower, alt_text, "masked"),
    "SiglipModel": Kind(siglip_tower, siglip_text, "seen"),
    "Siglip2Model": Kind(naflex_tower, siglip_text, "seen"),
}
"""transformers' class -> how it is adapted. Subclasses are treated like their base."""


def is_transformers(model: nn.Module) -> bool:
    """Whether the model is of a transformers class, determined without importing transformers."""
    return any(base.__module__.startswith("transformers.") for base in type(model).__mro__)


def wrap_transformers(model: Any, given: dict[str, Any], tokenizer: Any, processor: Any, name: str | None) -> Backbone:
    """See `eclip.wrap`; `given` are mean, std and interpolation, None where not given."""
    known = [base.__name__ for base in type(model).__mro__ if base.__name__ in KINDS]
    if not known:
        raise unsupported(f"transformers' {type(model).__name__}")
    kind = KINDS[known[0]]
    colors = settled(
        given,
        _recorded(processor, [color for color, value in given.items() if value is None]),
        "a transformers model does not store its color mean and std: use wrap(model, processor=AutoProcessor"
        ".from_pretrained(...)), or pass the mean=(r, g, b) and std=(r, g, b) of its training.",
    )
    tokenizer = getattr(processor, "tokenizer", None) if tokenizer is None else tokenizer
    return Backbone(
        name=name or type(model).__name__,
        family=f"transformers {known[0]}",
        model=model,
        tokenize=_tokenizer(model, kind, known[0], tokenizer),
        encode_tokens=_encoder(model, kind),
        rewrap=partial(wrap_transformers, given=given, tokenizer=tokenizer, processor=processor, name=name),
        text_tower=kind.text(model),
        visual=VISUAL,
        **colors,
        **kind.tower(model),
    )


def _recorded(processor: Any, wanted: list[str]) -> dict[str, Any]:
    """The wanted color settings that the processor defines."""
    if processor is None:
        return {}
    images = getattr(processor, "image_processor", processor)
    if not hasattr(images, "to_dict"):
        raise OptionError(
            "processor must be transformers' processor of the model, or its image processor, got "
            f"{type(processor).__name__}: pass a tokenizer alone as tokenizer=."
        )
    return colors_of(images.to_dict(), wanted)


def _encoder(model: Any, kind: Kind) -> Callable[[Tensor], Tensor]:
    """Token ids -> text features, by the host. The mask follows from the ids, so that no text depends on its batch."""
    padding = model.config.text_config.pad_token_id

    def encode(ids: Tensor) -> Tensor:
        if kind.padding != "masked":
            return feature_of(model.get_text_features(input_ids=ids))
        if getattr(model.config.text_config, "return_dict", True) is False:
            raise ModelError(
                f"{type(model).__name__} cannot compute text features with text_config.return_dict=False: set "
                "model.config.text_config.return_dict = True."
            )
        kept = ids != padding
        places = kept.any(dim=0).nonzero()
        count = int(places.max()) + 1 if len(places) else None  # the rest is masked in all texts
        answer = model.get_text_features(input_ids=ids[:, :count], attention_mask=kept[:, :count].long())
        return feature_of(answer)

    return encode


@dataclass(frozen=True)
class _Reader(Reader):
    """With `known`, transformers' class, and `end`, the end token that it pools; None if it pools no end token."""

    known: str = ""
    end: int | None = None

    def __call__(self, texts: list[str]) -> Tensor:
        ids = super().__call__(texts)
        if self.end is not None:
            self._check_end(ids, self.end)
        return ids

    def _check_end(self, ids: Tensor, end: int) -> None:
        """Check that ids contain the end token; without it transformers pools the first token, the same for every text.

        An old CLIPModel pools the greatest id, which always exists; it must be the tokenizer's end token, if known.
        """
        if self.known == "CLIPModel" and end == 2:
            last = self.tokenizer.eos_token_id if of_transformers(self.tokenizer) else None
            if last is None:
                return
            found: Tensor = torch.eq(ids.amax(dim=1), last)
            pooled = f"the greatest id, but the tokenizer's end token, {last}, is not the greatest of its ids"
        else:
            found = (ids == end).any(dim=1)
            pooled = f"the end token, id {end}, but the tokenizer's ids do not contain it"
        if not bool(found.all()):
            raise ModelError(
                f"the model pools {pooled}: {ids[~found][0][:8].tolist()} ... The tokenizer belongs to another model, "
                "or eos_token_id of the text configuration is wrong."
            )


def _tokenizer(model: Any, kind: Kind, known: str, given: Any) -> Reader | NoTokenizer:
    text = model.config.text_config
    context, words = int(text.max_position_embeddings), int(text.vocab_size)
    if known == "AltCLIPModel":  # RoBERTa counts positions from the padding id + 1
        context -= int(text.pad_token_id) + 1
    if given is None:
        return NoTokenizer(
            "the tokenizer of a transformers model cannot be guessed: use wrap(model, processor=AutoProcessor"
            ".from_pretrained(...)), or tokenizer=AutoTokenizer.from_pretrained(...), or a function from texts to "
            "token ids."
        )
    if of_transformers(given) and kind.padding == "masked":
        context = min(context, int(given.model_max_length))
    filler = text.pad_token_id if kind.padding == "masked" else None  # SigLIP 2's configuration states that of SigLIP
    end = end_token(model.text_model) if kind.padding == "unseen" else None
    return _Reader(given, context, words, kind.padding, filler, known=known, end=end)


def model_type(folder: Path) -> Any:
    """The model type in config.json.

    Raises:
        ModelError: it is not a transformers model configuration.
    """
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{str(folder / 'config.json')!r} is not a transformers model configuration.") from error


def class_of(folder: Path) -> str:
    """The class of transformers that a folder's configuration asks for.

    Raises:
        UnsupportedTowerError: there is no adapter for it.
    """
    kind = model_type(folder)
    if kind not in HF_CLASSES:
        raise unsupported(f"transformers' model_type {kind!r}; supported types: {', '.join(HF_CLASSES)}")
    return HF_CLASSES[kind]


def transformers_class(name: str) -> Any:
    """A class of transformers.

    Raises:
        ModelError: the installed transformers has no such class.
    """
    import transformers

    cls = getattr(transformers, name, None)
    if cls is None:
        raise ModelError(f"transformers {transformers.__version__} has no {name}: upgrade it.")
    return cls


def read_model(folder: Path, cls: Any) -> nn.Module:
    """The model of this class of transformers in a folder.

    Raises:
        ModelError: weights are missing.
    """
    model, report = cls.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
    if missing := sorted(key for key in report["missing_keys"] if not key.endswith("position_ids")):
        raise ModelError(f"the weights lack {', '.join(missing[:4])}: they belong to another model.")
    return model


def read_folder(folder: Path) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Read a transformers model folder, as written by `save_pretrained`. Nothing is downloaded.

    Returns:
        The model, its tokenizer, and mean, std and interpolation.

    Raises:
        ModelError: weights, tokenizer or image processor are missing, or do not match.
    """
    import transformers

    cls = transformers_class(class_of(folder))
    colors = colors_of(_image_processor(folder))
    with quietly():
        model = read_model(folder, cls)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return model, tokenizer, colors


def _image_processor(folder: Path) -> dict[str, Any]:
    for name in HF_COLORS:
        if (folder / name).is_file():
            config: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            found = config.get("image_processor", config)
            if "image_mean" in found or "do_normalize" in found:
                return dict(found)
    raise ModelError(
        "there is no preprocessor_config.json, which defines the color normalization: save the model's processor there "
        "too, or load the model yourself and pass mean and std to eclip.wrap."
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' progress bars and hints while a model is read; eclip raises its own errors."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.no_grad():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
