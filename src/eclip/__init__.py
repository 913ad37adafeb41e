"""Which part of this image made a CLIP-like model match this text?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "DATASETS": "eclip.datasets",
    "GUIDES": "eclip.guides",
    "METHODS": "eclip.methods",
    "METRICS": "eclip.metrics",
    "MapDataset": "eclip.stream.maps",
    "PROTOCOLS": "eclip.evaluation.protocols",
    "REFINEMENTS": "eclip.refinements",
    "TEMPLATES": "eclip.texts.templates",
    "WORD_METHODS": "eclip.words",
    "WordRelevance": "eclip.words.relevance",
    "Backbone": "eclip.backbones.backbone",
    "Comparison": "eclip.explanation.comparison",
    "Concepts": "eclip.discovery.concepts",
    "Encoding": "eclip.backbones.encoding",
    "EclipError": "eclip.errors",
    "EclipHead": "eclip.backbones.head",
    "Evaluation": "eclip.evaluation.evaluation",
    "Explanation": "eclip.explanation.explanation",
    "Interactions": "eclip.words.interactions",
    "Like": "eclip.texts.like",
    "SamMasks": "eclip.explanation.sam",
    "Segmentation": "eclip.segmentation.segmentation",
    "VideoExplanation": "eclip.video.explain",
    "TrainConfig": "eclip.training.config",
    "Attack": "eclip.explanation.attack",
    "attack": "eclip.explanation.attack",
    "attention": "eclip.backbones.attention",
    "boxes": "eclip.explanation.tensors",
    "compare": "eclip.explanation.compare",
    "concepts": "eclip.discovery.discover",
    "concepts_each": "eclip.discovery.discover",
    "encode": "eclip.backbones.encoding",
    "encode_texts": "eclip.texts.encode",
    "evaluate": "eclip.evaluation.evaluate",
    "explain": "eclip.explanation.explain",
    "explain_dataset": "eclip.stream.stream",
    "explain_each": "eclip.explanation.explain",
    "explain_stream": "eclip.stream.stream",
    "explain_video": "eclip.video.explain",
    "explain_words": "eclip.words.relevance",
    "heatmaps": "eclip.explanation.tensors",
    "interactions": "eclip.words.interactions",
    "like": "eclip.texts.like",
    "image_mean": "eclip.backbones.image_mean",
    "load": "eclip.backbones.load",
    "load_head": "eclip.backbones.head",
    "masked_max_pool": "eclip.training.pooling",
    "masks": "eclip.explanation.tensors",
    "report": "eclip.evaluation.report.report",
    "segment": "eclip.segmentation.segment",
    "segment_dataset": "eclip.stream.stream",
    "segment_each": "eclip.segmentation.segment",
    "similarity": "eclip.backbones.patches",
    "train": "eclip.training.run",
    "with_head": "eclip.backbones.head",
    "words_dataset": "eclip.stream.stream",
    "wrap": "eclip.backbones.wrap",
}
"""Public names and their modules. They are imported on first use, so that `import eclip` does not load torch."""

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from eclip.backbones.attention import attention as attention
    from eclip.backbones.backbone import Backbone as Backbone
    from eclip.backbones.encoding import Encoding as Encoding
    from eclip.backbones.encoding import encode as encode
    from eclip.backbones.head import EclipHead as EclipHead
    from eclip.backbones.head import load_head as load_head
    from eclip.backbones.head import with_head as with_head
    from eclip.backbones.image_mean import image_mean as image_mean
    from eclip.backbones.load import load as load
    from eclip.backbones.patches import similarity as similarity
    from eclip.backbones.wrap import wrap as wrap
    from eclip.datasets import DATASETS as DATASETS
    from eclip.discovery.concepts import Concepts as Concepts
    from eclip.discovery.discover import concepts as concepts
    from eclip.discovery.discover import concepts_each as concepts_each
    from eclip.errors import EclipError as EclipError
    from eclip.evaluation.evaluate import evaluate as evaluate
    from eclip.evaluation.evaluation import Evaluation as Evaluation
    from eclip.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from eclip.evaluation.report.report import report as report
    from eclip.explanation.attack import Attack as Attack
    from eclip.explanation.attack import attack as attack
    from eclip.explanation.compare import compare as compare
    from eclip.explanation.comparison import Comparison as Comparison
    from eclip.explanation.explain import explain as explain
    from eclip.explanation.explain import explain_each as explain_each
    from eclip.explanation.explanation import Explanation as Explanation
    from eclip.explanation.sam import SamMasks as SamMasks
    from eclip.explanation.tensors import boxes as boxes
    from eclip.explanation.tensors import heatmaps as heatmaps
    from eclip.explanation.tensors import masks as masks
    from eclip.guides import GUIDES as GUIDES
    from eclip.methods import METHODS as METHODS
    from eclip.metrics import METRICS as METRICS
    from eclip.refinements import REFINEMENTS as REFINEMENTS
    from eclip.segmentation.segment import segment as segment
    from eclip.segmentation.segment import segment_each as segment_each
    from eclip.segmentation.segmentation import Segmentation as Segmentation
    from eclip.stream.maps import MapDataset as MapDataset
    from eclip.stream.stream import explain_dataset as explain_dataset
    from eclip.stream.stream import explain_stream as explain_stream
    from eclip.stream.stream import segment_dataset as segment_dataset
    from eclip.stream.stream import words_dataset as words_dataset
    from eclip.texts.encode import encode_texts as encode_texts
    from eclip.texts.like import Like as Like
    from eclip.texts.like import like as like
    from eclip.texts.templates import TEMPLATES as TEMPLATES
    from eclip.training.config import TrainConfig as TrainConfig
    from eclip.training.pooling import masked_max_pool as masked_max_pool
    from eclip.training.run import train as train
    from eclip.video.explain import VideoExplanation as VideoExplanation
    from eclip.video.explain import explain_video as explain_video
    from eclip.words import WORD_METHODS as WORD_METHODS
    from eclip.words.interactions import Interactions as Interactions
    from eclip.words.interactions import interactions as interactions
    from eclip.words.relevance import WordRelevance as WordRelevance
    from eclip.words.relevance import explain_words as explain_words


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'eclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
