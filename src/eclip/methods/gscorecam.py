"""gScoreCAM (Chen et al. 2022, ACCV, https://doi.org/10.1007/978-3-031-26316-3_35).

Code: anguyen8/gScoreCAM (MIT), commit 87c35a1.
Differs from it: raw values, before the last min-max; a channel that several texts select is evaluated once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from eclip.backbones.attention_pooling import rest, score_gradients
from eclip.backbones.encoding import Encoding
from eclip.backbones.gradients import gradients
from eclip.backbones.masking import masked_scores
from eclip.errors import OptionError
from eclip.methods.gradcam import trunk_slope


def gscorecam(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, channels: int | None = None, batch_size: int = 8
) -> Float[Tensor, "image text row col"]:
    """relu(sum over channels of w_c activation_c), with w from the logit of the image masked by each channel.

    From a CNN's last feature map or the output of a ViT's last block, the channels with the largest signed mean
    gradient are kept; each is resized to the image, min-max normalized and multiplied with it. w is the softmax over
    all channels of the logits, with logit 0 for channels that are not kept.

    Args:
        encoding: with the last block kept. The whole tower is rerun once for each channel that a text keeps.
        text: unit length.
        channels: how many to keep per text. None: a tenth of them, at most 300, like the authors' 300 of 3,072 on the
            tower they prefer.
        batch_size: channels in one forward pass.

    Returns:
        Evidence >= 0, in units of the activations.

    Raises:
        OptionError: channels or batch_size below 1.
    """
    if (channels is not None and channels < 1) or batch_size < 1:
        raise OptionError(f"'gscorecam' needs channels and batch_size >= 1, got {channels} and {batch_size}.")
    if encoding.trunk is not None:
        activation, slope = encoding.trunk, trunk_slope(encoding, text, "gscorecam")
    else:
        activation = encoding.tokens[:, encoding.prefix :].transpose(1, 2).unflatten(2, encoding.grid)
        with gradients(encoding.backbone):
            tokens = encoding.tokens.detach().requires_grad_()
            feature = rest(encoding, 0, tokens, "gscorecam")
        slopes = [grad.mean(dim=2) for [grad] in score_gradients(feature, text, [tokens])]
        slope = torch.cat(slopes).transpose(0, 1)  # image text channel, averaged over tokens
    width = slope.shape[-1]
    count = min(300, -(-width // 10)) if channels is None else min(channels, width)
    size, maps = tuple(encoding.pixels.shape[2:]), []
    for image, kept in enumerate(slope.topk(count, dim=-1).indices):  # text channel
        logits = torch.zeros(len(text), width, dtype=torch.float32, device=activation.device)
        for some in kept.unique().split(batch_size):
            enlarged = interpolate(activation[image, some][None].float(), size, mode="bilinear", align_corners=True)[0]
            low, high = enlarged.amin((1, 2), keepdim=True), enlarged.amax((1, 2), keepdim=True)
            masks = (enlarged - low) / (high - low).clamp_min(1e-6)
            scores = masked_scores(encoding, text, image, masks)  # channel text
            logits[:, some] = encoding.backbone.logit_scale * scores.T.to(logits)
        own = torch.zeros_like(logits).scatter(1, kept, 1.0)  # each text uses only its own channels
        weights = (logits * own).softmax(dim=-1)
        maps.append(torch.einsum("tc,crk->trk", weights, activation[image].to(weights)).clamp_min(0))
    return torch.stack(maps)
