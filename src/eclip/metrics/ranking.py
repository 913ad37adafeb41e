"""Recall of retrieval and zero-shot accuracy, from similarities alone.

Recall as in CLIP and papers on Flickr30k: a query is a hit if one of its own candidates is among the first k. Ties
count against the model: a candidate ranks behind all others that are equally similar, so a model that gives everything
the same value finds nothing, whereas the order of an index would produce lucky hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from eclip.errors import DataError, EclipError, OptionError, ShapeError

Similarity = Float[np.ndarray, "query candidate"]
Own = Sequence[Sequence[int]] | Bool[np.ndarray, "query candidate"]
"""Which candidates match each query: a list of their indices per query, or a boolean matrix."""


def ranks(similarity: Similarity, own: Own) -> Int[np.ndarray, " query"]:
    """The rank, from 1, of each query's best own candidate: one more than the other candidates at least as similar.

    Args:
        similarity: larger is more similar.
        own: at least one candidate for each query.

    Raises:
        ShapeError: the number of lists or the shape of the matrix does not fit similarity.
        DataError: a query has no candidate of its own, or one that does not exist.
        EclipError: a similarity is NaN.
    """
    queries, candidates = similarity.shape
    if len(own) != queries or (isinstance(own, np.ndarray) and own.shape != similarity.shape):
        given = own.shape if isinstance(own, np.ndarray) else f"{len(own)} lists"
        raise ShapeError(f"own must be a list for each of {queries} queries, or {similarity.shape}, got {given}.")
    places = np.empty(queries, dtype=np.int64)
    for query, (row, mine) in enumerate(zip(similarity, own, strict=True)):
        chosen = _chosen(mine, candidates, query, is_row=isinstance(own, np.ndarray))
        if not chosen.size:
            raise DataError(f"query {query} has no matching candidate: leave it out.")
        if not 0 <= chosen[0] <= chosen[-1] < candidates:
            raise DataError(f"candidates of query {query} must be 0 to {candidates - 1}, got {mine}.")
        if np.isnan(row).any():
            raise EclipError(f"query {query} has similarities that are NaN.")
        best = row[chosen].max()
        places[query] = 1 + (row >= best).sum() - (row[chosen] >= best).sum()
    return places


def _chosen(mine: Any, candidates: int, query: int, *, is_row: bool) -> Int[np.ndarray, " own"]:
    """The candidates of a query, ascending, from their indices or from a row of truth values."""
    given = np.asarray(mine)
    if is_row or given.dtype == bool:
        if given.shape != (candidates,):
            raise ShapeError(f"query {query} has {given.size} truth values for {candidates} candidates.")
        return np.flatnonzero(given)
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise DataError(f"candidates of query {query} must be whole numbers or truth values, got {given.dtype}.")
    return np.unique(given.astype(np.int64))


def recall(similarity: Similarity, own: Own, *, k: int = 1) -> float:
    """The share of queries with one of their own candidates among the top k, in [0, 1].

    Args:
        similarity: as in `ranks`.
        own: as in `ranks`.
        k: at least 1, at most the number of candidates.

    Raises:
        OptionError: k is outside its range.
        EclipError: as in `ranks`, or there is nothing to rank.
    """
    if not similarity.size:
        raise DataError(f"there is nothing to rank: similarity has shape {similarity.shape}.")
    if not 1 <= k <= similarity.shape[1]:
        raise OptionError(f"k must be between 1 and the number of candidates, {similarity.shape[1]}, got {k}.")
    return float((ranks(similarity, own) <= k).mean())


def accuracy(similarity: Similarity, label: Integer[np.ndarray, " query"], *, k: int = 1) -> float:
    """The share of images whose class is among the top k, in [0, 1].

    Args:
        similarity: of images (query) and classes (candidate).
        label: the class of each image.
        k: at least 1, at most the number of classes.

    Raises:
        EclipError: as in `recall`, or labels are not whole numbers, one for each image.
    """
    label = np.asarray(label)
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise DataError(f"label must be whole numbers (query,), got {label.dtype} of shape {label.shape}.")
    return recall(similarity, [[int(one)] for one in label], k=k)
