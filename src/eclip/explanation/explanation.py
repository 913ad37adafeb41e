"""Explanation, the result of `explain`: raw maps and scores, heat maps, masks, boxes and points; saving and loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from eclip import heatmap, render
from eclip.backbones.devices import Device
from eclip.explanation import conversions
from eclip.explanation.folder import ExplanationWriter, check_max_side, explain_command
from eclip.explanation.health import Health
from eclip.explanation.loading import fields_in, reopened
from eclip.explanation.sam import sam
from eclip.explanation.tensors import OTSU, ExplanationTensors, Origin, Threshold, number_of_threshold, tensors_of
from eclip.images import Place
from eclip.render.overlay import ALPHA
from eclip.results.folder import FORMATS
from eclip.results.indexing import Which, image_and_text, image_of, images_of, number_of
from eclip.results.marks import png
from eclip.results.provenance import maker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 20
"""The most texts that pictures are drawn for, those with the best scores; arrays hold all texts."""
MOST_SHOWN = 4
"""The most images that a notebook shows, the first."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of images for texts by one method, with everything needed to repeat them.

    Attributes:
        maps: (image, text, row, col) float32, the raw values of the method on the patch grid. With a refinement, its
            values; some refinements return maps on the pixels that the model saw, provenance["pixels"].
        scores: (image, text) float32, cosine of the unaltered model in [-1, 1]. A map shows where, a score whether: an
            object that is absent has a map as well.
        texts: as given.
        sources: the path of each image, or "image 0" for one given in memory.
        sizes: (width, height) of each image.
        signed: whether zero is meaningful in these maps; if so, overlays use a diverging colormap around it.
        provenance: model, method, options, resize (None for preprocessed pixels), templates (None for features),
            versions, the command that repeats it. With provenance["versus"], maps and scores are for the difference
            between each text and that one.
        images: the images, RGB and upright, or where to read them from, as after `load`.
        seconds: run times of a whole batch: "forward" (shared by all methods), "method", "refine", "health"; not saved.
        health: reasons to doubt each map, computed before any refinement; None if the checks were off.
        flat: (image, text), maps whose values differ by rounding only, see `eclip.heatmap.flat`: they are drawn as
            zeros and have no mask, box or point, but `maps` holds them unchanged. None: determined from the maps alone.
        origin: the process and the device of the model that made it; not saved.
    """

    maps: Float[np.ndarray, "image text row col"]
    scores: Float[np.ndarray, "image text"]
    texts: tuple[str, ...]
    sources: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    signed: bool
    provenance: dict[str, Any]
    images: tuple[Image.Image | Path | Place, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    health: Health | None = None
    flat: Bool[np.ndarray, "image text"] | None = None
    origin: Origin | None = None

    def __repr__(self) -> str:
        (image, text, row, col), refine = self.maps.shape, self.provenance.get("refine")
        kind, more = ("grid", "") if refine is None else ("maps", f", refined by {refine}")
        by = f"{self.provenance['method']} on {self.provenance['model']}{more}"
        return f"Explanation({image} images, {text} texts, {row} x {col} {kind}, {by})"

    def only(self, images: Which | Sequence[Which]) -> Explanation:
        """The explanation of one image or of several, by number, path or file name, in the given order.

        Raises:
            OptionError: there is no such image, or several have that name, or none was named.
        """
        places = images_of(images, self.sources, self.texts)
        own: dict[str, Any] = {"maps": self.maps[places], "scores": self.scores[places]}
        for name in ("sources", "sizes", "images"):
            own[name] = tuple(getattr(self, name)[place] for place in places)
        if own["sources"] != self.sources and self.provenance.get("command") is not None:
            again = explain_command(own["sources"], self.texts, self.provenance)
            own["provenance"] = {**self.provenance, "command": again}
        own["health"] = None if self.health is None else self.health.only(places)
        return replace(self, **own, flat=None if self.flat is None else self.flat[places])

    def _repr_png_(self) -> bytes:
        return png(render.stack([self.strip(image) for image in range(len(self.sources))[:MOST_SHOWN]]))

    def image(self, image: Which = 0) -> Image.Image:
        """A copy of the image, RGB and upright; after `load` it is read from its file.

        Raises:
            OptionError: there is no such image.
            ResultError: its file cannot be read anymore, or holds an image of another size.
        """
        return self.shared(image).copy()

    def shared(self, image: Which = 0) -> Image.Image:
        """The image that pictures begin with, as `image`, but not a copy: it must not be drawn on."""
        place = image_of(image, self.sources, self.texts)
        picture = self.images[place]
        return picture if isinstance(picture, Image.Image) else reopened(picture, self.sizes[place])

    def label(self, text: Which) -> str:
        """The text as pictures show it, with the text it is contrasted with, if any."""
        versus, name = self.provenance.get("versus"), self.texts[number_of(text, self.texts, "text")]
        return name if versus is None else f"{name}, not {versus}"

    def drawn(self, image: int = 0) -> Float[np.ndarray, "text row col"]:
        """The raw maps of an image as used for pictures, masks, boxes and points: flat maps are zeros."""
        raw = self.maps[image]
        return raw if self.flat is None else np.where(self.flat[image][:, None, None], np.zeros_like(raw), raw)

    def doubt(self, image: Which = 0, text: Which | None = None) -> str:
        """Why pictures draw the map of a text faintly: it is probably not in the image, or may not be; else empty."""
        image, text = image_and_text(image, text, self.sources, self.texts)
        return "" if self.health is None else self.health.doubts(image)[text]

    def level(self, image: Which = 0, text: Which | None = None, threshold: Threshold | None = None) -> float:
        """The value of the heat map, in [0, 1], from which on `mask` begins and which the outline in pictures follows.

        It is what was measured for this method and model, `provenance["level"]`; if nothing was, as for most models,
        Otsu's threshold of this heat map, see `eclip.heatmap.otsu`. A threshold, as in `mask`, takes its place.
        """
        usual = self.provenance.get("level", OTSU)  # folders of earlier versions have none
        number = number_of_threshold(usual if threshold is None else threshold)
        return heatmap.otsu(self.heatmap(image, text)) if number is None else number

    def _map(self, image: int, text: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.drawn(image)[text]))

    def heatmap(self, image: Which = 0, text: Which | None = None) -> Float[np.ndarray, "height width"]:
        """The map as a heat map in [0, 1] in the image's own pixels: min-max on the grid, then bilinear resizing.

        0 and 1 are the minimum and maximum of this image and text, even if the object is absent. A flat map is 0.

        Args:
            image: which image, here and in the methods below: its number, path or file name. A text alone,
                `heatmap("a dog")`, selects that text on the first image.
            text: which text: its number or the text itself; None = the first.

        Raises:
            OptionError: there is no such image or text, or several have that name.
        """
        image, text = image_and_text(image, text, self.sources, self.texts)
        return heatmap.resize(heatmap.normalize(self._map(image, text)), self.sizes[image][::-1]).numpy()

    def overlay(
        self,
        image: Which = 0,
        text: Which | None = None,
        *,
        legend: bool = True,
        max_side: int | None = None,
        threshold: Threshold | None = None,
        alpha: float = ALPHA,
    ) -> Image.Image:
        """The image with its heat map on top, and a line around its `mask`; signed maps use two colors around zero.

        The map of a text that is probably not in the image, or may not be, see `doubt`, is drawn faintly.

        Args:
            image: which image.
            text: which text.
            legend: with text and score below.
            max_side: longer side of the result in pixels, legend included, at least 256; None = as large as the image.
            threshold: of the mask that the line encloses, as in `mask`.
            alpha: opacity of the color at the peak, 0 to 1.

        Raises:
            OptionError: a value is outside its range, or there is no such image or text.
        """
        image, text = image_and_text(image, text, self.sources, self.texts)
        heat, level = self.edge(image, text, threshold)
        told: dict[str, Any] = {"text": self.label(text), "score": float(self.scores[image, text]), "legend": legend}
        told |= {"doubt": self.doubt(image, text), "notes": [maker(self.provenance)], "alpha": alpha}
        told |= {"values": self.shown(image, text), "signed": self.signed, "heat": heat, "level": level}
        return render.bounded(self.shared(image), check_max_side(max_side), lambda view: render.overlay(view, **told))

    def edge(self, image: int, text: int, threshold: Threshold | None = None) -> tuple[np.ndarray, float]:
        """What the outline follows: the map on its own grid in [0, 1], and the level or another threshold."""
        return heatmap.normalize(self._map(image, text)).numpy(), self.level(image, text, threshold)

    def shown(self, image: int, text: int) -> Float[np.ndarray, "row col"]:
        """The map on its own grid as pictures color it: in [0, 1], or in [-1, 1] around zero if signed."""
        shown = heatmap.signed if self.signed else heatmap.normalize
        return shown(self._map(image, text)).numpy()

    def strip(self, image: Which = 0, *, max_side: int | None = None) -> Image.Image:
        """The image and one panel per text side by side; of more than twenty texts, the twenty with the best scores.

        Panels are 320 pixels long. A strip that is longer than `max_side`, at least 256, is reduced as a whole.
        """
        most = check_max_side(max_side)
        image = image_of(image, self.sources, self.texts)
        best = self.best_texts(image)
        told: dict[str, Any] = {
            "texts": [self.label(text) for text in best],
            "scores": self.scores[image, best].tolist(),
        }
        told["doubts"] = [self.doubt(image, text) for text in best]
        told["notes"] = [f"{maker(self.provenance)}. The line encloses the mask."]
        maps, edges = (self.shown(image, text) for text in best), (self.edge(image, text) for text in best)
        return render.reduced(render.strip(self.shared(image), maps, signed=self.signed, edges=edges, **told), most)

    def figure(
        self,
        images: Which | Sequence[Which] | None = None,
        texts: Which | Sequence[Which] | None = None,
        *,
        columns: int | None = None,
        **style: Any,
    ) -> Figure:
        """A figure for a paper: each image with a panel per text, with letters and outlines as vectors.

        Save it with `figure.savefig("figure.pdf")`, or as SVG or PNG. Needs matplotlib (extra `train`).

        Args:
            images: number, path or file name of one or several; None = all.
            texts: number or text of one or several; None = all, or of more than twenty those with the best scores.
            columns: panels in a row, the image included; None = as many as fit with 0.9 inches each.
            style: `width` ("double", "single", or inches), `theme` ("light" or "dark"), `colormap` (of
                `eclip.render.colormaps.COLORMAPS`) and `dpi` (of the raster panels), see `eclip.render.figure.figure`.

        Raises:
            OptionError: there is no such image, text or style, or no room for so many panels.
        """
        from eclip.explanation.figures import explanation_figure

        return explanation_figure(self, images, texts, columns, **style)

    def best_texts(self, image: Which = 0) -> list[int]:
        """Numbers of the texts that pictures show: all in order, or the twenty with the best scores, best first."""
        image = image_of(image, self.sources, self.texts)
        best: list[int] = np.argsort(-self.scores[image], kind="stable")[:MOST_PANELS].tolist()
        return best if len(self.texts) > MOST_PANELS else list(range(len(self.texts)))

    def mask(
        self, image: Which = 0, text: Which | None = None, threshold: Threshold | None = None
    ) -> Bool[np.ndarray, "height width"]:
        """The pixels where the heat map reaches a threshold, in the image's own size.

        The threshold is a number in [0, 1], as the heat map's values, or "otsu", found for this map; None = `level`.

        Raises:
            OptionError: the threshold is neither, or there is no such image or text.
        """
        return self.heatmap(image, text) >= self.level(image, text, threshold)

    def boxes(
        self,
        image: Which = 0,
        text: Which | None = None,
        threshold: Threshold | None = None,
        *,
        min_area: float | None = None,
    ) -> Int[np.ndarray, "box 4"]:
        """Boxes around the connected regions of `mask`, the largest region first.

        Specks are left out: regions with less than a tenth of the largest one's area or, if `min_area` is given, with a
        smaller share of the image than this, in [0, 1].

        Returns:
            Left, top, right, bottom of each box in pixels of the image; right and bottom are exclusive.
        """
        return heatmap.boxes(self.mask(image, text, threshold), min_area=min_area)

    def points(
        self, image: Which = 0, text: Which | None = None, k: int | None = 5
    ) -> tuple[Int[np.ndarray, "point 2"], Int[np.ndarray, " point"]]:
        """Point prompts for SAM's predictor, by CLIP Surgery's rule, at most `k` of each label; None = all it gives.

        Maps on pixels are first averaged over patches.

        Returns:
            Coordinates (x, y) in pixels of the image, and labels: 1 on the object, 0 off it.
        """
        image, text = image_and_text(image, text, self.sources, self.texts)
        cells = self._map(image, text)
        if self.provenance.get("refine") is not None:  # otherwise the highest pixels would be neighbors
            cells = heatmap.mean_over_cells(cells, tuple(self.provenance["grid"]))
        return heatmap.points(cells, self.sizes[image][::-1], k=k)

    def torch(self, device: Device | None = None) -> ExplanationTensors:
        """Maps, scores, heat maps and masks as torch tensors: `.maps`, `.scores`, `.heatmaps`, `.masks`.

        Args:
            device: where to; None = the device of the model that made this explanation, or the CPU if it was made by
                another process, as after `load`.

        Raises:
            DeviceError: it is not available, or of an unsupported type.
        """
        return tensors_of(self, device)

    sam = sam
    to_pandas = conversions.to_pandas
    to_coco = conversions.to_coco
    to_label_studio = conversions.to_label_studio
    to_fiftyone = conversions.to_fiftyone

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = FORMATS,
        *,
        overwrite: bool = False,
        max_side: int | None = None,
    ) -> Path:
        """Write overlays, arrays and one manifest.json into a folder, created if missing; returns it.

        Args:
            folder: where to write. An earlier explanation of the same images, or of some of them, is replaced;
                unrelated files are kept.
            formats: any of "png" or "jpg" (a strip per image, an overlay per text), "npz" (maps, scores), "json" (the
                manifest), "csv" (a table), "html" (a gallery), "coco" and "labelstudio" (annotations).
            overwrite: also replace results of another kind or of other images.
            max_side: longer side of pictures in pixels, at least 256; None = overlays as large as the image.

        Raises:
            ResultError: the folder holds results of another kind or of other images, another process is writing there,
                it cannot be written, or the disk is full.
            OptionError: a format is unknown, or max_side is too small.
        """
        with ExplanationWriter(folder, formats, overwrite=overwrite, max_side=max_side).over(self.sources) as writer:
            writer.add(self)
        return writer.folder

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read a folder that `save` wrote; images are opened from their files when needed.

        Raises:
            ResultError: the folder holds no explanation, it was saved without "npz" or "json", or its images have
                different grids.
        """
        return cls(**fields_in(Path(folder)))
