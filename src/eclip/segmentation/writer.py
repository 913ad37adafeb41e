"""What segmentations look like on disk: label maps, pictures, arrays, COCO's masks, and the one manifest over them."""

from __future__ import annotations

import itertools
import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.errors import ResultError
from eclip.results.command import question, settings, was_named
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Shaped

    from eclip.segmentation.segmentation import Segmentation

SEGMENT_SCHEMA, COCO = "eclip.segment/1", "coco.json"
LEAST_INSTANCE = 0.001
"""Regions with a smaller share of the image's pixels are no instances."""
IN_MEMORY = 1 << 24  # bytes of annotations; more wait on disk for the end of the run


def segment_command(sources: Sequence[str], provenance: dict[str, Any]) -> str | None:
    """The shell command that repeats it; None where a class is not among its words."""
    if any(name != words[0] for name, words in provenance["words"].items()):
        return None
    words = [
        "eclip",
        "segment",
        *question(sources, []),
        "--model",
        provenance["model"],
        "--method",
        provenance["method"],
    ]
    words += [f"--class={', '.join(synonyms)}" for synonyms in provenance["words"].values()]
    words += [f"--background={', '.join(provenance['background'])}"] if provenance["background"] else []
    for key in ("window", "stride", "scale", "prob_threshold", "area_threshold"):
        if provenance[key] is not None:
            words += [f"--{key.replace('_', '-')}", str(provenance[key])]
    if provenance["method"] == "eclip" and was_named(provenance["head"]):
        words += [f"--head={provenance['head']}"]
    words += ["--instances"] if provenance.get("instances") else []
    for key, value in provenance["options"].items():
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, *settings(provenance)])


class SegmentWriter(Folder):
    """Writes segmentations into a folder: a label map and a picture an image, arrays, COCO's masks, the manifest.

    The manifest is also what `eclip segment --json` prints:

        {"schema": "eclip.segment/1", "classes": [name of each label, ...], "provenance": {as
        `Segmentation.provenance`},
         "images": [{"source", "width", "height", "areas": {name: share}, "confidence": {name: mean},
                     "files": {"image", "labels", "picture", "npz"}}, ...],
         "failures": [{"source", "error"}, ...], "coco": "coco.json"}

    "labels" is a PNG whose values are the labels, with a palette as PASCAL VOC's (gray of 16 bits above 254 classes);
    "confidence" the mean over a class's pixels. The file coco.json has COCO's instances format: masks as runs,
    uncompressed, one annotation for each class and image, or for each connected region of `LEAST_INSTANCE` or more;
    "image_id" counts the photos of the manifest from 1, "category_id" is the label; background has no annotation.
    Otherwise as in `eclip.explanation.writer.Writer`.
    """

    fixed = (COCO,)

    def __init__(
        self, folder: str | Path, formats: Sequence[str] = FORMATS, *, instances: bool = False, overwrite: bool = False
    ) -> None:
        manifest: dict[str, Any] = {"schema": SEGMENT_SCHEMA, "classes": [], "provenance": None, "coco": None}
        super().__init__(folder, formats, manifest, overwrite=overwrite)
        self.instances = instances
        self._count = 0

    def __enter__(self) -> SegmentWriter:
        super().__enter__()
        self._annotations = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(self.folder))  # closed on leaving
        return self

    def __exit__(self, *reason: object) -> None:
        with self._annotations:
            try:
                if "json" in self.formats and self.manifest["images"]:
                    self.manifest["coco"] = self._put(COCO, self._coco())
            finally:
                super().__exit__(*reason)

    def add(self, segmentation: Segmentation, image: int = 0) -> dict[str, Any]:
        """Write the files of an image; returns its entry in the manifest."""
        from eclip import render  # here, so that the command line can check folder and formats first

        if self.manifest["provenance"] is None:
            provenance = {**segmentation.provenance, "instances": self.instances}
            provenance["command"] = segment_command(segmentation.sources, provenance) if provenance["command"] else None
            self.manifest |= {"classes": list(segmentation.classes), "provenance": provenance}
        labels, confidence = segmentation.labels[image], segmentation.confidences[image]
        source, picture = segmentation.sources[image], segmentation.images[image]
        stem, files = self._image(source, lambda: picture)
        if "png" in self.formats:
            files["labels"] = self._put(
                f"{stem}.labels.png", png(render.indexed(labels, len(segmentation.classes) - 1))
            )
            files["picture"] = self._put(f"{stem}.png", png(segmentation.picture(image)))
        if "npz" in self.formats:
            files["npz"] = self._arrays(stem, {"labels": labels, "confidence": confidence})
        notes = self._notes(labels) if "json" in self.formats else []
        areas = segmentation.areas(image)
        entry = {
            "source": source,
            "width": picture.width,
            "height": picture.height,
            "areas": {name: round(area, 6) for name, area in areas.items()},
            "confidence": {name: round(float(confidence[segmentation.mask(image, name)].mean()), 6) for name in areas},
            "files": files,
        }
        self.manifest["images"].append(entry)
        self._keep(notes)
        return entry

    def _notes(self, labels: Shaped[np.ndarray, "height width"]) -> list[bytes]:
        """A line for each annotation of the next image."""
        import numpy as np

        from eclip import heatmap

        image = len(self.manifest["images"]) + 1
        lines: list[bytes] = []
        for label in np.unique(labels[labels > 0]).tolist():
            mask = labels == label
            for region in heatmap.regions(mask, min_area=LEAST_INSTANCE) if self.instances else [mask]:
                number = self._count + len(lines) + 1
                note = {"id": number, "image_id": image, "category_id": label, **coco_mask(region), "iscrowd": 0}
                lines.append(f"{', ' if number > 1 else ''}{json.dumps(note)}\n".encode())
        return lines

    def _keep(self, notes: list[bytes]) -> None:
        try:
            self._annotations.writelines(notes)
        except OSError as error:
            raise ResultError(f"annotations cannot be kept in {str(self.folder)!r}: {error.strerror}.") from error
        self._count += len(notes)

    def _coco(self) -> Iterator[bytes]:
        """COCO's file, part by part."""
        images = [
            {"id": number, "file_name": one["source"], "width": one["width"], "height": one["height"]}
            for number, one in enumerate(self.manifest["images"], 1)
        ]
        names = [{"id": label, "name": name} for label, name in enumerate(self.manifest["classes"]) if label]
        head = json.dumps({"images": images, "categories": names}, ensure_ascii=False)
        yield (head.removesuffix("}") + ', "annotations": [\n').encode(errors="backslashreplace")
        self._annotations.seek(0)
        yield from itertools.islice(self._annotations, self._count)  # whole lines, whatever a failure left behind them
        yield b"]}\n"


def coco_mask(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """Of a mask with at least one pixel: "segmentation", "bbox" and "area", as COCO's annotations have them."""
    import numpy as np

    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(cols[0]), int(rows[0])
    return {
        "segmentation": {"counts": runs(mask), "size": list(mask.shape)},
        "bbox": [left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
    }


def runs(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Lengths of the runs of a mask, column by column, as COCO counts them: out, in, out, in; the first may be 0."""
    import numpy as np

    flat = mask.ravel(order="F")
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if flat[0] else lengths
