"""Does the model still find? Recall of retrieval and zero-shot accuracy, from similarities alone.

Recall as CLIP and Flickr30k's papers count it: a query is found if one of its own candidates is among the first k. Ties
count against us: a candidate is behind all others that are equally similar, so a model that gives everything one value
finds nothing, where the order of an index would let it find by luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from eclip.errors import DataError, EclipError, OptionError, ShapeError

Similarity = Float[np.ndarray, "query candidate"]
Own = Sequence[Sequence[int]] | Bool[np.ndarray, "query candidate"]
"""Which candidates belong to each query: a list of their places for each, or a matrix."""


def ranks(similarity: Similarity, own: Own) -> Int[np.ndarray, " query"]:
    """The place of the best own candidate of each query, from 1: one more than the others at least as similar.

    Args:
        similarity: larger is nearer.
        own: at least one candidate for each query.

    Raises:
        ShapeError: there are not as many lists as queries, or the matrix is of another shape.
        DataError: a query has no candidate of its own, or one that is not there.
        EclipError: a similarity is NaN.
    """
    queries, candidates = similarity.shape
    if len(own) != queries or (isinstance(own, np.ndarray) and own.shape != similarity.shape):
        given = own.shape if isinstance(own, np.ndarray) else f"{len(own)} lists"
        raise ShapeError(f"own must be a list for each of {queries} queries, or {similarity.shape}, got {given}.")
    places = np.empty(queries, dtype=np.int64)
    for query, (row, mine) in enumerate(zip(similarity, own, strict=True)):
        chosen = np.flatnonzero(mine) if isinstance(own, np.ndarray) else np.unique(np.asarray(mine, dtype=np.int64))
        if not chosen.size:
            raise DataError(f"query {query} has no candidate of its own: leave it out.")
        if not 0 <= chosen[0] <= chosen[-1] < candidates:
            raise DataError(f"query {query} has candidates {mine}, but there are only 0 to {candidates - 1}.")
        if np.isnan(row).any():
            raise EclipError(f"similarities of query {query} are NaN.")
        best = row[chosen].max()
        places[query] = 1 + (row >= best).sum() - (row[chosen] >= best).sum()
    return places


def recall(similarity: Similarity, own: Own, *, k: int = 1) -> float:
    """The share of queries with one of their own candidates among the k nearest, in [0, 1].

    Args:
        similarity: as in `ranks`.
        own: as in `ranks`.
        k: at least 1, at most the number of candidates.

    Raises:
        OptionError: k is outside its range.
        EclipError: as `ranks`.
    """
    _check_k(k, similarity)
    return float((ranks(similarity, own) <= k).mean())


def accuracy(similarity: Similarity, label: Integer[np.ndarray, " query"], *, k: int = 1) -> float:
    """The share of images whose class is among the k most similar, in [0, 1].

    Args:
        similarity: of images (query) and classes (candidate).
        label: the class of each image.
        k: at least 1, at most the number of classes.

    Raises:
        OptionError: k is outside its range.
        EclipError: as `ranks`.
    """
    _check_k(k, similarity)
    return float((ranks(similarity, [[int(one)] for one in label]) <= k).mean())


def _check_k(k: int, similarity: Similarity) -> None:
    if not similarity.size:
        raise DataError(f"nothing to rank: similarity is {similarity.shape}.")
    if not 1 <= k <= similarity.shape[1]:
        raise OptionError(f"k must be 1 to the {similarity.shape[1]} candidates there are, got {k}.")
