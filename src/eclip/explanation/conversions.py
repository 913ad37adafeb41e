"""Explanations as annotations that other tools import: COCO, Label Studio, FiftyOne."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip import heatmap
from eclip.errors import MissingExtraError, OptionError
from eclip.explanation.rows import Selection, rows_of
from eclip.files import is_in_memory
from eclip.results.coco import coco_mask
from eclip.results.marks import MARK
from eclip.results.provenance import maker
from eclip.results.table import BOX, COLUMNS

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation

Chosen = Sequence[tuple[int, dict[str, Any]]]
"""Texts of an image with their rows: those to annotate."""
FROM_NAME, TO_NAME = "label", "image"
"""Names of Label Studio's tags, as in the labeling configuration of docs/tables.md."""


def chosen(explanation: Explanation, image: int, selection: Selection) -> Chosen:
    """The texts of an image that a selection keeps, with their rows."""
    rows = list(rows_of(explanation, image))
    return [(number, rows[number]) for number in selection.of_image(rows)]


def coco_head(texts: Sequence[str]) -> dict[str, Any]:
    """The fields "info" and "categories" of a COCO file; ids begin with 1, in the order of the texts."""
    return {
        "info": {"description": MARK.decode()},
        "categories": [{"id": number, "name": text} for number, text in enumerate(texts, 1)],
    }


def coco_image(explanation: Explanation, image: int, number: int) -> dict[str, Any]:
    """An entry of "images"; width and height are those of the upright image."""
    width, height = explanation.sizes[image]
    return {"id": number, "file_name": explanation.sources[image], "width": width, "height": height}


def coco_annotations(
    explanation: Explanation, image: int, texts: Chosen, number: int, first: int
) -> Iterator[dict[str, Any]]:
    """The annotations of an image, with this "image_id" and "id" of the first: each text's mask, unless it is empty."""
    for text, row in texts:
        mask = explanation.mask(image, text)
        if mask.any():
            ids = {"id": first, "image_id": number, "category_id": text + 1}
            told = {name: row[name] for name in ("score", "presence", "found")}
            yield {**ids, **coco_mask(mask), "iscrowd": 0, **told}
            first += 1


def to_coco(explanation: Explanation, *, min_presence: float | None = None) -> dict[str, Any]:
    """The masks as a COCO file, one annotation per image and text whose mask is not empty.

    "images" are numbered from 1, "categories" are the texts, numbered from 1. An annotation has its mask as
    uncompressed run lengths, "bbox" [x, y, width, height] around the whole mask and "area" in pixels, and besides
    COCO's fields "score", "presence" and "found", as in `to_pandas`.

    Args:
        explanation: of the images.
        min_presence: leave out texts with less presence, in [0, 1], or whose presence is unknown; None = all texts,
            absent ones too, whose maps say nothing.

    Raises:
        OptionError: min_presence is outside its range.
    """
    told: dict[str, Any] = {**coco_head(explanation.texts), "images": [], "annotations": []}
    for image in range(len(explanation.sources)):
        texts, first = chosen(explanation, image, Selection(min_presence=min_presence)), len(told["annotations"]) + 1
        told["images"].append(coco_image(explanation, image, image + 1))
        told["annotations"] += coco_annotations(explanation, image, texts, image + 1, first)
    return told


def to_label_studio(
    explanation: Explanation, *, min_presence: float | None = None, prefix: str = ""
) -> list[dict[str, Any]]:
    """Tasks for Label Studio's import, each with one prediction: a rectangle for each box of each text.

    Args:
        explanation: of the images.
        min_presence: as in `to_coco`.
        prefix: what Label Studio needs before the path of an image, such as "/data/local-files/?d=".

    Raises:
        OptionError: min_presence is outside its range.
    """
    own = Selection(min_presence=min_presence)
    images = range(len(explanation.sources))
    return [label_studio_task(explanation, one, chosen(explanation, one, own), prefix) for one in images]


def label_studio_task(explanation: Explanation, image: int, texts: Chosen, prefix: str = "") -> dict[str, Any]:
    """A task of Label Studio with one prediction: a rectangle for each box of each text, in percent of the image."""
    width, height = explanation.sizes[image]
    results = []
    for text, row in texts:
        for number, box in enumerate(explanation.boxes(image, text).tolist()):
            left, top, wide, high = _relative(box, width, height)
            sides = {"x": 100 * left, "y": 100 * top, "width": 100 * wide, "height": 100 * high, "rotation": 0}
            results.append(
                {
                    "id": f"{text}-{number}",
                    "type": "rectanglelabels",
                    "from_name": FROM_NAME,
                    "to_name": TO_NAME,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "score": row["score"],
                    "value": {**sides, "rectanglelabels": [row["text"]]},
                    "meta": {"presence": row["presence"], "found": row["found"]},
                }
            )
    scores = [row["score"] for _, row in texts]
    prediction = {"model_version": maker(explanation.provenance), "score": max(scores, default=0.0), "result": results}
    data = {"image": prefix + explanation.sources[image]}
    return {"meta": {"generator": MARK.decode()}, "data": data, "predictions": [prediction]}


def _relative(box: Sequence[int], width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of a box as shares of the image."""
    left, top, right, bottom = box
    return left / width, top / height, (right - left) / width, (bottom - top) / height


def to_fiftyone(explanation: Explanation, *, min_presence: float | None = None, field: str = "eclip") -> list[Any]:
    """FiftyOne samples, one per image, for `fiftyone.Dataset.add_samples`.

    The field holds a Detection with box, mask and "presence" for each region of each text; "confidence" is the score, a
    cosine.

    Args:
        explanation: of images in files.
        min_presence: as in `to_coco`.
        field: its name.

    Raises:
        MissingExtraError: fiftyone is not installed.
        OptionError: min_presence is outside its range, or an image is not in a file.
    """
    selection = Selection(min_presence=min_presence)
    try:
        import fiftyone as fo
    except ImportError:
        raise MissingExtraError("to_fiftyone", "fiftyone") from None
    samples = []
    for image, source in enumerate(explanation.sources):
        if is_in_memory(source) or not Path(source).is_file():
            raise OptionError(f"FiftyOne shows images from files, and {source!r} is not one: explain images by path.")
        width, height = explanation.sizes[image]
        found = []
        for text, row in chosen(explanation, image, selection):
            told = {name: row[name] for name in ("presence", "found")}
            for region in heatmap.regions(explanation.mask(image, text), min_area=None):
                box = heatmap.boxes(region)[0].tolist()
                left, top, right, bottom = box
                own = {"bounding_box": list(_relative(box, width, height)), "mask": region[top:bottom, left:right]}
                found.append(fo.Detection(label=row["text"], confidence=row["score"], **own, **told))
        sample = fo.Sample(filepath=str(Path(source).absolute()))
        sample[field] = fo.Detections(detections=found)
        samples.append(sample)
    return samples


def to_pandas(explanation: Explanation) -> Any:
    """A pandas DataFrame with one row per image and text; `eclip.explanation.rows` says what its columns are.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError("to_pandas", "pandas") from None
    rows = [row for image in range(len(explanation.sources)) for row in rows_of(explanation, image)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({**dict.fromkeys(BOX, "Int64"), "presence": "float64", "score": "float64"})
