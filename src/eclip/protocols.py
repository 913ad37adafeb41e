"""Protocols: every rule that a number depends on, by name. The number in a name is its version.

A rule never changes under its name: another rule is another protocol. Results hold all of it, so that two of them can
be compared, or refused. Which task a protocol is for follows from the class of its rules; `eclip protocols ls` lists
them. What is marked "guess" is not known of the authors' own evaluation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from eclip.errors import UnknownNameError


@dataclass(frozen=True)
class Localize:
    """Does the map of a class that a photo shows lie on it? Each such pair is scored alone, void left out.

    Maps are normalized by min-max on their own grid and resized to the mask, bilinearly. One threshold of the list
    serves all pairs of a method, the best for the number in question; what that choice is worth is told by the number
    with thresholds chosen on the other half of the photos.

    Attributes:
        least: a photo shows a class that has at least this share of its area, void left out; 0 is any pixel.
        thresholds: of the normalized map: inside is what is at least that warm.
        headline: the number that the authors report, as far as known.
    """

    task: ClassVar[str] = "localize"
    data: ClassVar[str] = "masks"
    least: float
    thresholds: tuple[float, ...]
    headline: str


@dataclass(frozen=True)
class Segment:
    """Which class does each pixel belong to? The most likely of all, by one confusion matrix over all photos.

    Attributes:
        background: words that together are the class background; none: pixels of background are not scored.
        scale: factor of the cosines before softmax over classes.
        prob_threshold: a pixel whose most likely class is less likely than this is background; None: it is not asked.
        window: side in pixels of the windows that slide over the photo; None = the whole photo at once.
        stride: pixels from one window to the next.
    """

    task: ClassVar[str] = "segment"
    data: ClassVar[str] = "masks"
    background: tuple[str, ...]
    scale: float
    prob_threshold: float | None
    window: int | None
    stride: int | None


@dataclass(frozen=True)
class Faithful:
    """Does the unaltered model need the pixels that a map calls warm? Pixels go or come in the order of the map.

    Attributes:
        least: as in `Localize`: the classes of a photo whose maps are asked.
        fills: what takes the place of a pixel: zero, mean, blur or noise.
        steps: of equal size, from none to `share` of the pixels.
        share: the most that is touched.
    """

    task: ClassVar[str] = "faithful"
    data: ClassVar[str] = "masks"
    least: float
    fills: tuple[str, ...]
    steps: int
    share: float


@dataclass(frozen=True)
class Sanity:
    """Does the map depend on what it must depend on? Rank correlation with the map under another text or model.

    Attributes:
        least: as in `Localize`.
        nonsense: texts that mean nothing.
    """

    task: ClassVar[str] = "sanity"
    data: ClassVar[str] = "masks"
    least: float
    nonsense: tuple[str, ...]


@dataclass(frozen=True)
class Recognize:
    """What is the model itself worth on these photos? Names of classes, or captions, found by cosine.

    Attributes:
        at: ranks that count as found.
        captions: of a photo, the first so many count.
    """

    task: ClassVar[str] = "recognize"
    data: ClassVar[str] = "pairs"
    at: tuple[int, ...]
    captions: int


Rules = Localize | Segment | Faithful | Sanity | Recognize


@dataclass(frozen=True)
class Protocol:
    """All that a number depends on, but for data, model and method.

    Attributes:
        name: with its version.
        summary: one sentence with its source.
        image_size: side in pixels; None = the model's own.
        resize: "squash" or "keep", see `eclip.explain`.
        templates: see `eclip.encode_texts`.
        rules: of its task.
    """

    name: str
    summary: str
    image_size: int | None
    resize: str
    templates: str
    rules: Rules

    @property
    def task(self) -> str:
        """What is asked: localize, segment, faithful, sanity or recognize."""
        return self.rules.task

    def plain(self) -> dict[str, Any]:
        """All of it as a result holds it."""
        return {
            "name": self.name,
            "task": self.task,
            "summary": self.summary,
            "image_size": self.image_size,
            "resize": self.resize,
            "templates": self.templates,
            "rules": {key: list(one) if isinstance(one, tuple) else one for key, one in asdict(self.rules).items()},
        }


def protocol_of(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS, "`eclip protocols ls`")
    return PROTOCOLS[name]


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
             "Ours: classes of 1 % of the area or more, all names asked together, best of 20 thresholds over pairs.",
             None, "squash", "a photo of a {}",
             Localize(least=0.01, thresholds=_TWENTIETHS, headline="miou")),
    Protocol("surgery-explain",
             "As CLIP Surgery, as far as known (Li et al. 2023; guesses: size, thresholds, the mean over classes).",
             224, "squash", "surgery85",
             Localize(least=0.0, thresholds=_HUNDREDTHS, headline="class_miou")),
    Protocol("ovseg-argmax",
             "As SCLIP, no background (Wang et al. 2024): 336 pixels, windows of 224 every 112, 80 templates.",
             336, "keep", "imagenet80",
             Segment(background=(), scale=40.0, prob_threshold=None, window=224, stride=112)),
    Protocol("ovseg-argmax-background",
             "The same with background, by SCLIP's words for that of VOC and a threshold on the likelihood.",
             336, "keep", "imagenet80",
             Segment(background=STUFF, scale=65.0, prob_threshold=0.1, window=224, stride=112)),
    Protocol("segment-v1",
             "Ours, as `eclip segment` by itself: the whole photo at the model's own size, no background.",
             None, "squash", "imagenet80",
             Segment(background=(), scale=40.0, prob_threshold=None, window=None, stride=None)),
    Protocol("faithful-v1",
             "Ours: pixels deleted and inserted in ten steps, three fills, against a random order.",
             None, "squash", "a photo of a {}",
             Faithful(least=0.01, fills=("mean", "blur", "noise"), steps=10, share=1.0)),
    Protocol("gradeclip-faithfulness",
             "As Grad-ECLIP's script (Zhao et al. 2024): half of the pixels, noise to delete, black to insert into.",
             None, "keep", "imagenet80",
             Faithful(least=0.01, fills=("noise", "zero"), steps=10, share=0.5)),
    Protocol("sanity-v1",
             "Ours, after Adebayo et al. 2018: maps of nonsense, of another text, of a model of random weights.",
             None, "squash", "a photo of a {}",
             Sanity(least=0.01, nonsense=("qzxv jrkp wbfh", "lorem ipsum dolor"))),
    Protocol("recognize-v1",
             "Ours: the right name within 1, 5 and 10; of captions, recall at 1, 5 and 10 both ways, five a photo.",
             None, "squash", "none",
             Recognize(at=(1, 5, 10), captions=5)),
)}
# fmt: on
