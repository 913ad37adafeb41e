"""SpLiCE, a feature as a sparse, non-negative sum of words (Bhalla et al. 2024, https://arxiv.org/abs/2402.10376).

Code: AI4LIFE-GROUP/SpLiCE (Apache-2.0), commit 9a49810; written from the formula, equal to its scikit-learn path on
shared arrays (`tests/test_concepts.py`).
Differs from it: a tighter tolerance, so that weights are the minimum to five digits; no ADMM, whose minimum is the
same.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import unit
from eclip.errors import MissingExtraError, OptionError, ShapeError

L1 = 0.25
"""The authors' penalty."""


def dictionary(words: Float[Tensor, "concept feature"]) -> Float[Tensor, "concept feature"]:
    """Text features as a dictionary: normalized, minus their mean, normalized again.

    Args:
        words: one feature per word, of any norm; at least two, because a single word is its own mean.
    """
    if len(words) < 2:
        raise ShapeError(f"a vocabulary needs at least 2 words, got {len(words)}.")
    rows = unit(words)
    return unit(rows - rows.mean(dim=0))


def center(
    features: Float[Tensor, "image feature"], image_mean: Float[Tensor, " feature"]
) -> Float[Tensor, "image feature"]:
    """Image features as targets for the dictionary: normalized, minus the mean of many images, normalized again.

    Args:
        features: of any norm.
        image_mean: the mean of the unit features of many images of any content. Subtracting it removes what all
            images share and texts lack: the modality gap between the towers (Liang et al. 2022).
    """
    rows = unit(features)
    return unit(rows - image_mean.to(rows))


def solve(
    targets: Float[Tensor, "image feature"], words: Float[Tensor, "concept feature"], l1: float = L1
) -> Float[Tensor, "image concept"]:
    """The w >= 0 that minimizes |D'w - y|^2 + l1 sum(w) for each target y; most weights are exactly 0.

    Args:
        targets: from `center`.
        words: D, from `dictionary`.
        l1: the penalty, above 0. Larger values give fewer concepts; from 2 times the best cosine on, none.
    """
    lasso = require_lasso(l1)
    # scikit-learn's objective is ours over twice the number of rows, which here is the feature's width
    model = lasso(alpha=l1 / (2 * words.shape[1]), positive=True, fit_intercept=False, max_iter=20_000, tol=1e-6)
    matrix = np.asfortranarray(words.T.double().cpu().numpy())  # feature concept
    weights = [model.fit(matrix, row).coef_.copy() for row in targets.double().cpu().numpy()]
    return torch.from_numpy(np.stack(weights)).to(targets)


def rebuild(
    weights: Float[Tensor, "image concept"],
    words: Float[Tensor, "concept feature"],
    image_mean: Float[Tensor, " feature"],
) -> Float[Tensor, "image feature"]:
    """The unit feature that the weights reconstruct: their sum, normalized, plus the mean, normalized again."""
    return unit(unit(weights.to(words) @ words) + image_mean.to(words))


def require_lasso(l1: float) -> Any:
    """The solver's class, after checking that the penalty is above 0 and scikit-learn is installed."""
    if not (isinstance(l1, Real) and 0 < l1 < float("inf")):
        raise OptionError(f"l1 must be a number above 0, such as {L1}, got {l1}; larger values give fewer concepts.")
    try:
        from sklearn.linear_model import Lasso
    except ImportError as error:
        raise MissingExtraError("SpLiCE", "scikit-learn", "concepts") from error
    return Lasso
