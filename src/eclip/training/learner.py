"""A training step: pooling, contrastive loss over all pairs of the batch, and gradient descent."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eclip.backbones.blocks import unit
from eclip.backbones.head import EclipHead
from eclip.errors import TrainingError
from eclip.training.config import TrainConfig
from eclip.training.data import Batch
from eclip.training.distributed import add_up, begin_alike, gathered, place
from eclip.training.loss import contrast, mixed, separated
from eclip.training.pooling import match


class _Pooled(nn.Module):
    """The trained parameters as one module: the head and the logit scale."""

    def __init__(self, head: EclipHead, scale: float, config: TrainConfig) -> None:
        super().__init__()
        self.head, self.config = head, config
        start = torch.tensor(math.log(scale), dtype=torch.float32, device="cpu")
        self.log_scale = nn.Parameter(start, requires_grad=config.learn_scale)

    def forward(self, rows: Tensor, guide: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """How well each image (down) matches each text (across), and the projected patches."""
        with self._precision(rows):
            tokens = self.head(rows)
        tokens = tokens.float()
        return match(tokens, self._words(text), guide, self.config.form, self.config.threshold), tokens

    def more(self, tokens: Tensor, guide: Tensor, text: Tensor, good: Tensor) -> Tensor:
        """The losses that the configuration adds, of the pairs of one part, with their weights."""
        words, scale = self._words(text), self.log_scale.detach().exp()
        total = torch.zeros((), dtype=torch.float32, device=tokens.device)
        if self.config.mix:
            total = total + self.config.mix * mixed(tokens, words, good, scale)
        if self.config.separate:
            pooled = unit((tokens * guide[:, :, None]).sum(dim=1))
            total = total + self.config.separate * separated(pooled, words, good, scale)
        return total

    def _words(self, text: Tensor) -> Tensor:
        with self._precision(text):
            words = self.head.project_text(text)
        return unit(words)

    def _precision(self, values: Tensor) -> torch.autocast:
        return torch.autocast(values.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")


class Learner:
    """The head in training, with its optimizer; all processes of a run start with the first one's parameters.

    Args:
        head: changed in place.
        scale: the model's logit scale; if trained, it is limited to 100 or to this value, whichever is larger.
        config: of the run.
    """

    def __init__(self, head: EclipHead, scale: float, config: TrainConfig) -> None:
        self.config, self.device = config, head.image.weight.device
        self.largest = math.log(max(100.0, scale))
        self._rows = torch.empty(0, dtype=torch.float32, device=self.device)
        self.pooled = _Pooled(head.requires_grad_(True), scale, config)
        self.rank, self.world = place()
        begin_alike(self.pooled.parameters())
        weights = [weight for weight in self.pooled.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": config.wd},
            {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)

    def step(self, parts: list[Batch], rate: float) -> float:
        """Take a step on this process's pairs of a batch, in parts; the gradient is that of the whole batch.

        Args:
            parts: of equal size.
            rate: learning rate of this step.

        Returns:
            The loss of the whole batch, the same in all processes.

        Raises:
            TrainingError: the loss or its gradient is not finite; nothing was changed.
        """
        text = gathered(torch.cat([part.text for part in parts]).to(self.device))
        good = gathered(torch.cat([part.good for part in parts]).to(self.device, torch.uint8)).bool()
        aside = self._aside(parts)
        with torch.no_grad():  # for the other parts; unnecessary if there is one part
            seen = [self._match(part, text)[0] for part in (parts if len(parts) > 1 else ())]
        loss = torch.tensor(math.nan, dtype=torch.float32, device="cpu")
        everyone = gathered(torch.cat(seen)) if seen else None
        extra = bool(self.config.mix or self.config.separate)
        added = torch.zeros((), dtype=torch.float32, device=self.device)
        for number, part in enumerate(parts):
            own, tokens = self._match(part, text)
            everyone = gathered(own) if everyone is None else everyone
            start = (self.rank * len(parts) + number) * len(own)
            rows = torch.cat([everyone[:start], own, everyone[start + len(own) :]])  # the gradient flows through `own`
            loss = contrast(self._scale(parts) * rows, good, aside)
            own_loss = loss
            if extra:
                given = (part.guide.to(self.device).float(), part.text.to(self.device), part.good.to(self.device))
                more = self.pooled.more(tokens, *given) / (len(parts) * self.world)
                added, own_loss = added + more.detach(), loss + more
            own_loss.backward()
        add_up([weight.grad for weight in self.pooled.parameters() if weight.grad is not None])
        if extra:
            add_up([added])
        loss = loss.detach() + added
        self._descend(loss, rate)
        return float(loss)

    def state(self) -> dict[str, Any]:
        """Everything that a step depends on."""
        return {"pooled": self.pooled.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""
        self.pooled.load_state_dict(state["pooled"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _match(
        self, part: Batch, text: Tensor
    ) -> tuple[Float[Tensor, "pair text"], Float[Tensor, "pair patch feature"]]:
        if self._rows.shape != part.rows.shape:
            self._rows = torch.empty(part.rows.shape, dtype=torch.float32, device=self.device)
        rows = self._rows.copy_(part.rows.to(self.device))  # allocating memory takes longer than filling it
        return self.pooled(rows, part.guide.to(self.device).float(), text)

    def _aside(self, parts: list[Batch]) -> Bool[Tensor, "pair pair"] | None:
        """Which texts of the whole batch must not count as negatives of each of its images."""
        numbers = [part.number for part in parts if part.number is not None]
        false_negatives = [part.false_negatives for part in parts if part.false_negatives is not None]
        if not false_negatives:
            return None
        of_all = gathered(torch.cat(numbers).to(self.device))
        return gathered(torch.cat(false_negatives).to(self.device)[:, of_all].to(torch.uint8)).bool()

    def _scale(self, parts: list[Batch]) -> Float[Tensor, ""]:
        """The logit scale, whose gradient is this part's and process's share."""
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
