"""The folder that explanations are saved in, and the shell command that repeats one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.errors import ResultError
from eclip.explanation.exports import Exports
from eclip.explanation.figures import figure_files
from eclip.explanation.rows import Selection
from eclip.files import slug
from eclip.registry import whole
from eclip.results.command import head, inputs, options, settings
from eclip.results.folder import EXPLAIN_FORMATS, FORMATS, WAYS_OUT, Folder
from eclip.results.marks import jpeg, png
from eclip.results.provenance import named

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation
    from eclip.explanation.sam import SamMasks

SCHEMA = "eclip.explain/1"
LEAST_SIDE = 256
"""The smallest `max_side`: legends do not fit into smaller pictures."""


class ExplanationWriter(Folder):
    """Writes explanations into a folder: a strip per image, an overlay per text, arrays and the manifest.

    The manifest is also what `eclip explain --json` prints:

        {"schema": "eclip.explain/1", "texts": [text, ...], "signed": bool, "provenance": {as `Explanation.provenance`},
         "images": [{"source", "width", "height", "grid": [row, col], "map": [row, col], "scores": {text: score},
                     "health": {text: {"sensitivity", "polarity", "artefacts", "presence", "emptiness", "warnings"}},
                     "files": {"image", "npz", "strip", "overlays": {text: file}, "pdf", "svg", "more": [file, ...]}},
                    ...],
         "failures": [{"source", "error"}, ...]}

    "health" is null if the checks were off, and so is each number that does not apply. "grid" counts patches; "map" is
    the shape of the maps, finer if a refinement returned them on pixels. Files are relative to the folder; "image" may
    be absolute. If no image was explained, "texts" is empty, and "signed" and "provenance" are null. "exports" {format:
    file} lists the files for all images, if any were asked for. Of equal texts, "overlays" has the last
    one's, and "more" those of the others.

    With masks of SAM, an entry has "sam" {text: {"points": [[x, y, label], ...], "box", "doubt", "masks":
    [{"predicted_iou", "area", "agreement", "inside", "outside", "segmentation": {"size", "counts"}}, ...]}}: `SamMask`
    says what they are, and "doubt" is that of `Explanation.doubt`, or null. "files" has "sam" {text: [file, ...]}.

    Args:
        folder: its path.
        formats: some of `EXPLAIN_FORMATS`; "png" or "jpg" for the pictures.
        overwrite: replace the results of another run.
        selection: what tables, annotations and the gallery hold.
        max_side: longer side of pictures in pixels, at least `LEAST_SIDE`; None = overlays as large as the image.
        entries: keep the entries of the manifest in memory even if it is not written.
        style: of figures ("pdf", "svg"), as in `Explanation.figure`.

    Attributes:
        warned: how many images have health warnings.
    """

    known = EXPLAIN_FORMATS

    def __init__(
        self,
        folder: str | Path,
        formats: Sequence[str] = FORMATS,
        *,
        overwrite: bool = False,
        selection: Selection | None = None,
        max_side: int | None = None,
        entries: bool = False,
        style: dict[str, Any] | None = None,
    ) -> None:
        self.style = style or {}
        self.max_side = check_max_side(max_side)
        manifest: dict[str, Any] = {"schema": SCHEMA, "texts": [], "signed": None, "provenance": None}
        super().__init__(folder, formats, manifest, overwrite=overwrite)
        self.exports = Exports(formats, selection or Selection(), self.max_side)
        self.warned, self._entries = 0, entries or "json" in formats

    def __exit__(self, *reason: object) -> None:
        try:
            if files := self.exports.finish():
                self.manifest["exports"] = files
        finally:
            super().__exit__(*reason)

    def _look(self) -> None:
        super()._look()
        for name in self.exports.files.values():
            if (path := self.folder / name).exists() and not (self.overwrite or self._own(name)):
                raise ResultError(f"{path} already exists, and no manifest says which images it is of: {WAYS_OUT}.")

    def add(self, explanation: Explanation, sam: SamMasks | None = None) -> list[dict[str, Any]]:
        """Write the files of an explanation, with SAM's masks for it, if any; returns its entries in the manifest."""
        if self.manifest["provenance"] is None:
            self.manifest |= {"texts": list(explanation.texts), "signed": explanation.signed}
            provenance = explanation.provenance if sam is None else sam.noted_provenance()
            selection = {name: value for name, value in vars(self.exports.selection).items() if value is not None}
            if selection:  # which belongs to these formats
                provenance = {**provenance, "selection": {"format": ",".join(self.formats), **selection}}
            self.manifest["provenance"] = provenance
        entries = [self._add(explanation, image, sam) for image in range(len(explanation.sources))]
        self.warned += sum(any(one["warnings"] for one in (entry["health"] or {}).values()) for entry in entries)
        self.manifest["images"] += entries if self._entries else [None] * len(entries)  # else only their number counts
        return entries

    def _add(self, explanation: Explanation, image: int, sam: SamMasks | None) -> dict[str, Any]:
        name, health, flat = explanation.sources[image], explanation.health, explanation.flat
        stem, files = self._image(name, lambda: explanation.shared(image))
        if "npz" in self.formats:
            arrays = {"maps": explanation.maps[image], "scores": explanation.scores[image]}
            arrays |= {} if flat is None else {"flat": flat[image]}
            files["npz"] = self._arrays(stem, arrays if health is None else {**arrays, **health.arrays(image)})
        if ending := next((one for one in ("png", "jpg") if one in self.formats), None):
            encoded, side = png if ending == "png" else jpeg, self.max_side
            files["strip"] = self._put(f"{stem}.{ending}", encoded(explanation.strip(image, max_side=side)))
            files["overlays"] = {}
            for number in explanation.best_texts(image):
                text, overlay = explanation.texts[number], encoded(explanation.overlay(image, number, max_side=side))
                own = f"{stem}.{number}-{slug(text)}".rstrip("-")
                if text in files["overlays"]:  # equal texts: a later run must find all files
                    files.setdefault("more", []).append(files["overlays"][text])
                files["overlays"][text] = self._put(f"{own}.{ending}", overlay)
                if sam is not None:
                    masks = [png(one.picture()) for one in sam.of(image, number)]
                    names = [self._put(f"{own}.sam-{rank}.png", mask) for rank, mask in enumerate(masks, 1)]
                    files.setdefault("sam", {}).setdefault(text, []).extend(names)
        files |= figure_files(self.formats, stem, lambda: explanation.figure(image, **self.style), self._put)
        self.exports.add(explanation, image, self.folder, self._put)
        (width, height), doubts = explanation.sizes[image], None if health is None else health.noted(image)
        shape, scores = list(explanation.maps.shape[2:]), named(explanation.texts, explanation.scores[image])
        sides = {"width": width, "height": height, "grid": explanation.provenance.get("grid", shape), "map": shape}
        entry = {"source": name, **sides, "scores": scores, "health": doubts, "files": files}
        return entry if sam is None else {**entry, "sam": sam.noted(image)}


def check_max_side(max_side: int | None) -> int | None:
    """The longer side of pictures, if it is given and large enough for a legend."""
    return None if max_side is None else whole(max_side, "max_side", "a whole number of pixels", least=LEAST_SIDE)


def explain_command(sources: Sequence[str], texts: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats an explanation with this provenance."""
    words = ["--model", provenance["model"], "--method", provenance["method"]]
    words += [*head(provenance["head"], provenance["method"]), *settings(provenance)]
    words += [*options("--set", provenance["options"]), *(["--no-health"] if provenance["health"] is None else [])]
    words += [f"--sam={provenance['sam']['model']}"] if provenance.get("sam") is not None else []
    for name, value in provenance.get("selection", {}).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(["eclip", "explain", *inputs(sources, texts, provenance), *words])
