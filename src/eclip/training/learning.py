"""One step of training: pool, contrast with all pairs of the batch, descend."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eclip.blocks import unit
from eclip.errors import TrainingError
from eclip.head import EclipHead
from eclip.pooling import masked_max_pool
from eclip.training.config import TrainConfig
from eclip.training.contrast import contrast, gathered, with_own
from eclip.training.material import Batch


class _Pooled(nn.Module):
    """What is trained, as one module: the head, and the factor from cosine to logit."""

    def __init__(self, head: EclipHead, scale: float, config: TrainConfig) -> None:
        super().__init__()
        self.head, self.form, self.threshold = head, config.form, config.threshold
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=config.learn_scale)

    def forward(self, rows: Tensor, guide: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of photos and captions."""
        return unit(masked_max_pool(self.head(rows), guide, self.form, self.threshold)), unit(self.head.words(text))


class Learner:
    """The head under training, with its optimizer.

    Args:
        head: changed in place.
        scale: the model's factor from cosine to logit; trained, it stays below 100 or its own.
        config: of the run.
    """

    def __init__(self, head: EclipHead, scale: float, config: TrainConfig) -> None:
        self.config, self.device = config, head.image.weight.device
        self.largest = math.log(max(100.0, scale))
        self._rows = torch.empty(0, device=self.device)
        self.pooled = _Pooled(head.requires_grad_(True), scale, config)
        self.shared = DistributedDataParallel(self.pooled) if dist.is_initialized() else None
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        weights = [weight for weight in self.pooled.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": config.wd},
            {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)

    def step(self, parts: list[Batch], rate: float) -> float:
        """One step on this process's pairs of a batch, in parts; the gradient is that of the whole batch.

        Args:
            parts: of equal size.
            rate: of this step.

        Returns:
            The loss of the whole batch, alike in all processes.

        Raises:
            TrainingError: the loss or its gradient is not finite; nothing has been changed.
        """
        rank = dist.get_rank() if dist.is_initialized() else 0
        with torch.no_grad():  # what the other parts and processes have to say; the only pass if there is one part
            seen = [self._pool(self.pooled, part) for part in parts[: len(parts) if len(parts) > 1 else 0]]
        loss = torch.tensor(math.nan)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if last or self.shared is None else self.shared.no_sync():
                image, text = self._pool(self.shared or self.pooled, part)
                if number == 0:
                    own = ([image], [text]) if len(parts) == 1 else zip(*seen, strict=True)
                    images, texts = (gathered(torch.cat(list(rows))) for rows in own)
                    good = gathered(torch.cat([p.good for p in parts]).to(image.device, torch.uint8)).bool()
                start = (rank * len(parts) + number) * len(image)
                loss = contrast(with_own(images, image, start), with_own(texts, text, start), self._scale(parts), good)
                (loss * self.world).backward()  # the mean over processes makes it the sum over their rows
        self._descend(loss, rate)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """All that a step depends on."""
        return {"pooled": self.pooled.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.pooled.load_state_dict(state["pooled"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _pool(self, module: nn.Module, part: Batch) -> tuple[Tensor, Tensor]:
        device = self.device
        if self._rows.shape != part.rows.shape:
            self._rows = torch.empty(part.rows.shape, device=device)
        rows = self._rows.copy_(part.rows.to(device))  # memory that is new takes longer to get than to fill
        half = torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")
        with half:
            image, text = module(rows, part.guide.to(device).float(), part.text.to(device))
        return image.float(), text.float()

    def _scale(self, parts: list[Batch]) -> Float[Tensor, ""]:
        """The factor, with the share of its gradient that is this part's of this process."""
        scale = self.pooled.log_scale.exp()
        share = 1 / (len(parts) * self.world)
        return scale.detach() + share * (scale - scale.detach())

    def _descend(self, loss: Tensor, rate: float) -> None:
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        if not all(bool(torch.isfinite(value).all()) for value in [loss, *(w.grad for w in weights)]):
            self.optimizer.zero_grad()
            raise TrainingError("the loss or its gradient is not finite")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.config.learn_scale:
            self.pooled.log_scale.data.clamp_(max=self.largest)
