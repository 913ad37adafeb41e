"""Every error a user can cause, on one page.

EclipError (a ValueError)
├── UnknownNameError      a method, refinement, model or template set that does not exist
├── OptionError           an option that does not exist here, or a value outside its range
├── TextError             no text, or an empty one
├── ImageError            an image that cannot be read
├── DataError             training or evaluation data that cannot be read
│   └── LayoutError       a data set whose files differ from the published layout
├── ShapeError            an array whose shape does not fit
├── KeepError             a method that needs more blocks than the encoding kept
├── NotApplicableError    a method whose formula is not applicable to this kind of tower
│   ├── NoHeadError       'eclip' on a model without a trained head
│   └── GradientError     a gradient that stops at a part of the model that is not differentiable, such as int8 layers
├── DeviceError           a device or precision that is not available
├── MissingExtraError     an optional package that is not installed
├── ResultError           a folder without a saved explanation, or one that cannot be written
├── TrainingError         a training run that cannot continue or be resumed
├── StaleEncodingError    an encoding whose model has changed since it was made
└── ModelError            a model that cannot be loaded or explained
    ├── AlteredModelError a block that does not compute what its weights say: hooks, adapters, other classes
    ├── HeadError         a trained head that is missing, unreadable, or belongs to another model
    ├── DownloadError     weights that cannot be downloaded
    └── UnsupportedTowerError   an image tower without an adapter

Warnings: EqualTextsWarning, texts that a model cannot tell apart; TextCutWarning, a text longer than the model's
context; DataWarning, a data set that is not what its name or folder suggests; RawPixelsWarning, pixels passed as
preprocessed that look like raw ones.

Only the command line turns these into messages and exit codes.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable
from typing import Any


class EclipError(ValueError):
    """Base of all errors that a user can cause."""

    def __reduce__(self) -> tuple[Any, ...]:
        """By its message and attributes, for processes that send it to others; subclasses take other arguments."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]  # without __init__


class OptionError(EclipError):
    """An option that does not exist here, or a value outside its range."""


class TextError(EclipError):
    """No text was given, or an empty one."""


class ImageError(EclipError):
    """An image that cannot be read."""


class DataError(EclipError):
    """Training or evaluation data that cannot be read."""


class LayoutError(DataError):
    """A data set whose files differ from the published layout."""


class ShapeError(EclipError):
    """An array whose shape does not fit."""


class KeepError(EclipError):
    """A method that needs more blocks than the encoding kept."""


class NotApplicableError(EclipError):
    """A method whose formula is not applicable to this kind of tower.

    Args:
        method: the method.
        model: the model's name.
        family: its kind of tower, in words.
        why: what the formula needs and the tower lacks, as half a sentence.
    """

    def __init__(self, method: str, model: str, family: str, why: str) -> None:
        self.why = why
        super().__init__(f"{method!r} is not applicable to {model}, a {family}: {why}.")


class NoHeadError(NotApplicableError):
    """The method `eclip` on a model without a trained head."""

    def __init__(self, model: str) -> None:
        self.why = f"{model} has no trained head: train one with `eclip train --model {model} --train-data PATH -o DIR`"
        EclipError.__init__(self, f"'eclip' needs a head, but {self.why}, then run `eclip explain --head DIR`.")


class GradientError(NotApplicableError):
    """A gradient that stops at a step of the model that is not differentiable, so that part of it would be lost.

    Args:
        model: the model's name.
        family: its kind of tower, in words.
        step: the operation that is not differentiable.
    """

    def __init__(self, model: str, family: str, step: str) -> None:
        self.why = f"the gradient of the score stops at {step}, which is not differentiable, as in int8 layers"
        EclipError.__init__(
            self,
            f"gradient methods are not applicable to {model}, a {family}: {self.why}. Use a method without gradients, "
            "such as 'surgery', or a floating-point version of the model.",
        )


class DeviceError(EclipError):
    """A device or precision that is not available."""


class StaleEncodingError(EclipError):
    """An encoding whose model has changed since it was made: its inputs no longer match the model's weights."""


class MissingExtraError(EclipError):
    """An optional package, which only one part of eclip needs, is not installed.

    Args:
        part: what needs it.
        package: its name.
        extra: the extra that installs it; None if no extra does.
    """

    def __init__(self, part: str, package: str, extra: str | None = None) -> None:
        what = package if extra is None else f"'eclip[{extra}]'"
        super().__init__(f"{part} needs the package {package}: pip install {what}.")


class ResultError(EclipError):
    """A folder without a saved explanation, or one that cannot be written."""


class TrainingError(EclipError):
    """A training run that cannot continue or be resumed."""


class ModelError(EclipError):
    """A model that cannot be loaded or explained."""


class AlteredModelError(ModelError):
    """A block, such as one with hooks or adapters, that does not compute what its weights say: maps would mislead."""


class HeadError(ModelError):
    """A trained head that is missing, unreadable, or belongs to another model."""


class DownloadError(ModelError):
    """Weights that cannot be downloaded, or that are damaged in the cache."""


class UnsupportedTowerError(ModelError):
    """An image tower without an adapter."""


FAMILIES = (
    "native ViTs (CLS, average pooling, or CoCa's attentional pooler)",
    "CLIP ResNets",
    "timm trunks with attention pooling (abs_attn, rot_attn)",
    "timm CNNs and Swins that average their feature map (ConvNeXt, MobileCLIP-S, Swin)",
    "timm ViTs with a MAP head (SigLIP), a class token, or the mean of the patches (MobileCLIP-B and -L, ViTamin)",
    "timm ViTs with relative positions (vit_relpos)",
    "EVA (with a class token, or with a MAP head: PE-Core)",
    "transformers' CLIPModel, MetaClip2Model, ChineseCLIPModel, AltCLIPModel, SiglipModel and Siglip2Model",
)
"""Image towers that have an adapter."""


LOAD_WHOLE = (
    "load the whole model onto one device, without device_map, low_cpu_mem_usage or offloading, or move it there with "
    "model.to('cuda')"
)
"""What to do with a model whose weights are elsewhere."""


def unsupported(what: str) -> UnsupportedTowerError:
    """The error for a tower without an adapter, with the supported families."""
    return UnsupportedTowerError(f"no adapter for {what}. Supported families: {'; '.join(FAMILIES)}.")


class UnknownNameError(EclipError):
    """A name that does not exist, with the closest one that does.

    Args:
        kind: what the name should have been, e.g. "method".
        given: the name as the user wrote it.
        known: all names of that kind.
        listing: the command that shows them all.
    """

    def __init__(self, kind: str, given: str, known: Iterable[str], listing: str) -> None:
        names = sorted(known)
        folded = {name.casefold(): name for name in names}
        near = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
        hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
        super().__init__(f"unknown {kind} {given!r}.{hint} {listing} shows all {len(names)}.")


class DataWarning(UserWarning):
    """A data set is not what its name or folder suggests; it is used as it is."""


class RawPixelsWarning(UserWarning):
    """Pixels that were passed as preprocessed, but have the range of raw images, [0, 1]; they are used as they are."""


class EqualTextsWarning(UserWarning):
    """Texts that the model cannot tell apart, such as "A dog" and "a dog": they share one text feature."""


class TextCutWarning(UserWarning):
    """A text longer than the model's context: its last words had no effect."""
