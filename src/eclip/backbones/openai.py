"""OpenAI's own package: the model of `clip.load`, converted to open_clip's.

The package (https://github.com/openai/CLIP, MIT) is not needed and not imported; its class is recognized by its parts.
Copies of its file in other repositories are converted too, if they compute the same.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import build_model_from_openai_state_dict
from torch import nn

from eclip.backbones.building import built_apart
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.errors import UnsupportedTowerError

COLORS = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}
PARTS = (
    *("visual", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"),
    *("logit_scale", "context_length", "vocab_size", "encode_image", "encode_text", "initialize_parameters"),
)
APART = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}
"""Largest difference of features, as a share of their length."""

_log = logging.getLogger("eclip")


def is_openai(model: Any) -> bool:
    """Whether the model is a CLIP as OpenAI's package, or a copy of its file, defines it."""
    ours = any(base.__module__.partition(".")[0] == "open_clip" for base in type(model).__mro__)
    return not ours and isinstance(model, nn.Module) and all(hasattr(model, part) for part in PARTS)


def converted(model: Any) -> nn.Module:
    """open_clip's CLIP with copies of the weights, on their device and in their precision, in evaluation mode.

    Raises:
        UnsupportedTowerError: the weights have another layout, or the features differ from those of OpenAI's model.
    """
    weights = {key: value.detach() for key, value in model.state_dict().items()}
    kind = f"{type(model).__module__}.{type(model).__name__}"
    try:
        with built_apart():
            made: Any = build_model_from_openai_state_dict(
                {key: value.float().cpu() for key, value in weights.items()}, cast_dtype=torch.float32
            ).float()
    except (KeyError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedTowerError(
            f"{kind} looks like the CLIP of OpenAI's package, but its weights have another layout ({reason})."
        ) from error
    for name, weight in [*made.named_parameters(), *made.named_buffers()]:
        if name in weights:
            own = weights[name]
            weight.data = torch.empty_like(own, memory_format=torch.contiguous_format).copy_(own)
        else:
            weight.data = weight.data.to(next(iter(weights.values())).device)
    made.visual.preprocess_cfg = COLORS
    made.eval().requires_grad_(False)
    _check(model, made, kind)
    _log.warning("%s was converted to open_clip's CLIP, with copies of its weights: wrap it again if it changes", kind)
    return made


def _check(model: Any, made: Any, kind: str) -> None:
    """Check that both give the same features of one image and one text of random numbers."""
    weight = made.visual.conv1.weight
    side = made.visual.image_size[0] if isinstance(made.visual.image_size, tuple | list) else made.visual.image_size
    draw = torch.Generator("cpu").manual_seed(0)
    pixels = torch.randn(1, 3, side, side, generator=draw, dtype=torch.float32, device="cpu").to(weight)
    ids = torch.randint(1, made.vocab_size - 1, (1, made.context_length), generator=draw, device="cpu")
    ids[:, -1] = made.vocab_size - 1  # the end of the text
    ids = ids.to(weight.device)
    with eval_no_grad(model), eval_no_grad(made):
        pairs = [(one.encode_image(pixels), one.encode_text(ids)) for one in (model, made)]
    for side_of, theirs, ours in zip(("image", "text"), *pairs, strict=True):
        apart = float((theirs.double() - ours.double()).norm() / ours.double().norm())
        if not apart <= APART[weight.dtype]:
            raise UnsupportedTowerError(
                f"{kind} looks like the CLIP of OpenAI's package, but its {side_of} features differ by {apart:.1%} "
                "from those of OpenAI's model with the same weights: its code was changed or it has hooks, so eclip "
                "cannot tell what it computes. Load its weights into open_clip's model and wrap that."
            )
