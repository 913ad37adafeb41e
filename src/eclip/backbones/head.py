"""The head of ECLIP (Li et al. 2022, https://arxiv.org/abs/2209.07046): a new projection.

Both encoders stay frozen. The head projects every patch into the text space; only training pools the patches into one
score per image and text (`eclip.training.pooling`). The paper uses masked max pooling; our default is a smooth maximum
of the patches' similarity with the text. The head of `mini` learned from single patches instead (recipes/mini/head.py).
Recognition keeps the model's own projection (dual projections, in the paper's first version): scores never change.
The authors released no code, and we could not read the paper's body; guesses of ours are marked as such.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from eclip.backbones.backbone import Backbone, eval_no_grad
from eclip.backbones.blocks import Block, finish
from eclip.backbones.building import built_apart
from eclip.backbones.catalog import HEAD_CONFIG
from eclip.backbones.encoding import Encoding, encode
from eclip.backbones.host import named_weights
from eclip.backbones.hub import fetch, one_folder
from eclip.errors import HeadError, OptionError
from eclip.files import is_there, replace_file
from eclip.registry import one_of

SOURCES, STARTS = ("value", "output"), ("model", "random")
WEIGHTS, CONFIG, SCHEMA = "eclip_head.safetensors", HEAD_CONFIG, "eclip.head/1"


@dataclass(frozen=True)
class HeadConfig:
    """Configuration of a head, saved next to its weights.

    Attributes:
        model: the backbone's name.
        probe: a few of the model's weights, which distinguish it from other models of the same shape.
        channels: size of the rows that the head reads.
        features: size of the text space.
        source: what the head reads, see `head_rows`.
        hidden: width of a second, nonlinear path beside the projection; 0 = none.
        text: whether texts are projected too.
        trained: how it was trained, for the record: data, guide, form, epochs, ...
    """

    model: str
    probe: tuple[float, ...]
    channels: int
    features: int
    source: str = "value"
    hidden: int = 0
    text: bool = False
    trained: dict[str, Any] = field(default_factory=dict)


class EclipHead(nn.Module):
    """A projection of patches into the text space, initialized as the model's own.

    Attributes:
        config: its configuration.
        place: where it was read from, as the user gave it, or "beside the model"; None if it was not read.
        image: channel -> feature, linear.
        hidden: channel -> hidden, of the nonlinear path `image(x) + curved(gelu(hidden(x)))`, or None.
        curved: hidden -> feature, initialized to zero.
        text: feature -> feature without bias, initialized to the identity, or None.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.place: str | None = None
        self.image = nn.Linear(config.channels, config.features)
        self.hidden = nn.Linear(config.channels, config.hidden) if config.hidden else None
        self.curved = nn.Linear(config.hidden, config.features, bias=False) if config.hidden else None
        self.text = nn.Linear(config.features, config.features, bias=False) if config.text else None

    @classmethod
    def start(
        cls,
        backbone: Backbone,
        source: str = "value",
        *,
        init: str = "model",
        hidden: int = 0,
        text: bool = False,
        seed: int = 0,
    ) -> EclipHead:
        """A head before its first training step, in float32, on the backbone's device.

        Args:
            backbone: the model whose patches it will read.
            source: what the head reads, see `head_rows`.
            init: "model", the model's own mapping of these rows to features, as one linear map (source "value": as in
                MaskCLIP; "output": as in ITSM); or "random", the control.
            hidden: width of the nonlinear path.
            text: train a projection of texts too.
            seed: seed of the random weights.

        Raises:
            OptionError: an unknown source or init, or a negative width.
            HeadError: init is "model", but the model's own mapping is nonlinear.
        """
        one_of(init, "init", STARTS)
        if hidden < 0:
            raise OptionError(f"hidden must be 0 or more, got {hidden}.")
        encoding = encode(backbone, backbone.blank(), keep=1)
        rows = head_rows(encoding, source)
        channels, features = rows.shape[2], encoding.feature.shape[1]
        config = HeadConfig(backbone.name, _probe(backbone), channels, features, source, hidden, text)
        with built_apart(seed), torch.no_grad():
            head = cls(config)
            if init == "model":
                weight, bias = _last_step(backbone, source, rows)
                head.image.weight.copy_(weight)
                head.image.bias.copy_(bias)
            if head.curved is not None:
                nn.init.zeros_(head.curved.weight)
            if head.text is not None:
                nn.init.eye_(head.text.weight)
        return head.to(backbone.weight.device)

    def forward(self, rows: Float[Tensor, "*batch channel"]) -> Float[Tensor, "*batch feature"]:
        """Features of rows from `head_rows`, not normalized to unit length."""
        rows = rows.to(self.image.weight.dtype)
        features = self.image(rows)
        if self.hidden is None or self.curved is None:
            return features
        return features + self.curved(nn.functional.gelu(self.hidden(rows)))

    def project_text(self, text: Float[Tensor, "text feature"]) -> Float[Tensor, "text feature"]:
        """Texts as the head compares patches with them: a linear map, so projected texts do not have length one."""
        return text if self.text is None else self.text(text.to(self.text.weight.dtype))

    def save(self, folder: str | Path) -> Path:
        """Write `eclip_head.safetensors` and `eclip_head.json` to a folder, created if needed, and return the folder.

        Each file is written atomically.

        Raises:
            ResultError: a file cannot be written.
        """
        folder = Path(folder)
        weights = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        text = json.dumps({"schema": SCHEMA, **asdict(self.config)}, indent=2, ensure_ascii=False) + "\n"
        replace_file(folder / WEIGHTS, save(weights))
        replace_file(folder / CONFIG, text.encode(errors="backslashreplace"))  # names of files may not be Unicode
        return folder


def head_rows(encoding: Encoding, source: str = "value") -> Float[Tensor, "image patch channel"]:
    """The input of a head for each patch: the rows before the model's last linear step.

    Args:
        encoding: with the last block kept for "value".
        source: "value": each patch's value projection, without attention, as in MaskCLIP; for an attention pool, its
            input patches without positions. "output": the tokens of the last block, as in ITSM. Both after the final
            norm, or after the one-token pass through a MAP head. For a CNN without attention pooling, both are the
            positions of its feature map.

    Raises:
        OptionError: an unknown source.
        KeepError: the encoding kept no block.
    """
    one_of(source, "source", SOURCES)
    backbone, prefix = encoding.backbone, encoding.prefix
    if source == "output" or not encoding.blocks:
        return _normed(backbone, encoding.tokens[:, prefix:])
    [(block, x)] = encoding.tail(1, "eclip")
    patches = x[:, prefix:]
    if _is_pool(block):
        return patches
    return _normed(backbone, finish(block, patches, encoding.value(block, x)[:, :, prefix:]))


def with_head(backbone: Backbone, head: EclipHead | None) -> Backbone:
    """The same backbone with this head, which `METHODS["eclip"]` uses; nothing else changes.

    A threshold for the method `eclip` was measured with the head before, so it is dropped.

    Raises:
        OptionError: the backbone is not a Backbone.
        HeadError: the head is not an EclipHead, belongs to another model, or is on another device.
    """
    if not isinstance(backbone, Backbone):
        raise OptionError(
            f"with_head requires a Backbone, got {type(backbone).__name__}: make one with eclip.load(NAME) or "
            "eclip.wrap(model, ...)."
        )
    if head is not None and not isinstance(head, EclipHead):
        raise HeadError(
            f"with_head requires a head object, got {type(head).__name__}: read one with eclip.load_head(FOLDER)."
        )
    if head is not None:
        _check_fit(backbone, head)
    levels = {method: level for method, level in backbone.levels.items() if method != "eclip" or head is backbone.head}
    found = replace(backbone, head=head, levels=levels)
    return found.with_levels(levels) if backbone.measured and backbone.holds else found


def load_head(name: str | Path) -> EclipHead:
    """A head from disk, frozen; `head.place` records where it was.

    Args:
        name: the folder that `EclipHead.save` or `eclip train` wrote, either of the two files in it, or
            "hf-hub:ORG/NAME", a repository of the Hub with both files.

    Raises:
        HeadError: it is missing or cannot be read.
        DownloadError: it cannot be downloaded.
    """
    check_place(name)
    path = _fetched(str(name).removeprefix("hf-hub:")) if str(name).startswith("hf-hub:") else Path(name)
    weights, config = files_of(path)
    for file in (weights, config):
        if not is_there(file):
            raise HeadError(
                f"there is no head at {str(path)!r}: {file.name} is missing. Train one with `eclip train -o DIR`."
            )
    try:
        stored = dict(json.loads(config.read_text(encoding="utf-8")))
        if stored.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        head_config = HeadConfig(**{**stored, "probe": tuple(map(float, stored["probe"]))})
        if head_config.source not in SOURCES:
            raise ValueError(f"its source is {head_config.source!r}, not one of {', '.join(SOURCES)}")
        with built_apart():
            head = EclipHead(head_config)
            head.load_state_dict(load_file(weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise HeadError(f"the head {str(path)!r} cannot be read ({type(error).__name__}: {reason}).") from error
    if not all(bool(torch.isfinite(value).all()) for value in head.state_dict().values()):
        raise HeadError(f"the head {str(path)!r} contains NaN or infinity: train it again.")
    head.place = str(name)
    return head.eval().requires_grad_(False)


def files_of(path: Path) -> tuple[Path, Path]:
    """Where the weights and the configuration of a head are, given its folder or either of them."""
    if is_there(path):
        return path.with_suffix(".safetensors"), path.with_suffix(".json")
    return path / WEIGHTS, path / CONFIG


def check_place(name: Any) -> None:
    """Check that a head is given as its folder, one of its files, or a repository; else raise a HeadError."""
    if not isinstance(name, str | os.PathLike):
        raise HeadError(
            f"the head must be a folder or 'hf-hub:ORG/NAME', got {type(name).__name__}: "
            "pass a head object to `eclip.with_head(backbone, head)`."
        )
    if not str(name).strip():
        raise HeadError("the name of the head is empty: pass the folder that `eclip train -o DIR` wrote.")
    if is_there(Path(name)) and Path(name).suffix not in (".safetensors", ".json"):
        raise HeadError(
            f"{str(name)!r} is not a head: pass the folder with {WEIGHTS} and {CONFIG} that `eclip train -o DIR` made. "
            "Training checkpoints are only for `eclip train --resume`."
        )


def _fetched(repository: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise HeadError(f"'hf-hub:{repository}' is not a repository name: write hf-hub:ORG/NAME.")
    files = {CONFIG: "", WEIGHTS: "of unknown size"}
    return one_folder(repository, lambda: [fetch(repository, (name,), size) for name, size in files.items()])


def _is_pool(block: Block) -> bool:
    """An attention pool, whose values and output projection are one linear map of the patch."""
    return not block.residual and block.mlp is None


def _normed(backbone: Backbone, tokens: Tensor) -> Tensor:
    """Tokens of the last block, as `backbone.to_feature` takes them."""
    if (latent := backbone.latent) is not None:
        tokens = finish(latent, tokens, latent.value(latent.norm1(tokens)))
    return tokens if backbone.final_norm is None else backbone.final_norm(tokens)


def _last_step(
    backbone: Backbone, source: str, rows: Float[Tensor, "image patch channel"]
) -> tuple[Float[Tensor, "feature channel"], Float[Tensor, " feature"]]:
    """The model's own mapping from such rows to features, as weight and bias, in float32."""
    blocks = backbone.blocks

    def values(rows: Tensor) -> Tensor:
        return backbone.project(blocks[-1].out(blocks[-1].value(rows)))

    step = values if source == "value" and blocks and _is_pool(blocks[-1]) else backbone.to_feature
    with eval_no_grad(backbone.model):
        bias = step(torch.zeros_like(rows[:, :1]))[0, 0]
        # 256, so that a bias takes few digits of the weights in bfloat16
        far = 256 * torch.eye(rows.shape[2], dtype=rows.dtype, device=rows.device)
        weight = (step(far[None])[0] - bias).T / 256
        for tried in (rows, -far[None]):  # rows of a black image may be zero, where nonlinearity is not visible
            there = step(tried)
            apart, moved = there - (tried @ weight.T + bias), there - bias
            if not bool(apart.norm() <= 0.02 * moved.norm() + torch.finfo(rows.dtype).eps * there.norm()):
                raise HeadError(
                    f"{backbone.name}, a {backbone.family}, has a nonlinear projection, which cannot initialize a "
                    'linear head: use init="random".'
                )
    return weight.float(), bias.float()


def _probe(backbone: Backbone) -> tuple[float, ...]:
    """The first element of 16 matrices and kernels of the image side, spread over its depth.

    Biases and norms are left out, because models with folded norms have others.
    """
    own = (weight for name, weight in named_weights(backbone.model) if name.startswith(backbone.visual))
    weights = [weight for weight in own if weight.ndim > 1]
    places = torch.linspace(0, len(weights) - 1, 16, dtype=torch.float32, device="cpu").round().long().tolist()
    return tuple(float(weights[place].detach().flatten()[0]) for place in places)


def _check_fit(backbone: Backbone, head: EclipHead) -> None:
    own, its = (torch.tensor(one, dtype=torch.float32, device="cpu") for one in (_probe(backbone), head.config.probe))
    if own.shape != its.shape or not torch.allclose(own, its, rtol=0.004, atol=1e-7):  # either may be in bfloat16
        raise HeadError(
            f"this head was trained for {head.config.model!r}, but {backbone.name!r} has other weights: use it with "
            f"its own model, or train a new head with `eclip train --model {backbone.name}`."
        )
    if head.image.weight.device != backbone.weight.device:
        raise HeadError(
            f"the head is on {head.image.weight.device}, but {backbone.name} is on {backbone.weight.device}: move it "
            "with head.to(...)."
        )
