"""Explanation, what `explain` answers: raw maps and scores, and what people take from them; saved and loaded again."""

from __future__ import annotations

import json
import numbers
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image

from eclip import heatmap, render
from eclip.errors import ImageError, OptionError, ResultError
from eclip.explanation.health import NUMBERS, Health
from eclip.explanation.writer import SCHEMA, Writer
from eclip.images import open_image
from eclip.results.earlier import MANIFEST
from eclip.results.folder import FORMATS
from eclip.results.indexing import Which, image_and_text, image_of, number_of
from eclip.results.marks import png

MOST_PANELS = 20
"""Pictures are drawn for at most so many texts, those that score best; arrays hold all."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of some images for some texts by one method, with all that is needed to repeat them.

    Attributes:
        maps: (image, text, row, col) float32, raw: as the method gives them, on the patch grid. With
            provenance["refine"], as that refinement gives them; some lie on the pixels that the model saw,
            provenance["pixels"].
        scores: (image, text) float32, cosine of the unaltered model in [-1, 1]. A map shows where, a score whether: a
            thing that is absent has a map as well.
        texts: as given.
        sources: what each image was: its path, or "image 0" for one that came from memory.
        sizes: (width, height) of each image.
        signed: zero has a meaning in these maps; overlays diverge around it.
        provenance: model, method, options, resize, templates, versions, the command that repeats it. With
            provenance["versus"], maps and scores are those of the difference between each text and that one.
        seconds: what it took: "forward", the one pass that all methods of a question share, "method", and
            "refine" if the maps were refined, "health" if it was asked; not saved.
        health: what can be doubted of each map, as the method gave it; None if it was not asked.
        flat: (image, text), maps whose values differ by rounding alone, see `eclip.heatmap.flat`: they are drawn as
            zeros and have no mask, box or point, while `maps` holds them as they are. None: told from the maps alone.
    """

    maps: Float[np.ndarray, "image text row col"]
    scores: Float[np.ndarray, "image text"]
    texts: tuple[str, ...]
    sources: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    signed: bool
    provenance: dict[str, Any]
    images: tuple[Image.Image | Path, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    health: Health | None = None
    flat: Bool[np.ndarray, "image text"] | None = None

    def __repr__(self) -> str:
        """One line: what was explained, how."""
        image, text, row, col = self.maps.shape
        by, refine = f"{self.provenance['method']} on {self.provenance['model']}", self.provenance.get("refine")
        by, kind = (by, "grid") if refine is None else (f"{by}, refined by {refine}", "maps")
        return f"Explanation({image} images, {text} texts, {row} x {col} {kind}, {by})"

    def _repr_png_(self) -> bytes:
        """The strip of the first image, as notebooks show it."""
        return png(self.strip(0))

    def image(self, image: Which = 0) -> Image.Image:
        """The image itself, RGB and upright; after `load` it is read from its file.

        Raises:
            OptionError: there is no such image.
            ResultError: its file is gone.
        """
        picture = self.images[image_of(image, self.sources, self.texts)]
        if isinstance(picture, Image.Image):
            return picture
        try:
            return open_image(picture)
        except ImageError as error:
            raise ResultError(f"the image of this explanation cannot be read again: {error}") from error

    def label(self, text: Which) -> str:
        """The text as pictures name it, with the one it is held against if there is one."""
        versus, name = self.provenance.get("versus"), self.texts[number_of(text, self.texts, "text")]
        return name if versus is None else f"{name}, not {versus}"

    def _which(self, image: Which, text: Which | None) -> tuple[int, int]:
        return image_and_text(image, text, self.sources, self.texts)

    def _map(self, image: int, text: int) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.drawn(image)[text]))

    def drawn(self, image: int = 0) -> Float[np.ndarray, "text row col"]:
        """The raw maps of an image as pictures, masks, boxes and points see them: a flat one is zeros."""
        raw = self.maps[image]
        return raw if self.flat is None else np.where(self.flat[image][:, None, None], np.zeros_like(raw), raw)

    def heatmap(self, image: Which = 0, text: Which | None = None) -> Float[np.ndarray, "height width"]:
        """Where the match is, 0 to 1, in the image's own pixels: min-max on the grid, then bilinear.

        Zero and one are the least and the most of this image and text, and say nothing of presence. A flat map is 0.

        Args:
            image: which image, here and in all that follows: its number, its path, or its file's name. A text's name
                alone, `heatmap("a dog")`, is that text on the first image.
            text: which text: its number or the text itself; None = the first.

        Raises:
            OptionError: there is no such image or text, or several of that name.
        """
        image, text = self._which(image, text)
        width, height = self.sizes[image]
        return heatmap.resize(heatmap.normalize(self._map(image, text)), (height, width)).numpy()

    def overlay(self, image: Which = 0, text: Which | None = None, *, legend: bool = True) -> Image.Image:
        """The image with its heat map; signed maps in two colors around zero."""
        image, text = self._which(image, text)
        return render.overlay(
            self.image(image),
            self._shown(image, text),
            signed=self.signed,
            text=self.label(text),
            score=float(self.scores[image, text]),
            legend=legend,
        )

    def _shown(self, image: int, text: int) -> Float[np.ndarray, "row col"]:
        shown = heatmap.signed if self.signed else heatmap.normalize
        return shown(self._map(image, text)).numpy()

    def strip(self, image: Which = 0) -> Image.Image:
        """The image and one panel a text in one picture; of more than twenty texts the twenty that score best."""
        image = image_of(image, self.sources, self.texts)
        shown = self.best_texts(image)
        return render.strip(
            self.image(image),
            (self._shown(image, text) for text in shown),
            signed=self.signed,
            texts=[self.label(text) for text in shown],
            scores=[float(self.scores[image, text]) for text in shown],
        )

    def best_texts(self, image: Which = 0) -> list[int]:
        """The texts that pictures are drawn for: all in their order, or the twenty that score best, best first."""
        image = image_of(image, self.sources, self.texts)
        if len(self.texts) <= MOST_PANELS:
            return list(range(len(self.texts)))
        return [int(text) for text in np.argsort(-self.scores[image], kind="stable")[:MOST_PANELS]]

    def mask(
        self, image: Which = 0, text: Which | None = None, threshold: float | np.floating | str | None = None
    ) -> Bool[np.ndarray, "height width"]:
        """Where the heat map reaches a threshold.

        Args:
            image: which image.
            text: which text.
            threshold: "otsu" (found for this heat map), which None means as well, or a number in [0, 1].

        Raises:
            OptionError: the threshold is neither, or there is no such image or text.
        """
        heat = self.heatmap(image, text)
        if threshold is None or (isinstance(threshold, str) and threshold == "otsu"):
            return heat >= heatmap.otsu(heat)
        if isinstance(threshold, bool | str) or not isinstance(threshold, numbers.Real) or not 0 <= threshold <= 1:
            raise OptionError(f"threshold must be 'otsu' or a number in [0, 1], got {threshold!r}.")
        return heat >= float(threshold)

    def boxes(
        self,
        image: Which = 0,
        text: Which | None = None,
        threshold: float | np.floating | str | None = None,
        *,
        min_area: float = 0.001,
    ) -> Int[np.ndarray, "box 4"]:
        """Boxes around the connected parts of `mask`: left, top, right, bottom in pixels, the largest first.

        Args:
            image: which image.
            text: which text.
            threshold: as in `mask`.
            min_area: parts with less than this share of the image's pixels are left out.
        """
        return heatmap.boxes(self.mask(image, text, threshold), min_area=min_area)

    def points(
        self, image: Which = 0, text: Which | None = None, k: int | None = 5
    ) -> tuple[Int[np.ndarray, "point 2"], Int[np.ndarray, " point"]]:
        """Point prompts as SAM's predictor takes them: coordinates (x, y) in pixels, labels 1 (thing) and 0 (not).

        A map that was refined on pixels is averaged over each patch first.

        Args:
            image: which image.
            text: which text.
            k: at most so many of each; None for all that CLIP Surgery's rule gives.
        """
        image, text = self._which(image, text)
        width, height = self.sizes[image]
        cells = self._map(image, text)
        if self.provenance.get("refine") is not None:  # on pixels, the strongest would all lie side by side
            row, col = self.provenance["grid"]
            cells = heatmap.mean_over_cells(cells, (row, col))
        return heatmap.points(cells, (height, width), k=k)

    def save(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> Path:
        """Write overlays, arrays and one manifest.json into a folder, made if it is missing.

        Args:
            folder: where. An earlier explanation of the same images, or of some of them, is replaced; files of others
                stay as they are.
            formats: any of "png" (a strip an image, an overlay a text), "npz" (maps and scores), "json" (the manifest).
            overwrite: replace results of another kind, or of other images, as well.

        Returns:
            The folder.

        Raises:
            ResultError: the folder holds results of another kind or of other images, another process is writing there,
                it cannot be written, or the disk is full.
            OptionError: an unknown format.
        """
        with Writer(folder, formats, overwrite=overwrite).over(self.sources) as writer:
            writer.add(self)
        return writer.folder

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what `save` wrote; images are opened from their files when they are asked for.

        Raises:
            ResultError: no explanation is there, it was saved without "npz" or "json", or its images have unlike grids.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["schema"] != SCHEMA:
                raise ResultError(
                    f"{folder / MANIFEST} is of schema {manifest['schema']!r}, not {SCHEMA!r}: it is no explanation."
                )
            entries = manifest["images"]
            arrays = [_read_arrays(folder / entry["files"]["npz"]) for entry in entries]
            grids = {one["maps"].shape for one in arrays}
            if len(grids) != 1:
                what = (
                    f"maps of unlike shapes {sorted(grids)}: read its npz files"
                    if grids
                    else "no image that was explained"
                )
                raise ResultError(f"{folder} holds {what}.")
            return cls(
                maps=np.stack([one["maps"] for one in arrays]),
                scores=np.stack([one["scores"] for one in arrays]),
                texts=tuple(manifest["texts"]),
                sources=tuple(entry["source"] for entry in entries),
                sizes=tuple((entry["width"], entry["height"]) for entry in entries),
                signed=manifest["signed"],
                provenance=manifest["provenance"],
                images=tuple(folder / entry["files"]["image"] for entry in entries),
                health=_health(arrays, manifest),
                flat=np.stack([one["flat"] for one in arrays]) if all("flat" in one for one in arrays) else None,
            )
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            if isinstance(error, ResultError):
                raise
            raise ResultError(
                f"{folder} holds no explanation that can be loaded ({type(error).__name__}: {error}). "
                "Explanation.save writes one, with formats npz and json."
            ) from error


def _read_arrays(file: Path) -> dict[str, Float[np.ndarray, "*axes"]]:
    with file.open("rb") as opened, np.load(opened) as arrays:  # np.load itself leaves a damaged file open
        return {name: arrays[name] for name in arrays.files}


def _health(arrays: list[dict[str, Any]], manifest: dict[str, Any]) -> Health | None:
    """As it was saved; results without it, and those of before there was any, have none."""
    said = manifest["provenance"].get("health")
    if said is None:
        return None
    values = {name: np.stack([one[f"health_{name}"] for one in arrays]) for name in NUMBERS}
    if all("flat" in one for one in arrays):
        values["flat"] = np.stack([one["flat"] for one in arrays])
    return Health(**values, texts=tuple(manifest["texts"]), notes=tuple(said))
