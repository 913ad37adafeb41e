"""Concepts of an image as a record, what it leaves on disk, and the command that repeats it."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from eclip import heatmap, render
from eclip.explanation.explanation import Explanation
from eclip.results.command import inputs, options, settings
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png
from eclip.results.provenance import named


@dataclass(frozen=True, eq=False)
class Concepts:
    """The concepts of one image, those of most weight first.

    Attributes:
        explanation: where each is: an Explanation of this one image, whose texts are the concepts' names.
        weights: of each concept, above 0. SpLiCE's make a sum of words, MSAE's are latents; the two do not compare.
        cosine: of the image's feature with the feature that all concepts in use make up again, in [-1, 1].
        beyond_mean: the same for what is left of the feature without the image mean; None for MSAE, which has none.
        used: how many concepts make it up; `weights` holds the heaviest of them.
        available: how many there are: words of the vocabulary, or latents.
    """

    explanation: Explanation
    weights: Float[np.ndarray, " concept"]
    cosine: float
    beyond_mean: float | None
    used: int
    available: int

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts' names."""
        return self.explanation.texts

    @property
    def maps(self) -> Float[np.ndarray, "concept row col"]:
        """Where each concept is, raw, on the patch grid."""
        return self.explanation.maps[0]

    @property
    def source(self) -> str:
        """The image's path, or "image 0" for one that came from memory."""
        return self.explanation.sources[0]

    @property
    def provenance(self) -> dict[str, Any]:
        """What repeats it: model, vocabulary, penalty, method, versions, the command."""
        return self.explanation.provenance

    def __repr__(self) -> str:
        """The names with their weights."""
        named = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(self.names, self.weights, strict=True))
        return f"Concepts({named or 'none'}; {self.used} of {self.available} in use, cosine {self.cosine:.2f})"

    def _repr_png_(self) -> bytes:
        return png(self.picture())

    def picture(self) -> Image.Image:
        """The image, and one overlay a concept with its weight; the less weight, the dimmer."""
        return drawn(self)

    def save(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> Path:
        """Write the picture, arrays and manifest.json into a folder, as `eclip concepts` does.

        Args:
            folder: where. Earlier concepts of the same image are replaced; files of others stay as they are.
            formats: any of "png", "npz" and "json".
            overwrite: replace results of another kind, or of another image, as well.

        Raises:
            ResultError: the folder holds results of another kind or of another image, another process is writing there,
                it cannot be written, or the disk is full.
            OptionError: an unknown format.
        """
        with ConceptsWriter(folder, formats, overwrite=overwrite).over([self.source]) as writer:
            writer.add(self)
        return writer.folder


CONCEPTS_SCHEMA, MEAN = "eclip.concepts/1", "image_mean.npy"


def concepts_command(sources: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats it; `provenance` is that of Concepts."""
    words = [
        "eclip",
        "concepts",
        *inputs(sources),
        "--model",
        provenance["model"],
        "--count",
        str(provenance["count"]),
    ]
    for key in ("vocabulary", "msae", "latents", "l1", "image_mean", "mean_from"):
        words += [] if provenance.get(key) is None else [f"--{key.replace('_', '-')}={provenance[key]}"]
    words += ["--method", provenance["method"]] if "msae" not in provenance else []
    return shlex.join([*words, *options("--set", provenance["options"]), *settings(provenance)])


def drawn(concepts: Concepts) -> Image.Image:
    """The picture of an image's concepts, each map dimmed: times the root of its weight's share of the greatest.

    The share itself would leave most maps too dark to see where they are.
    """
    explanation, weights = concepts.explanation, concepts.weights.tolist()
    shown = heatmap.signed if explanation.signed else heatmap.normalize
    panels = (
        shown(torch.from_numpy(one)).numpy() * math.sqrt(weight / weights[0])
        for one, weight in zip(explanation.drawn(), weights, strict=True)
    )
    image, signed = explanation.image(), explanation.signed
    return render.strip(image, panels, signed=signed, texts=concepts.names, scores=weights, what="weight")


class ConceptsWriter(Folder):
    """Writes concepts into a folder: a picture and one file of arrays an image, the manifest.

    The manifest is also what `eclip concepts --json` prints:

        {"schema": "eclip.concepts/1", "provenance": {as `Concepts.provenance`},
         "images": [{"source", "width", "height", "grid": [row, col], "concepts": {name: weight},
                     "scores": {name: score}, "cosine", "beyond_mean", "used", "available",
                     "files": {"image", "picture", "npz"}}, ...],
         "failures": [{"source", "error"}, ...]}

    Concepts are in order, the heaviest first; the npz file holds maps (concept, row, col), weights and scores.
    Otherwise as in `eclip.explanation.explanation.ExplanationWriter`.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> None:
        super().__init__(folder, formats, {"schema": CONCEPTS_SCHEMA, "provenance": None}, overwrite=overwrite)

    def _own(self, name: str) -> bool:
        return super()._own(name) or (name == MEAN and self._before is not None)  # one of an earlier run's

    def keep_mean(self, mean: np.ndarray) -> Path:
        """Write an image mean; returns its file, for `image_mean`.

        Raises:
            ResultError: there is one that no run of this kind left there, see `check_free`; or it cannot be written.
        """
        self.check_free(MEAN)
        buffer = io.BytesIO()
        np.save(buffer, mean)
        return self.folder / self._put(MEAN, buffer.getvalue())

    def add(self, concepts: Concepts) -> dict[str, Any]:
        """Write the files of an image's concepts; returns its entry in the manifest."""
        if self.manifest["provenance"] is None:
            self.manifest["provenance"] = concepts.provenance
        stem, files = self._image(concepts.source, concepts.explanation.image)
        if "npz" in self.formats:
            arrays = {"maps": concepts.maps, "weights": concepts.weights, "scores": concepts.explanation.scores[0]}
            files["npz"] = self._arrays(stem, arrays)
        if "png" in self.formats:
            files["picture"] = self._put(f"{stem}.concepts.png", png(concepts.picture()))
        width, height = concepts.explanation.sizes[0]
        entry = {
            "source": concepts.source,
            "width": width,
            "height": height,
            "grid": list(concepts.maps.shape[1:]),
            "concepts": named(concepts.names, concepts.weights),
            "scores": named(concepts.names, concepts.explanation.scores[0]),
            "cosine": round(concepts.cosine, 6),
            "beyond_mean": None if concepts.beyond_mean is None else round(concepts.beyond_mean, 6),
            "used": concepts.used,
            "available": concepts.available,
            "files": files,
        }
        self.manifest["images"].append(entry)
        return entry
