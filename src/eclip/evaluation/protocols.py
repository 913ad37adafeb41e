"""Protocols: named sets of all rules that a number depends on. The number in a name is its version.

A rule never changes under its name: a different rule means a new protocol. Results record all rules, so two results can
be compared, or refused. The class of the rules determines the task; `eclip protocols ls` lists all protocols. What is
marked "guess" is unknown about the authors' evaluation; docs/evaluation.md lists the known differences. Rules outside
their range raise OptionError when they are created.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar

from eclip.backbones.choices import DEFAULT_POSITIONS, FILLS, POSITIONS, RESIZES
from eclip.errors import OptionError, UnknownNameError
from eclip.segmentation.windows import check_windows

HEADLINES = (
    *("miou", "class_miou", "miou_held_out", "msc", "class_msc"),
    *("average_precision", "auroc", "pointing_game", "energy", "box_iou"),
)
"""Numbers of the task "localize" that all rows have and that have a better direction."""
GROUNDED = ("pointing", "energy", "box_recall")
"""Numbers of the task "ground"."""
WORDED = ("word_gap", "word_insertion", "word_deletion")
"""Numbers of the task "words"."""
CONTRASTED = ("found", "accuracy")
"""Numbers of the task "contrast": of methods, and of the model."""


def _check(name: str, given: object, right: bool, wanted: str) -> None:
    if not right:
        raise OptionError(f"{name} must be {wanted}, got {given!r}.")


def _check_least(least: float) -> None:
    _check("least", least, 0 <= least <= 1, "a share of the image's area, 0 to 1")


def _check_texts(name: str, given: tuple[str, ...], fewest: int) -> None:
    right = not isinstance(given, str) and len(given) >= fewest and all(isinstance(o, str) and o.strip() for o in given)
    _check(name, given, right, "a tuple of words, none of them empty" + (", at least one" if fewest else ""))


def _whole(given: object, least: int = 1) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= least


@dataclass(frozen=True)
class Localize:
    """Does the map of a class that an image shows lie on its object? Each such pair is scored alone, void left out.

    Maps are min-max normalized on their own grid and resized bilinearly to the mask. All pairs of a method share one
    threshold of the list, the best for each number; the number with thresholds chosen on the other half of the images
    tells how much this choice is worth.

    Attributes:
        least: an image shows a class that covers at least this share of its area, void left out; 0 is any pixel.
        thresholds: of the normalized map, ascending: pixels with at least this value are inside.
        headline: the number that the authors report, as far as known; one of `HEADLINES`.
    """

    task: ClassVar[str] = "localize"
    data: ClassVar[str] = "masks"
    least: float
    thresholds: tuple[float, ...]
    headline: str

    def __post_init__(self) -> None:
        _check_least(self.least)
        within = all(0 <= one <= 1 for one in self.thresholds) and all(a < b for a, b in pairwise(self.thresholds))
        wanted = "numbers from 0 to 1, each above the one before, at least one"
        _check("thresholds", self.thresholds, len(self.thresholds) > 0 and within, wanted)
        _check("headline", self.headline, self.headline in HEADLINES, f"one of {', '.join(HEADLINES)}")


@dataclass(frozen=True)
class Segment:
    """Which class does each pixel belong to? Scores come from one confusion matrix over all images.

    Attributes:
        background: words that together describe the class background; if empty, background pixels are not scored.
        scale: factor of the cosines before the softmax over classes.
        prob_threshold: a pixel whose most likely class has a lower probability than this is background; None = off.
        window: side in pixels of the windows that slide over the image; None = the whole image at once.
        stride: pixels from one window to the next; None = half a window.
        area_threshold: a class with at most this share of all pixels that are not background is removed, and its pixels
            go to the next most likely class; None = off.
    """

    task: ClassVar[str] = "segment"
    data: ClassVar[str] = "masks"
    background: tuple[str, ...]
    scale: float
    prob_threshold: float | None
    window: int | None
    stride: int | None
    area_threshold: float | None = None

    def __post_init__(self) -> None:
        _check_texts("background", self.background, 0)
        _check("scale", self.scale, 0 < self.scale < math.inf, "above 0 and finite, such as 40")
        for name in ("prob_threshold", "area_threshold"):
            one = getattr(self, name)
            _check(name, one, one is None or 0 <= one <= 1, "None or a share, 0 to 1")
        check_windows(self.window, self.stride, None)


@dataclass(frozen=True)
class Faithful:
    """Does the unaltered model need the high-scoring pixels? Pixels are deleted or inserted in the order of the map.

    Attributes:
        least: as in `Localize`.
        fills: replacements for pixels: zero, mean, blur or noise.
        steps: number of equal steps, from none to `share` of the pixels.
        share: the largest share of pixels that is changed.
    """

    task: ClassVar[str] = "faithful"
    data: ClassVar[str] = "masks"
    least: float
    fills: tuple[str, ...]
    steps: int
    share: float

    def __post_init__(self) -> None:
        _check_least(self.least)
        known = not isinstance(self.fills, str) and len(self.fills) > 0 and all(one in FILLS for one in self.fills)
        _check("fills", self.fills, known, f"a tuple of {', '.join(FILLS)}, at least one")
        _check("steps", self.steps, _whole(self.steps), "a whole number, at least 1")
        _check("share", self.share, 0 < self.share <= 1, "a share of the pixels, above 0 and at most 1")


@dataclass(frozen=True)
class Sanity:
    """Does the map depend on text and model? Rank correlation with the map of another text or model.

    Attributes:
        least: as in `Localize`.
        nonsense: meaningless texts.
    """

    task: ClassVar[str] = "sanity"
    data: ClassVar[str] = "masks"
    least: float
    nonsense: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_least(self.least)
        _check_texts("nonsense", self.nonsense, 1)


@dataclass(frozen=True)
class Recognize:
    """How good is the model itself on these images? Class names, or captions, are retrieved by cosine.

    Attributes:
        at: the ranks k of top-k accuracy or recall at k.
        captions: number of captions per image, from the first on.
    """

    task: ClassVar[str] = "recognize"
    data: ClassVar[str] = "pairs"
    at: tuple[int, ...]
    captions: int

    def __post_init__(self) -> None:
        ranks = len(self.at) > 0 and all(_whole(one) for one in self.at)
        _check("at", self.at, ranks, "whole numbers, at least 1 each, and one of them or more")
        _check("captions", self.captions, _whole(self.captions), "a whole number, at least 1")


@dataclass(frozen=True)
class Ground:
    """Does the map of a phrase lie in the boxes of what it describes? Each phrase is asked alone.

    If a phrase has several boxes, the maximum of its map may be in any of them, and any of them counts as found.

    Attributes:
        iou: the box around the largest region of a map above Otsu's threshold finds a true box if their intersection
            over union is at least this.
        headline: the number that is reported first.
    """

    task: ClassVar[str] = "ground"
    data: ClassVar[str] = "phrases"
    iou: float
    headline: str = "pointing"

    def __post_init__(self) -> None:
        _check("iou", self.iou, 0 < self.iou <= 1, "above 0 and at most 1, such as 0.5")
        _check("headline", self.headline, self.headline in GROUNDED, f"one of {', '.join(GROUNDED)}")


@dataclass(frozen=True)
class Words:
    """Does the unaltered model need the words that a method calls relevant? They are deleted, and inserted.

    Attributes:
        captions: number of captions per image, from the first on.
        headline: the number that is reported first.
    """

    task: ClassVar[str] = "words"
    data: ClassVar[str] = "pairs"
    captions: int
    headline: str = "word_gap"

    def __post_init__(self) -> None:
        _check("captions", self.captions, _whole(self.captions), "a whole number, at least 1")
        _check("headline", self.headline, self.headline in WORDED, f"one of {', '.join(WORDED)}")


@dataclass(frozen=True)
class Contrast:
    """Does the model prefer the caption to one that is wrong in a word, and does a method change most at that word?

    Attributes:
        headline: the number that is reported first.
    """

    task: ClassVar[str] = "contrast"
    data: ClassVar[str] = "pairs"
    headline: str = "found"

    def __post_init__(self) -> None:
        _check("headline", self.headline, self.headline in CONTRASTED, f"one of {', '.join(CONTRASTED)}")


Rules = Localize | Segment | Faithful | Sanity | Recognize | Ground | Words | Contrast
OF_WORDS = (Words, Contrast)
"""Tasks that score methods for words, not maps."""


@dataclass(frozen=True)
class Protocol:
    """Everything that a number depends on, except data, model and method.

    Attributes:
        name: including its version.
        summary: one sentence with its source.
        image_size: side in pixels; None = the model's own.
        resize: "squash" or "keep", see `eclip.explain`.
        templates: see `eclip.encode_texts`.
        rules: of its task.
        positions: how position embeddings are resized if the grid differs from training, see `eclip.encode`.
    """

    name: str
    summary: str
    image_size: int | None
    resize: str
    templates: str
    rules: Rules
    positions: str = DEFAULT_POSITIONS

    def __post_init__(self) -> None:
        size = self.image_size
        _check("image_size", size, size is None or _whole(size), "None or a whole number of pixels, at least 1")
        _check("resize", self.resize, self.resize in RESIZES, f"one of {', '.join(RESIZES)}")
        _check("positions", self.positions, self.positions in POSITIONS, f"one of {', '.join(POSITIONS)}")

    @property
    def task(self) -> str:
        """The task: localize, segment, faithful, sanity, recognize, ground, words or contrast."""
        return self.rules.task

    def plain(self) -> dict[str, Any]:
        """All its settings, as stored in results."""
        keys = ("name", "task", "summary", "image_size", "resize", "templates", "positions")
        rules = {key: list(one) if isinstance(one, tuple) else one for key, one in asdict(self.rules).items()}
        return {**{key: getattr(self, key) for key in keys}, "rules": rules}


def protocol_of(protocol: str | Protocol) -> Protocol:
    """The protocol of this name; a custom protocol is returned unchanged.

    Raises:
        UnknownNameError: there is none.
        OptionError: a custom protocol has the name of a built-in one, but different rules.
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise UnknownNameError("protocol", protocol, PROTOCOLS, "`eclip protocols ls`")
        return PROTOCOLS[protocol]
    if (name := protocol.name) in PROTOCOLS:
        ours, yours = PROTOCOLS[name].plain(), protocol.plain()
        if other := [key for key, one in ours.items() if key != "summary" and yours[key] != one]:
            raise OptionError(
                f"{name} is a built-in protocol, whose rules never change, but yours differs in {', '.join(other)}: "
                "choose another name."
            )
    return protocol


_TWENTIETHS = tuple(step / 20 for step in range(20))
_HUNDREDTHS = tuple(step / 100 for step in range(100))
# SCLIP's words for VOC's background (wangf3014/SCLIP, configs/cls_voc21.txt)
STUFF = (
    *("sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building"),
    *("cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail"),
    "fence",
)
DEFAULT_PROTOCOL = "explain-v1"
# fmt: off
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (
    Protocol("explain-v1",
             "Ours: classes that cover at least 1 % of the area, all names as texts, best of 20 thresholds over pairs.",
             None, "squash", "a photo of a {}",
             Localize(least=0.01, thresholds=_TWENTIETHS, headline="miou")),
    Protocol("surgery-explain",
             "CLIP Surgery's, as far as known (Li et al. 2023; guesses: size, thresholds, the mean over classes).",
             224, "squash", "surgery85",
             Localize(least=0.0, thresholds=_HUNDREDTHS, headline="class_miou"), positions="bilinear"),
    Protocol("ovseg-argmax",
             "SCLIP's, without background (Wang et al. 2024): 336 pixels, windows of 224, stride 112, 80 templates.",
             336, "keep", "imagenet80",
             Segment(background=(), scale=40.0, prob_threshold=None, window=224, stride=112),
             positions="bicubic_plus01"),
    Protocol("ovseg-argmax-background",
             "The same with SCLIP's background for VOC21: its words, thresholds on probability and area.",
             336, "keep", "imagenet80",
             Segment(background=STUFF, scale=65.0, prob_threshold=0.1, window=224, stride=112, area_threshold=0.1),
             positions="bicubic_plus01"),
    Protocol("segment-v1",
             "Ours, the defaults of `eclip segment`: the whole image at the model's own size, no background.",
             None, "squash", "imagenet80",
             Segment(background=(), scale=40.0, prob_threshold=None, window=None, stride=None)),
    Protocol("faithful-v1",
             "Ours: pixels deleted and inserted in ten steps, three fills, against a random order.",
             None, "squash", "a photo of a {}",
             Faithful(least=0.01, fills=("mean", "blur", "noise"), steps=10, share=1.0)),
    Protocol("gradeclip-faithfulness",
             "Grad-ECLIP's script (Zhao et al. 2024): half of the pixels, deletion to noise, insertion into black.",
             None, "keep", "imagenet80",
             Faithful(least=0.01, fills=("noise", "zero"), steps=10, share=0.5), positions="bicubic"),
    Protocol("sanity-v1",
             "Ours, after Adebayo et al. 2018: maps of nonsense, of another class, of a model with shuffled weights.",
             None, "squash", "a photo of a {}",
             Sanity(least=0.01, nonsense=("qzxv jrkp wbfh", "lorem ipsum dolor"))),
    Protocol("recognize-v1",
             "Ours: top-1, top-5 and top-10 accuracy of names; recall of captions at 1, 5 and 10, five per image.",
             None, "squash", "none",
             Recognize(at=(1, 5, 10), captions=5)),
    Protocol("pointing-v1",
             "Ours: phrases asked alone; the maximum of the map in any box of the phrase, also by type of phrase.",
             None, "squash", "none",
             Ground(iou=0.5)),
    Protocol("words-v1",
             "Ours, after Grad-ECLIP's text test (Zhao et al. 2024): words of the first caption deleted and inserted.",
             None, "squash", "none",
             Words(captions=1)),
    Protocol("crepe-v1",
             "Captions against ones wrong in a word (Hsieh et al. 2023, SugarCrepe), and where word methods change.",
             None, "squash", "none",
             Contrast()),
)}
# fmt: on
