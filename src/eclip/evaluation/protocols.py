"""Protocols: named sets of all rules that a number depends on. The number in a name is its version.

A rule never changes under its name: a different rule means a new protocol. Results record all rules, so two results can
be compared, or refused. The class of the rules determines the task; `eclip protocols ls` lists all protocols. What is
marked "guess" is unknown about the authors' evaluation; docs/evaluation.md lists the known differences. Rules and
settings outside their range raise OptionError when they are created.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from eclip.backbones.choices import DEFAULT_POSITIONS, POSITIONS, RESIZES
from eclip.errors import OptionError, UnknownNameError
from eclip.evaluation.rules import (
    Absent,
    Contrast,
    Faithful,
    Gaze,
    Ground,
    Localize,
    Points,
    Recognize,
    Rules,
    Sanity,
    Segment,
    Words,
    check_rule,
    is_whole,
)
from eclip.registry import one_of


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
        check_rule("image_size", size, size is None or is_whole(size), "None or a whole number of pixels, at least 1")
        one_of(self.resize, "resize", RESIZES)
        one_of(self.positions, "positions", POSITIONS)

    @property
    def task(self) -> str:
        """The task: localize, segment, faithful, sanity, recognize, ground, points, gaze, absent, words or contrast."""
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
        OptionError: it is neither; or a custom protocol has the name of a built-in one, but different rules.
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise UnknownNameError("protocol", protocol, PROTOCOLS, "`eclip protocols ls`")
        return PROTOCOLS[protocol]
    if not isinstance(protocol, Protocol):
        raise OptionError(
            f"protocol must be a name in eclip.PROTOCOLS, such as {DEFAULT_PROTOCOL!r}, or one of its values, or a "
            f"Protocol of your own, got {type(protocol).__name__}."
        )
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
             "Ours: pixels deleted and inserted in ten steps, three fills, against a random order of patches.",
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
    Protocol("points-v1",
             "Ours: labels asked alone; AUROC and IoU over points, the IoU after LeGrad (Bousselham et al. 2024).",
             None, "squash", "a photo of a {}",
             Points(threshold=0.5)),
    Protocol("gaze-v1",
             "Ours: one text for all images; the numbers of the saliency field, shuffled AUC first.",
             None, "squash", "none",
             Gaze(text="a person, an animal or a thing", sigma=0.03, others=10)),
    Protocol("absent-v1",
             "Ours: names of other images against those of the image, by score, softmax, energy and presence.",
             None, "squash", "a photo of a {}",
             Absent(least=0.01, scale=40.0)),
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
