"""Do the error bars cover? Many replications on a model whose log p(x) is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.evaluation import evaluate
from elbo_bench.evaluation.metrics import trusted
from elbo_bench.models.linear_gaussian import LinearGaussian

REPLICATIONS = 4000
# At a true coverage of 95 %, the share of 4000 intervals that cover lies outside this band with probability 3e-7.
BAND = (0.9325, 0.9675)


def model_of(latent_dim: int, scale: float) -> LinearGaussian:
    info = DataInfo((2 * latent_dim,), torch.zeros(2 * latent_dim), 1, "continuous")
    with torch.random.fork_rng():
        torch.manual_seed(latent_dim)
        model = LinearGaussian(info, latent_dim=latent_dim, covariance="full").double()
    model.set_best_posterior()
    with torch.no_grad():
        model.raw_scale += np.log(scale) * torch.eye(latent_dim, dtype=torch.float64)
        if model.covariance == "full":
            model.raw_scale.tril_(0)
    return model


def replicate(model: LinearGaussian, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for as many replications of one example, whether its interval covers and whether it passes the gate."""
    x: Tensor = torch.linspace(-1, 1, 2 * model.latent_dim, dtype=torch.float64).expand(REPLICATIONS, -1)
    examples = evaluate(model, x, num_samples=num_samples).examples
    exact = float(model.log_p_x(x[:1]).detach())
    covers = np.abs(examples["log_px"] - exact) <= 1.96 * examples["log_px_se"]
    return covers, trusted(examples)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_dim", "scale", "num_samples"), [(2, 1.5, 200), (4, 1.3, 500), (8, 1.2, 1000), (4, 0.9, 1000)]
)
def test_intervals_cover_where_the_gate_passes(latent_dim: int, scale: float, num_samples: int) -> None:
    covers, passes = replicate(model_of(latent_dim, scale), num_samples)
    print(f"d={latent_dim} scale={scale} K={num_samples}: {passes.mean():.1%} pass, {covers[passes].mean():.4f} cover")
    assert passes.mean() > 0.5
    assert BAND[0] <= covers[passes].mean() <= BAND[1]


@pytest.mark.slow
@pytest.mark.parametrize(("latent_dim", "scale", "num_samples"), [(8, 0.6, 1000), (4, 0.4, 1000)])
def test_most_examples_of_too_narrow_a_proposal_are_gated_out_and_no_run_of_them_passes(
    latent_dim: int, scale: float, num_samples: int
) -> None:
    covers, passes = replicate(model_of(latent_dim, scale), num_samples)
    print(f"d={latent_dim} scale={scale} K={num_samples}: {passes.mean():.1%} pass, {covers.mean():.4f} of all cover")
    assert covers.mean() < 0.9, "an interval that covers all the same would test nothing"
    # The weights that were never drawn cannot be seen: measured here, 23 % and 14 % pass. A run passes only if each
    # of its examples does, so even a set of 50 such examples has no chance.
    assert passes.mean() < 0.3
