"""Statistics of 1e7 values: the distributions are right, and streams do not know of each other."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from tolerances import CHANCE, SIGMAS

from initbench_kernels import Fill, fill_

N = 10_000_000


def drawn(distribution, n=N, *, key="w", seed=2026, **numbers):
    tensor = torch.empty(n)
    fill_([Fill(tensor, distribution, key, **numbers)], seed=seed)
    return tensor.double().numpy()


def check_moments(values, law):
    """Mean, variance and kurtosis against the law, each within SIGMAS of its own sampling error."""
    n = len(values)
    # Integrated from hardly ever to hardly ever: an integral to a bound at infinity, or as good as, misses the peak.
    ends = law.ppf(1e-25), law.isf(1e-25)
    mean = law.expect(lb=ends[0], ub=ends[1])
    variance = law.expect(lambda x: (x - mean) ** 2, lb=ends[0], ub=ends[1])
    fourth, eighth = (
        law.expect(lambda x, p=p: ((x - mean) / math.sqrt(variance)) ** p, lb=ends[0], ub=ends[1]) for p in (4, 8)
    )
    squares = ((values - mean) / math.sqrt(variance)) ** 2
    assert abs(values.mean() - mean) < SIGMAS * math.sqrt(variance / n)
    assert abs(squares.mean() - 1) < SIGMAS * math.sqrt((fourth - 1) / n)
    assert abs((squares**2).mean() - fourth) < SIGMAS * math.sqrt((eighth - fourth**2) / n)


def test_uniform_has_its_distribution():
    values = drawn("uniform", low=-1.0, high=3.0)
    law = scipy.stats.uniform(-1.0, 4.0)
    check_moments(values, law)
    assert scipy.stats.kstest(values, law.cdf).pvalue > CHANCE


def test_normal_has_its_distribution_and_its_tails():
    values = drawn("normal", mean=0.5, std=2.0)
    law = scipy.stats.norm(0.5, 2.0)
    check_moments(values, law)
    assert scipy.stats.kstest(values, law.cdf).pvalue > CHANCE
    for sigmas in (3.0, 4.0, 5.0):
        for count in ((values > 0.5 + 2 * sigmas).sum(), (values < 0.5 - 2 * sigmas).sum()):
            probability = scipy.stats.poisson(N * scipy.stats.norm.sf(sigmas))
            assert min(probability.sf(count - 1), probability.cdf(count)) > CHANCE


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [(0.0, 1.0, -2.0, 2.0), (0.0, 1.0, 5.0, 6.0), (0.0, 1.0, -6.0, -5.0), (0.0, 1e-6, -2.0, 2.0), (1.0, 0.5, -1.0, 1.2),
     (0.0, 1.0, -math.inf, math.inf), (0.0, 1.0, 0.5, math.inf), (0.0, 1e3, -1.0, 1.0)],
)  # fmt: skip
def test_truncated_normal_has_its_distribution(mean, std, a, b):
    values = drawn("truncated_normal", mean=mean, std=std, a=a, b=b)
    assert values.min() >= a
    assert values.max() <= b
    # The law's own cdf is slow; its argument in standard units keeps the tails' precision.
    if a > mean:
        low, high = scipy.stats.norm.logsf([(a - mean) / std, (b - mean) / std])
        cdf = -np.expm1(scipy.stats.norm.logsf((values - mean) / std) - low) / -np.expm1(high - low)
    else:
        low, high = scipy.stats.norm.cdf([(a - mean) / std, (b - mean) / std])
        cdf = (scipy.stats.norm.cdf((values - mean) / std) - low) / (high - low)
    assert scipy.stats.kstest(cdf, scipy.stats.uniform.cdf).pvalue > CHANCE
    standard = scipy.stats.truncnorm((a - mean) / std, (b - mean) / std)
    check_moments((values - mean) / std, standard)


def correlation(x, y):
    """Pearson's r in units of its standard error under independence."""
    return abs(np.corrcoef(x, y)[0, 1]) * math.sqrt(len(x))


def test_lanes_of_a_group_and_neighbouring_groups_are_uncorrelated():
    values = drawn("normal")
    for lag in (1, 2, 3, 4, 8, 512, 1024, 131_072):
        assert correlation(values[:-lag], values[lag:]) < SIGMAS
    lanes = values.reshape(-1, 4)
    for i in range(4):
        assert abs(lanes[:, i].mean()) < SIGMAS / math.sqrt(len(lanes))
        for j in range(i):
            assert correlation(lanes[:, i], lanes[:, j]) < SIGMAS
            assert correlation(lanes[:, i] ** 2, lanes[:, j] ** 2) < SIGMAS


@pytest.mark.parametrize(
    "other",
    [{"key": 1}, {"key": "0"}, {"key": 2**32}, {"seed": 2027}, {"seed": 2026 + 2**32}, {"seed": 2026 ^ 1}],
    ids=str,
)
def test_neighbouring_keys_and_seeds_are_uncorrelated(other):
    x = drawn("normal", key=0)
    y = drawn("normal", **({"key": 0} | other))
    assert correlation(x, y) < SIGMAS
    assert correlation(x**2, y**2) < SIGMAS
    for lag in (1, 4):
        assert correlation(x[lag:], y[:-lag]) < SIGMAS


def test_values_at_one_position_of_many_keys_are_uniform():
    """The first value of 20,000 consecutive keys: keys derive streams that start anywhere."""
    tensors = [torch.empty(1) for _ in range(20_000)]
    fill_([Fill(t, "uniform", i) for i, t in enumerate(tensors)], seed=0)
    values = torch.cat(tensors).double().numpy()
    assert scipy.stats.kstest(values, scipy.stats.uniform.cdf).pvalue > CHANCE
    assert correlation(values[1:], values[:-1]) < SIGMAS
