"""Whether a confidence tells what is known from what is not: AUROC, FPR95, and the risk of answers given.

AUROC and the false positive rate where 95 % of what is known is accepted, as in Hendrycks and Gimpel 2017
(https://arxiv.org/abs/1610.02136) and Liang et al. 2018 (https://arxiv.org/abs/1706.02690); the area under the
risk-coverage curve of Geifman and El-Yaniv 2017 (https://arxiv.org/abs/1705.08500).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from eclip.errors import EclipError
from eclip.metrics.separation import greater

Confidence = Float[np.ndarray, " item"]


def known_auroc(confidence: Confidence, known: Bool[np.ndarray, " item"]) -> float:
    """Probability that a known item has a higher confidence than an unknown one; ties count half."""
    return greater(*_both(confidence, known))


def false_positive_rate(confidence: Confidence, known: Bool[np.ndarray, " item"], *, recall: float = 0.95) -> float:
    """Share of the unknown that is accepted where at least this share of the known is; FPR95 by default."""
    inside, outside = _both(confidence, known)
    if not 0 < recall <= 1:
        raise EclipError(f"recall must be a share above 0 and at most 1, got {recall}.")
    threshold = np.sort(inside)[::-1][int(np.ceil(recall * inside.size - 1e-9)) - 1]
    return float((outside >= threshold).mean())


def risk_coverage(confidence: Confidence, right: Bool[np.ndarray, " item"]) -> float:
    """AURC: mean share of wrong answers among the most confident k, over all k; items of equal confidence share it."""
    _both(confidence, right, least=0)
    values, place, count = np.unique(-confidence.astype(float), return_inverse=True, return_counts=True)
    wrong = np.bincount(place, ~right, len(values)) / count  # of each group of ties
    spread = np.repeat(wrong, count)
    return float((np.cumsum(spread) / np.arange(1, len(spread) + 1)).mean())


def _both(confidence: Confidence, known: Bool[np.ndarray, " item"], least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    if known.dtype != bool:
        raise EclipError(f"what is known or right must be boolean, got {known.dtype}: compare it, as in known == 1.")
    if confidence.shape != known.shape or not confidence.size or not np.isfinite(confidence).all():
        raise EclipError("confidence and answers must be of one length, at least one item, and finite.")
    inside, outside = confidence[known], confidence[~known]
    if min(inside.size, outside.size) < least:
        raise EclipError("there must be items that are known, and items that are not.")
    return inside, outside
