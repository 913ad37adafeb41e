"""The folder that explanations are saved in, and the shell command that repeats one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.files import slug
from eclip.results.command import head, inputs, options, settings
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png
from eclip.results.provenance import named

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation

SCHEMA = "eclip.explain/1"


class ExplanationWriter(Folder):
    """Writes explanations into a folder: a strip per image, an overlay per text, arrays and the manifest.

    The manifest is also what `eclip explain --json` prints:

        {"schema": "eclip.explain/1", "texts": [text, ...], "signed": bool, "provenance": {as `Explanation.provenance`},
         "images": [{"source", "width", "height", "grid": [row, col], "map": [row, col], "scores": {text: score},
                     "health": {text: {"sensitivity", "polarity", "artefacts", "presence", "emptiness", "warnings"}},
                     "files": {"image", "npz", "strip", "overlays": {text: file}}}, ...],
         "failures": [{"source", "error"}, ...]}

    "health" is null if the checks were off, and so is each number that does not apply. "grid" counts patches; "map" is
    the shape of the maps, finer if a refinement returned them on pixels. Files are relative to the folder; "image" may
    be absolute. If no image was explained, "texts" is empty, and "signed" and "provenance" are null.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> None:
        manifest: dict[str, Any] = {"schema": SCHEMA, "texts": [], "signed": None, "provenance": None}
        super().__init__(folder, formats, manifest, overwrite=overwrite)

    def add(self, explanation: Explanation) -> list[dict[str, Any]]:
        """Write the files of an explanation; returns its entries in the manifest."""
        if self.manifest["provenance"] is None:
            self.manifest |= {"texts": list(explanation.texts), "signed": explanation.signed}
            self.manifest["provenance"] = explanation.provenance
        entries = [self._add(explanation, image) for image in range(len(explanation.sources))]
        self.manifest["images"] += entries
        return entries

    def _add(self, explanation: Explanation, image: int) -> dict[str, Any]:
        name, health, flat = explanation.sources[image], explanation.health, explanation.flat
        stem, files = self._image(name, lambda: explanation.image(image))
        if "npz" in self.formats:
            arrays = {"maps": explanation.maps[image], "scores": explanation.scores[image]}
            arrays |= {} if flat is None else {"flat": flat[image]}
            files["npz"] = self._arrays(stem, arrays if health is None else {**arrays, **health.arrays(image)})
        if "png" in self.formats:
            files["strip"] = self._put(f"{stem}.png", png(explanation.strip(image)))
            files["overlays"] = {}
            for number in explanation.best_texts(image):
                text, overlay = explanation.texts[number], png(explanation.overlay(image, number))
                files["overlays"][text] = self._put(f"{stem}.{number}-{slug(text)}".rstrip("-") + ".png", overlay)
        (width, height), doubts = explanation.sizes[image], None if health is None else health.noted(image)
        shape, scores = list(explanation.maps.shape[2:]), named(explanation.texts, explanation.scores[image])
        sides = {"width": width, "height": height, "grid": explanation.provenance.get("grid", shape), "map": shape}
        return {"source": name, **sides, "scores": scores, "health": doubts, "files": files}


def explain_command(sources: Sequence[str], texts: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats an explanation with this provenance."""
    words = ["--model", provenance["model"], "--method", provenance["method"]]
    words += [*head(provenance["head"], provenance["method"]), *settings(provenance)]
    words += [*options("--set", provenance["options"]), *(["--no-health"] if provenance["health"] is None else [])]
    return shlex.join(["eclip", "explain", *inputs(sources, texts), *words])
