"""Means with what is known of their error, and the Frechet distance. NumPy only."""

from __future__ import annotations

import numpy as np

from diagd_cli.report.measures import Distance, Estimate

RESAMPLES = 2000


def estimate(values: np.ndarray, seed: int = 0) -> Estimate | None:
    """Mean of one value a clip, float [n], NaN where a clip has none, with a percentile bootstrap
    over clips.

    None where no clip has a value. The same seed draws the same resamples.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    if len(values) == 1:
        return Estimate(float(values[0]), None, None, 1)
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def frechet(a: np.ndarray, b: np.ndarray) -> float | None:
    """Frechet distance of two sets of features, float [n, D] and [m, D], each taken for a Gaussian.

    |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) with the sample covariances A and B. The
    product has the eigenvalues of AB and is symmetric, so that its root needs no general matrix
    square root. None for fewer than two samples on a side.
    """
    if min(len(a), len(b)) < 2:
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = _root(first)
    crossed = np.linalg.eigvalsh(root @ second @ root)
    traces = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(crossed, 0)).sum()
    return float(max(0.0, np.square(a.mean(0) - b.mean(0)).sum() + traces))


def distance(made: np.ndarray, real: np.ndarray) -> Distance:
    """The Frechet distance of features, float [n, D] and [m, D], rounded as reports have it."""
    value = frechet(made, real)
    return Distance(None if value is None else round(value, 4), len(made), len(real))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric matrix without negative eigenvalues, those of rounding aside."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
