"""Segmentation, the result of `segment`: one class per pixel; saving, also as COCO masks; its command."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8, UInt16
from PIL import Image

from eclip import heatmap, render
from eclip.errors import OptionError, ResultError
from eclip.explanation.explanation import MOST_SHOWN
from eclip.explanation.exports import Spool
from eclip.explanation.health import LEAST_PRESENCE, LEAST_SURE
from eclip.results.coco import coco_mask
from eclip.results.command import head, inputs, options, settings
from eclip.results.folder import FORMATS, Folder
from eclip.results.indexing import Which, image_of, number_of
from eclip.results.marks import png

SCHEMA, COCO = "eclip.segment/1", "coco.json"
LEAST_INSTANCE = 0.001
"""Regions with a smaller share of the image's pixels are not instances."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class assigned to each pixel of images.

    Attributes:
        labels: (height, width) for each image, in its own pixels; uint8 up to 255 classes, uint16 above. 0 is
            background, which occurs only with words for it or a threshold.
        confidences: (height, width) float32 for each image, the largest class's share of the softmax over classes, 0 to
            1; not calibrated. If a threshold made the pixel background, the share of the class that lost it.
        classes: name of each label, `classes[0]` is "background".
        sources: the path of each image, or "image 0" for one given in memory.
        provenance: model, method, words, windows, thresholds, versions, the command that repeats it.
        images: the images themselves.
        presence: (label,) float32 for each image: the share of other words that score lower than the class's best word
            on this image, or on its best window, as in `eclip.explanation.health`; NaN for the background and for
            examples. None if it was not computed.
    """

    labels: tuple[UInt8[np.ndarray, "_height _width"] | UInt16[np.ndarray, "_height _width"], ...]
    confidences: tuple[Float[np.ndarray, "_height _width"], ...]
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    provenance: dict[str, Any]
    images: tuple[Image.Image, ...]
    presence: tuple[Float[np.ndarray, " _label"], ...] | None = None

    def __repr__(self) -> str:
        refine = f", refined by {self.provenance['refine']}" if self.provenance["refine"] else ""
        by = f"{self.provenance['method']} on {self.provenance['model']}{refine}"
        return f"Segmentation({len(self.sources)} images, {len(self.classes) - 1} classes, {by})"

    def _repr_png_(self) -> bytes:
        return png(render.stack([self.picture(image) for image in range(len(self.sources))[:MOST_SHOWN]]))

    def mask(self, image: Which = 0, name: Which | None = None) -> np.ndarray:
        """The pixels of an image that belong to a class, (height, width), bool.

        Args:
            image: which image, here and in the methods below: its number, path or file name. A class alone,
                `mask("dog")`, selects that class on the first image.
            name: of the class, or its label.

        Raises:
            OptionError: there is no such image or class.
        """
        if name is None:
            if not isinstance(image, str) or image not in self.classes:
                raise OptionError(f"mask needs the name of a class, such as mask({image!r}, {self.classes[-1]!r}).")
            image, name = 0, image
        return self._labels(image) == number_of(name, self.classes, "class")

    def _labels(self, image: Which) -> np.ndarray:
        return self.labels[image_of(image, self.sources, self.classes)]

    def areas(self, image: Which = 0) -> dict[str, float]:
        """The share of the image's pixels of each class present, the largest first."""
        counts = np.bincount(self._labels(image).ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[label]: float(counts[label] / counts.sum()) for label in order if counts[label]}

    def doubts(self, image: Which = 0) -> dict[str, str]:
        """Classes that have pixels in an image but are probably not in it, or may not be, and which of the two.

        Each pixel goes to one of the classes, whether it is any of them or not. Pictures show these classes faintly.
        The largest is first.
        """
        place, found = image_of(image, self.sources, self.classes), dict[str, str]()
        for name in () if self.presence is None else self.areas(place):
            presence = self.presence[place][self.classes.index(name)]  # type: ignore[index]  # not None here
            if presence < LEAST_SURE:
                found[name] = render.ABSENT if presence < LEAST_PRESENCE else render.UNSURE
        return found

    def absent(self, image: Which = 0) -> list[str]:
        """Classes that have pixels in an image but are probably not in it, the largest first."""
        return [name for name, doubt in self.doubts(image).items() if doubt == render.ABSENT]

    def _doubted(self, image: int) -> dict[int, str]:
        return {self.classes.index(name): doubt for name, doubt in self.doubts(image).items()}

    def _picture(self, image: int, *, beside: bool) -> Image.Image:
        doubts = self._doubted(image)
        return render.labeled(self.images[image], self.labels[image], self.classes, beside=beside, doubts=doubts)

    def boxes(self, image: Which = 0, *, min_area: float = 0.001) -> dict[str, Int[np.ndarray, "_box 4"]]:
        """Boxes around the connected regions of each class present except background, the largest first.

        Regions with a smaller share of the image's pixels than `min_area` are left out.

        Returns:
            Left, top, right, bottom in pixels by class; right and bottom are exclusive.
        """
        present = [name for name in self.areas(image) if name != self.classes[0]]
        return {name: heatmap.boxes(self.mask(image, name), min_area=min_area) for name in present}

    def overlay(self, image: Which = 0, *, legend: bool = True) -> Image.Image:
        """The image in gray with classes in color, and a legend with their shares of the pixels to the right.

        Without the legend, it has exactly the image's size.
        """
        image = image_of(image, self.sources, self.classes)
        if not legend:
            count = len(self.classes) - 1
            return render.tinted(self.images[image], self.labels[image], count, self._doubted(image))
        return self._picture(image, beside=False)

    def picture(self, image: Which = 0) -> Image.Image:
        """The image, the overlay and the legend side by side."""
        image = image_of(image, self.sources, self.classes)
        return self._picture(image, beside=True)

    def to_coco(self) -> dict[str, Any]:
        """The masks in COCO's instances format, one annotation per image and class present; as in coco.json of `save`.

        "images" are numbered from 1, and "category_id" is the label; background has no annotation.
        """
        notes: list[dict[str, Any]] = []
        for image, labels in enumerate(self.labels, 1):
            notes += _annotations(labels, image, len(notes) + 1)
        sides = [labels.shape[::-1] for labels in self.labels]
        return {**_coco_head(self.sources, sides, self.classes), "annotations": notes}

    def save(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, *, instances: bool = False, overwrite: bool = False
    ) -> Path:
        """Write label maps, pictures, arrays, coco.json and manifest.json, by the rules of `Explanation.save`.

        The formats are any of "png" (a label map and a picture per image), "npz" (labels and confidences), "json" (the
        manifest, and masks in COCO's format). With `instances`, coco.json has one annotation per connected region, not
        one per class and image.
        """
        writer = SegmentWriter(folder, formats, instances=instances, overwrite=overwrite)
        with writer.over(self.sources):
            for image in range(len(self.sources)):
                writer.add(self, image)
        return writer.folder


class SegmentWriter(Folder):
    """Writes segmentations into a folder: a label map and a picture per image, arrays, COCO masks, the manifest.

    The manifest is also what `eclip segment --json` prints:

        {"schema": "eclip.segment/1", "classes": [name of each label, ...], "provenance": {as `.provenance`},
         "images": [{"source", "width", "height", "areas": {name: share}, "confidence": {name: mean},
                     "presence": {name: number or null} or null, "files": {"image", "labels", "picture", "npz"}}, ...],
         "failures": [{"source", "error"}, ...], "coco": "coco.json"}

    "labels" is a PNG of label values with a palette like PASCAL VOC's (16-bit gray for more than 254 classes);
    "confidence" is the mean over a class's pixels. coco.json has COCO's instances format, with masks as uncompressed
    run lengths and one annotation per class and image, or per connected region of at least `LEAST_INSTANCE`;
    "image_id" numbers the images of the manifest from 1, "category_id" is the label; background has no annotation.
    Otherwise as in `eclip.explanation.folder.ExplanationWriter`.
    """

    fixed = (COCO,)

    def __init__(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, *, instances: bool = False, overwrite: bool = False
    ) -> None:
        manifest: dict[str, Any] = {"schema": SCHEMA, "classes": [], "provenance": None, "coco": None}
        super().__init__(folder, formats, manifest, overwrite=overwrite)
        self.instances = instances

    def __enter__(self) -> SegmentWriter:
        super().__enter__()
        self._annotations = Spool(self.folder)
        return self

    def __exit__(self, *reason: object) -> None:
        with closing(self._annotations):
            try:
                if "json" in self.formats and self.manifest["images"]:
                    self.manifest["coco"] = self._put(COCO, self._coco())
            finally:
                super().__exit__(*reason)

    def add(self, segmentation: Segmentation, image: int = 0) -> dict[str, Any]:
        """Write the files of an image; returns its entry in the manifest."""
        if self.manifest["provenance"] is None:
            provenance = {**segmentation.provenance, "instances": self.instances}
            provenance["command"] = segment_command(segmentation.sources, provenance) if provenance["command"] else None
            self.manifest |= {"classes": list(segmentation.classes), "provenance": provenance}
        labels, confidence = segmentation.labels[image], segmentation.confidences[image]
        source, picture = segmentation.sources[image], segmentation.images[image]
        stem, files = self._image(source, lambda: picture)
        if "png" in self.formats:
            indexed = png(render.indexed(labels, len(segmentation.classes) - 1))
            files["labels"] = self._put(f"{stem}.labels.png", indexed)
            files["picture"] = self._put(f"{stem}.png", png(segmentation.picture(image)))
        if "npz" in self.formats:
            files["npz"] = self._arrays(stem, {"labels": labels, "confidence": confidence})
        number, first = len(self.manifest["images"]) + 1, self._annotations.count + 1
        notes = list(_annotations(labels, number, first, self.instances)) if "json" in self.formats else []
        areas = segmentation.areas(image)
        entry = {
            "source": source,
            "width": picture.width,
            "height": picture.height,
            "areas": {name: round(area, 6) for name, area in areas.items()},
            "confidence": {name: round(float(confidence[segmentation.mask(image, name)].mean()), 6) for name in areas},
            "presence": None,
            "files": files,
        }
        if segmentation.presence is not None:
            numbers = zip(segmentation.classes, segmentation.presence[image].tolist(), strict=True)
            entry["presence"] = {
                name: None if math.isnan(number) else round(number, 4) for name, number in list(numbers)[1:]
            }
        self.manifest["images"].append(entry)
        try:
            self._annotations.add(*notes)
        except OSError as error:
            raise ResultError(f"cannot write annotations into {str(self.folder)!r}: {error.strerror}.") from error
        return entry

    def _coco(self) -> Iterator[bytes]:
        """The chunks of coco.json."""
        images = self.manifest["images"]
        sides = [(one["width"], one["height"]) for one in images]
        head = json.dumps(
            _coco_head([one["source"] for one in images], sides, self.manifest["classes"]), ensure_ascii=False
        )
        yield (head.removesuffix("}") + ', "annotations": [\n').encode(errors="backslashreplace")
        for number, line in enumerate(self._annotations):
            yield (b", " if number else b"") + line + b"\n"
        yield b"]}\n"


def _annotations(
    labels: Shaped[np.ndarray, "height width"], image: int, first: int, instances: bool = False
) -> Iterator[dict[str, Any]]:
    """COCO's annotations of an image of this number: one per class, or with `instances`, one per region."""
    for label in np.unique(labels[labels > 0]).tolist():
        mask = labels == label
        for region in heatmap.regions(mask, min_area=LEAST_INSTANCE) if instances else [mask]:
            yield {"id": first, "image_id": image, "category_id": label, **coco_mask(region), "iscrowd": 0}
            first += 1


def _coco_head(sources: Sequence[str], sides: Sequence[tuple[int, int]], classes: Sequence[str]) -> dict[str, Any]:
    """The fields "images" and "categories" of a COCO file; sides are (width, height)."""
    return {
        "images": [
            {"id": number, "file_name": source, "width": width, "height": height}
            for number, (source, (width, height)) in enumerate(zip(sources, sides, strict=True), 1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes) if label],
    }


def segment_command(sources: Sequence[str], provenance: dict[str, Any]) -> str | None:
    """The shell command that repeats a segmentation with this provenance; None if there is none.

    That is so if a class is not its first word, or an example is not a class of its own, after those of words.
    """
    examples, classes = provenance.get("examples", {}), provenance["words"]
    plain = {name: words for name, words in classes.items() if name not in examples}
    shown = [name for name in classes if name in examples]
    if (
        any(name != words[0] for name, words in plain.items())
        or any(words != [name] for name, words in classes.items() if name in examples)
        or not examples.keys().isdisjoint([*provenance["background"], *(one for own in plain.values() for one in own)])
        or list(classes) != [*plain, *shown]
    ):
        return None
    words = ["eclip", "segment", *inputs(sources, shown, provenance)]
    words += ["--model", provenance["model"], "--method", provenance["method"]]
    words += [f"--class={', '.join(synonyms)}" for synonyms in plain.values()]
    words += [f"--background={', '.join(provenance['background'])}"] if provenance["background"] else []
    for key in ("window", "stride", "scale", "prob_threshold", "area_threshold"):
        flag = "logit-scale" if key == "scale" else key.replace("_", "-")
        words += [] if provenance[key] is None else [f"--{flag}", str(provenance[key])]
    words += head(provenance["head"], provenance["method"])
    words += ["--no-health"] if provenance["health"] is None else []
    words += ["--instances"] if provenance.get("instances") else []
    return shlex.join([*words, *options("--set", provenance["options"]), *settings(provenance)])
