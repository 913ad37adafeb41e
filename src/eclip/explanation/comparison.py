"""Comparison, what `compare` answers: methods side by side on one image; on disk; the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eclip import render
from eclip.explanation.explanation import Explanation
from eclip.files import slug
from eclip.methods import METHODS
from eclip.results.command import head, inputs, settings
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png
from eclip.results.provenance import named

Pair = tuple[str, str]
"""A model and a method, by their names."""
SCHEMA = "eclip.compare/1"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What several methods say of one image.

    Attributes:
        image: RGB, upright.
        source: its path, or "image 0" for one that came from memory.
        texts: as given.
        pairs: all (model, method) that were asked, in order.
        explanations: by (model, method), of this one image.
        not_applicable: by (model, method), why there is no explanation.
        provenance: models, methods, settings, versions, the command that repeats it. With provenance["versus"],
            maps and scores are those of the difference between each text and that one.
    """

    image: Image.Image
    source: str
    texts: tuple[str, ...]
    pairs: tuple[Pair, ...]
    explanations: dict[Pair, Explanation]
    not_applicable: dict[Pair, str]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        """One line: what was compared."""
        models = ", ".join(dict.fromkeys(model for model, _ in self.pairs))
        maps, without = len(self.explanations), len(self.not_applicable)
        return f"Comparison({self.source}, {len(self.texts)} texts, {maps} maps, {without} not applicable, on {models})"

    def _repr_png_(self) -> bytes:
        """The picture, as notebooks show it."""
        return png(self.picture())

    @property
    def costs(self) -> dict[Pair, float]:
        """What one waits for a method, and a refinement of its maps, in times of the model's forward pass alone.

        1.0 is a method for nothing.
        """
        spent = {pair: explanation.seconds for pair, explanation in self.explanations.items()}
        return {pair: sum(seconds.values()) / seconds["forward"] for pair, seconds in spent.items()}

    def picture(self, scale: str = "map") -> Image.Image:
        """All maps in one picture: a row a method, a column a text.

        Args:
            scale: "map": colors run from the least to the most of each map. "row": of each method over all texts, so
                that its texts can be compared, and a thing that is absent does not look present.

        Raises:
            OptionError: another scale.
        """
        models = dict.fromkeys(model for model, _ in self.pairs)
        sections = [self._section(model) for model in models]
        return render.grid(self.image, sections, texts=self.texts, versus=self.provenance["versus"], scale=scale)

    def _section(self, model: str) -> render.Section:
        rows = tuple(self._row(pair) for pair in self.pairs if pair[0] == model)
        answer = next((one for pair, one in self.explanations.items() if pair[0] == model), None)
        if answer is None:
            return render.Section(model, "none of these methods has a meaning here", None, rows)
        row, col = answer.provenance["grid"]
        note = f"forward pass {_time(answer.seconds['forward'])} · {row} x {col} patches"
        note += f", maps refined by {answer.provenance['refine']}" if answer.provenance["refine"] else ""
        return render.Section(model, note, answer.scores[0], rows)

    def _row(self, pair: Pair) -> render.Row:
        name, kind = pair[1], METHODS[pair[1]].kind
        kind = f"{kind}, whatever the text" if kind == "attention" else kind
        if pair in self.not_applicable:
            return render.Row(name, kind, gap=self.not_applicable[pair])
        answer = self.explanations[pair]
        cost = f"{_time(sum(answer.seconds.values()))} · {_times(self.costs[pair])}"
        return render.Row(name, kind, cost, answer.drawn(0), signed=METHODS[name].signed)

    def save(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, *, scale: str = "map", overwrite: bool = False
    ) -> Path:
        """Write the picture, one file of arrays and manifest.json into a folder, made if it is missing.

        Args:
            folder: where. An earlier comparison on the same image is replaced; files of others stay as they are.
            formats: any of "png", "npz" (arrays model/method and model/scores), "json" (the manifest).
            scale: as in `picture`.
            overwrite: replace results of another kind, or of another image, as well.

        Returns:
            The folder.

        Raises:
            ResultError: the folder holds results of another kind or of another image, another process is writing there,
                it cannot be written, or the disk is full.
            OptionError: an unknown format or scale.
        """
        render.check_scale(scale)
        with ComparisonWriter(folder, formats, scale, overwrite=overwrite).over([self.source]) as writer:
            writer.add(self)
        return writer.folder


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
    `Comparison.costs`. Otherwise as in `ExplanationWriter`.
    """

    def __init__(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, scale: str = "map", *, overwrite: bool = False
    ) -> None:
        super().__init__(folder, formats, {"schema": SCHEMA, "texts": [], "provenance": None}, overwrite=overwrite)
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
        arrays: dict[str, np.ndarray] = {}
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


def compare_command(sources: Sequence[str], texts: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats a comparison; `provenance` is that of a Comparison's manifest."""
    methods = provenance["methods"] if isinstance(provenance["methods"], str) else ",".join(provenance["methods"])
    words = [
        "eclip",
        "compare",
        *inputs(sources, texts),
        "--models",
        ",".join(provenance["models"]),
        "--methods",
        methods,
    ]
    for model in provenance["models"].values():  # where one has a named head, it stands alone
        words += head(model["head"], provenance["methods"])
    return shlex.join([*words, "--scale", provenance["scale"], *settings(provenance)])


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms" if seconds < 0.00995 else f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 99.5 else f"{seconds:,.0f} s"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:,.0f}x"
