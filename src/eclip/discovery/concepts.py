"""Concepts, the result of `concepts` for one image; saving, and the command that repeats it."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from eclip import render
from eclip.explanation.explanation import Explanation
from eclip.render.overlay import ALPHA
from eclip.results.command import inputs, options, settings
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png
from eclip.results.provenance import maker, named


@dataclass(frozen=True, eq=False)
class Concepts:
    """The concepts of one image, heaviest first.

    Attributes:
        explanation: where each concept is: an Explanation of this image, whose texts are the concepts' names.
        weights: of each concept, above 0. SpLiCE's are coefficients of words, MSAE's are latents; do not compare them.
        cosine: of the image's feature with its reconstruction from all concepts in use, in [-1, 1].
        beyond_mean: the same after subtracting the image mean; None for MSAE, which has none.
        used: how many concepts reconstruct the feature; `weights` holds the heaviest of them.
        available: how many concepts there are: words of the vocabulary, or latents.
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
        """The path of the image, or "image 0" for one given in memory."""
        return self.explanation.sources[0]

    @property
    def provenance(self) -> dict[str, Any]:
        """Model, vocabulary, penalty, method, versions, the command that repeats it."""
        return self.explanation.provenance

    def __repr__(self) -> str:
        """The names with their weights."""
        named = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(self.names, self.weights, strict=True))
        return f"Concepts({named or 'none'}; {self.used} of {self.available} in use, cosine {self.cosine:.2f})"

    def _repr_png_(self) -> bytes:
        return png(self.picture())

    def picture(self) -> Image.Image:
        """The image, and one overlay per concept with its weight; each map spans its own range.

        Colors fade with the weight: to half of the opacity, plus half of it times the square root of the weight
        relative to the heaviest.
        """
        answer = self.explanation
        places, weights = range(len(self.names)), self.weights.tolist()
        told: dict[str, Any] = {"texts": self.names, "scores": weights, "what": "weight"}
        told["notes"] = [f"{maker(answer.provenance)}. {NOTE}"]
        told["alphas"] = [ALPHA * (1 + math.sqrt(weight / weights[0])) / 2 for weight in weights]
        maps, edges = (answer.shown(0, text) for text in places), (answer.edge(0, text) for text in places)
        return render.strip(answer.shared(), maps, signed=answer.signed, edges=edges, **told)

    def save(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> Path:
        """Write the picture, arrays and manifest.json into a folder, as `eclip concepts` does.

        Args:
            folder: where to write. Earlier concepts of the same image are replaced; unrelated files are kept.
            formats: any of "png", "npz" and "json".
            overwrite: also replace results of another kind or of another image.

        Raises:
            ResultError: the folder holds results of another kind or of another image, another process is writing there,
                it cannot be written, or the disk is full.
            OptionError: a format is unknown.
        """
        with ConceptsWriter(folder, formats, overwrite=overwrite).over([self.source]) as writer:
            writer.add(self)
        return writer.folder


NOTE = "Each map spans its own range, and the line encloses its mask; the weight says how much the concept counts."
CONCEPTS_SCHEMA, MEAN = "eclip.concepts/1", "image_mean.npy"


def concepts_command(sources: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats concepts with this provenance."""
    words = ["eclip", "concepts", *inputs(sources), "--model", provenance["model"], "--count", str(provenance["count"])]
    for key in ("vocabulary", "msae", "latents", "l1", "image_mean", "mean_from"):
        words += [] if provenance.get(key) is None else [f"--{key.replace('_', '-')}={provenance[key]}"]
    words += ["--method", provenance["method"]] if "msae" not in provenance else []
    return shlex.join([*words, *options("--set", provenance["options"]), *settings(provenance)])


class ConceptsWriter(Folder):
    """Writes concepts into a folder: a picture and a file of arrays per image, and the manifest.

    The manifest is also what `eclip concepts --json` prints:

        {"schema": "eclip.concepts/1", "provenance": {as `Concepts.provenance`},
         "images": [{"source", "width", "height", "grid": [row, col], "concepts": {name: weight},
                     "scores": {name: score}, "cosine", "beyond_mean", "used", "available",
                     "files": {"image", "picture", "npz"}}, ...],
         "failures": [{"source", "error"}, ...]}

    Concepts are ordered by weight, the heaviest first; the npz file holds maps (concept, row, col), weights and scores.
    Otherwise as in `eclip.explanation.folder.ExplanationWriter`.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> None:
        super().__init__(folder, formats, {"schema": CONCEPTS_SCHEMA, "provenance": None}, overwrite=overwrite)
        self._mean: bytes | None = None

    def _own(self, name: str) -> bool:
        return super()._own(name) or (name == MEAN and self._before is not None)  # left by an earlier run

    def keep_mean(self, mean: np.ndarray) -> Path:
        """Hold an image mean until the first image is finished, so that a run without any replaces nothing.

        Returns the file that it will be in, which the manifest names as "image_mean"; errors as in `check_free`.
        """
        self.check_free(MEAN)
        buffer = io.BytesIO()
        np.save(buffer, mean)
        self._mean = buffer.getvalue()
        return self.folder / MEAN

    def add(self, concepts: Concepts) -> dict[str, Any]:
        """Write the files of an image's concepts; returns its entry in the manifest."""
        if self.manifest["provenance"] is None:
            own = {} if self._mean is None else {"image_mean": str(self.folder / MEAN)}
            self.manifest["provenance"] = {**concepts.provenance, **own}
        stem, files = self._image(concepts.source, concepts.explanation.shared)
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
        if self._mean is not None:
            self._put(MEAN, self._mean)
            self._mean = None
        self.manifest["images"].append(entry)
        return entry
