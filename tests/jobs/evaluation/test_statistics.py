"""Frechet distance and bootstrap intervals, against what is known of Gaussians."""

import numpy as np
import pytest
import torch

from diagd_cli.jobs.evaluation.statistics import estimate, frechet


def exact(mean, covariance, count=50, seed=0):
    """Samples float64 [count, D] with exactly this sample mean and covariance."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return white @ np.linalg.cholesky(np.array(covariance, dtype=float)).T + mean


def test_frechet_of_known_gaussians():
    """Covariances that commute: |m - n|^2 + the sum of (sqrt(a) - sqrt(b))^2 over eigenvalues."""
    a, b = exact([0, 0], np.diag([4, 9])), exact([1, 2], np.diag([1, 16]), seed=1)
    assert frechet(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a[:, :1], a[:, :1] + 3) == pytest.approx(9)


@pytest.mark.parametrize("count", [40, 5])
def test_frechet_against_torchmetrics(count):
    """With fewer samples than features the covariances are singular."""
    from torchmetrics.image.fid import _compute_fid  # which takes seconds to import

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(count, 8)) @ rng.normal(size=(8, 8)), rng.normal(1, 2, size=(count, 8))
    moments = [torch.from_numpy(m) for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet(a, b) == pytest.approx(_compute_fid(*moments).item(), rel=1e-5)


def test_frechet_of_too_few():
    assert frechet(np.ones((1, 4)), np.ones((9, 4))) is None


def test_intervals_cover_the_mean():
    """Of 95% intervals over 20 clips nearly as many hold the true mean; the percentile bootstrap is
    a little narrow.
    """
    rng = np.random.default_rng(0)
    found = [estimate(rng.normal(3, 2, 20)) for _ in range(200)]
    assert 0.88 <= np.mean([e.low <= 3 <= e.high for e in found]) <= 0.98
    widths = np.mean([e.high - e.low for e in found])
    assert widths == pytest.approx(2 * 1.96 * 2 / 20**0.5, rel=0.1)


def test_estimate():
    values = np.array([1.0, 2.0, np.nan, 6.0])
    found = estimate(values)
    assert (found.mean, found.clips) == (3, 3) and 1 <= found.low < 3 < found.high <= 6
    assert found == estimate(values)
    many = np.arange(30.0) ** 2
    assert estimate(many) == estimate(many) != estimate(many, seed=1)
    assert estimate(np.array([5.0])).low is None and estimate(np.array([np.nan])) is None
