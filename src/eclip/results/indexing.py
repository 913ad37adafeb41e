"""Selection of an image and a text by number, counted from 0 (or from the end, such as -1), or by name."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eclip.errors import OptionError

Which = int | str | Path | np.integer
"""A number, or a name."""
MOST_NAMED = 10


def number_of(which: Which, names: Sequence[str], what: str) -> int:
    """The index of the selected item, from 0.

    Args:
        which: a number from -count to count - 1, or one of the names.
        names: of all items.
        what: what the items are, in the singular: "text" or "class".

    Raises:
        OptionError: no item has this number or name, or several have the name.
    """
    if isinstance(which, str | Path):
        places = [place for place, name in enumerate(names) if name == str(which)]
        if len(places) == 1:
            return places[0]
        if places:
            raise OptionError(f"{_several(what)} {_listed(places)} are all named {str(which)!r}: use the number.")
        raise OptionError(f"there is no {what} {str(which)!r}{_near(str(which), names, what)}")
    try:
        if isinstance(which, bool | np.bool_):
            raise TypeError
        number = operator.index(which)
    except TypeError:
        raise OptionError(f"{what} must be a number or a name, got {which!r}.") from None
    if not -len(names) <= number < len(names):
        raise OptionError(f"there is no {what} {number}: there {_count(len(names), what)}.")
    return number % len(names)


def image_of(which: Which, sources: Sequence[str], texts: Sequence[str] = ()) -> int:
    """The index of an image, from 0; its name is its path, or the file name if that is unique.

    Args:
        which: a number or a name.
        sources: of the images.
        texts: names that are not images but could be passed by mistake.

    Raises:
        OptionError: there is no such image, or several have that name.
    """
    if isinstance(which, str | Path) and str(which) not in sources:
        short = [Path(source).name for source in sources]
        if str(which) in short:
            return number_of(which, short, "image")
        if str(which) in texts:
            raise OptionError(f"{str(which)!r} is not an image: use the number or the path of an image here.")
    return number_of(which, sources, "image")


def images_of(which: Which | Sequence[Which], sources: Sequence[str], texts: Sequence[str] = ()) -> list[int]:
    """The indices of one image or of several, each as in `image_of`.

    Raises:
        OptionError: none is named, there is no such image, or several have that name.
    """
    some = several(which)
    if not some:
        raise OptionError("at least one image is needed: name it by number, path or file name.")
    return [image_of(one, sources, texts) for one in some]


def several(which: Any) -> Sequence[Any]:
    """What was asked for, one or several, as a sequence; arrays and tensors of one axis are several."""
    if isinstance(which, Sequence) and not isinstance(which, str):
        return which
    listed: list[Any] = which.tolist() if getattr(which, "ndim", 0) == 1 else [which]
    return listed


def image_and_text(image: Which, text: Which | None, sources: Sequence[str], texts: Sequence[str]) -> tuple[int, int]:
    """The indices of an image and a text; for the name of a text alone, the first image and that text.

    Raises:
        OptionError: there is no such image or text, or several have that name.
    """
    name = str(image) if isinstance(image, str) else None
    if name is not None and name not in sources and name not in {Path(source).name for source in sources}:
        if text is None:
            return 0, number_of(name, texts, "text")
        if name in texts:
            raise OptionError(f"there is no image {name!r}: the image comes first, as in (0, {name!r}).")
    return image_of(image, sources, texts), number_of(0 if text is None else text, texts, "text")


def _count(count: int, what: str) -> str:
    if count == 0:
        return f"are no {_several(what)}"
    return f"is 1 {what}, number 0" if count == 1 else f"are {count} {_several(what)}, numbered 0 to {count - 1}"


def _several(what: str) -> str:
    return f"{what}es" if what.endswith("s") else f"{what}s"


def _listed(places: Sequence[int]) -> str:
    return ", ".join(map(str, places[:-1])) + f" and {places[-1]}"


def _near(which: str, names: Sequence[str], what: str) -> str:
    if not names:
        return f"; there are no {_several(what)}."
    folded = {name.strip().casefold(): name for name in reversed(names)}
    near = difflib.get_close_matches(which.strip().casefold(), folded, n=1, cutoff=0.5)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f"; there {'is' if len(names) == 1 else 'are'} {', '.join(names[:MOST_NAMED])}{more}.{hint}"
