"""Comparison, the result of `compare`: methods side by side on one image; saving, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from eclip import render
from eclip.explanation.explanation import Explanation
from eclip.explanation.figures import figure_files
from eclip.files import slug
from eclip.methods import DEFAULT_WITH_HEAD, METHODS
from eclip.results.command import head, inputs, options, settings
from eclip.results.folder import FIGURES, FORMATS, Folder
from eclip.results.indexing import Which
from eclip.results.marks import png
from eclip.results.provenance import head_of, named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[str, str]
"""The names of a model and a method."""
SCHEMA = "eclip.compare/1"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The maps of several methods for one image.

    Attributes:
        image: RGB, upright; a copy, which may be drawn on.
        source: its path, or "image 0" for one given in memory.
        texts: as given.
        pairs: all (model, method) compared, in order.
        explanations: of this image, by (model, method).
        not_applicable: why there is no explanation, by (model, method).
        provenance: models, methods, settings, versions, the command that repeats it. With provenance["versus"],
            maps and scores are for the difference between each text and that one.
        shared: the image that pictures begin with; it must not be drawn on.
    """

    image: Image.Image
    source: str
    texts: tuple[str, ...]
    pairs: tuple[Pair, ...]
    explanations: dict[Pair, Explanation]
    not_applicable: dict[Pair, str]
    provenance: dict[str, Any]
    shared: Image.Image = field(init=False, repr=False)

    def __post_init__(self) -> None:
        vars(self).update(shared=self.image, image=self.image.copy())

    def __repr__(self) -> str:
        models = ", ".join(dict.fromkeys(model for model, _ in self.pairs))
        maps, without = len(self.explanations), len(self.not_applicable)
        return f"Comparison({self.source}, {len(self.texts)} texts, {maps} maps, {without} not applicable, on {models})"

    def _repr_png_(self) -> bytes:
        return png(self.picture())

    @property
    def costs(self) -> dict[Pair, float]:
        """Time for a method and its refinement, forward pass included, in multiples of the model's forward pass.

        1.0 is a method that adds no time. Each time is the best of several after a warm-up; methods with many passes
        run once, without a warm-up.
        """
        spent = {pair: explanation.seconds for pair, explanation in self.explanations.items()}
        return {pair: spent_on(seconds) / seconds["forward"] for pair, seconds in spent.items()}

    def picture(self, scale: str = "map") -> Image.Image:
        """All maps in one picture: one row per method, one column per text.

        Args:
            scale: "map": colors span the range of each map. "row": colors span the range of each method over all
                texts, so that its texts can be compared, and an absent object does not look present.

        Raises:
            OptionError: the scale is neither.
        """
        sections = [self._section(model) for model in dict.fromkeys(model for model, _ in self.pairs)]
        return render.grid(self.shared, sections, texts=self.texts, versus=self.provenance["versus"], scale=scale)

    def figure(
        self, texts: Which | Sequence[Which] | None = None, methods: Sequence[str] | None = None, **style: Any
    ) -> Figure:
        """A figure for a paper: the image and a column per method, a row per text; style as in `Explanation.figure`.

        Args:
            texts: number or text of one or several; None = all.
            methods: names; None = all that are applicable.
            style: `width`, `theme`, `colormap` and `dpi`.

        Raises:
            OptionError: there is no such text, method or style, or no room for so many panels.
        """
        from eclip.explanation.figures import comparison_figure

        return comparison_figure(self, texts, methods, **style)

    def _section(self, model: str) -> render.Section:
        rows = tuple(self._row(pair) for pair in self.pairs if pair[0] == model)
        answer = next((one for pair, one in self.explanations.items() if pair[0] == model), None)
        if answer is None:
            return render.Section(model, "none of these methods is applicable", None, rows)
        row, col = answer.provenance["grid"]
        doubts = () if answer.health is None else answer.health.doubts()
        note = f"forward pass {_time(answer.seconds['forward'])} · {row} x {col} patches"
        note += f", maps refined by {answer.provenance['refine']}" if answer.provenance["refine"] else ""
        with_head = self.explanations.get((model, DEFAULT_WITH_HEAD))
        note += f" · eclip{head_of(with_head.provenance)}" if with_head is not None else ""
        return render.Section(model, note, answer.scores[0], rows, doubts)

    def _row(self, pair: Pair) -> render.Row:
        name, kind = pair[1], METHODS[pair[1]].kind
        kind = f"{kind}, whatever the text" if kind == "attention" else kind
        if pair in self.not_applicable:
            return render.Row(name, kind, gap=self.not_applicable[pair])
        answer = self.explanations[pair]
        cost = f"{_time(spent_on(answer.seconds))} · {_times(self.costs[pair])}"
        cost += ", one run" if METHODS[name].kind == "perturbation" else ""
        levels = [answer.level(0, text) for text in range(len(self.texts))]
        return render.Row(name, kind, cost, answer.drawn(0), signed=METHODS[name].signed, levels=levels)

    def save(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, *, scale: str = "map", overwrite: bool = False
    ) -> Path:
        """Write the picture, one file of arrays and manifest.json into a folder, by the rules of `Explanation.save`.

        The formats are any of "png", "npz" (arrays model/method and model/scores), "json" (the manifest), and "pdf" and
        "svg" (the figure). The scale is as in `picture`.
        """
        render.check_scale(scale)
        with ComparisonWriter(folder, formats, scale, overwrite=overwrite).over([self.source]) as writer:
            writer.add(self)
        return writer.folder


class ComparisonWriter(Folder):
    """Writes comparisons into a folder: a picture and a file of arrays per image, and the manifest.

    The manifest is also what `eclip compare --json` prints:

        {"schema": "eclip.compare/1", "texts": [text, ...], "provenance": {as `Comparison.provenance`, and "scale"},
         "images": [{"source", "width", "height",
                     "maps": [{"model", "method", "array", "grid": [row, col], "map": [row, col], "signed",
                               "scores": {text: score}, "seconds": {"forward", "method"}, "cost"}, ...],
                     "not_applicable": [{"model", "method", "why"}, ...],
                     "files": {"image", "picture", "npz", "pdf", "svg"}}, ...],
         "failures": [{"source", "error"}, ...]}

    Each "array" of the npz file is (text, row, col), raw; MODEL/scores has the scores. "cost" is from
    `Comparison.costs`. Otherwise as in `ExplanationWriter`.
    """

    known = (*FORMATS, *FIGURES)

    def __init__(
        self,
        folder: str | Path,
        formats: Sequence[str] = FORMATS,
        scale: str = "map",
        *,
        overwrite: bool = False,
        style: dict[str, Any] | None = None,
    ) -> None:
        self.style = style or {}
        super().__init__(folder, formats, {"schema": SCHEMA, "texts": [], "provenance": None}, overwrite=overwrite)
        self.scale = scale

    def add(self, comparison: Comparison) -> dict[str, Any]:
        """Write the files of a comparison; returns its entry in the manifest."""
        if self.manifest["provenance"] is None:
            provenance = {**comparison.provenance, "scale": self.scale}
            if provenance["command"]:
                provenance["command"] = compare_command([comparison.source], comparison.texts, provenance)
            self.manifest |= {"texts": list(comparison.texts), "provenance": provenance}
        stem, files = self._image(comparison.source, lambda: comparison.shared)
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
        files |= figure_files(self.formats, stem, lambda: comparison.figure(**self.style), self._put)
        gaps = comparison.not_applicable.items()
        entry = {
            "source": comparison.source,
            "width": comparison.image.width,
            "height": comparison.image.height,
            "maps": maps,
            "not_applicable": [{"model": model, "method": method, "why": why} for (model, method), why in gaps],
            "files": files,
        }
        self.manifest["images"].append(entry)
        return entry


def _unlike(names: Iterable[str]) -> dict[str, str]:
    """A unique name for each that is valid in a path."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = slug(name) or "model"
        taken = sum(other == short or other.startswith(f"{short}.") for other in found.values())
        found[name] = f"{short}.{taken + 1}" if taken else short  # a slug holds no dots
    return found


def compare_command(sources: Sequence[str], texts: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats a comparison with this provenance of its manifest."""
    methods = provenance["methods"] if isinstance(provenance["methods"], str) else ",".join(provenance["methods"])
    words = ["eclip", "compare", *inputs(sources, texts, provenance), "--models", ",".join(provenance["models"])]
    words += ["--methods", methods]
    for model in provenance["models"].values():  # a named head implies a single model
        words += head(model["head"], provenance["methods"])
    for method, values in provenance["options"].items():
        words += options("--set", {f"{method}.{key}": value for key, value in values.items()})
    return shlex.join([*words, "--scale", provenance["scale"], *settings(provenance)])


def spent_on(seconds: dict[str, float]) -> float:
    """Time for a method and its refinement, forward pass included, without health checks."""
    return sum(seconds.get(part, 0.0) for part in ("forward", "method", "refine"))


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms" if seconds < 0.00995 else f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 99.5 else f"{seconds:,.0f} s"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:,.0f}x"
