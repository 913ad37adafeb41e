"""Every method behind one signature: `METHODS[name](encoding, text, **options)`.

To add one: a file with a function of the file's name, a line here. Tests, command line and README find it by the dict.
The dict itself imports no torch; a method's file is imported when the method is first called.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from eclip.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from eclip.backbones.base import Encoding


@dataclass(frozen=True)
class Method:
    """A method of explanation.

    Attributes:
        name: its name in the papers, lower case; also the name of its file and function.
        keep: how many last blocks it reruns; None = all. An option `depth` can ask for more, see `keep_for`.
        signed: zero has a meaning, and values on both sides of it; pictures then diverge around zero.
        summary: one sentence with its source.
    """

    name: str
    keep: int | None
    signed: bool
    summary: str

    @property
    def function(self) -> Callable[..., Float[Tensor, "image text row col"]]:
        """The function itself."""
        module = importlib.import_module(f"{__name__}.{self.name}")
        return getattr(module, self.name)

    @property
    def options(self) -> dict[str, Any]:
        """Name and default of each option."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def keep_for(self, options: dict[str, Any]) -> int | None:
        """How many last blocks it reruns with these options: an option called `depth` is always that number."""
        return None if self.keep is None else max(self.keep, options.get("depth", 0))

    def check(self, options: dict[str, Any]) -> None:
        """Every option is one of this method's, with a value of the type it is declared with.

        Raises:
            OptionError: one is not.
        """
        hints = get_type_hints(self.function) if options else {}
        for name, value in options.items():
            if name not in self.options:
                raise OptionError(f"{self.name!r} has no option {name!r}; it has {_names(self.options)}.")
            kinds = get_args(hints[name]) or (hints[name],)
            if not any(_is_a(value, kind) for kind in kinds):
                wanted = " or ".join(_KINDS.get(kind, "a tensor") for kind in kinds)
                raise OptionError(f"option {name!r} of {self.name!r} must be {wanted}, got {value!r}.")

    def __call__(
        self, encoding: Encoding, text: Float[Tensor, "text feature"], **options: Any
    ) -> Float[Tensor, "image text row col"]:
        """Raw values on the patch grid (image, text, row, col), float32, neither resized nor normalized, no gradient.

        Args:
            encoding: from `eclip.encode`.
            text: unit rows, from `eclip.encode_texts`.
            options: see `self.options`.

        Raises:
            OptionError: an option this method does not have, or a value of another type.
            KeepError: the encoding kept too few blocks.
            ShapeError: the texts are not (text, feature) of this model.
        """
        feature = encoding.feature
        if text.ndim != 2 or text.shape[1] != feature.shape[1]:
            raise ShapeError(f"text must be (text, feature) = (any, {feature.shape[1]}), got {tuple(text.shape)}.")
        self.check(options)
        import torch

        with torch.no_grad():  # a method that needs gradients turns them on for itself
            return self.function(encoding, text.to(feature.device), **options).float()


def options_for(name: str, asked: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a method has; each option must belong to one of the methods asked.

    Args:
        name: the method.
        asked: all methods of the question.
        options: all options of the question.

    Raises:
        OptionError: an option that none of them has, or a value of another type.
    """
    for option in options:
        if not any(option in METHODS[other].options for other in asked):
            owners = [other for other, method in METHODS.items() if option in method.options]
            hint = f"it belongs to {', '.join(owners)}" if owners else f"{name!r} has {_names(METHODS[name].options)}"
            raise OptionError(f"{' and '.join(map(repr, asked))} has no option {option!r}: {hint}.")
    own = {option: value for option, value in options.items() if option in METHODS[name].options}
    METHODS[name].check(own)
    return own


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "none"}


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind if kind in _KINDS else isinstance(value, kind)


def _names(options: dict[str, Any]) -> str:
    return ", ".join(options) if options else "none"


DEFAULT_METHOD = "surgery"
METHODS: dict[str, Method] = {
    "itsm": Method("itsm", 0, False, "Cosine of every image token with the text (Li et al. 2022, ECLIP)."),
    "rclip": Method("rclip", 0, False, "The same map upside down, since CLIP's is inverted (Li et al. 2022, ECLIP)."),
    "maskclip": Method(
        "maskclip", 1, False, "Cosine of what each patch itself passes on, attention left out (Zhou et al. 2022)."
    ),
    "surgery": Method(
        "surgery", 6, True, "Value-to-value attention, minus what all texts share (Li et al. 2023, CLIP Surgery)."
    ),
}
