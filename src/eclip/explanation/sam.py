"""Masks of a Segment Anything model for the points and boxes of an Explanation, and how far they agree with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from eclip.backbones.devices import Device
from eclip.backbones.sam import Sam, SamPrompt, sam_of
from eclip.explanation.folder import ExplanationWriter, explain_command
from eclip.results.coco import compressed, filled, runs
from eclip.results.folder import FORMATS
from eclip.results.indexing import Which, image_and_text

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation

DEFAULT_K = 5


@dataclass(frozen=True, eq=False)
class SamMask:
    """A mask that SAM gave for a text, and numbers that tell when it is of something else than the map.

    Attributes:
        predicted_iou: SAM's own prediction of the mask's IoU with the object that the prompt means. It knows the prompt
            but not the text.
        area: share of the image, in [0, 1].
        agreement: IoU with `Explanation.mask`, in [0, 1]; None if both are empty.
        inside: mean of the heat map within the mask, in [0, 1]; None if the mask is empty.
        outside: mean of the heat map elsewhere, in [0, 1]; None if the mask is the whole image.
        size: (height, width) of the image in pixels.
        counts: run lengths in column order, as in COCO.
    """

    predicted_iou: float
    area: float
    agreement: float | None
    inside: float | None
    outside: float | None
    size: tuple[int, int]
    counts: Int[np.ndarray, " run"]

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The pixels of the mask, in the size of the image."""
        return filled(self.counts, self.size)

    def picture(self) -> Image.Image:
        """The mask in gray: 255 within, 0 elsewhere."""
        return Image.fromarray(self.mask.astype(np.uint8) * 255)

    def noted(self) -> dict[str, Any]:
        """The mask as in a manifest, with COCO's compressed run lengths."""
        told = {"size": list(self.size), "counts": compressed(self.counts.tolist())}
        numbers = {name: getattr(self, name) for name in ("predicted_iou", "area", "agreement", "inside", "outside")}
        return {**{name: None if one is None else round(one, 6) for name, one in numbers.items()}, "segmentation": told}


@dataclass(frozen=True, eq=False)
class SamMasks:
    """SAM's masks for all images and texts of an Explanation.

    Attributes:
        explanation: that the prompts are from.
        provenance: "model" (its name, None for one in memory), "family" (its class), "device", "precision", and the
            prompt: "points" (at most so many of each label), "box" (whether there is one).
        prompts: for each image, that of each text.
        found: for each image, the masks of each text, the best `SamMask.predicted_iou` first; none without a prompt, as
            for a flat map.
    """

    explanation: Explanation
    provenance: dict[str, Any]
    prompts: tuple[tuple[SamPrompt, ...], ...]
    found: tuple[tuple[tuple[SamMask, ...], ...], ...]

    def __repr__(self) -> str:
        images, texts = self.explanation.scores.shape
        name = self.provenance["model"] or self.provenance["family"]
        return f"SamMasks({images} images, {texts} texts, by {name}, of {self.explanation!r})"

    def of(self, image: Which = 0, text: Which | None = None) -> tuple[SamMask, ...]:
        """The masks of an image and a text, the best predicted IoU first; images and texts as in `Explanation.heatmap`.

        Raises:
            OptionError: there is no such image or text, or several have that name.
        """
        image, text = image_and_text(image, text, self.explanation.sources, self.explanation.texts)
        return self.found[image][text]

    def doubt(self, image: Which = 0, text: Which | None = None) -> str:
        """What `Explanation.doubt` says: SAM finds something at every prompt, also if the text is not in the image."""
        return self.explanation.doubt(image, text)

    def noted(self, image: int) -> dict[str, dict[str, Any]]:
        """The prompts and masks of an image by text, as in the manifest."""
        noted = {}
        for text, name in enumerate(self.explanation.texts):
            prompt = self.prompts[image][text]
            labeled = zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True)
            noted[name] = {
                "points": [[*point, label] for point, label in labeled],
                "box": None if prompt.box is None else prompt.box.tolist(),
                "doubt": self.explanation.doubt(image, text) or None,
                "masks": [one.noted() for one in self.found[image][text]],
            }
        return noted

    def noted_provenance(self) -> dict[str, Any]:
        """The provenance of the Explanation, with that of the masks, and the command that repeats both."""
        base = {**self.explanation.provenance, "sam": self.provenance}
        usual = self.provenance["points"] == DEFAULT_K and self.provenance["box"] and self.provenance["model"]
        if base.get("command") is not None:
            again = explain_command(self.explanation.sources, self.explanation.texts, base)
            base["command"] = again if usual else None
        return base

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = FORMATS,
        *,
        overwrite: bool = False,
        max_side: int | None = None,
    ) -> Path:
        """Write the Explanation as its `save` does, and the masks; returns the folder.

        Masks are PNG files with the formats "png" and "jpg", and COCO's run lengths in the manifest with "json".
        """
        writer = ExplanationWriter(folder, formats, overwrite=overwrite, max_side=max_side)
        with writer.over(self.explanation.sources):
            writer.add(self.explanation, self)
        return writer.folder


def sam(
    explanation: Explanation,
    model: str | Path | tuple[Any, Any] | Sam,
    *,
    k: int | None = DEFAULT_K,
    box: bool = True,
    device: Device | None = None,
) -> SamMasks:
    """Masks of a Segment Anything model of transformers (SAM, SAM 2, SAM 3's tracker) for each image and text.

    The prompt of a text is its `points`, positive and negative, and the box around the largest region of its `mask`.
    Each image is encoded once. SAM sees no text: it answers every prompt, also if the text is not in the image, see
    `SamMasks.doubt`. Its model is run without gradients and in evaluation mode, and is unchanged afterwards.

    Args:
        explanation: of the images.
        model: "ORG/NAME" on the Hugging Face Hub, a folder that `save_pretrained` wrote, or a pair (model, processor)
            of transformers. Needs the extra `hf`.
        k: at most this many points of each label; None = all that `points` gives, 0 = the box only.
        box: whether the prompt has the box.
        device: where to put a model given by name, see `eclip.load`; None = the CPU.

    Returns:
        For each image and text three masks, as SAM gives them, in the size of the image; none where the prompt would be
        empty, as for a flat map.

    Raises:
        MissingExtraError: transformers is not installed.
        OptionError: `model` is none of these, k is not a whole number, or a device was given for a model in memory.
        ModelError: the model is not a SAM, cannot be loaded, or its masks are not finite.
        ImageError: an image is too narrow for SAM.
    """
    asked, box = sam_of(model, device), bool(box)
    images, texts = (range(count) for count in explanation.scores.shape)
    prompts = tuple(tuple(_prompt(explanation, image, text, k, box) for text in texts) for image in images)
    found = tuple(_found(explanation, image, prompts[image], asked) for image in images)
    provenance = {
        "model": asked.name,
        "family": asked.family,
        "device": str(asked.weight.device),
        "precision": str(asked.weight.dtype).removeprefix("torch."),
        "points": None if k is None else int(k),
        "box": box,
    }
    return SamMasks(explanation, provenance, prompts, found)


def _prompt(explanation: Explanation, image: int, text: int, k: int | None, box: bool) -> SamPrompt:
    points, labels = explanation.points(image, text, k)
    boxes = explanation.boxes(image, text)[: int(box)]
    return SamPrompt(points, labels, boxes[0] if len(boxes) else None)


def _found(
    explanation: Explanation, image: int, prompts: Sequence[SamPrompt], asked: Sam
) -> tuple[tuple[SamMask, ...], ...]:
    """The masks of all prompts of an image, which is not even encoded if they are all empty."""
    if all(prompt.is_empty for prompt in prompts):
        return ((),) * len(prompts)
    encoded = asked.encode(explanation.shared(image))
    found: list[tuple[SamMask, ...]] = []
    for text, prompt in enumerate(prompts):
        if prompt.is_empty:
            found.append(())
            continue
        heat, own = explanation.heatmap(image, text), explanation.mask(image, text)
        masks = zip(*encoded.masks(prompt), strict=True)
        found.append(tuple(_compared(mask, float(iou), heat, own) for mask, iou in masks))
    return tuple(found)


def _compared(
    mask: Bool[np.ndarray, "height width"],
    predicted_iou: float,
    heat: Float[np.ndarray, "height width"],
    own: Bool[np.ndarray, "height width"],
) -> SamMask:
    either = int((mask | own).sum())
    return SamMask(
        predicted_iou=predicted_iou,
        area=float(mask.mean()),
        agreement=int((mask & own).sum()) / either if either else None,
        inside=_mean(heat[mask]),
        outside=_mean(heat[~mask]),
        size=(mask.shape[0], mask.shape[1]),
        counts=np.array(runs(mask), np.int64),
    )


def _mean(values: Float[np.ndarray, " pixel"]) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None
