"""Options of `eclip explain` for tables, annotations, galleries, and the size of pictures."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.cli import options
from eclip.errors import OptionError
from eclip.results.folder import EXPORTS

if TYPE_CHECKING:
    from eclip.cli.many import Index

PARQUET = "parquet"
Sort = StrEnum("Sort", ["score", "presence", "area"])
_option = partial(typer.Option, rich_help_panel="Tables, galleries and pictures")
Format = Annotated[
    str,
    _option(
        "--format",
        help="Any of png or jpg (pictures), npz (maps), json (manifest), csv (table), html (gallery), pdf and svg "
        "(figures), coco and labelstudio (annotations), joined by commas; parquet alone: shards with a table.",
    ),
]
SortOption = Annotated[Sort | None, _option("--sort", help="Sort the table, and the gallery at first, best first.")]
MinPresence = Annotated[
    float | None, _option(help="Leave texts with less presence out of tables, annotations and gallery.")
]
Top = Annotated[
    int | None, _option(min=1, metavar="K", help="Keep the K best texts of each image, by --sort. Default: all.")
]
MaxSide = Annotated[
    int | None, _option(min=256, metavar="N", help="Longer side of pictures in pixels. Default: as the image.")
]


def with_parquet(formats: str, write: str | None, index: Index | None) -> tuple[str, str | None, Any]:
    """`--format parquet` as the options that it stands for: formats, --write and --index."""
    words = options.words(formats)
    if PARQUET not in words:
        return formats, write, index
    if len(words) > 1 or index not in (None, PARQUET):
        raise OptionError(
            "a table in Parquet is the index of shards, without other formats: use --format parquet alone, or "
            "--format csv with the others."
        )
    from eclip.cli.many import Index

    options.FORMAT_NAMED.set(False)
    return options.FORMAT, f"{write},table" if write else "table", Index.parquet


def check_selection(
    formats: list[str], sort: Sort | None, min_presence: float | None, top: int | None, *, presence: bool
) -> dict[str, Any]:
    """The arguments of `Selection`; `presence` says whether the run knows it."""
    given = {"--sort": sort, "--min-presence": min_presence, "--top": top}
    asked = [name for name, value in given.items() if value is not None]
    if asked and not set(formats) & set(EXPORTS):
        raise OptionError(f"{asked[0]} is for tables, annotations and galleries: add --format csv or --format html.")
    if min_presence is not None and not 0 <= min_presence <= 1:
        raise OptionError(f"--min-presence must be a number in [0, 1], got {min_presence:g}.")
    if not presence and (min_presence is not None or sort == Sort.presence):
        raise OptionError(
            f"{'--sort presence' if min_presence is None else '--min-presence'} needs the health checks, which are off "
            "with --no-health, and does not apply to a difference (--versus) or to examples alone (--like): leave one "
            "of them out."
        )
    return {"sort": None if sort is None else sort.value, "min_presence": min_presence, "top": top}


def check_pictures(formats: list[str], max_side: int | None) -> None:
    """Check that there are pictures whose size can be bounded."""
    if max_side is not None and not {"png", "jpg", "html"} & set(formats):
        raise OptionError("--max-side is for pictures: add --format png, jpg or html, or leave it out.")


def check_no_shards(why: str, sort: Sort | None, min_presence: float | None, top: int | None) -> None:
    """Check that no option is given that shards do not have."""
    for name, value in {"--sort": sort, "--min-presence": min_presence, "--top": top}.items():
        if value is not None:
            raise OptionError(
                f"{name} does not apply to {options.shards(why)}: sort and filter their index, as "
                "docs/tables.md shows, or use --format csv for images in files and folders."
            )
