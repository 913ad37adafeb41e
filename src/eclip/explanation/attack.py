"""Attacks: small changes of the pixels that move a score or a map, and what they do to every method's map.

Projected gradient descent under a bound on each pixel (Madry et al. 2018, https://arxiv.org/abs/1706.06083), on the
cosine of image and text. That attention for a text moves with such an attack is the finding of TGA-ZSR (Yu et al. 2024,
https://arxiv.org/abs/2410.21802). The model is not changed: gradients are taken with respect to pixels only.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone
from eclip.backbones.blocks import cosine
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.encoding import Encoding, encode, encode_with_graph
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.backbones.gradients import gradients
from eclip.backbones.load import backbone_of
from eclip.backbones.view import View
from eclip.errors import OptionError
from eclip.explanation.checkup import correlation
from eclip.explanation.preprocessed import shown
from eclip.explanation.query import blocks_to_keep
from eclip.images import ImageLike, open_image
from eclip.methods import METHODS, AnyMethod, check_between_texts, method_name, method_names
from eclip.refinements.colors import unnormalized
from eclip.registry import one_of, whole
from eclip.texts.encode import check_texts, encode_apart
from eclip.texts.templates import kept

STEPS = 255
"""Steps of the colors between black and white: an attacked image is one that can be saved."""
HOLD = 100.0
"""Weight of the squared change of the score, if only the map is attacked: a change of 0.01 costs a hundredth."""


@dataclass(frozen=True, eq=False)
class Attack:
    """An image before and after an attack, as the model sees both.

    Attributes:
        pixels: (2, 3, height, width), before and after, preprocessed: what `explain(..., preprocessed=True)` takes.
        images: the two as images, in the model's own size; saved as PNG, the second keeps the attack.
        texts: the text that was attacked, then the others, and last the one whose score was to rise, if any.
        scores: (2, text), cosines before and after.
        backbone: the model.
        eps: largest change of a color, in [0, 1].
        templates: of the texts.
        positions: as in `eclip.encode`.
    """

    pixels: Float[Tensor, "2 3 height width"]
    images: tuple[Image.Image, Image.Image]
    texts: tuple[str, ...]
    scores: Float[np.ndarray, "2 text"]
    backbone: Backbone
    eps: float
    templates: str | tuple[str, ...]
    positions: str

    def __repr__(self) -> str:
        before, after = self.scores[:, 0]
        return f"Attack({self.texts[0]!r} from {before:.3f} to {after:.3f}, by at most {self.eps * STEPS:g}/{STEPS})"

    def ranks(self) -> tuple[int, int]:
        """The rank of the attacked text among all texts, before and after; 1 is the best score."""
        before, after = ((row > row[0]).sum() + 1 for row in self.scores)
        return int(before), int(after)

    def moved(self, methods: AnyMethod | Iterable[AnyMethod] = "fast") -> dict[str, float]:
        """How much of each method's map of the attacked text is left: the correlation of its maps before and after.

        Args:
            methods: names in a list or joined by commas, or "fast" or "all"; those not applicable are left out.

        Returns:
            Pearson correlations in [-1, 1] by method; 1 is an unmoved map, NaN a flat one.
        """
        from eclip.explanation.explain import explain

        names, not_applicable = method_names(methods), dict[str, str]()
        given: dict[str, Any] = {"model": self.backbone, "templates": self.templates, "positions": self.positions}
        given |= {"preprocessed": True, "health": False, "not_applicable": not_applicable}
        found = explain(self.pixels, list(self.texts), method=list(names), **given)
        maps = {name: torch.from_numpy(one.maps[:, :1]) for name, one in found.items()}
        return {name: float(correlation(own[:1], own[1:])[0, 0]) for name, own in maps.items()}


def attack(
    image: ImageLike,
    text: str,
    *,
    others: str | Sequence[str] = (),
    towards: str | None = None,
    aim: str = "score",
    method: AnyMethod = "maskclip",
    eps: float = 4 / 255,
    steps: SupportsIndex = 10,
    step: float | None = None,
    seed: SupportsIndex = 0,
    model: str | Backbone = DEFAULT_MODEL,
    device: Device | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
) -> Attack:
    """Change the pixels of an image a little, so that its score for a text falls, or only its map moves.

    The model sees the image in its own size, and this is what changes. Colors stay whole numbers of 0 to 255.

    Arguments that are not listed here, and other errors, are those of `eclip.explain`.

    - image: one.
    - text: whose score or map is attacked.
    - others: texts that are not attacked, a string or several, for scores and ranks; each counts once.
    - towards: with aim="score", a text whose score is to rise meanwhile.
    - aim: "score": lower the score of the text. "map": turn the method's map of the text away from what it was, with
      the score held.
    - method: with aim="map", whose map; of kind "similarity" or "decomposition".
    - eps: largest change of a color, 1/255 to 1; rounded down to 255ths.
    - steps: of the descent, at least 1.
    - step: its length, in the same unit as eps; None = a quarter of eps, at least 1/255.
    - seed: of the random start within the bound.

    Raises:
        OptionError: a value is outside its range, or the method's maps cannot be attacked.
        GradientError: the model has a step without a gradient, such as an int8 layer.
    """
    one_of(aim, "aim", ("score", "map"))
    steps, seed, name = whole(steps, "steps", least=1), whole(seed, "seed", least=0), method_name(method)
    bound = int(eps * STEPS + 1e-6) if _is_share(eps) else 0
    if not bound:
        raise OptionError(
            f"eps must be a number from 1/255 to 1, such as 4 / 255, got {eps!r}: colors are whole numbers of 0 to 255."
        )
    step = max(eps / 4, 1 / STEPS) if step is None else step
    if not _is_share(step):
        raise OptionError(f"step must be a number above 0 and at most 1, such as 1 / 255, got {step!r}.")
    if aim == "map" and towards is not None:
        raise OptionError('towards is for aim="score": leave it out.')
    if towards == text:
        raise OptionError(f"towards must be another text than the one that is attacked, got {text!r} for both.")
    check_between_texts(name)
    beside = [one for one in dict.fromkeys(check_texts(others) if others else []) if one not in (text, towards)]
    listed = [*check_texts([text]), *beside, *([] if towards is None else check_texts(towards))]
    backbone, view, sentences = backbone_of(model, device), View(image_size, resize, positions), kept(templates)
    view.check(backbone)
    with torch.inference_mode(False):  # its tensors cannot be saved for a gradient
        features = encode_apart(backbone, listed, sentences)
        keep = blocks_to_keep({name: {}}, None) if aim == "map" else 0
        clean = view.encode(backbone, [open_image(image)], keep)
        original = (unnormalized(clean.pixels, backbone) * STEPS).round()  # as `preprocess` read them
        with eval_no_grad(backbone.model):
            cost = _cost(clean, features, name if aim == "map" else None, towards is not None)
            changed = _descend(clean, original, cost, bound, step * STEPS, steps, seed)
        pixels = _pixels_of(torch.cat([original, changed.round()]), backbone, clean.pixels)
        seen = encode(backbone, pixels, keep=0, positions=positions)
        scores = cosine(seen.feature, features).float().cpu().numpy()
    one, other = shown(pixels, backbone)
    return Attack(pixels, (one, other), tuple(listed), scores, backbone, bound / STEPS, sentences, positions)


def _is_share(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < float(value) <= 1


def _pixels_of(colors: Tensor, backbone: Backbone, like: Tensor) -> Float[Tensor, "image 3 height width"]:
    """Colors of 0 to 255 as the model takes them; the reverse of `unnormalized`, times 255."""
    mean, std = (colors.new_tensor(one)[:, None, None] for one in (backbone.mean, backbone.std))
    return ((colors / STEPS - mean) / std).to(like)


def _cost(
    clean: Encoding, features: Float[Tensor, "text feature"], method: str | None, towards: bool
) -> Callable[[Encoding], Tensor]:
    """What the attack lowers: the score, or with a method, what its map has in common with that of the clean image."""
    first, held = features[:1], cosine(clean.feature, features[:1])
    if method is None:
        return lambda seen: (
            cosine(seen.feature, first) - (cosine(seen.feature, features[-1:]) if towards else 0.0)
        ).sum()
    function = METHODS[method].function
    before = function(clean, first).float()

    def cost(seen: Encoding) -> Tensor:
        one, other = (part.flatten() - part.mean() for part in (function(seen, first).float(), before))
        moved = (one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-12)  # Pearson correlation, with a graph
        return moved + HOLD * (cosine(seen.feature, first) - held).square().sum()

    return cost


def _descend(
    clean: Encoding,
    original: Float[Tensor, "1 3 height width"],
    cost: Callable[[Encoding], Tensor],
    bound: int,
    length: float,
    steps: int,
    seed: int,
) -> Float[Tensor, "1 3 height width"]:
    """Projected gradient descent from a random start; colors of 0 to 255, as are the bound and the length of a step."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    noise = torch.rand(original.shape, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1
    low, high = (original - bound).clamp_min(0), (original + bound).clamp_max(STEPS)
    changed = torch.clamp(original + bound * noise.to(original.device), low, high)
    for _ in range(steps):
        with gradients(clean.backbone):
            leaf = changed.clone().requires_grad_()
            seen = encode_with_graph(clean, _pixels_of(leaf, clean.backbone, clean.pixels))
            slope = torch.autograd.grad(cost(seen), leaf)[0]
        changed = torch.clamp(changed - length * slope.sign(), low, high)
    return changed
