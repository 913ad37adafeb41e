"""All explanation methods behind one signature: `METHODS[name](encoding, text, **options)`.

To add a method, write a file with a function of the same name and add a line here; tests, command line and docs use
this dict. Importing it does not import torch: a method's file is imported on its first call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eclip.errors import OptionError, ShapeError
from eclip.registry import Entry, check_kind, entry_of, listed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from eclip.backbones.encoding import Encoding


@dataclass(frozen=True)
class Method(Entry["Tensor"]):
    """An explanation method. Call it for maps without a graph; its `function` builds a graph if weights require grad.

    Attributes:
        kind: what it uses: "similarity", "attention", "gradient", "perturbation" or "decomposition".
        keep: how many last blocks it reruns; None = all. The option `depth` can require more, see `keep_for`.
        signed: maps have positive and negative values, and zero is meaningful; colors then diverge around zero.
        versus: the options it needs to explain the difference of two texts, see `difference`; None if it cannot,
            because it is neither linear in the text nor a gradient of the score.
        polarity: whether `explain` warns of maps that are upside down; False if these warnings were too often wrong, or
            missed too many flipped maps (docs/health.md).
        graph: whether it takes gradients of the mean output of each block it reruns, whose graph `encode` can keep.
    """

    kind: str
    keep: int | None
    signed: bool
    versus: dict[str, Any] | None = field(default_factory=dict)
    polarity: bool = True
    graph: bool = False

    def keep_for(self, options: dict[str, Any]) -> int | None:
        """How many last blocks it reruns with these options; an option called `depth` always sets that number."""
        depth = options.get("depth", 0)
        return None if self.keep is None or depth is None else max(self.keep, depth)

    @property
    def compares_texts(self) -> bool:
        """Whether a text's map depends on the other texts, because what all have in common is subtracted."""
        return bool(self.versus)

    @property
    def scale(self) -> float:
        """Magnitude of the values that a map adds or subtracts: 1 for cosines, 0 if it is not known in advance.

        A range far below it is rounding error, see `heatmap.flat`. Gradients and channels have no fixed scale.
        """
        return 1.0 if self.kind in BETWEEN_TEXTS or self.name in ("rise", "occlusion") else 0.0

    def flat(
        self, maps: Float[Tensor, "image text row col"], text: Float[Tensor, "text feature"]
    ) -> Bool[Tensor, "image text"]:
        """Which raw maps vary only by rounding error and therefore locate nothing.

        Args:
            maps: of this method.
            text: what they explain: unit rows, or differences of two, which are rounding error if the two are equal.
        """
        from eclip.heatmap import ROUNDING, flat

        return flat(maps, self.scale) | (text.norm(dim=-1) <= ROUNDING)

    def __call__(
        self, encoding: Encoding, text: Float[Tensor, "text feature"], **options: Any
    ) -> Float[Tensor, "image text row col"]:
        """Raw values on the patch grid (image, text, row, col), float32, neither resized nor normalized, no gradient.

        Args:
            encoding: from `eclip.encode`.
            text: rows of unit length, from `eclip.encode_texts`.
            options: see `self.options`.

        Raises:
            OptionError: an option that this method does not have, or an argument of the wrong type.
            KeepError: the encoding kept too few blocks.
            ShapeError: the texts are not (text, feature) with this model's feature size.
            NotApplicableError: the formula is not applicable to this kind of tower.
        """
        from eclip.backbones.backbone import eval_no_grad

        _check_given(encoding, text=text)
        options = self.check(options)
        with eval_no_grad(encoding.backbone.model):  # methods that need gradients turn them on
            encoding.check_current()
            text = text.to(encoding.feature.device)
            text = text.clone() if text.is_inference() else text  # autograd rejects inference tensors
            return self.function(encoding, text, **options).float()

    def difference(
        self,
        encoding: Encoding,
        text: Float[Tensor, "text feature"],
        versus: Float[Tensor, "other feature"],
        **options: Any,
    ) -> Float[Tensor, "image text row col"]:
        """Why each text rather than `versus`: the signed map of the difference of their scores.

        Linear methods return the difference of the two maps. Methods that keep the positive part of a gradient return
        the evidence for the text minus the evidence for the other. Swapping the two texts flips the sign. `versus` has
        one row for all texts or one for each, of unit length; the other arguments are those of a call.

        Raises:
            OptionError: this method cannot explain a difference, one of the options in `self.versus` is given, or an
                argument has the wrong type.
            ShapeError: versus is neither one text nor one for each text.
        """
        check_methods([self.name], versus=True)
        assert self.versus is not None, "just checked"
        for option in sorted(options.keys() & self.versus.keys()):
            needed = self.versus[option]
            raise OptionError(f"{self.name!r} requires {option}={needed} with versus: leave {option} out.")
        _check_given(encoding, text=text, versus=versus)
        if len(versus) not in (1, len(text)):
            raise ShapeError(f"versus must be one text, or one for each of {len(text)} texts, got {len(versus)}.")
        options, apart = {**options, **self.versus}, text - versus.to(text)
        if self.kind != "gradient" or self.signed:
            return self(encoding, apart, **options)
        import torch

        pro, contra = self(encoding, torch.cat([apart, -apart]), **options).split(len(text), dim=1)
        return pro - contra


def _check_given(encoding: Any, **texts: Any) -> None:
    from torch import Tensor

    from eclip.backbones.encoding import Encoding

    check_kind(encoding, Encoding, "encoding", "eclip.encode returns it")
    width = encoding.feature.shape[1]
    for name, text in texts.items():
        check_kind(text, Tensor, name, "eclip.encode_texts returns it")
        if text.ndim != 2 or text.shape[1] != width or not len(text):
            raise ShapeError(f"{name} must be (text, feature) = (1 or more, {width}), got {tuple(text.shape)}.")


AnyMethod = str | Method
"""A method as users pass it."""


def method_name(method: AnyMethod) -> str:
    """The name of one method, given as that name or as a value of `METHODS`; OptionError for anything else."""
    if isinstance(method, str):
        if len(several := _words(method)) > 1:
            raise OptionError(f"method must be a single name here, got {method!r}: pass several as a list, {several}.")
        return method
    if isinstance(method, Method) and METHODS.get(method.name) == method:
        return method.name
    raise OptionError(
        f"method must be a name in eclip.METHODS, such as {DEFAULT_METHOD!r}, or one of its values, got {method!r}."
    )


def method_names(methods: AnyMethod | Iterable[AnyMethod], every: bool = True) -> list[str]:
    """The names of methods without duplicates, from names joined by commas or names and values of `METHODS`.

    The names in `GROUPS` are expanded if `every`; they cannot be combined with others.
    """
    given = list(methods) if isinstance(methods, Iterable) and not isinstance(methods, str) else [methods]
    names = [word for one in given for word in (_words(one) if isinstance(one, str) else [method_name(one)])]
    for group in GROUPS if every else ():
        if group in names:
            if len(names) > 1:
                raise OptionError(f"{group!r} cannot be combined with other methods, got {', '.join(names)}.")
            return GROUPS[group]()
    return list(dict.fromkeys(names))


def _words(joined: str) -> list[str]:
    return [word.strip() for word in joined.split(",") if word.strip()]


def check_methods(names: Collection[str], *, versus: bool = False) -> None:
    """Raise unless there are methods, each exists and, if `versus`, can explain the difference of two texts."""
    if not names:
        raise OptionError("no method was given; `eclip methods ls` lists them.")
    for name in names:
        one = entry_of(name, METHODS, "method", "`eclip methods ls`")
        if versus and one.versus is None:
            able = ", ".join(method.name for method in METHODS.values() if method.versus is not None)
            raise OptionError(
                f"{name!r} cannot explain the difference of two texts: {NO_DIFFERENCE}. Use one of {able}."
            )


NO_DIFFERENCE = "it is neither linear in the text nor a gradient of the score"
"""Why a method cannot explain the difference of two texts."""


def check_between_texts(name: str) -> None:
    """Raise unless the method exists and its raw values for two texts at one position are comparable.

    They are if they are cosines or parts of one: the kinds "similarity" and "decomposition". Other methods scale each
    text's map by its own gradient, or ignore the text.
    """
    check_methods([name])
    if METHODS[name].kind not in BETWEEN_TEXTS:
        able = ", ".join(method.name for method in METHODS.values() if method.kind in BETWEEN_TEXTS)
        raise OptionError(
            f"{name!r} cannot tell which of two texts fits a place better: its maps are not comparable between texts. "
            f"Use one of {able}."
        )


BETWEEN_TEXTS = ("similarity", "decomposition")
"""Kinds of methods whose maps are comparable between texts."""


def options_for(name: str, asked: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """The given options that this method has, checked; OptionError for one that no method asked for has."""
    check_kind(options, Mapping, f"options of {name!r}", "in {'depth': 3}")
    for option in options:
        if not any(option in METHODS[other].options for other in asked):
            owners = [other for other, method in METHODS.items() if option in method.options]
            theirs = "; ".join(f"{other!r} has {listed(METHODS[other].options)}" for other in asked)
            hint = f"it belongs to {', '.join(owners)}" if owners else theirs
            raise OptionError(f"{' or '.join(map(repr, asked))} has no option {option!r}: {hint}.")
    own = {option: value for option, value in options.items() if option in METHODS[name].options}
    return METHODS[name].check(own)


DEFAULT_METHOD, DEFAULT_WITH_HEAD, DEFAULT_OF_CNNS = "surgery", "eclip", "gradcam"


def default_method(with_head: bool, without: str = DEFAULT_METHOD) -> str:
    """The method if the user names none: `eclip` if the model has a trained head, otherwise `without`."""
    return DEFAULT_WITH_HEAD if with_head else without


GROUPS: dict[str, Callable[[], list[str]]] = {
    "all": lambda: list(METHODS),
    "fast": lambda: [name for name, method in METHODS.items() if method.kind != "perturbation"],
}
"""Names for groups of methods: all, and those that need a single forward pass."""
# fmt: off
METHODS: dict[str, Method] = {method.name: method for method in (
    Method("itsm", "similarity", 0, False,
        summary="Cosine of each image token with the text (Li et al. 2022, ECLIP)."),
    Method("rclip", "similarity", 0, False, polarity=False,
        summary="The negative of itsm, because CLIP's map is inverted (Li et al. 2022, ECLIP)."),
    Method("eclip", "similarity", 1, False,
        summary="Cosine of each patch with the text through a trained head; mini's learned from names and from phrases "
                "with boxes (after Li et al. 2022, ECLIP)."),
    Method("maskclip", "similarity", 1, False,
        summary="Cosine of each patch's value projection with the text, without attention (Zhou et al. 2022)."),
    Method("sclip", "similarity", 1, False,
        summary="Cosine after query-query plus key-key attention in the last block (Wang et al. 2024)."),
    Method("clearclip", "similarity", 1, False,
        summary="Cosine of the output of query-query attention, without residual and MLP (Lan et al. 2024)."),
    Method("naclip", "similarity", 1, False,
        summary="Cosine of the output of key-key attention that favors nearby patches (Hajimiri et al. 2025)."),
    Method("gem", "similarity", 6, False,
        summary="Cosine after self-self attention of values, keys and queries (Bousselham et al. 2024)."),
    Method("surgery", "similarity", 6, True, {"features": False, "reference": None},
        summary="Cosine after value-value attention, minus what all texts share (Li et al. 2023, CLIP Surgery)."),
    Method("attention", "attention", 1, False, None,
        summary="Last-block attention of the pooled token, averaged over heads; independent of the text."),
    Method("rollout", "attention", None, False, None,
        summary="Attention multiplied through all blocks; independent of the text (Abnar and Zuidema 2020)."),
    Method("gradcam", "gradient", 1, True,
        summary="Channels of a layer, weighted by the mean gradient of the score (Selvaraju et al. 2017)."),
    Method("chefer", "gradient", 1, False, polarity=False,
        summary="Attention times the positive gradient of the score (Chefer et al. 2021, bi-modal)."),
    Method("legrad", "gradient", 2, False, graph=True,
        summary="Positive gradient of each block's score with respect to its attention (Bousselham et al. 2025)."),
    Method("gradeclip", "gradient", 1, False, polarity=False,
        summary="Values, weighted by gradient and by similarity to the pooled token (Zhao et al. 2024)."),
    Method("rise", "perturbation", 0, True,
        summary="Mean of random masks, weighted by the scores of the masked images (Petsiuk et al. 2018)."),
    Method("occlusion", "perturbation", 0, True,
        summary="Drop of the score when a window is covered (Zeiler and Fergus 2014)."),
    Method("gscorecam", "perturbation", 1, False, None,
        summary="Channels, weighted by the score of the image masked by each of them (Chen et al. 2022)."),
    Method("decompose", "decomposition", None, True, {"centered": False}, polarity=False,
        summary="Direct contribution of each patch to the image feature, over all layers (Gandelsman et al. 2024)."),
)}
# fmt: on
