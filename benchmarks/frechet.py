"""Frechet distance: how far apart two sets of images are, by the first two moments of their features.

    d = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2)        of the normal laws (m_1, C_1) and (m_2, C_2)

Dowson and Landau (1982), *The Frechet distance between multivariate normal distributions*; between features of images:
Heusel et al. (2017), arXiv:1706.08500. A set of R draws of the very same law is not at 0, but at a floor of the order
of 1 / R: compare sets of one size, and name the floor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """The mean (F,) and the covariance (F, F) of features."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """The moments of features (R, F). Raises `ValueError` where there are none."""
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features must be (images, features), at least one image, got {features.shape}")
    mean = features.mean(0)
    return Moments(mean, (features - mean).T @ (features - mean) / len(features))


def mixed(weights: np.ndarray, means: np.ndarray, seconds: np.ndarray) -> Moments:
    """The moments of a mixture: weights (K,), a sum of one, means (K, F), second moments (K, F, F) of the parts."""
    mean = weights @ means
    return Moments(mean, np.tensordot(weights, seconds, 1) - np.outer(mean, mean))


def frechet(one: Moments, other: Moments) -> float:
    """The distance, squared as it is always reported; symmetric, and 0 for equal moments."""
    root = _root(one.covariance)
    cross = np.linalg.eigvalsh(root @ other.covariance @ root)
    apart = float(((one.mean - other.mean) ** 2).sum())
    spread = float(np.trace(one.covariance) + np.trace(other.covariance))
    return max(0.0, apart + spread - 2 * float(np.sqrt(cross.clip(0)).sum()))


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root; eigenvalues that round to less than zero are zero."""
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
