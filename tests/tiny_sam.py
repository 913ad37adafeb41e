"""Tiny Segment Anything models of transformers with random weights, their processors, and folders of them."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="SAM needs pip install 'eclip[hf]'")

SIDE = {"sam": 64, "sam2": 64, "sam3": 56}
"""Side of each model's input."""
DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16, "iou_head_depth": 2}
SAM_VISION = {
    "hidden_size": 16,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "num_pos_feats": 8,
    "mlp_dim": 32,
    "initializer_range": 0.02,
}
HIERA = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "image_size": [64, 64],
    "patch_kernel_size": [3, 3],
    "patch_padding": [1, 1],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 24, 32],
    "num_attention_heads_per_stage": [1, 2, 2, 2],
    "window_size_per_stage": [8, 4, 4, 4],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [2, 2],
}
SAM2_VISION = {
    "model_type": "sam2_vision_model",
    "backbone_config": HIERA,
    "backbone_channel_list": [32, 24, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}
SAM3_VISION = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 7,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    },
    "fpn_hidden_size": 16,
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
}
MEMORY = {
    "memory_attention_hidden_size": 16,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 16,
    "memory_encoder_hidden_size": 16,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": 16,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": 16,
    "memory_fuser_intermediate_dim": 16,
}
"""Of the models for videos."""


def _prompts(side: int, patch: int) -> dict[str, Any]:
    return {"hidden_size": 16, "image_size": side, "patch_size": patch, "mask_input_channels": 4}


def _config(family: str, **vision: Any) -> Any:
    if family == "sam":
        prompts = {**_prompts(64, 8), "image_embedding_size": 8}
        parts = {"vision_config": {**SAM_VISION, **vision}, "prompt_encoder_config": prompts}
        return transformers.SamConfig(**parts, mask_decoder_config=dict(DECODER))
    name = {"sam2": "Sam2Config", "sam3": "Sam3TrackerConfig"}[family]
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    sides = (64, 16) if family == "sam2" else (56, 7)
    parts = {"vision_config": copy.deepcopy({"sam2": SAM2_VISION, "sam3": SAM3_VISION}[family])}
    parts |= {"prompt_encoder_config": _prompts(*sides), "mask_decoder_config": dict(DECODER)}
    return getattr(transformers, name)(**parts)


def processor(family: str) -> Any:
    """The processor of a tiny model."""
    side, mask = SIDE[family], {"height": 16, "width": 16}
    if family == "sam":
        square = {"height": side, "width": side}
        sizes = {"size": {"longest_edge": side}, "pad_size": square, "mask_size": {"longest_edge": 16}}
        return transformers.SamProcessor(transformers.SamImageProcessor(**sizes, mask_pad_size=mask))
    images, whole = {
        "sam2": ("Sam2ImageProcessor", "Sam2Processor"),
        "sam3": ("Sam3ImageProcessor", "Sam3TrackerProcessor"),
    }[family]
    images = images if hasattr(transformers, images) else f"{images}Fast"
    own = getattr(transformers, images)(size={"height": side, "width": side}, mask_size=mask)
    return getattr(transformers, whole)(own)


def _noisy(build: Any) -> Any:
    """A model whose random weights do not depend on other tests, with masks that depend on the prompt."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = build()
        for weight in built.parameters():
            weight.data.add_(0.2 * torch.randn_like(weight))
    return built.eval()


@cache
def _model(family: str) -> Any:
    return _noisy(lambda: transformers.AutoModel.from_config(_config(family)))


def model(family: str) -> Any:
    """A copy of the model, which a test may change."""
    return copy.deepcopy(_model(family))


def pair(family: str) -> tuple[Any, Any]:
    """A copy of the model, and its processor."""
    return model(family), processor(family)


def with_dropout() -> tuple[Any, Any]:
    """A SAM whose image encoder drops attention at random in training mode."""
    config = _config("sam", attention_dropout=0.5)
    return _noisy(lambda: transformers.SamModel._from_config(config, attn_implementation="eager")), processor("sam")


def save(family: str, folder: Path) -> Path:
    """A folder as `save_pretrained` writes it."""
    _model(family).save_pretrained(folder)
    processor(family).save_pretrained(folder)
    return folder


def save_video(family: str, folder: Path) -> Any:
    """A folder as the Hub has it, whose model is for videos, and that model."""
    from safetensors.torch import save_file

    if family == "sam2":
        parts = _config("sam2").to_dict()
        own = {name: parts[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
        built = _noisy(lambda: transformers.Sam2VideoModel(transformers.Sam2VideoConfig(**own, **MEMORY)))
    else:
        layer = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        text = {"model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        text |= {
            "num_attention_heads": 2,
            "projection_dim": 16,
            "vocab_size": 9,
            "max_position_embeddings": 8,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        detector: dict[str, Any] = {"model_type": "sam3", "vision_config": SAM3_VISION, "text_config": text}
        detector |= {f"{part}_config": layer for part in ("geometry_encoder", "detr_encoder", "detr_decoder")}
        detector["mask_decoder_config"] = {"hidden_size": 16, "num_attention_heads": 2}
        parts = {"vision_config": SAM3_VISION, "prompt_encoder_config": _prompts(56, 7), "mask_decoder_config": DECODER}
        tracker = {"model_type": "sam3_tracker_video", "image_size": 56, **parts, **MEMORY}
        config = transformers.Sam3VideoConfig(
            detector_config=copy.deepcopy(detector), tracker_config=copy.deepcopy(tracker)
        )
        built = _noisy(lambda: transformers.Sam3VideoModel(config))
    folder.mkdir()
    built.config.save_pretrained(folder)
    kept = {name: value.contiguous().clone() for name, value in built.state_dict().items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    processor(family).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == f"{family}_video"
    return built
