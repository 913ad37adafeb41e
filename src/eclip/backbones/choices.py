"""Words that a rule or option can be, down here so that protocols can be checked without torch."""

from __future__ import annotations

RESIZES = ("squash", "keep")
"""How an image gets its size, see `eclip.explain`."""
POSITIONS = ("bicubic_aa", "bicubic", "bilinear", "bicubic_plus01")
"""How position embeddings are resized off the training grid, see `eclip.encode`."""
DEFAULT_POSITIONS = "bicubic_aa"
FILLS = ("zero", "mean", "blur", "noise")
"""What takes the place of a pixel, see `eclip.metrics.fills.fill`."""
