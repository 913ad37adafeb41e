"""What concepts look like on disk: a picture and one file of arrays a photo, the one manifest over them."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.results.command import question, settings
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png
from eclip.results.provenance import named

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from eclip.discovery.discover import Concepts

CONCEPTS_SCHEMA, MEAN = "eclip.concepts/1", "image_mean.npy"


def concepts_command(sources: Sequence[str], how: dict[str, Any]) -> str:
    """The shell command that repeats it; `how` is that of Concepts."""
    words = ["eclip", "concepts", *question(sources, []), "--model", how["model"], "--count", str(how["count"])]
    for key in ("vocabulary", "msae", "latents", "l1", "image_mean", "mean_from"):
        if how.get(key) is not None:
            words += [f"--{key.replace('_', '-')}={how[key]}"]
    words += ["--method", how["method"]] if "msae" not in how else []
    for key, value in how["options"].items():
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, *settings(how)])


def drawn(concepts: Concepts) -> Image.Image:
    """The picture of a photo's concepts, each map dimmed: times the root of its weight's share of the greatest.

    The share itself would leave most maps too dark to see where they are.
    """
    import torch  # here, so that the command line can check folder and formats first

    from eclip import heatmap, render

    explanation, weights = concepts.explanation, concepts.weights.tolist()
    shown = heatmap.signed if explanation.signed else heatmap.normalize
    panels = (
        shown(torch.from_numpy(one)).numpy() * math.sqrt(weight / weights[0])
        for one, weight in zip(explanation.drawn(), weights, strict=True)
    )
    photo, signed = explanation.photo(), explanation.signed
    return render.strip(photo, panels, signed=signed, texts=concepts.names, scores=weights, what="weight")


class ConceptsWriter(Folder):
    """Writes concepts into a folder: a picture and one file of arrays a photo, the manifest.

    The manifest is also what `eclip concepts --json` prints:

        {"schema": "eclip.concepts/1", "how": {as `Concepts.how`},
         "photos": [{"source", "width", "height", "grid": [row, col], "concepts": {name: weight},
                     "scores": {name: score}, "cosine", "beyond_mean", "used", "available",
                     "files": {"photo", "picture", "npz"}}, ...],
         "failures": [{"source", "error"}, ...]}

    Concepts are in order, the heaviest first; the npz file holds maps (concept, row, col), weights and scores.
    Otherwise as in `eclip.explanation.writer.Writer`.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, overwrite: bool = False) -> None:
        super().__init__(folder, formats, {"schema": CONCEPTS_SCHEMA, "how": None}, overwrite=overwrite)

    def _own(self, name: str) -> bool:
        return super()._own(name) or (name == MEAN and self._before is not None)  # one of an earlier run's

    def keep_mean(self, mean: NDArray[Any]) -> Path:
        """Write an image mean; returns its file, for `image_mean`.

        Raises:
            ResultError: there is one that no run of this kind left there, see `check_free`; or it cannot be written.
        """
        import numpy as np  # here, so that the command line can check folder and formats first

        self.check_free(MEAN)
        buffer = io.BytesIO()
        np.save(buffer, mean)
        return self.folder / self._put(MEAN, buffer.getvalue())

    def add(self, concepts: Concepts) -> dict[str, Any]:
        """Write the files of a photo's concepts; returns its entry in the manifest."""
        if self.manifest["how"] is None:
            self.manifest["how"] = concepts.how
        stem, files = self._photo(concepts.source, concepts.explanation.photo)
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
        self.manifest["photos"].append(entry)
        return entry
