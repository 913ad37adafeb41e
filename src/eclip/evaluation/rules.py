"""Rules: what each task of an evaluation needs to know, one class per task.

Rules outside their range raise OptionError when they are created.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from eclip.backbones.choices import FILLS
from eclip.errors import OptionError
from eclip.registry import one_of
from eclip.segmentation.windows import check_windows

HEADLINES = (
    *("miou", "class_miou", "miou_held_out", "msc", "class_msc"),
    *("average_precision", "auroc", "pointing_game", "energy", "box_iou"),
)
"""Numbers of the task "localize" that all rows have and that have a better direction."""
GROUNDED = ("pointing", "energy", "box_recall")
"""Numbers of the task "ground"."""
POINTED = ("point_auroc", "p_miou", "class_p_miou")
"""Numbers of the task "points"."""
GAZED = ("shuffled_auc", "nss", "cc", "sim", "kl", "auc_judd")
"""Numbers of the task "gaze"."""
REJECTED = ("pair_auroc", "pair_fpr95", "image_auroc", "image_fpr95", "aurc")
"""Numbers of the task "absent"."""
WORDED = ("word_gap", "word_insertion", "word_deletion")
"""Numbers of the task "words"."""
CONTRASTED = ("found", "accuracy")
"""Numbers of the task "contrast": of methods, and of the model."""


def check_rule(name: str, given: object, right: bool, wanted: str) -> None:
    """Raise OptionError with what a setting must be, unless it is right."""
    if not right:
        raise OptionError(f"{name} must be {wanted}, got {given!r}.")


def _check_least(least: float) -> None:
    check_rule("least", least, 0 <= least <= 1, "a share of the image's area, 0 to 1")


def _check_texts(name: str, given: tuple[str, ...], fewest: int) -> None:
    right = not isinstance(given, str) and len(given) >= fewest and all(isinstance(o, str) and o.strip() for o in given)
    check_rule(name, given, right, "a tuple of words, none of them empty" + (", at least one" if fewest else ""))


def is_whole(given: object) -> bool:
    """Whether it is a whole number, not a truth value, of at least 1."""
    return isinstance(given, int) and not isinstance(given, bool) and given >= 1


@dataclass(frozen=True)
class Localize:
    """Does the map of a class that an image shows lie on its object? Each such pair is scored alone, void left out.

    Maps are min-max normalized on their own grid and resized bilinearly to the mask. All pairs of a method share one
    threshold of the list, the best for each number; the number with thresholds chosen on the other half of the groups
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
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        within = all(0 <= one <= 1 for one in self.thresholds) and all(a < b for a, b in pairwise(self.thresholds))
        wanted = "numbers from 0 to 1, each above the one before, at least one"
        check_rule("thresholds", self.thresholds, len(self.thresholds) > 0 and within, wanted)
        one_of(self.headline, "headline", HEADLINES)


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
        check_rule("scale", self.scale, 0 < self.scale < math.inf, "above 0 and finite, such as 40")
        for name in ("prob_threshold", "area_threshold"):
            one = getattr(self, name)
            check_rule(name, one, one is None or 0 <= one <= 1, "None or a share, 0 to 1")
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
        check_rule("fills", self.fills, known, f"a tuple of {', '.join(FILLS)}, at least one")
        check_rule("steps", self.steps, is_whole(self.steps), "a whole number, at least 1")
        check_rule("share", self.share, 0 < self.share <= 1, "a share of the pixels, above 0 and at most 1")


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
        object.__setattr__(self, "at", tuple(self.at))
        ranks = len(self.at) > 0 and all(is_whole(one) for one in self.at)
        check_rule("at", self.at, ranks, "whole numbers, at least 1 each, and one of them or more")
        check_rule("captions", self.captions, is_whole(self.captions), "a whole number, at least 1")


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
        check_rule("iou", self.iou, 0 < self.iou <= 1, "above 0 and at most 1, such as 0.5")
        one_of(self.headline, "headline", GROUNDED)


@dataclass(frozen=True)
class Points:
    """Is the map of a label high at points on what it names, and low at points off it? Each label is asked alone.

    Attributes:
        threshold: of the min-max normalized map, for the IoU: points with at least this value are inside.
        headline: the number that is reported first. At a fixed threshold, a map that contains every point can have a
            higher IoU than any method, so the default is the number without a threshold.
    """

    task: ClassVar[str] = "points"
    data: ClassVar[str] = "points"
    threshold: float
    headline: str = "point_auroc"

    def __post_init__(self) -> None:
        check_rule("threshold", self.threshold, 0 < self.threshold <= 1, "above 0 and at most 1, such as 0.5")
        one_of(self.headline, "headline", POINTED)


@dataclass(frozen=True)
class Gaze:
    """Does the map of a text predict where people look?

    Attributes:
        text: whose maps they are, the same for all images.
        sigma: of the density of fixations, as a share of the width.
        others: fixations of this many other images are the negatives of the shuffled AUC.
        headline: the number that is reported first; the default is not raised by a bias toward the center.
    """

    task: ClassVar[str] = "gaze"
    data: ClassVar[str] = "gaze"
    text: str
    sigma: float
    others: int
    headline: str = "shuffled_auc"

    def __post_init__(self) -> None:
        _check_texts("text", (self.text,), 1)
        check_rule("sigma", self.sigma, 0 < self.sigma < 1, "a share of the width, above 0 and below 1")
        check_rule("others", self.others, is_whole(self.others), "a whole number, at least 1")
        one_of(self.headline, "headline", GAZED)


@dataclass(frozen=True)
class Absent:
    """Does the model know what an image does not show? Names of the data set are asked, those of other images too.

    Attributes:
        least: an image shows a class that covers at least this share of its area; a class without a pixel is absent.
        scale: factor of the cosines before the softmax over names, and of the energy.
        headline: the number that is reported first.
    """

    task: ClassVar[str] = "absent"
    data: ClassVar[str] = "masks"
    least: float
    scale: float
    headline: str = "pair_auroc"

    def __post_init__(self) -> None:
        _check_least(self.least)
        check_rule("scale", self.scale, 0 < self.scale < math.inf, "above 0 and finite, such as 40")
        one_of(self.headline, "headline", REJECTED)


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
        check_rule("captions", self.captions, is_whole(self.captions), "a whole number, at least 1")
        one_of(self.headline, "headline", WORDED)


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
        one_of(self.headline, "headline", CONTRASTED)


Rules = Localize | Segment | Faithful | Sanity | Recognize | Ground | Points | Gaze | Absent | Words | Contrast
OF_WORDS = (Words, Contrast)
"""Tasks that score methods for words, not maps."""
