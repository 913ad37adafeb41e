"""Segmentation, what `segment` answers: one class a pixel, and what people take from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt16
from PIL import Image

from eclip import heatmap, render
from eclip.errors import OptionError
from eclip.results.folder import FORMATS
from eclip.results.indexing import Which, image_of, number_of
from eclip.results.marks import png
from eclip.segmentation.writer import SegmentWriter


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Which of the classes each pixel of some images was given to.

    Attributes:
        labels: of each image (height, width), in its own pixels; uint8 up to 255 classes, uint16 above. 0 is
            background, which is there if words were given for it, or a threshold.
        confidences: of each image (height, width) float32, the share of the softmax over classes that the largest class
            had, 0 to 1; not calibrated. Where a threshold made the pixel background, that of the class that lost it.
        classes: name of each label, `classes[0]` is "background".
        sources: what each image was: its path, or "image 0" for one that came from memory.
        provenance: model, method, words, windows, thresholds, versions, the command that repeats it.
        images: the images themselves.
    """

    labels: tuple[UInt8[np.ndarray, "_height _width"] | UInt16[np.ndarray, "_height _width"], ...]
    confidences: tuple[Float[np.ndarray, "_height _width"], ...]
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    provenance: dict[str, Any]
    images: tuple[Image.Image, ...]

    def __repr__(self) -> str:
        """One line: what was segmented, how."""
        refine = f", refined by {self.provenance['refine']}" if self.provenance["refine"] else ""
        by = f"{self.provenance['method']} on {self.provenance['model']}{refine}"
        return f"Segmentation({len(self.sources)} images, {len(self.classes) - 1} classes, {by})"

    def _repr_png_(self) -> bytes:
        """The picture of the first image, as notebooks show it."""
        return png(self.picture(0))

    def mask(self, image: Which = 0, name: Which | None = None) -> np.ndarray:
        """Where an image was given to a class (height, width), bool.

        Args:
            image: which image, here and in all that follows: its number, its path, or its file's name. A class's name
                alone, `mask("dog")`, is that class on the first image.
            name: of the class, or its label.

        Raises:
            OptionError: there is no such image or class.
        """
        if name is None:
            if not isinstance(image, str) or image not in self.classes:
                raise OptionError(f"mask needs a class, such as mask({image!r}, {self.classes[-1]!r}).")
            image, name = 0, image
        return self._labels(image) == number_of(name, self.classes, "class")

    def _labels(self, image: Which) -> np.ndarray:
        return self.labels[image_of(image, self.sources, self.classes)]

    def areas(self, image: Which = 0) -> dict[str, float]:
        """The share of the image's pixels of each class that is there, the largest first."""
        counts = np.bincount(self._labels(image).ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[label]: float(counts[label] / counts.sum()) for label in order if counts[label]}

    def boxes(self, image: Which = 0, *, min_area: float = 0.001) -> dict[str, Int[np.ndarray, "_box 4"]]:
        """Boxes around the connected regions of each class that is there, background left out; the largest first.

        Args:
            image: which image.
            min_area: regions with a smaller share of the image's pixels are left out.

        Returns:
            By class: left, top, right, bottom in pixels, right and bottom exclusive.
        """
        present = [name for name in self.areas(image) if name != self.classes[0]]
        return {name: heatmap.boxes(self.mask(image, name), min_area=min_area) for name in present}

    def overlay(self, image: Which = 0, *, legend: bool = True) -> Image.Image:
        """The image in gray with each class in its color, and a legend to the right with the shares of the pixels.

        Without the legend it has exactly the image's size.
        """
        image = image_of(image, self.sources, self.classes)
        if not legend:
            return render.tinted(self.images[image], self.labels[image], len(self.classes) - 1)
        return render.labeled(self.images[image], self.labels[image], self.classes, beside=False)

    def picture(self, image: Which = 0) -> Image.Image:
        """The image, the overlay and the legend side by side."""
        image = image_of(image, self.sources, self.classes)
        return render.labeled(self.images[image], self.labels[image], self.classes, beside=True)

    def save(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, *, instances: bool = False, overwrite: bool = False
    ) -> Path:
        """Write label maps, pictures, arrays, one coco.json and one manifest.json into a folder, made if it is missing.

        Args:
            folder: where. An earlier segmentation of the same images, or of some of them, is replaced; files of others
                stay as they are.
            formats: any of "png" (a label map and a picture an image), "npz" (labels and confidences), "json" (the
                manifest, and masks in COCO's format).
            instances: in COCO's file, one annotation a connected region, not one a class and image.
            overwrite: replace results of another kind, or of other images, as well.

        Returns:
            The folder.

        Raises:
            ResultError: the folder holds results of another kind or of other images, another process is writing there,
                it cannot be written, or the disk is full.
            OptionError: an unknown format.
        """
        writing = SegmentWriter(folder, formats, instances=instances, overwrite=overwrite)
        with writing.over(self.sources) as writer:
            for image in range(len(self.sources)):
                writer.add(self, image)
        return writer.folder
