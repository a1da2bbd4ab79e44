"""Bounds by NumPy alone, from log-weights `[K, B]`: what the package's bounds are held against."""

import math

import numpy as np
import scipy.special


def softmax(log_w: np.ndarray, power: float = 1.0) -> np.ndarray:
    return scipy.special.softmax(power * log_w, axis=0)


def grouped(log_w: np.ndarray, num_estimates: int) -> np.ndarray:
    return np.concatenate([softmax(part) / num_estimates for part in np.split(log_w, num_estimates)])


def jackknife(log_w: np.ndarray, order: int) -> np.ndarray:
    def mean_over_subsets(values: np.ndarray, without: int) -> np.ndarray:
        if not without:
            return scipy.special.logsumexp(values, 0) - math.log(len(values))
        return np.mean([mean_over_subsets(np.delete(values, k, 0), without - 1) for k in range(len(values))], 0)

    n = len(log_w)
    weights = {1: (n, -(n - 1)), 2: (n**2 / 2, -((n - 1) ** 2), (n - 2) ** 2 / 2)}[order]
    return sum(weight * mean_over_subsets(log_w, without) for without, weight in enumerate(weights))


def sumo(log_w: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    bounds = [scipy.special.logsumexp(log_w[:k], 0) - math.log(k) for k in range(1, len(log_w) + 1)]
    value = bounds[0].copy()
    for b in range(log_w.shape[1]):
        for k in range(1, len(log_w)):
            if uniform[b] <= 1 / k:  # T >= k
                value[b] += k * (bounds[k][b] - bounds[k - 1][b])
    return value
