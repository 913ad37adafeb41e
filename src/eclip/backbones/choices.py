"""Values that rules and options can take, in this module so that protocols can be checked without torch."""

from __future__ import annotations

RESIZES = ("squash", "keep")
"""How an image is resized, see `eclip.explain`."""
POSITIONS = ("bicubic_aa", "bicubic", "bilinear", "bicubic_plus01")
"""How position embeddings are resized off the training grid, see `eclip.encode`."""
DEFAULT_POSITIONS = "bicubic_aa"
FILLS = ("zero", "mean", "blur", "noise")
"""What replaces a removed pixel, see `eclip.metrics.fills.fill`."""
