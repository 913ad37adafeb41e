"""Every method behind one signature: `METHODS[name](encoding, text, **options)`.

To add one: a file with a function of the file's name, a line here. Tests, command line and README find it by the dict.
The dict itself imports no torch; a method's file is imported when the method is first called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eclip.errors import OptionError, ShapeError
from eclip.registry import Entry, entry_of, listed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from eclip.backbones.encoding import Encoding


@dataclass(frozen=True)
class Method(Entry["Tensor"]):
    """A method of explanation. Its function alone builds a graph where weights want one; a call of the Method does not.

    Attributes:
        kind: what it looks at: "similarity", "attention", "gradient", "perturbation" or "decomposition".
        keep: how many last blocks it reruns; None = all. An option `depth` can ask for more, see `keep_for`.
        signed: zero has a meaning, and values on both sides of it; pictures then diverge around zero.
        versus: options under which it explains the difference of two texts, see `difference`; None where it cannot,
            being neither linear in the text nor a gradient of the score.
    """

    kind: str
    keep: int | None
    signed: bool
    versus: dict[str, Any] | None = field(default_factory=dict)

    def keep_for(self, options: dict[str, Any]) -> int | None:
        """How many last blocks it reruns with these options: an option called `depth` is always that number."""
        return None if self.keep is None else max(self.keep, options.get("depth", 0))

    @property
    def scale(self) -> float:
        """Of the values that a map is a sum or difference of: 1 for cosines; 0 where it is not known beforehand.

        A span far below it is rounding, see `heatmap.flat`. Gradients and channels have no scale of their own.
        """
        return 1.0 if self.kind in BETWEEN_TEXTS or self.name in ("rise", "occlusion") else 0.0

    def flat(
        self, maps: Float[Tensor, "image text row col"], text: Float[Tensor, "text feature"]
    ) -> Bool[Tensor, "image text"]:
        """Which raw maps differ by rounding alone, so that they say nothing of where.

        Args:
            maps: of this method.
            text: what they explain: unit rows, or a difference of two, which is rounding where the two are equal.
        """
        from eclip.heatmap import ROUNDING, flat

        return flat(maps, self.scale) | (text.norm(dim=-1) <= ROUNDING)

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
            NotApplicableError: the formula is not applicable to this kind of tower.
        """
        feature = encoding.feature
        _check_text("text", text, feature.shape[1])
        options = self.check(options)
        from eclip.backbones.backbone import eval_no_grad

        with eval_no_grad(encoding.backbone.model):  # methods that need gradients turn them on
            encoding.check_current()
            text = text.to(feature.device)
            text = text.clone() if text.is_inference() else text  # such tensors take no part in gradients
            return self.function(encoding, text, **options).float()

    def difference(
        self,
        encoding: Encoding,
        text: Float[Tensor, "text feature"],
        versus: Float[Tensor, "other feature"],
        **options: Any,
    ) -> Float[Tensor, "image text row col"]:
        """Why each text and not `versus`: the map of the difference of their scores, signed.

        Linear methods give the difference of the two maps. Methods that keep the positive part of a gradient give what
        speaks for the text minus what speaks for the other. Changing sides changes the sign.

        Args:
            encoding: from `eclip.encode`.
            text: unit rows.
            versus: unit rows, one for all texts or one for each.
            options: see `self.options`.

        Raises:
            OptionError: this method cannot, or an option that it needs for this is given.
            ShapeError: versus is neither one text nor as many as there are.
        """
        check_methods([self.name], versus=True)
        assert self.versus is not None, "just checked"
        for option in sorted(options.keys() & self.versus.keys()):
            needed = self.versus[option]
            raise OptionError(f"{self.name!r} explains a difference with {option}={needed}: leave {option} out.")
        width = encoding.feature.shape[1]
        _check_text("text", text, width)
        _check_text("versus", versus, width)
        if len(versus) not in (1, len(text)):
            raise ShapeError(f"versus must be one text, or {len(text)} as there are texts, got {len(versus)}.")
        options, apart = {**options, **self.versus}, text - versus.to(text)
        if self.kind != "gradient" or self.signed:
            return self(encoding, apart, **options)
        import torch

        pro, contra = self(encoding, torch.cat([apart, -apart]), **options).split(len(text), dim=1)
        return pro - contra


def _check_text(name: str, text: Tensor, width: int) -> None:
    if text.ndim != 2 or text.shape[1] != width or not len(text):
        raise ShapeError(f"{name} must be (text, feature) = (1 or more, {width}), got {tuple(text.shape)}.")


AnyMethod = str | Method
"""What a user may give as a method."""


def method_name(method: AnyMethod) -> str:
    """The name of one method, given by it or as an object of `METHODS`.

    Raises:
        OptionError: it is several, or something else.
    """
    if isinstance(method, str):
        if len(several := _words(method)) > 1:
            raise OptionError(f"one method is asked for here, got {method!r}: several are a list, {several}.")
        return method
    if isinstance(method, Method) and METHODS.get(method.name) == method:
        return method.name
    raise OptionError(
        f"a method must be a name of eclip.METHODS, such as {DEFAULT_METHOD!r}, or one of its values, got {method!r}."
    )


def method_names(methods: AnyMethod | Iterable[AnyMethod], every: bool = True) -> list[str]:
    """The names of several methods, each once: names joined by commas, or names and objects of `METHODS`.

    Args:
        methods: one or several.
        every: whether the words of `GROUPS` stand for their methods here.

    Raises:
        OptionError: there is none, one is something else, or a group does not stand alone.
    """
    listed = list(methods) if isinstance(methods, Iterable) and not isinstance(methods, str) else [methods]
    names = [word for one in listed for word in (_words(one) if isinstance(one, str) else [method_name(one)])]
    for group in GROUPS if every else ():
        if group in names:
            if len(names) > 1:
                raise OptionError(f"{group!r} stands alone, got {', '.join(names)}.")
            return GROUPS[group]()
    return list(dict.fromkeys(names))


def one_or_more(methods: AnyMethod | Sequence[AnyMethod], *, alone: bool = False) -> tuple[list[str], bool]:
    """The names of methods, and whether it was one and no list of one; only that will do if it must be `alone`."""
    if alone or isinstance(methods, str | Method):
        return [method_name(methods)], True  # type: ignore[arg-type]  # of anything else it says what it should be
    return method_names(methods, every=False), False


def _words(joined: str) -> list[str]:
    return [word.strip() for word in joined.split(",") if word.strip()]


def check_methods(names: Collection[str], *, versus: bool = False) -> None:
    """Every method exists, and can explain the difference of two texts if that is asked.

    Raises:
        UnknownNameError: there is no such method.
        OptionError: there is no name, or a method cannot explain a difference.
    """
    if not names:
        raise OptionError("no method was given; `eclip methods ls` shows them.")
    for name in names:
        one = entry_of(name, METHODS, "method", "`eclip methods ls`")
        if versus and one.versus is None:
            able = ", ".join(method.name for method in METHODS.values() if method.versus is not None)
            raise OptionError(
                f"{name!r} cannot explain the difference of two texts: {NO_DIFFERENCE}. These can: {able}."
            )


NO_DIFFERENCE = "it is neither linear in the text nor a gradient of the score"
"""Why a method cannot explain the difference of two texts."""


def check_between_texts(name: str) -> None:
    """The method exists, and its raw values of two texts at one place can be held against each other.

    So they can where they are cosines or parts of one: of the kinds "similarity" and "decomposition". Others scale each
    text's map by a gradient of its own, or know no text.

    Raises:
        UnknownNameError: there is no such method.
        OptionError: it cannot tell texts apart.
    """
    check_methods([name])
    if METHODS[name].kind not in BETWEEN_TEXTS:
        able = ", ".join(method.name for method in METHODS.values() if method.kind in BETWEEN_TEXTS)
        raise OptionError(
            f"{name!r} cannot say which of two texts fits a place better: its maps are not on one scale over texts. "
            f"These can: {able}."
        )


BETWEEN_TEXTS = ("similarity", "decomposition")
"""Kinds of methods whose maps are on one scale over texts."""


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
            theirs = "; ".join(f"{other!r} has {listed(METHODS[other].options)}" for other in asked)
            hint = f"it belongs to {', '.join(owners)}" if owners else theirs
            raise OptionError(f"no option {option!r} in {' or '.join(map(repr, asked))}: {hint}.")
    own = {option: value for option, value in options.items() if option in METHODS[name].options}
    return METHODS[name].check(own)


DEFAULT_METHOD, DEFAULT_WITH_HEAD = "surgery", "eclip"


def default_method(with_head: bool, without: str = DEFAULT_METHOD) -> str:
    """The method where the user names none: `eclip` of a model with a trained head, another of one without."""
    return DEFAULT_WITH_HEAD if with_head else without


GROUPS: dict[str, Callable[[], list[str]]] = {
    "all": lambda: list(METHODS),
    "fast": lambda: [name for name, method in METHODS.items() if method.kind != "perturbation"],
}
"""Words for several methods where several are asked for: every one, and those of one forward pass."""
# fmt: off
METHODS: dict[str, Method] = {method.name: method for method in (
    Method("itsm", "similarity", 0, False,
        summary="Cosine of every image token with the text (Li et al. 2022, ECLIP)."),
    Method("rclip", "similarity", 0, False,
        summary="The same map upside down, since CLIP's is inverted (Li et al. 2022, ECLIP)."),
    Method("eclip", "similarity", 1, False,
        summary="Cosine of every patch through a trained head, mini's by similarity_smooth "
                "(after Li et al. 2022, ECLIP)."),
    Method("maskclip", "similarity", 1, False,
        summary="Cosine of what each patch itself passes on, attention left out (Zhou et al. 2022)."),
    Method("sclip", "similarity", 1, False,
        summary="Cosine after query-to-query plus key-to-key attention in the last block (Wang et al. 2024)."),
    Method("clearclip", "similarity", 1, False,
        summary="Cosine of what query-to-query attention brings, no residual, no MLP (Lan et al. 2024)."),
    Method("naclip", "similarity", 1, False,
        summary="Cosine of what attention that favors near patches brings (Hajimiri et al. 2025)."),
    Method("gem", "similarity", 6, False,
        summary="Cosine after self-self attention of values, keys and queries (Bousselham et al. 2024)."),
    Method("surgery", "similarity", 6, True, {"features": False, "reference": None},
        summary="Value-to-value attention, minus what all texts share (Li et al. 2023, CLIP Surgery)."),
    Method("attention", "attention", 1, False, None,
        summary="Where the pooled token looks in the last block, whatever the text (mean over heads)."),
    Method("rollout", "attention", None, False, None,
        summary="Attention followed through all blocks, whatever the text (Abnar and Zuidema 2020)."),
    Method("gradcam", "gradient", 1, True,
        summary="Channels of a layer, weighted by the score's mean gradient (Selvaraju et al. 2017)."),
    Method("chefer", "gradient", 1, False,
        summary="Attention times the positive gradient of the score (Chefer et al. 2021, bi-modal)."),
    Method("legrad", "gradient", 2, False,
        summary="Positive gradient of a block's score in its attention (Bousselham et al. 2025, LeGrad)."),
    Method("gradeclip", "gradient", 1, False,
        summary="Values, weighted by gradient and by likeness to the pooled token (Zhao et al. 2024)."),
    Method("rise", "perturbation", 0, True,
        summary="Mean of random masks, weighted by the score of the image seen through (Petsiuk et al. 2018)."),
    Method("occlusion", "perturbation", 0, True,
        summary="What the score loses when a window is covered (Zeiler and Fergus 2014)."),
    Method("gscorecam", "perturbation", 1, False, None,
        summary="Channels, weighted by the score of the image seen through them (Chen et al. 2022)."),
    Method("decompose", "decomposition", None, True, {"centered": False},
        summary="What each patch adds to the feature directly, over all layers (Gandelsman et al. 2024)."),
)}
# fmt: on
