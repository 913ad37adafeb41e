"""What results look like on disk: pictures, arrays, and the one manifest over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.files import slug
from eclip.results.command import compare_command
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png
from eclip.results.provenance import named

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eclip.explanation.compare import Comparison
    from eclip.explanation.explanation import Explanation

SCHEMA, COMPARE_SCHEMA = "eclip.explain/1", "eclip.compare/1"


class Writer(Folder):
    """Writes explanations into a folder: a strip an image, an overlay a text, arrays, the manifest.

    The manifest is also what `eclip explain --json` prints:

        {"schema": "eclip.explain/1", "texts": [text, ...], "signed": bool, "provenance": {as `Explanation.provenance`},
         "images": [{"source", "width", "height", "grid": [row, col], "map": [row, col], "scores": {text: score},
                     "health": {text: {"sensitivity", "polarity", "artefacts", "presence", "warnings"}},
                     "files": {"image", "npz", "strip", "overlays": {text: file}}}, ...],
         "failures": [{"source", "error"}, ...]}

    "health" is null if it was not asked, and so is a number of it that is not applicable. "grid" counts patches, as in
    "how"; "map" is the grid of the maps, finer if a refinement drew them on pixels. Files are relative to the folder,
    "image" may be absolute; those of formats not asked for are absent. "texts" is empty, "signed" and
    "provenance" are null where no image was explained.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> None:
        manifest: dict[str, Any] = {"schema": SCHEMA, "texts": [], "signed": None, "provenance": None}
        super().__init__(folder, formats, manifest, overwrite=overwrite)

    def add(self, explanation: Explanation) -> list[dict[str, Any]]:
        """Write the files of an explanation; returns its entries in the manifest."""
        if self.manifest["provenance"] is None:
            self.manifest |= {
                "texts": list(explanation.texts),
                "signed": explanation.signed,
                "provenance": explanation.provenance,
            }
        entries = [self._add(explanation, image) for image in range(len(explanation.sources))]
        self.manifest["images"] += entries
        return entries

    def _add(self, explanation: Explanation, image: int) -> dict[str, Any]:
        name, health = explanation.sources[image], explanation.health
        stem, files = self._image(name, lambda: explanation.image(image))
        if "npz" in self.formats:
            arrays = {"maps": explanation.maps[image], "scores": explanation.scores[image]}
            arrays |= {} if explanation.flat is None else {"flat": explanation.flat[image]}
            files["npz"] = self._arrays(stem, arrays if health is None else {**arrays, **health.arrays(image)})
        if "png" in self.formats:
            files["strip"] = self._put(f"{stem}.png", png(explanation.strip(image)))
            files["overlays"] = {
                explanation.texts[text]: self._put(
                    f"{stem}.{text}-{slug(explanation.texts[text])}".rstrip("-") + ".png",
                    png(explanation.overlay(image, text)),
                )
                for text in explanation.best_texts(image)
            }
        width, height = explanation.sizes[image]
        shape = list(explanation.maps.shape[2:])
        sides = {"width": width, "height": height, "grid": explanation.provenance.get("grid", shape), "map": shape}
        numbers = {
            "scores": named(explanation.texts, explanation.scores[image]),
            "health": None if health is None else health.noted(image),
        }
        return {"source": name, **sides, **numbers, "files": files}


class ComparisonWriter(Folder):
    """Writes comparisons into a folder: a picture and one file of arrays an image, the manifest.

    The manifest is also what `eclip compare --json` prints:

        {"schema": "eclip.compare/1", "texts": [text, ...], "provenance": {as `Comparison.provenance`, and "scale"},
         "images": [{"source", "width", "height",
                     "maps": [{"model", "method", "array", "grid": [row, col], "map": [row, col], "signed",
                               "scores": {text: score}, "seconds": {"forward", "method"}, "cost"}, ...],
                     "not_applicable": [{"model", "method", "why"}, ...],
                     "files": {"image", "picture", "npz"}}, ...],
         "failures": [{"source", "error"}, ...]}

    Each "array" of the npz file is (text, row, col), raw; beside it stands MODEL/scores. "cost" is that of
    `Comparison.costs`. Otherwise as in `Writer`.
    """

    def __init__(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, scale: str = "map", *, overwrite: bool = False
    ) -> None:
        super().__init__(
            folder, formats, {"schema": COMPARE_SCHEMA, "texts": [], "provenance": None}, overwrite=overwrite
        )
        self.scale = scale

    def add(self, comparison: Comparison) -> dict[str, Any]:
        """Write the files of a comparison; returns its entry in the manifest."""
        if self.manifest["provenance"] is None:
            provenance = {**comparison.provenance, "scale": self.scale}
            provenance["command"] = (
                compare_command([comparison.source], comparison.texts, provenance) if provenance["command"] else None
            )
            self.manifest |= {"texts": list(comparison.texts), "provenance": provenance}
        entry = self._add(comparison)
        self.manifest["images"].append(entry)
        return entry

    def _add(self, comparison: Comparison) -> dict[str, Any]:
        stem, files = self._image(comparison.source, lambda: comparison.image)
        arrays: dict[str, NDArray[Any]] = {}
        maps = []
        folders = _unlike(model for model, _ in comparison.explanations)
        for (model, method), explanation in comparison.explanations.items():
            name = f"{folders[model]}/{method}"
            arrays |= {name: explanation.maps[0], f"{folders[model]}/scores": explanation.scores[0]}
            maps.append(
                {
                    "model": model,
                    "method": method,
                    "array": name,
                    "grid": explanation.provenance["grid"],
                    "map": list(explanation.maps.shape[2:]),
                    "signed": explanation.signed,
                    "scores": named(comparison.texts, explanation.scores[0]),
                    "seconds": {what: round(seconds, 6) for what, seconds in explanation.seconds.items()},
                    "cost": round(comparison.costs[model, method], 4),
                }
            )
        if "png" in self.formats:
            files["picture"] = self._put(f"{stem}.compare.png", png(comparison.picture(self.scale)))
        if "npz" in self.formats:
            files["npz"] = self._arrays(stem, arrays)
        not_applicable = [
            {"model": model, "method": method, "why": why} for (model, method), why in comparison.not_applicable.items()
        ]
        shape = dict(zip(("width", "height"), comparison.image.size, strict=True))
        return {"source": comparison.source, **shape, "maps": maps, "not_applicable": not_applicable, "files": files}


def _unlike(names: Iterable[str]) -> dict[str, str]:
    """A name for each that can stand in a path, unlike all others."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = slug(name) or "model"
        taken = sum(other == short or other.startswith(f"{short}.") for other in found.values())
        found[name] = f"{short}.{taken + 1}" if taken else short  # a slug holds no dots
    return found
