"""MSAE, a feature as a few latents of a sparse autoencoder (Zaigrajew et al. 2025, https://arxiv.org/abs/2502.20578).

Code: WolodjaZ/MSAE (MIT), commit c0bf439; written from the formulas, equal to it on shared arrays
(`tests/test_concepts.py`). Inference only, from a checkpoint.
Differs from it: reads files without running code from them, and reads cap and standardization from the checkpoint's
configuration, never from the file name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from eclip.backbones.blocks import cosine, unit
from eclip.errors import ModelError, OptionError, ShapeError

EPSILON = 1e-5
KEYS = ("encoder", "latent_bias", "pre_bias")


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A trained sparse autoencoder over image features.

    Attributes:
        encoder: W.
        decoder: one row per latent, its direction; with tied weights, the transposed encoder.
        pre_bias: b, subtracted before encoding and added back after decoding.
        latent_bias: c.
        cap: latents z become cap tanh(z / cap); 0 for none.
        standardize: whether to scale each row to mean 0 and standard deviation 1 first.
        mean: of the features that it was trained on, subtracted first.
        scale: factor applied after the mean.
    """

    encoder: Float[Tensor, "feature latent"]
    decoder: Float[Tensor, "latent feature"]
    pre_bias: Float[Tensor, " feature"]
    latent_bias: Float[Tensor, " latent"]
    cap: float = 0.0
    standardize: bool = False
    mean: Float[Tensor, " feature"] | None = None
    scale: float = 1.0

    def encode(self, features: Float[Tensor, "*batch feature"], k: int | None = None) -> Float[Tensor, "*batch latent"]:
        """The latents: W'(x - b) + c, the k largest kept, negative ones 0, capped.

        Args:
            features: as in training; for the authors' checkpoints, the tower's features without normalization.
            k: how many latents a row may use; None = all.

        Raises:
            OptionError: k is not between 1 and the number of latents.
            ShapeError: the features have another width.
        """
        self._check(features)
        rows, _, _ = self._prepare(features)
        latents = (rows - self.pre_bias) @ self.encoder + self.latent_bias
        if k is not None:
            if not 1 <= k <= latents.shape[-1]:
                raise OptionError(f"k must be between 1 and the {latents.shape[-1]} latents, got {k}.")
            best = latents.topk(k, dim=-1)
            latents = torch.zeros_like(latents).scatter(-1, best.indices, best.values)
        latents = latents.relu()
        return self.cap * (latents / self.cap).tanh() if self.cap else latents

    def decode(
        self, latents: Float[Tensor, "*batch latent"], features: Float[Tensor, "*batch feature"]
    ) -> Float[Tensor, "*batch feature"]:
        """Features reconstructed from latents, on the scale of the encoded features.

        Args:
            latents: from `encode`.
            features: the encoded features; if rows are standardized, their mean and deviation are restored.
        """
        _, mean, deviation = self._prepare(features)
        rows = (latents @ self.decoder + self.pre_bias) * deviation + mean
        return rows / self.scale + (0 if self.mean is None else self.mean)

    def names(self, words: Float[Tensor, "concept feature"]) -> tuple[Int[Tensor, " latent"], Float[Tensor, " latent"]]:
        """For each latent, the index of the word nearest to its decoder row, and the cosine of the two.

        Args:
            words: text features of the model whose image features are encoded, of any norm.

        Raises:
            ShapeError: the features have another width.
        """
        self._check(words)
        nearest = cosine(self.decoder, unit(words.to(self.decoder))).max(dim=-1)
        return nearest.indices, nearest.values

    def to(self, device: torch.device) -> Autoencoder:
        """The autoencoder on another device."""
        arrays: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **arrays)

    def _check(self, features: Tensor) -> None:
        if features.shape[-1] != len(self.pre_bias):
            raise ShapeError(
                f"this autoencoder takes features of width {len(self.pre_bias)}, got {features.shape[-1]}. It was "
                "trained for another model; use a checkpoint for this one."
            )

    def _prepare(self, features: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        rows = features.to(self.encoder)
        rows = (rows if self.mean is None else rows - self.mean) * self.scale
        if not self.standardize:
            return rows, 0.0, 1.0
        mean, deviation = rows.mean(dim=-1, keepdim=True), rows.std(dim=-1, keepdim=True)  # unbiased, as the authors'
        return (rows - mean) / (deviation + EPSILON), mean, deviation


def load_autoencoder(path: str | Path) -> Autoencoder:
    """Read a checkpoint of MSAE's training, in its old or new format, or a plain state dict as .pt or .safetensors.

    Cap, standardization, mean and scale are read from the checkpoint; those it lacks are off, which is the authors'
    default in training.

    Args:
        path: the file. No code in it is run.

    Raises:
        OptionError: the path is not a path.
        ModelError: the file does not exist or is not such a checkpoint, its arrays have incompatible shapes or
            non-finite numbers, or its activation is neither TopK nor ReLU.
    """
    if not isinstance(path, str | Path):
        raise OptionError(f"msae must be the path of a checkpoint, got {path!r}.")
    path = Path(path)
    saved = _read(path)
    state = next((saved[key] for key in ("model_state_dict", "model") if isinstance(saved.get(key), dict)), saved)
    config = _part(path, saved, "model_config")
    given = _part(path, saved, "preprocessing") or saved
    missing = [key for key in KEYS if not isinstance(state.get(key), Tensor)]
    if missing:
        raise ModelError(
            f"{path} is not a checkpoint of an MSAE autoencoder: it lacks {', '.join(missing)}; it has "
            f"{', '.join(map(str, list(state)[:6])) or 'nothing'}."
        )
    activation = str(config.get("activation", "TopKReLU"))
    if not activation.startswith(("TopK", "ReLU")):
        raise ModelError(f"{path} was trained with {activation}; only TopK and ReLU are supported.")
    arrays = {name: _array(path, name, state[name]) for name in KEYS}
    encoder = arrays["encoder"]
    tied = not isinstance(state.get("decoder"), Tensor)
    arrays["decoder"] = encoder.T.contiguous() if tied else _array(path, "decoder", state["decoder"]).contiguous()
    if (mean := given.get("mean_center")) is not None:
        arrays["mean_center"] = _array(path, "mean_center", mean)
    if encoder.ndim != 2 or 0 in encoder.shape:
        raise ModelError(f"the encoder in {path} must be (feature, latent), got {tuple(encoder.shape)}.")
    feature, latent = encoder.shape
    wanted = {"decoder": (latent, feature), "pre_bias": (feature,), "latent_bias": (latent,), "mean_center": (feature,)}
    for name, array in arrays.items():
        if name in wanted and tuple(array.shape) != wanted[name]:
            raise ModelError(
                f"{name} in {path} must be {wanted[name]} to fit the encoder, (feature, latent) = "
                f"{(feature, latent)}, got {tuple(array.shape)}."
            )
    scale = _number(path, "scaling_factor", given.get("scaling_factor"), 1.0)
    if scale <= 0:
        raise ModelError(f"scaling_factor in {path} must be above 0, got {scale}.")
    return Autoencoder(
        encoder=encoder,
        decoder=arrays["decoder"],
        pre_bias=arrays["pre_bias"],
        latent_bias=arrays["latent_bias"],
        cap=_number(path, "latent_soft_cap", config.get("latent_soft_cap"), 0.0),
        standardize=bool(_number(path, "normalize", config.get("normalize"), 0.0)),
        mean=arrays.get("mean_center"),
        scale=scale,
    )


def _part(path: Path, saved: dict[str, Any], name: str) -> dict[str, Any]:
    part = saved.get(name)
    if not isinstance(part, dict | None):
        raise ModelError(f"{name} in {path} must be a dict, got {type(part).__name__}.")
    return part or {}


def _array(path: Path, name: str, value: Any) -> Tensor:
    try:
        array = torch.as_tensor(value, device="cpu")
        good = not array.is_complex() and bool(array.float().isfinite().all())
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good:
        raise ModelError(f"{name} in {path} must be an array of finite numbers, got {_short(value)}.")
    return array.float()


def _number(path: Path, name: str, value: Any, default: float) -> float:
    try:
        number = default if value is None else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ModelError(f"{name} in {path} must be one finite number, got {_short(value)}.")
    return number


def _short(value: Any) -> str:
    return " ".join(repr(value).split())[:80]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"the checkpoint file {str(path)!r} does not exist.")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises any class of error for a file of another kind
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ModelError(
            f"cannot read {path} as weights only ({reason}). If you trust it, load it yourself and save its tensors: "
            "torch.save(model.state_dict(), 'autoencoder.pt')."
        ) from error
    if not isinstance(saved, dict):
        raise ModelError(f"{path} must hold a dict of tensors, got {type(saved).__name__}.")
    return saved
