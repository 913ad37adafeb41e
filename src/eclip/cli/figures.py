"""Options of figures for print, `--format pdf` and `--format svg`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from eclip.errors import OptionError
from eclip.results.folder import FIGURES

Theme = StrEnum("Theme", ["light", "dark"])
_option = partial(typer.Option, rich_help_panel="Figures (--format pdf,svg)")
Width = Annotated[str | None, _option(help="single or double (columns of a paper), or inches. Default: double.")]
ThemeOption = Annotated[Theme | None, _option("--theme", help="Default: light.")]
Colormap = Annotated[str | None, _option(help="eclip, cividis, inferno, magma, plasma or viridis. Default: eclip.")]
Dpi = Annotated[int | None, _option(min=30, max=1200, help="Pixels of the maps per inch. Default: 300.")]
Columns = Annotated[int | None, _option(min=1, help="Panels in a row, the image included. Default: as many as fit.")]


def style_of(
    formats: Sequence[str],
    width: str | None,
    theme: Theme | None,
    colormap: str | None,
    dpi: int | None,
    columns: int | None = None,
) -> dict[str, Any]:
    """The style of the figures, checked; of what was given only.

    Raises:
        OptionError: there is no figure that it could be for, or one is outside its range.
    """
    given: dict[str, Any] = {
        "width": width,
        "theme": None if theme is None else theme.value,
        "colormap": colormap,
        "dpi": dpi,
        "columns": columns,
    }
    style = {name: value for name, value in given.items() if value is not None}
    if not set(formats) & set(FIGURES):
        if style:
            raise OptionError(
                f"--{next(iter(style))} is for figures: add --format pdf or --format svg, or leave it out."
            )
        return {}
    if width is not None:
        with suppress(ValueError):
            style["width"] = float(width)
    from eclip.render.figure import check_style

    check_style(**{name: value for name, value in style.items() if name != "columns"})
    return style
