"""Every error a user can cause, on one page.

EclipError (a ValueError)
├── UnknownNameError      a method, refinement, model or template set that does not exist
├── OptionError           an option that does not exist here, or a value outside its range
├── TextError             no text, or an empty one
├── ImageError            an image that cannot be read
├── DataError             training or evaluation data that cannot be read
│   └── LayoutError       a data set that does not lie as it is published
├── ShapeError            an array whose shape does not fit
├── KeepError             a method that needs more blocks than the encoding kept
├── NotApplicableError        a method whose formula is not applicable to this kind of tower
│   ├── NoHeadError       'eclip' on a model without a trained head
│   └── GradientError     a gradient that ends in a part of the model without gradients, as integer layers are
├── DeviceError           a device or precision that cannot be had
├── MissingExtraError    a package that only one part needs, and that is not installed
├── ResultError           a folder that holds no saved explanation, or one that cannot be written
├── TrainingError         a training run that cannot go on, or be resumed
├── StaleEncodingError    an encoding whose model has changed since
└── ModelError            a model that cannot be loaded or explained
    ├── AlteredModelError a block that computes something else than its weights say: hooks, adapters, other classes
    ├── HeadError         a trained head that is not there, cannot be read, or belongs to another model
    ├── DownloadError     its weights must be fetched and cannot be
    └── UnsupportedTowerError   its image tower is of a kind that has no adapter

Warnings: EqualTextsWarning, texts that a model cannot tell apart; TextCutWarning, a text longer than the model reads;
DataWarning, a data set that is not what its name or its folder promises.

Only the command line turns these into messages and exit codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EclipError(ValueError):
    """Base of all errors that a user can cause."""


class OptionError(EclipError):
    """An option that does not exist here, or a value outside its range."""


class TextError(EclipError):
    """No text was given, or an empty one."""


class ImageError(EclipError):
    """An image that cannot be read."""


class DataError(EclipError):
    """Training or evaluation data that cannot be read."""


class LayoutError(DataError):
    """A data set that does not lie as it is published."""


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
    """The method `eclip` on a model without a trained head.

    Args:
        model: the model's name.
    """

    def __init__(self, model: str) -> None:
        self.why = f"{model} has no trained head: `eclip train --model {model} --train-data PATH -o DIR` makes one"
        EclipError.__init__(self, f"'eclip' needs a head, and {self.why}, and `eclip explain --head DIR` uses it.")


class DeviceError(EclipError):
    """A device or precision that cannot be had."""


class GradientError(NotApplicableError):
    """A gradient that ends in a step of the model which has none, so that a part of it would be lost.

    Args:
        model: the model's name.
        family: its kind of tower, in words.
        step: the operation that has no gradient.
    """

    def __init__(self, model: str, family: str, step: str) -> None:
        self.why = f"the gradient of the score ends at {step}, which has none, as in int8 layers"
        EclipError.__init__(
            self,
            f"methods with gradients are not applicable to {model}, a {family}: {self.why}. Use a method without "
            "gradients, such as 'surgery', or the model in floating point.",
        )


class StaleEncodingError(EclipError):
    """An encoding whose model has changed since: its inputs and the model's weights no longer belong together."""


class MissingExtraError(EclipError):
    """A package that only one part of eclip needs, and that is not installed.

    Args:
        part: what needs it.
        package: its name.
        extra: the extra that brings it.
    """

    def __init__(self, part: str, package: str, extra: str) -> None:
        super().__init__(f"{part} needs the package {package}: pip install 'eclip[{extra}]'.")


class ResultError(EclipError):
    """A folder that holds no saved explanation, or one that cannot be written."""


class TrainingError(EclipError):
    """A training run that cannot go on, or be resumed."""


class ModelError(EclipError):
    """A model that cannot be loaded."""


class AlteredModelError(ModelError):
    """A block that computes something else than its weights say, so that maps would not explain the score."""


class HeadError(ModelError):
    """A trained head that is not there, cannot be read, or belongs to another model."""


class DownloadError(ModelError):
    """Weights that must be fetched and cannot be, or that are damaged in the cache."""


class UnsupportedTowerError(ModelError):
    """An image tower of a kind that has no adapter."""


FAMILIES = (
    "native ViTs (CLS or average pooling)",
    "CLIP ResNets",
    "timm trunks with attention pooling (abs_attn, rot_attn)",
    "timm ViTs with a MAP head (SigLIP), a class token, or the mean of the patches (MobileCLIP-B and -L, ViTamin)",
    "EVA",
    "transformers' CLIPModel, MetaClip2Model, ChineseCLIPModel, AltCLIPModel, SiglipModel and Siglip2Model",
)
"""Image towers that have an adapter."""


AT_HAND = (
    "load it whole on one device, without device_map, low_cpu_mem_usage or offloading, or move it there with "
    "model.to('cuda')"
)
"""What to do with a model whose weights lie elsewhere."""


def unsupported(what: str) -> UnsupportedTowerError:
    """The refusal of a tower, with the families that work."""
    return UnsupportedTowerError(f"no adapter for {what}. Families that work: {'; '.join(FAMILIES)}.")


class UnknownNameError(EclipError):
    """A name that is not in its list, with the nearest one that is.

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
    """A data set is not what its name or its folder promises; what is there is used all the same."""


class EqualTextsWarning(UserWarning):
    """Texts that the model cannot tell apart, such as "A dog" and "a dog": their maps are equal."""


class TextCutWarning(UserWarning):
    """A text longer than the model reads: its last words had no effect."""
