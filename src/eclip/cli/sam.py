"""`eclip explain --sam`: masks of a Segment Anything model for the points and boxes of the maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from eclip.backbones.catalog import SAM_EXAMPLE, sam_folder
from eclip.cli import options
from eclip.cli.errors import stop
from eclip.errors import ModelError, OptionError

SamOption = Annotated[
    str | None,
    typer.Option(
        "--sam",
        metavar="MODEL",
        help=f"Also masks of a Segment Anything model for each text: ORG/NAME, such as {SAM_EXAMPLE}, or a folder.",
    ),
]


def check_sam(name: str | None, formats: Sequence[str], shards: str, *, as_json: bool) -> None:
    """Check that the name of a SAM is valid, and that its masks have a place in the results.

    `shards` says why shards are written, in words; it is empty if they are not.
    """
    if name is None:
        return
    try:
        sam_folder(name)
    except ModelError as error:  # a usage error here; the same class while loading is not
        stop(str(error), 2)
    if shards:
        raise OptionError(
            f"--sam does not apply to {options.shards(shards)}: leave one of them out, or use --format png,json "
            "for images in files and folders."
        )
    if not (as_json or {"png", "jpg", "json"} & set(formats)):
        raise OptionError("--sam writes masks as pictures and run lengths: add --format png or --format json.")


def lines_of(masks: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A line for each text of an image about its best mask, of the "sam" in a manifest."""
    for text, told in masks.items():
        if not told["masks"]:
            yield f"{text}: no mask of SAM, since the map gives neither a point nor a box"
            continue
        best, doubt = told["masks"][0], f" ({told['doubt']})" if told["doubt"] else ""
        numbers = [f"predicted IoU {best['predicted_iou']:.2f}", f"{best['area']:.0%} of the image"]
        if best["agreement"] is not None:
            numbers.append(f"IoU with the map's mask {best['agreement']:.2f}")
        places = [f"{best[place]:.2f} {place}" for place in ("inside", "outside") if best[place] is not None]
        yield f"{text}{doubt}: SAM's best mask: {', '.join(numbers)}, map {' and '.join(places)}"
