"""One step of training: pool, contrast with all pairs of the batch, descend."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eclip.blocks import unit
from eclip.head import EclipHead
from eclip.pooling import masked_max_pool
from eclip.training.config import TrainConfig
from eclip.training.contrast import gathered
from eclip.training.material import Batch


class _Pooled(nn.Module):
    """What is trained, as one module: the head, and the factor from cosine to logit."""

    def __init__(self, head: EclipHead, scale: float, config: TrainConfig) -> None:
        super().__init__()
        self.head, self.form, self.threshold = head, config.form, config.threshold
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=config.learn_scale)

    def forward(self, rows: Tensor, guide: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of photos and captions."""
        tokens = self.head(rows.to(self.head.image.weight.dtype))
        return unit(masked_max_pool(tokens, guide, self.form, self.threshold)), unit(self.head.words(text))


class Learner:
    """The head under training, with its optimizer.

    Args:
        head: changed in place.
        scale: the model's factor from cosine to logit.
        config: of the run.
    """

    def __init__(self, head: EclipHead, scale: float, config: TrainConfig) -> None:
        self.config, self.device = config, head.image.weight.device
        self.pooled = _Pooled(head.requires_grad_(True), scale, config)
        self.shared: nn.Module = DistributedDataParallel(self.pooled) if dist.is_initialized() else self.pooled
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
        with torch.no_grad():
            seen = [self._pool(self.pooled, part) for part in parts] if len(parts) > 1 else []
        everyone, loss = None, torch.tensor(math.nan)
        good = gathered(torch.cat([part.good for part in parts]).to(self.device, torch.uint8)).bool()
        rank = dist.get_rank() if dist.is_initialized() else 0
        ...
