"""Examples to look for in place of a text: images, regions, folders, vectors, and sums and differences of these.

Image features lie apart from text features, in a cone of their own: the modality gap (Liang et al. 2022,
https://arxiv.org/abs/2203.02053). Methods read maps with text features. So where the image mean of the model is known,
an example is moved across the gap, by the difference of the mean of common nouns and that of images; docs/like.md
has what this is worth. Our own; SpLiCE (Bhalla et al. 2024) subtracts the same mean to describe images in words.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import unit
from eclip.backbones.image_mean import known_mean
from eclip.backbones.view import View
from eclip.errors import ImageError, OptionError, ShapeError, TextError
from eclip.files import read_array
from eclip.images import EXTENSIONS, ImageLike, find_images, name_of, open_image
from eclip.pixels import TensorLike
from eclip.registry import whole
from eclip.texts.encode import check_texts, encode_texts
from eclip.texts.features import check_given, unit_features
from eclip.texts.reference import reference_features

Box = tuple[int, int, int, int]
VECTOR = ".npy"
TEXT = "text:"
"""What begins a text in a specification, where all else is a file."""
LEAST_NORM = 1e-4
"""Of a sum of unit vectors; a shorter one is what rounding left."""
_REGION = re.compile(r"(?P<file>.+):(?P<box>-?\d+(?:,-?\d+){3})")
_SIGN = re.compile(r"\s+([+-])\s+")


@dataclass(frozen=True, eq=False)
class Example:
    """One part of a `Like`.

    Attributes:
        what: a text; a vector (feature); or images.
        box: left, top, right, bottom in pixels of the upright image, right and bottom exclusive; None = all of it.
        spec: how a command writes it; None if it is in memory.
        name: what results call it.
    """

    what: str | Tensor | tuple[ImageLike, ...]
    box: Box | None
    spec: str | None
    name: str

    def pictures(self) -> Iterable[Image.Image]:
        """Its images, cut to the box.

        Raises:
            ImageError: one cannot be read.
            OptionError: the box is not inside the image.
        """
        assert isinstance(self.what, tuple)
        for source in self.what:
            image = open_image(source)
            if self.box is not None:
                left, top, right, bottom = self.box
                if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
                    raise OptionError(
                        f"the region of {self.name} is not inside the image, which has {image.width} x {image.height} "
                        "pixels: give left, top, right and bottom, from the top left."
                    )
                image = image.crop(self.box)
            yield image


@dataclass(frozen=True, eq=False, repr=False)
class Like:
    """What to look for by example, from `like`; `+` and `-` combine it with others and with texts.

    Its direction is the weighted sum of the unit features of its parts.

    Attributes:
        parts: with their weights.
        image_mean: of the model, see `like`.
        given: the name that the user chose, if any.
    """

    parts: tuple[tuple[float, Example], ...]
    image_mean: Any = None
    given: str | None = None

    @property
    def name(self) -> str:
        """What results call it, such as "like mug.jpg" or "like mug.jpg - a cup"."""
        return self.given or f"like {_joined([(weight, part.name) for weight, part in self.parts])}"

    @property
    def spec(self) -> str | None:
        """What `--like` takes to repeat it; None if a part is in memory, or it is weighted."""
        mean = self.image_mean is None or isinstance(self.image_mean, str | Path)
        plain = mean and self.given is None and all(abs(weight) == 1 for weight, _ in self.parts)
        specs = [(weight, part.spec) for weight, part in self.parts if part.spec is not None]
        alone = len(self.parts) == 1 and not isinstance(self.parts[0][1].what, str) and self.parts[0][1].box is None
        split = not alone and any(_SIGN.search(f" {spec} ") for _, spec in specs)  # it would be read as a sum
        whole = plain and len(specs) == len(self.parts) and specs[0][0] > 0 and not split
        return _joined(specs) if whole else None

    def by_path(self) -> Like:
        """The same, with the paths of files in its name."""
        return replace(
            self, parts=tuple((weight, replace(part, name=part.spec or part.name)) for weight, part in self.parts)
        )

    def __repr__(self) -> str:
        return f"Like({self.name!r})"

    def __add__(self, other: Like | str) -> Like:
        return self._with(other, 1)

    def __sub__(self, other: Like | str) -> Like:
        return self._with(other, -1)

    def __radd__(self, other: str | int) -> Like:
        if isinstance(other, int) and other == 0:  # where `sum` begins
            return self
        return _of_text(other)._with(self, 1) if isinstance(other, str) else NotImplemented

    def __rsub__(self, other: str) -> Like:
        return _of_text(other)._with(self, -1) if isinstance(other, str) else NotImplemented

    def __mul__(self, weight: float) -> Like:
        if not isinstance(weight, int | float | np.integer | np.floating):
            return NotImplemented
        if not math.isfinite(weight):
            raise OptionError(f"the weight of an example must be finite, got {weight}.")
        return replace(self, parts=tuple((weight * own, part) for own, part in self.parts), given=None)

    __rmul__ = __mul__

    def _with(self, other: Like | str, sign: float) -> Like:
        other = _of_text(other) if isinstance(other, str) else other
        if not isinstance(other, Like):
            return NotImplemented
        means = [one.image_mean for one in (self, other) if one.image_mean is not None]
        paths = all(isinstance(one, str | Path) for one in means)
        if any(one is not means[0] and not (paths and one == means[0]) for one in means):
            raise OptionError("two parts of a sum have different image means: give one of them, or the same.")
        return Like((*self.parts, *(other * sign).parts), means[0] if means else None)

    def encoded(
        self, backbone: Backbone, view: View, templates: str | Sequence[str]
    ) -> tuple[Float[Tensor, " feature"], dict[str, Any]]:
        """Its unit feature, and what provenance says about it.

        Args:
            backbone: the model.
            view: how it sees images.
            templates: of texts, see `eclip.encode_texts`.

        Raises:
            ImageError: an image cannot be read.
            OptionError: a region is not inside its image, or the image mean does not fit.
            ShapeError: a vector does not have the model's feature size.
            TextError: the parts cancel each other.
        """
        images = any(isinstance(part.what, tuple) for _, part in self.parts)
        mean = known_mean(backbone, self.image_mean) if images else None
        across = None if mean is None else reference_features(backbone)[1].mean(dim=0) - mean
        digest, directions = hashlib.sha256(), []
        if mean is not None:
            digest.update(mean.cpu().numpy().tobytes())
        for weight, part in self.parts:
            digest.update(f"{weight} {part.box}".encode())
            if isinstance(part.what, str):
                digest.update(part.what.encode())
                found = encode_texts(backbone, [part.what], templates)[0]
            elif isinstance(part.what, Tensor):
                digest.update(part.what.numpy().tobytes())
                found = check_given(part.what[None], backbone, [part.name], "none", None)[0]
            else:
                found = _mean_feature(part, backbone, view, digest)
                found = found if across is None else unit((found + across)[None])[0]
            directions.append(weight * found)
        total = torch.stack(directions).sum(dim=0)
        if float(total.norm()) < LEAST_NORM:
            raise TextError(f"the parts of {self.name!r} cancel each other, so there is no direction to look for.")
        gap = None if not images else "kept" if across is None else "closed"
        place = str(self.image_mean) if isinstance(self.image_mean, str | Path) else None
        made = {"like": self.spec, "image_mean": place, "gap": gap, "sha256": digest.hexdigest()[:16]}
        return unit_features(total[None])[0], made  # a single one keeps its bits


def like(
    *examples: ImageLike, box: Sequence[int] | None = None, name: str | None = None, image_mean: Any = None
) -> Like:
    """What to look for by example, in place of a text.

    Sums and differences are written as such: `like("mug.jpg") + "in a kitchen" - "a spoon"`. Strings in them are texts.

    Args:
        examples: one or more images, whose sum is looked for: paths, PIL images, arrays or tensors; a path with
            a region, "street.jpg:40,60,120,180"; a folder, which stands for the mean of its images; or a vector of the
            model's feature size, as a tensor, an array or a .npy file, which is used as it is.
        box: left, top, right, bottom in pixels, the region of a single image.
        name: what results call it; None = made of the names of files.
        image_mean: of the model, see `eclip.image_mean`: an array, or a .npy file; None = that of `mini`, for others
            none. With it, images are moved across the modality gap to where texts are.

    Raises:
        OptionError: no example, one that is not of these kinds, or a region that is not four whole numbers, or of
            a vector or a folder.
        ImageError: a file or folder does not exist, or has no image.
        TextError: a vector is not finite, or zero.
    """
    if not examples:
        raise OptionError('like needs an example, such as like("mug.jpg").')
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise OptionError(f"the name of an example must be a string that is not empty, or None, got {name!r}.")
    parts = [_example(one) for one in examples]
    if box is not None:
        [first, *more] = parts
        if more:
            raise OptionError("box is a region of a single image.")
        parts = [_region(first, box)]
    return Like(tuple((1.0, part) for part in parts), image_mean, name)


def read_like(spec: str, image_mean: str | Path | None = None) -> Like:
    """The example that a command line specifies.

    Args:
        spec: an image, a region "street.jpg:40,60,120,180", a folder, a .npy file, or "text:a cup"; or several of
            these, joined by " + " or " - ".
        image_mean: as in `like`.

    Raises:
        ImageError: a file does not exist.
        OptionError: a part is empty.
    """
    pieces = [spec] if os.path.exists(spec) else [one.strip() for one in _SIGN.split(f" {spec.strip()} ")]
    found: Like | None = None
    for sign, piece in zip(["+", *pieces[1::2]], pieces[::2], strict=True):
        if piece in ("", TEXT):
            raise OptionError(f"--like {spec!r} has an empty part: write FILE, or several joined by ' + ' or ' - '.")
        one = _of_text(piece[len(TEXT) :].strip()) if piece.startswith(TEXT) else like(piece, image_mean=image_mean)
        found = one if found is None else found + one if sign == "+" else found - one
    assert found is not None, "a string has a first piece"
    return found


def _example(given: Any) -> Example:
    if isinstance(given, Like):
        raise OptionError("like takes images and vectors; add examples with +.")
    if isinstance(given, str | Path):
        return _of_path(str(given))
    if getattr(given, "ndim", 0) == 2 and "float" in str(given.dtype):
        raise ShapeError(
            f"an example of shape {tuple(given.shape)} may be features or a gray image: pass one vector, (feature,), "
            "such as features[0], or an image with channels."
        )
    if not isinstance(given, Image.Image | np.ndarray | TensorLike):
        raise OptionError(f"an example must be a path, an image, an array or a tensor, got {type(given).__name__}.")
    if getattr(given, "ndim", 0) == 1:
        values = given if isinstance(given, Tensor) else np.asarray(given)
        return Example(_vector(values, "the vector"), None, None, "vector")
    return Example((given,), None, None, name_of(given, 0))


def _of_path(given: str) -> Example:
    path = Path(given)
    region = None if os.path.exists(given) else _REGION.fullmatch(given)
    if region is not None:
        return _region(_of_path(region["file"]), map(int, region["box"].split(",")))
    if path.suffix.lower() == VECTOR and os.path.isfile(given):
        try:
            values = read_array(path)
        except (OSError, ValueError) as error:
            raise OptionError(f"cannot read the vector {given!r} as a .npy file: {error}.") from None
        return Example(_vector(values, f"the vector {given!r}"), None, given, path.name)
    if os.path.isdir(given):
        images, problems = find_images([given])
        if problems:
            raise ImageError(problems[0][1])
        return Example(tuple(one.absolute() for one in images), None, given, f"{path.name or path.resolve().name}/")
    if not os.path.isfile(given):
        hint = f" An example is a file; write {TEXT}{given} for a text in a sum." if not path.suffix else ""
        raise ImageError(f"{given}: no such file.{hint}")
    return Example((path.absolute(),), None, given, path.name)


def _of_text(text: str) -> Like:
    if Path(text).suffix.lower() in {*EXTENSIONS, VECTOR}:
        raise OptionError(f"{text!r} in a sum is a text, but looks like a file: write like({text!r}).")
    [text] = check_texts(text)
    return Like(((1.0, Example(text, None, f"{TEXT}{text}", text)),))


def _region(part: Example, box: Any) -> Example:
    folder = part.spec is not None and os.path.isdir(part.spec)
    if not isinstance(part.what, tuple) or part.box is not None or folder:
        raise OptionError(f"a region is of a whole image, and {part.name} is none.")
    numbers = list(box) if isinstance(box, Iterable) and not isinstance(box, str) else []
    if len(numbers) != 4:
        raise OptionError(f"a region is four whole numbers, left, top, right and bottom, got {box!r}.")
    left, top, right, bottom = (whole(one, "each side of a region", "a whole number of pixels") for one in numbers)
    said = f"{left},{top},{right},{bottom}"
    spec = None if part.spec is None else f"{part.spec}:{said}"
    return replace(part, box=(left, top, right, bottom), spec=spec, name=f"{part.name}:{said}")


def _vector(values: Tensor | np.ndarray, name: str) -> Float[Tensor, " feature"]:
    if isinstance(values, np.ndarray):
        if values.dtype.kind != "f":
            raise OptionError(f"{name} must hold floating-point numbers, got {values.dtype}.")
        dtype = np.float64 if values.dtype.itemsize > 4 else np.float32
        values = torch.from_numpy(values.astype(dtype))  # in this machine's byte order, and no view
    if values.ndim != 1:
        raise ShapeError(f"{name} must be one vector, (feature,), got shape {tuple(values.shape)}.")
    return unit_features(values.detach().cpu()[None])[0]


def _mean_feature(part: Example, backbone: Backbone, view: View, digest: Any) -> Float[Tensor, " feature"]:
    """The mean of the unit features of its images."""
    features = []
    for image in part.pictures():
        digest.update(image.tobytes())
        features.append(unit(view.encode(backbone, [image], 0).feature)[0])
    return torch.stack(features).mean(dim=0)


def _joined(pieces: Sequence[tuple[float, str]]) -> str:
    """Pieces with their weights as a sum: "a + b - 0.5 c"."""
    said = ""
    for weight, piece in pieces:
        sign = " - " if weight < 0 else " + " if said else ""
        said += f"{sign}{'' if abs(weight) == 1 else f'{abs(weight):g} '}{piece}"
    return said.strip()
